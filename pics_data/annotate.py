"""Photos that nobody has annotated: a mask predictor finds their objects, before anything can be planned.

The objects of each chunk of photos stand in a file of their own below `annotated/` in the folder of the shards: a run
that is killed goes on behind the last of them, and a new plan reads them again.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from pics_common import storage
from pics_data.config import BuildConfig
from pics_data.pipeline import WINDOW, engine, map_by_actors, raise_user_error
from pics_data.predict.shards import AnnotateChunk, chunk_file, photo_from_json
from pics_data.predict.weights import weights_digest
from pics_data.records import Photo, Reject

FOLDER = "annotated"
CHUNK = 64  # photos a file


def annotated(records: Iterable[Photo | Reject], config: BuildConfig) -> Iterator[Photo | Reject]:
    """The photos of `records` with the objects that the predictor of `config` finds in them, chunk by chunk.

    Rejects pass through. A photo that cannot be read is a `Reject`; one in which nothing is found has no instances.
    """
    folder = storage.join(config.out, FOLDER)
    assert config.masks != "given"
    weights = weights_digest(config.masks, config.mask_weights)
    chunks = _chunks(records, folder, f"{weights} {config.max_pixels}")
    with engine(config):
        while window := list(islice(chunks, WINDOW)):
            for chunk in window:
                yield from chunk.pop("rejects")
            done = [chunk["number"] for chunk in window if chunk["done"]]
            todo = [
                {name: chunk[name] for name in ("number", "digest", "photos")} for chunk in window if not chunk["done"]
            ]
            for number in done:
                yield from _read(folder, number)
            for number in _predict(todo, folder, config) if todo else ():
                yield from _read(folder, number)


def _chunks(records: Iterable[Photo | Reject], folder: str, predictor: str) -> Iterator[dict[str, Any]]:
    """Photos as they come, `CHUNK` at a time, and whether their file is there."""
    source = iter(records)
    number = 0
    while group := list(islice(source, CHUNK)):
        photos = [record for record in group if isinstance(record, Photo)]
        data = orjson.dumps(photos)
        digest = hashlib.sha256(predictor.encode() + data).hexdigest()
        yield {
            "number": number,
            "digest": digest,
            "photos": data,
            "rejects": [record for record in group if isinstance(record, Reject)],
            "done": _digest_of(folder, number) == digest,
        }
        number += 1


def _digest_of(folder: str, number: int) -> str:
    try:
        return str(orjson.loads(storage.read(storage.join(folder, chunk_file(number))))["digest"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _predict(todo: list[dict[str, Any]], folder: str, config: BuildConfig) -> Iterator[int]:
    import ray

    dataset = ray.data.from_items(todo, override_num_blocks=len(todo))
    done = map_by_actors(dataset, AnnotateChunk, (folder, config), config)
    try:
        for row in done.iter_rows():
            yield int(row["number"])
    except ray.exceptions.RayError as error:
        raise_user_error(error)
        raise


def _read(folder: str, number: int) -> Iterator[Photo | Reject]:
    values = orjson.loads(storage.read(storage.join(folder, chunk_file(number))))
    yield from (Reject(**reject) for reject in values["rejects"])
    yield from (photo_from_json(photo) for photo in values["photos"])
