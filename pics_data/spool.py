"""Records in buckets, on disk as soon as they are many: how more than fits into memory is grouped and sorted.

Records that belong together go into the same bucket; a bucket is then read as a whole. The file has no name and goes
with the process, however that ends; it lies in the system's folder for temporary files (`TMPDIR`).
"""

import tempfile
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

MEMORY = 2**26  # bytes of records kept in memory before they go to disk


class Spool:
    """Records (bytes) in `num_buckets` buckets, each read in the order in which its records came."""

    def __init__(self, num_buckets: int) -> None:
        self._buffers = [bytearray() for _ in range(num_buckets)]
        self._buffered = 0
        self._pieces: list[list[tuple[int, int, int]]] = [[] for _ in range(num_buckets)]  # offset, stored, length
        self._file: IO[bytes] | None = None

    @property
    def num_buckets(self) -> int:
        return len(self._buffers)

    def add(self, bucket: int, record: bytes) -> None:
        """Adds a record to a bucket."""
        buffer = self._buffers[bucket]
        buffer += len(record).to_bytes(4, "little")
        buffer += record
        self._buffered += 4 + len(record)
        if self._buffered > MEMORY:
            self._to_disk()

    def read(self, bucket: int) -> Iterator[bytes]:
        """The records of a bucket, in the order in which they came. Reading one twice is fine."""
        for offset, stored, length in self._pieces[bucket]:
            assert self._file is not None
            self._file.seek(offset)
            yield from _records(pa.decompress(self._file.read(stored), length, codec="zstd", asbytes=True))
        yield from _records(bytes(self._buffers[bucket]))

    def _to_disk(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="pics-")  # noqa: SIM115  lives as long as the spool
        offset = self._file.seek(0, 2)
        for buffer, pieces in zip(self._buffers, self._pieces, strict=True):
            if buffer:
                data = pa.compress(bytes(buffer), codec="zstd", asbytes=True)
                pieces.append((offset, self._file.write(data), len(buffer)))
                offset += len(data)
                buffer.clear()
        self._buffered = 0


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : end]
        at = end
