"""Parquet files beside the shards: what pyarrow says of a damaged one becomes a line for the user."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pics_common import storage
from pics_common.errors import UserError

# What pyarrow raises for files that are damaged or hold something else: its own errors are of these kinds too.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, NotImplementedError)
AGAIN = "run the same build command again"


@contextmanager
def told_if_damaged(url: str, remedy: str = AGAIN) -> Iterator[None]:
    """Raises `UserError` with the `remedy` where the block finds the Parquet file `url` missing or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{url}: missing; {remedy}") from None
    except UNREADABLE as error:
        raise UserError(f"{url}: cannot be read ({error}); {remedy}") from None


def read_batches(url: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, one batch in memory at a time. Raises `UserError` where it is missing or damaged."""
    with told_if_damaged(url), storage.open_read(url) as stream, pq.ParquetFile(stream) as file:
        yield from file.iter_batches(columns=columns)
