"""Shards with views of shards without: one at a time, as a plain function, and as an actor in the Ray Data graph."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import orjson

from pics_common import storage
from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.options import ViewOptions
from pics_data.records import Reject, Sample
from pics_data.shards import ShardMark, mark_path, read_mark, table_path, write_shard
from pics_data.tar_read import DamageError, read_members, tar_samples
from pics_data.turns import with_rotations
from pics_data.views import Generator
from pics_data.views.stage import load_generator, with_views


def add_to_shard(source: str, folder: str, shard: str, options: ViewOptions, generate: Generator | None) -> ShardMark:
    """Writes `shard` of the folder `source` into `folder`, with the views and rotations of `options`.

    What its mark has as rejected stays so. Raises `UserError` where the shard is damaged or is none of ours.
    """
    mark = read_mark(source, shard)
    before: tuple[Reject, ...] = mark.rejects if mark else ()
    records: Iterator[Sample | Reject] = stored_samples(storage.join(source, f"{shard}.tar"))
    if mark and not mark.nsamples:
        records = iter(())
    if generate is not None:
        records = with_views(records, options, generate)
    return write_shard(folder, shard, chain(before, with_rotations(records, options)))


def stored_samples(tar: str) -> Iterator[Sample]:
    """The samples of a tar, in order. Raises `UserError` where it is damaged, or where a sample has no metadata."""
    with storage.open_read(tar) as file:
        try:
            for stored in tar_samples(file):
                if "meta.json" not in stored.members:
                    raise UserError(f"{tar}: {stored.key} has no meta.json; expected shards of `pics-data build`")
                yield Sample(stored.key, read_members(file, stored))
        except DamageError as error:
            raise UserError(f"{tar}: {error}; `pics-data verify` tells more") from None


class ViewShard:
    """A shard's row of the graph -> its mark, once the shard that lies in `source` is in `folder`, with views.

    Holds the generators of the members of a build, each loaded when it is first needed. With `consume` the shard in
    `source` is removed when it has been used.
    """

    def __init__(
        self, source: str, folder: str, options: ViewOptions, configs: Sequence[BuildConfig], consume: bool
    ) -> None:
        import cv2

        cv2.setNumThreads(1)  # an actor has one CPU
        self._source, self._folder, self._options, self._configs = source, folder, options, configs
        self._consume = consume
        self._generators: dict[int, Generator] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        member, shard = row["member"], row["shard"]
        if self._options.views != "none" and member not in self._generators:
            self._generators[member] = load_generator(self._options, self._configs[member])
        mark = add_to_shard(self._source, self._folder, shard, self._options, self._generators.get(member))
        if self._consume:
            for url in (storage.join(self._source, f"{shard}.tar"), table_path(self._source, shard)):
                storage.remove(url)
            storage.remove(mark_path(self._source, shard))
        return {"number": row["number"], "mark": orjson.dumps(asdict(mark))}
