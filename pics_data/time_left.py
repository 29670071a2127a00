"""How far a long job is and how long it will still take: a live line on a terminal, else a plain line now and then."""

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pics_data.progress import say

QUIET_SECONDS = 2.0  # a job that ends before says nothing
LINE_SECONDS = 10.0  # between two plain lines


class TimeLeft:
    """Counts the steps of a job: `verb` is what it does, `noun` what it counts ("verify", "shards")."""

    def __init__(self, verb: str, noun: str, total: int) -> None:
        self._verb, self._noun, self._total = verb, noun, total
        self._done = 0
        self._started = time.monotonic()
        self._next_line = self._started + QUIET_SECONDS
        self._console = Console(stderr=True)
        self._live: RichProgress | None = None

    def __enter__(self) -> "TimeLeft":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def advance(self, steps: int = 1) -> None:
        """Counts `steps` as done."""
        self._done += steps
        now = time.monotonic()
        if self._live:
            self._live.update(self._live.task_ids[0], completed=self._done)
        elif now >= self._next_line and self._done < self._total:
            self._next_line = now + LINE_SECONDS
            if self._console.is_terminal:
                self._start_live()
            else:
                left = (now - self._started) * (self._total - self._done) / max(self._done, 1)
                say(f"{self._verb}: {self._done:,} of {self._total:,} {self._noun}, about {_duration(left)} left")

    def _start_live(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,} of {task.total:,} " + self._noun),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._live = RichProgress(*columns, console=self._console, transient=True)
        self._live.add_task(self._verb, total=self._total, completed=self._done)
        self._live.start()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
