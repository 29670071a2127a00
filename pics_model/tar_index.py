"""Where each file of a tar lies, from its headers alone: several times as fast as `tarfile`, and stricter.

Shards are plain: a member that is not a file, or has a path, is refused. POSIX ustar, GNU and pax headers are read.
What is kept of a shard is where its samples begin, four bytes each: their headers are read again with their bytes.
"""

import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError

BLOCK = 512
GOOD_NAME = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
# (name, where its headers begin, where its bytes begin, how many they are)
Member = tuple[str, int, int, int]


def tar_members(path: Path, name: str = "") -> Iterator[Member]:
    """Every file of a tar, in order, from all of its headers; names are `<key>.<kind>`.

    Raises `UserError` that names the tar, as `name` if given, if it is no tar, is damaged or cut off, or holds
    anything but such files.
    """
    named = name or str(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _members(named, lambda begin, end: data[begin:end], 0, len(data))
    except (OSError, ValueError) as error:
        raise UserError(f"shard {named}: cannot be read as a tar ({error})") from None


def sample_starts(path: Path, name: str = "") -> NDArray[np.uint32]:
    """Where each sample of a tar begins, and where the last one ends, in blocks of 512 bytes: [samples + 1].

    Members that stand beside each other and share the key before the first dot are a sample. Raises as `tar_members`.
    """
    starts: list[int] = []
    last, end = "", 0
    for member, begin, data, length in tar_members(path, name):
        key = member.partition(".")[0]
        if key != last:
            starts.append(begin // BLOCK)
            last = key
        end = _padded(data + length) // BLOCK
    return np.array([*starts, end], np.uint32)


def members_between(descriptor: int, begin: int, end: int, name: str) -> Iterator[Member]:
    """The files of an open tar whose headers lie from byte `begin` on, up to `end`. Raises as `tar_members`."""
    return _members(name, lambda start, stop: os.pread(descriptor, stop - start, start), begin, end, within=True)


def _members(
    shard: str, read: Callable[[int, int], bytes], at: int, size: int, within: bool = False
) -> Iterator[Member]:
    """`within` says that `size` is where a part of the tar ends, else it is where all of it does."""
    first, long_name = at, b""
    while not within or at < size:
        header = read(at, at + BLOCK)
        if len(header) == BLOCK and not any(header) and not within:
            return
        if len(header) == BLOCK and header[257:262] != b"ustar":
            raise UserError(f"shard {shard}: not a tar, or damaged, at byte {at}")
        begin = at + BLOCK
        length = _number(header[124:136]) if len(header) == BLOCK else size
        # A whole tar ends with two empty blocks, so that one that was cut between two files shows it as well.
        if begin + length >= size + within:
            raise UserError(f"shard {shard}: cut off at byte {size}; build or fetch it again")
        at = _padded(begin + length)
        match header[156:157]:
            case b"L":  # GNU: the next member's name
                long_name = read(begin, begin + length)
            case b"x":  # pax: facts about the next member, its name perhaps
                found = re.search(rb"\d+ path=([^\n]*)\n", read(begin, begin + length))
                long_name = found.group(1) if found else b""
            case b"g":  # pax: facts about all members, none that matter here
                pass
            case kind:
                name = _text(long_name or _short_name(header))
                if kind not in (b"0", b"\0") or not GOOD_NAME.fullmatch(name):
                    raise UserError(
                        f"shard {shard}: member {name!r}; expected files named <key>.<kind>, without a path"
                    )
                yield name, first, begin, length
                first, long_name = at, b""


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _short_name(header: bytes) -> bytes:
    """The name in a ustar header, with its prefix if it has one (GNU headers use that place for other things)."""
    prefix = header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" if prefix else b"") + header[:100]


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode("utf-8", "replace")


def _number(digits: bytes) -> int:
    """Octal digits, or binary with the top bit set for lengths of 8 GiB and more."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    return int(digits.split(b"\0")[0].strip() or b"0", 8)
