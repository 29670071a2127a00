"""What a command says: one line while it runs, and a build's summary when it is done.

The line goes to stderr, so that stdout stays usable: it is live on a terminal, else a plain one every ten seconds.
"""

import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from pics_data.build import BuildResult
    from pics_data.views.job import ViewsResult

PLAIN_LINE_SECONDS = 10.0
QUIET_SECONDS = 2.0  # a job that ends before says nothing


def say(text: str) -> None:
    """One plain line for the user."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _live_line(console: Console, says: str, *, transient: bool) -> RichProgress:
    """A line that is redrawn: what it is, a bar, `says`, the time gone and the time left."""
    description, elapsed, left = TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("left")
    columns = (description, BarColumn(), TextColumn(says), elapsed, left, TimeRemainingColumn())
    return RichProgress(*columns, console=console, transient=transient)


class Progress:
    """Samples done, rate and time left: a live line on a terminal, else a plain line every ten seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = self._last_line = time.monotonic()
        self.seconds = 0.0
        console = Console(stderr=True)
        self._live: RichProgress | None = None
        if console.is_terminal and total:
            says = "{task.completed:,} of {task.total:,} samples, {task.fields[rate]}"
            self._live = _live_line(console, says, transient=False)
            self._task = self._live.add_task("build", total=total, rate="-")

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.started
        if self._live:
            self._live.stop()

    def advance(self, samples: int) -> None:
        """Counts `samples` (made or rejected) as done."""
        self.done += samples
        now = time.monotonic()
        rate = self.done / max(now - self.started, 1e-9)
        if self._live:
            self._live.update(self._task, advance=samples, rate=f"{rate:.1f}/s")
        elif now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            left = (self.total - self.done) / rate
            say(f"{self.done} of {self.total} samples, {rate:.1f}/s, {_duration(left)} left")


class PlanProgress:
    """Photos and compositions found so far: a live line on a terminal, else a plain line every ten seconds.

    How many there will be, nobody knows before the annotations are read.
    """

    def __init__(self) -> None:
        self._started = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._status = console.status("reading annotations") if console.is_terminal else None

    def __enter__(self) -> "PlanProgress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def tick(self, photos: int, samples: int) -> None:
        """Tells how far it is."""
        now = time.monotonic()
        if now - self._last_line < (0.2 if self._status else PLAIN_LINE_SECONDS):
            return
        self._last_line = now
        line = f"{photos} photos, {samples} compositions, {photos / (now - self._started):.0f} photos/s"
        if self._status:
            self._status.update(line)
        else:
            say(line)


class TimeLeft:
    """How far a long job is and how long it will still take: as `Progress`, and a short job says nothing.

    `verb` is what it does, `noun` what it counts ("verify", "shards").
    """

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
            self._next_line = now + PLAIN_LINE_SECONDS
            if self._console.is_terminal:
                self._start_live()
            else:
                left = (now - self._started) * (self._total - self._done) / max(self._done, 1)
                say(f"{self._verb}: {self._done:,} of {self._total:,} {self._noun}, about {_duration(left)} left")

    def _start_live(self) -> None:
        says = "{task.completed:,} of {task.total:,} " + self._noun
        self._live = _live_line(self._console, says, transient=True)
        self._live.add_task(self._verb, total=self._total, completed=self._done)
        self._live.start()


def summary(result: "BuildResult") -> str:
    """The closing lines of a build: what went in, what came out, what was dropped and why."""
    counts = result.photos
    with_pair = counts.photos - counts.missing - counts.without_pair - counts.left_out
    left_out = f", {counts.left_out} left out" if counts.left_out else ""
    lines = [
        f"photos        {counts.photos}: {with_pair} with compositions, {counts.without_pair} without objects that "
        f"touch, {counts.missing} missing{left_out}",
        f"compositions  {result.compositions}",
    ]
    if not result.samples and not result.rejects:
        return "\n".join(
            [*lines, f"plan          {result.shards} shards planned, none made", f"folder        {result.folder}"]
        )
    lines += [
        f"samples       {result.samples} in {result.shards} shards, {result.num_bytes / 1e6:.1f} MB",
        f"rejects       {_rejects_line(result.rejects)}",
    ]
    if result.made_samples:
        rate = result.made_samples / max(result.seconds, 1e-9)
        lines.append(f"speed         {rate:.1f} samples/s ({result.made_samples} in {_duration(result.seconds)})")
    if result.kept_shards:
        lines.append(f"resumed       {result.kept_shards} shards were whole from an earlier run")
    lines.append(f"folder        {result.folder}")
    return "\n".join(lines)


def views_summary(result: "ViewsResult") -> str:
    """The closing lines of `pics-data views`."""
    lines = [
        f"samples       {result.samples} of {result.samples_before} in {result.shards} shards, "
        f"{result.num_bytes / 1e6:.1f} MB",
        f"rejects       {_rejects_line(result.rejects)}",
    ]
    if result.kept_shards:
        lines.append(f"resumed       {result.kept_shards} shards were whole from an earlier run")
    if result.seconds:
        lines.append(f"time          {_duration(result.seconds)}")
    lines.append(f"folder        {result.folder}")
    return "\n".join(lines)


def _rejects_line(counts: Counter[tuple[str, str]]) -> str:
    if not counts:
        return "none"
    parts = [f"{count} {reason} ({stage})" for (stage, reason), count in sorted(counts.items(), key=lambda c: -c[1])]
    return f"{counts.total()}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
