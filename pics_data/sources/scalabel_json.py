"""Scalabel's JSON (https://doc.scalabel.ai/format.html): a list of frames, or an object with the list `frames`.

Files grow to gigabytes: they are read in pieces, and one frame after the other is parsed.
"""

import io
import json
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from pics_common import storage
from pics_common.errors import UserError

CHUNK = 2**20  # characters
LONGEST = 2**27  # of a single frame; a whole video of polygons has some millions
_DECODER = json.JSONDecoder()


def read_frames(url: str) -> Iterator[dict[str, Any]]:
    """The frames of a file, local or not, in order and in the memory of one of them.

    Raises `UserError`, which names the file, where it is no JSON, is cut off, or is not Scalabel's.
    """
    for key, value in _elements(url):
        if key == "frames":
            if not isinstance(value, dict):
                raise UserError(f"annotations: {url}: `frames` holds something else than objects")
            yield value


def read_config(url: str) -> dict[str, Any]:
    """The object `config` of a file; {} where it has none. It may stand after the frames: these are read over."""
    config: Any = {}
    for key, value in _elements(url, list_too=False):
        if key == "config":
            config = value or {}
    if not isinstance(config, dict):
        raise UserError(f"annotations: {url}: `config` is no object")
    return config


def _elements(url: str, list_too: bool = True) -> Iterator[tuple[str, Any]]:
    """Each frame as ("frames", frame), and each other value of the outermost object with its key.

    With `list_too` False, nothing of a file that is a list of frames.
    """
    with storage.open_read(url) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        reader = _Reader(url, text)
        first = reader.next_char()
        if first == "[" and not list_too:
            return
        if first == "[":
            yield from (("frames", value) for value in reader.array())
        elif first == "{":
            yield from reader.object_with_frames()
        else:
            reader.fail("expected a list of frames or an object")
        if reader.next_char():
            reader.fail("something follows its end")


class _Reader:
    """A text of JSON, of which as much is in memory as the value under way needs."""

    def __init__(self, url: str, text: TextIO) -> None:
        self._url = url
        self._text = text
        self._buffer = ""
        self._at = 0  # where in the buffer we are
        self._before = 0  # characters of the text before the buffer
        self._ended = False

    def next_char(self) -> str:
        """The next character that is no space, taken; "" at the end."""
        char = self._peek()
        self._at += len(char)
        return char

    def array(self) -> Iterator[Any]:
        """The values of a list whose `[` is taken."""
        if self._peek() == "]":
            self.next_char()
            return
        while True:
            yield self._value()
            if (char := self.next_char()) == "]":
                return
            if char != ",":
                self.fail("expected `,` or `]`")

    def object_with_frames(self) -> Iterator[tuple[str, Any]]:
        """The keys and values of an object whose `{` is taken; each element of the list `frames` on its own."""
        has_frames = False
        if self._peek() != "}":
            while True:
                key = self._value()
                if not isinstance(key, str) or self.next_char() != ":":
                    self.fail("expected a key and `:`")
                if key == "frames" and self._peek() == "[":
                    self.next_char()
                    has_frames = True
                    yield from ((key, value) for value in self.array())
                else:
                    yield key, self._value()
                if (char := self.next_char()) == "}":
                    break
                if char != ",":
                    self.fail("expected `,` or `}`")
        if not has_frames:
            raise UserError(f"annotations: {self._url} has no list `frames`; expected Scalabel JSON")

    def fail(self, what: str) -> NoReturn:
        raise UserError(
            f"annotations: {self._url} is not JSON, or is cut off, at character {self._before + self._at}: {what}"
        )

    def _peek(self) -> str:
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._read_on():
                return ""

    def _value(self) -> Any:
        """The value that comes next, whole."""
        if not self._peek():
            self.fail("expected a value")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended or len(self._buffer) - self._at > LONGEST:
                    self.fail(error.msg)
            except (ValueError, RecursionError) as error:
                self.fail(str(error))
            else:
                if end < len(self._buffer) or self._ended:  # else a number may go on
                    self._at = end
                    return value
            self._read_on()

    def _read_on(self) -> bool:
        """Drops what was taken and reads at least as much as is left: parsing anew then costs no more than twice."""
        if self._ended:
            return False
        left = self._buffer[self._at :]
        try:
            more = self._text.read(max(CHUNK, len(left)))
        except UnicodeDecodeError as error:
            self.fail(f"not UTF-8 ({error.reason})")
        self._before += self._at
        self._buffer, self._at = left + more, 0
        self._ended = not more
        return not self._ended
