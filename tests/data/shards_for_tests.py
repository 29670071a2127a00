"""Changes to finished shards as a careful forger would make them: all papers agree with the new bytes."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from pics_data.measure import measure_quality
from pics_data.records import Sample
from pics_data.shards import read_mark, write_shard
from pics_data.tar_read import read_members, tar_samples


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample."""
    with tar.open("rb") as file:
        for sample in tar_samples(file):
            yield sample.key, read_members(file, sample)


Members = dict[str, bytes]


def forge(folder: Path, shard: str, change: Callable[[list[tuple[str, Members]]], None]) -> None:
    """Changes the samples of a shard in place; tar, table, mark and index are then written as a build would.

    What the metadata says of each mask's area and quality is brought up to date, too.
    """
    samples = list(read_samples(folder / f"{shard}.tar"))
    change(samples)
    for _, members in samples:
        _measure_again(members)
    old = read_mark(str(folder), shard)
    assert old is not None
    mark = write_shard(str(folder), shard, [*(Sample(key, members) for key, members in samples), *old.rejects])
    index = json.loads((folder / "index.json").read_text())
    entry = next(entry for entry in index["shardlist"] if entry["url"] == f"{shard}.tar")
    entry |= {"filesize": mark.num_bytes, "sha256": mark.sha256, "nsamples": mark.nsamples}
    (folder / "index.json").write_text(json.dumps(index))


def _measure_again(members: Members) -> None:
    meta = orjson.loads(members["meta.json"])
    rgb = np.asarray(Image.open(io.BytesIO(members["bg.jpg"])).convert("RGB"))
    meta["size"] = list(rgb.shape[:2])
    for i, item in enumerate(meta["objects"]):
        mask = np.asarray(Image.open(io.BytesIO(members[f"mask{i}.png"])))
        if mask.shape == rgb.shape[:2]:
            item |= asdict(measure_quality(rgb, mask))
    members["meta.json"] = orjson.dumps(meta)


def edit_mark(folder: Path, shard: str, **values: Any) -> None:
    """Changes the completion mark of a shard."""
    mark = read_mark(str(folder), shard)
    assert mark is not None
    (folder / "parts" / f"{shard}.json").write_bytes(orjson.dumps(asdict(replace(mark, **values))))
