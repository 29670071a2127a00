"""The reading side of the shard format: where each member and each sample of a tar lies, from its headers alone.

Python's tarfile makes an object of 1 kB for each member and keeps it, and takes any broken header for the end of the
tar; this passes a million headers in seconds, seeks over the contents, and knows a broken header from the end. It reads
ustar, pax and GNU long names, of any file that can seek.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

BLOCK = 512  # tar's unit: a header is one block, and contents are padded to whole blocks


class DamageError(Exception):
    """What is wrong with a tar or a sample, in words; whoever catches it knows which one it is."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: its contents are `size` bytes from `offset` on; its headers begin at `start`."""

    name: str
    start: int
    offset: int
    size: int
    kind: str  # "0" for a plain file, else tar's type

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


@dataclass(slots=True)
class StoredSample:
    """Neighbouring members of one key: extension (`bg.jpg`, `mask0.png`, ...) -> where it lies."""

    key: str
    start: int
    end: int
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes in the tar, headers and padding included."""
        return self.end - self.start


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """Every member of a tar but folders, in order.

    Raises `DamageError` at a wrong header, at a member that goes beyond the file's end, and where the mark of the
    tar's end is missing. What stands behind the mark is for `check_end`.
    """
    file_end = file.seek(0, 2)
    start = at = 0
    extended: dict[str, str] = {}
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise DamageError(f"cut off at byte {file_end:,}: the end mark of a tar is missing")
        if header[0] == 0 and not any(header):
            return
        size = _checked_size(header, extended, at)
        kind = header[156:157].decode("latin-1")
        member = Member(extended.get("path") or _name(header), start, at + BLOCK, size, "0" if kind == "\0" else kind)
        if member.end > file_end:
            raise DamageError(f"cut off inside of {member.name}")
        at = member.end
        if kind in "xL":
            file.seek(member.offset)
            extended |= _extended(kind, file.read(size))
            continue
        if kind not in "g5":
            yield member
        start, extended = at, {}


def _checked_size(header: bytes, extended: dict[str, str], at: int) -> int:
    """The size that a header says. Raises `DamageError` where its checksum is wrong."""
    try:
        whole = int(header[148:156].strip(b" \0"), 8) == sum(header) - sum(header[148:156]) + 8 * 32
        size = int(extended.get("size") or _number(header[124:136]))
    except ValueError:
        whole, size = False, 0
    if not whole or size < 0:
        raise DamageError(f"neither a member nor the end of a tar at byte {at:,}")
    return size


def check_end(file: BinaryIO, end: int) -> None:
    """Raises `DamageError` unless zeros, two blocks or more, are all that stands from byte `end` on."""
    file_end = file.seek(0, 2)
    if file_end < end + 2 * BLOCK:
        raise DamageError(f"cut off at byte {file_end:,}: it lacks the closing zeros of a tar")
    file.seek(end)
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise DamageError(f"neither a member nor the end of a tar at byte {end:,}")


def tar_samples(file: BinaryIO, strangers: "Counter[str] | None" = None) -> Iterator[StoredSample]:
    """The samples of a tar in order.

    Members that are no plain file `<key>.<extension>` are counted in `strangers` by tar's type ("0": a file of another
    name). Without `strangers` all is held to the format: `DamageError` for them, for an extension or a key that stands
    twice, and for anything behind the end.
    """
    strict = strangers is None
    sample: StoredSample | None = None
    closed: set[str] = set()
    end = 0
    for member in tar_members(file):
        end = member.end
        key, _, extension = member.name.partition(".")
        if member.kind != "0" or not is_key(key) or not extension or "/" in extension:
            if strangers is None:
                raise DamageError(
                    f"{member.name}: not a plain file `<key>.<extension>`; nothing else may be in a shard"
                )
            strangers[member.kind] += 1
            continue
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
                closed.add(sample.key)
            if strict and key in closed:
                raise DamageError(f"{key}: its members do not stand together, or the key stands twice")
            sample = StoredSample(key, member.start, member.end)
        if strict and extension in sample.members:
            raise DamageError(f"{key}: {extension} stands twice")
        sample.members[extension] = member
        sample.end = member.end
    if strict:
        check_end(file, end)
    if sample is not None:
        yield sample


def is_key(text: str) -> bool:
    """Whether `text` can be a key in published shards: any file's stem will do."""
    return bool(text) and not any(char in "./\\" or char < " " for char in text)


def read_members(file: BinaryIO, sample: StoredSample) -> dict[str, bytes]:
    """The members of a sample: extension -> bytes."""
    members = {}
    for extension, member in sample.members.items():
        file.seek(member.offset)
        members[extension] = file.read(member.size)
    return members


def read_range(file: BinaryIO, start: int, num_bytes: int) -> tuple[str, dict[str, bytes]]:
    """Key and members of the sample that fills `num_bytes` from `start` on: one read, as a store answers best.

    Raises `DamageError` where no whole sample is there.
    """
    file.seek(start)
    part = BytesIO(file.read(num_bytes) + bytes(2 * BLOCK))
    for sample in tar_samples(part, Counter()):
        return sample.key, read_members(part, sample)
    raise DamageError(f"no sample at byte {start:,}")


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "replace").removeprefix("./")


def _number(text: bytes) -> int:
    """A number in a header: octal text, or from 8 GiB on a binary number with its first bit set."""
    return int.from_bytes(text[1:], "big") if text[0] & 0x80 else int(text.strip(b" \0") or b"0", 8)


def _extended(kind: str, data: bytes) -> dict[str, str]:
    """Name and size out of a pax record or a GNU long name, which stand before the member that they describe."""
    if kind == "L":
        return {"path": data.rstrip(b"\0").decode("utf-8", "replace").removeprefix("./")}
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            break  # padding
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "replace").removeprefix("./")
        data = data[int(length) :]
    return found
