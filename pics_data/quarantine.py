"""Photos that kill the process that reads them: a bug of a decoder, or a picture that takes all memory.

No error can be caught there. A shard whose worker died is made again by another worker, and then each photo is taken
apart in a process beside the worker: the one that dies there is tried once more in a fresh process, alone, and then
rejected as "crashed the worker". So one photo costs its own samples, not the shard and not the build; and as the photo
alone decides, the shard's bytes are the same whichever worker died when. Shards that made no trouble pay nothing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from multiprocessing.connection import Connection, Pipe

from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.records import Composition, Reject, Sample

TRIES = 2  # the first may have died of something else, such as another process that took the memory
REASON = "crashed the worker"


def is_second_attempt() -> bool:
    """Within a task of Ray: whether it had begun before, on a worker that died or on a node that was lost."""
    from ray._private.worker import global_worker  # no public function of Ray tells

    return bool(global_worker.core_worker.get_current_task_attempt_number() > 0)


def decompose_apart(compositions: Iterable[Composition], config: BuildConfig) -> Iterator[Sample | Reject]:
    """What `decompose_all` gives, byte for byte, but made in a process of its own, photo by photo.

    A photo that ends that process twice is rejected, with all its compositions. One photo's samples are in memory at
    a time, and its files are not read ahead.
    """
    photos = (list(group) for _, group in groupby(compositions, key=lambda composition: composition.photo.id))
    with _Cell(config) as cell:
        for of_photo in photos:
            for _ in range(TRIES):
                records = cell.ask(of_photo)
                if records is not None:
                    yield from records
                    break
            else:
                detail = f"{of_photo[0].photo.path or of_photo[0].photo.id}: {cell.death}, {TRIES} times"
                yield from (Reject(composition.key, "decompose", REASON, detail) for composition in of_photo)


class _Cell:
    """The process beside this one: started when it is asked, and again when it has died."""

    def __init__(self, config: BuildConfig) -> None:
        self.death = ""
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def ask(self, compositions: list[Composition]) -> list[Sample | Reject] | None:
        """The samples of one photo; None where the process died of it. Raises what `decompose_all` raised there."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(compositions)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._bury()
            return None
        if isinstance(answer, BaseException):
            raise answer
        return list(answer)

    def _start(self) -> None:
        self._pipe, there = Pipe()
        # Ray tells its workers where modules are; this process has to be told by its environment.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "pics_data.quarantine", str(there.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[there.fileno()], env=environment)
        there.close()  # the process alone holds its end: when it dies, reading from ours fails
        self._pipe.send(self._config)

    def _bury(self) -> None:
        assert self._process is not None
        assert self._pipe is not None
        self._pipe.close()
        code = self._process.wait()
        self._process, self._pipe = None, None
        with suppress(ValueError):
            self.death = signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def __enter__(self) -> "_Cell":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def serve(pipe: Connection) -> None:
    """The work of the process: compositions of a photo in, its samples out, until the other side is gone."""
    import cv2

    cv2.setNumThreads(1)
    config = pipe.recv()
    while True:
        with suppress(EOFError, BrokenPipeError):
            compositions = pipe.recv()
            answer: list[Sample | Reject] | Exception
            try:
                answer = list(decompose_all(compositions, config))
            except Exception as error:  # ours to show, by the worker that asked
                answer = error
            pipe.send(answer)
            continue
        return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
