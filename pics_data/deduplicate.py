"""Near-duplicate photos of a plan: fingerprints of all photos that have a composition, made by Ray tasks.

The fingerprints of each chunk of photos stand in a file of their own below `fingerprints/` in the folder of the shards,
where a run that is killed and a new plan find them again. The driver holds about 150 bytes a photo.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from pics_common import storage
from pics_data.config import BuildConfig
from pics_data.duplicates import drop_duplicates
from pics_data.fingerprint import FINGERPRINT, Fingerprints, kept_chunk
from pics_data.pipeline import WINDOW, engine
from pics_data.plan import PhotoRef

FOLDER = "fingerprints"
CHUNK = 512  # photos a file


def find_duplicates(photos: Iterator[PhotoRef], config: BuildConfig) -> dict[str, str]:
    """The photos to leave out, by key, and for each the key of the photo that stays in its place."""
    keys: list[pa.Array] = []
    is_val: list[bool] = []
    prints: dict[int, Fingerprints] = {}

    def chunks() -> Iterator[dict[str, Any]]:
        number = 0
        while chunk := list(islice(photos, CHUNK)):
            keys.append(pa.array(key for key, _, _ in chunk))
            is_val.extend(split == "val" for _, split, _ in chunk)
            yield {"number": number, "photos": orjson.dumps([(key, path) for key, _, path in chunk])}
            number += 1

    with engine(config):
        rows = chunks()
        while window := list(islice(rows, WINDOW)):
            prints.update(_fingerprint(window, storage.join(config.out, FOLDER), config.max_pixels))
    if not keys:
        return {}
    names = pa.chunked_array(keys)
    found = drop_duplicates(np.concatenate([prints[n] for n in range(len(prints))]), names, np.array(is_val))
    return {names[int(i)].as_py(): names[int(j)].as_py() for i, j in zip(found.dropped, found.kept, strict=True)}


def _fingerprint(window: list[dict[str, Any]], folder: str, max_pixels: int) -> Iterator[tuple[int, Fingerprints]]:
    import ray

    def work(row: dict[str, Any]) -> dict[str, Any]:
        chunk = [(key, path) for key, path in orjson.loads(row["photos"])]
        found = kept_chunk(chunk, storage.join(folder, f"{row['number']:06d}.parquet"), max_pixels)
        return {"number": row["number"], "prints": found.tobytes()}

    dataset = ray.data.from_items(window, override_num_blocks=len(window))
    for row in dataset.map(work, num_cpus=1).iter_rows():
        yield int(row["number"]), np.frombuffer(row["prints"], FINGERPRINT)
