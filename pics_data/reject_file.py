"""Rejects in a Parquet file, written as they come: there may be millions."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pics_data.records import Reject

SCHEMA = pa.schema({name: pa.string() for name in ("key", "stage", "reason", "detail")})
ROWS = 20_000  # kept in memory until written


class RejectFile:
    """A Parquet file of rejects that is being written; `reasons` counts them by stage and reason."""

    def __init__(self, path: Path) -> None:
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.first: Reject | None = None
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, str]] = []

    @property
    def count(self) -> int:
        return self.reasons.total()

    def add(self, reject: Reject) -> None:
        self.first = self.first or reject
        self.reasons[reject.stage, reject.reason] += 1
        self._rows.append(asdict(reject))
        if len(self._rows) == ROWS:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows.clear()

    def __enter__(self) -> "RejectFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._write()
        self._writer.close()
