"""A JSON file of any size, whose large parts are arrays of objects: read element by element, in constant memory."""

import json
import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from pics_common.errors import UserError

# A string that never ends is a token as well: else each quote in it would be tried as the start of one.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
BOM = b"\xef\xbb\xbf"
PAGES = 2**26  # bytes after which what was read of the file need not stay in memory


def scan(path: Path, keys: frozenset[str], take: Callable[[str, bytes], None], what: str) -> Any:
    """Calls `take` with the key and the text of each object in the arrays at `keys` of the file's outermost object.

    Returns the rest of the document, in which these arrays are [], or [0] where they hold objects only. `what` names
    the expected kind of file in messages. Raises `UserError` if the file is empty or its structure is not JSON's: that
    may be after many calls of `take`. The elements themselves are not checked.
    """
    if path.stat().st_size == 0:
        raise UserError(f"annotations: {path} is empty; expected {what}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        rest = _scan(text, {f'"{key}"'.encode(): key for key in keys}, take)
    try:
        return parse(rest.removeprefix(BOM))
    except (ValueError, RecursionError) as error:
        raise UserError(f"annotations: {path} is not JSON, or is cut off ({error})") from None


def parse(text: bytes) -> Any:
    """Parses JSON as strangers write it: it may hold NaN, Infinity and numbers beyond 64 bits, which become floats;
    and half a surrogate pair or bytes that are not UTF-8, of which a `?` or a U+FFFD remains, as nothing could write
    them again. Raises `ValueError` if it is not JSON, `RecursionError` if it nests too deep.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        value = json.loads(text.decode(errors="replace"), parse_int=_parse_int)
    whole = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    return json.loads(whole, parse_int=_parse_int)


def _parse_int(digits: str) -> int | float:
    """As orjson reads whole numbers: one that does not fit 64 bits becomes a float, infinite where it must."""
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return float(digits)


def _scan(text: mmap.mmap, keys: dict[bytes, str], take: Callable[[str, bytes], None]) -> bytes:
    rest: list[bytes] = []
    depth = start = end = released = 0
    key = b""
    current = ""  # the key of the array that we are in
    is_first = False
    for match in TOKEN.finditer(text):
        token = match.group()
        first = token[0]
        if first == 0x22:  # a string
            if depth == 1:
                key = token
        elif first in b"{[":
            depth += 1
            if depth == 2 and first == 0x5B and key in keys:
                current, is_first = keys[key], True
            elif depth == 3 and first == 0x7B and current:
                start = match.start()
        else:
            depth -= 1
            if depth == 2 and first == 0x7D and current:
                gap = text[end:start]
                if is_first or gap.strip() != b",":
                    rest += [gap, b"0"]
                is_first = False
                end = match.end()
                take(current, text[start:end])
                if end - released > PAGES:
                    whole_pages = (end - released) // mmap.PAGESIZE * mmap.PAGESIZE
                    text.madvise(mmap.MADV_DONTNEED, released, whole_pages)
                    released += whole_pages
            elif depth == 1:
                current = ""
    rest.append(text[end:])
    return b"".join(rest)
