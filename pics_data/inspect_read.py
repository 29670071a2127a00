"""What `inspect` knows of a folder of shards: the metadata of every sample, and where each stands in its tar.

Reads the headers of the tars and the `meta.json` members only, and seeks over the pictures, so the time goes with the
number of members and not with their bytes. The numbers of all samples are kept in columns, a few hundred bytes each.
"""

import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from pics_common.errors import UserError, require_folder

BLOCK = 512  # tar's unit: a header is one block, and contents are padded to whole blocks
QUIET_SECONDS = 3.0  # a progress line this often, so that a quick run prints none

SAMPLE_COLUMNS = ("index", "photo", "num_objects", "box_iou", "gap_px", "gap_share", "contact_px", "front")
OBJECT_COLUMNS = ("index", "area", "parts", "holes", "border", "edge", "hidden")
SHARES_OF_OBJECT = ("area", "border", "edge", "hidden")


@dataclass(frozen=True, slots=True)
class Shard:
    path: Path
    split: str
    num_samples: int
    num_bytes: int


def _columns(names: Sequence[str]) -> dict[str, "array[float]"]:
    return {name: array("d") for name in names}


@dataclass(slots=True)
class Survey:
    """All samples of a folder. `index` in a column is the sample's position in `keys`; NaN stands for "not known".

    `photo` counts the photos; samples of one photo share it.
    """

    folder: Path
    shards: list[Shard] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    shard_of: "array[int]" = field(default_factory=lambda: array("l"))
    offset_of: "array[int]" = field(default_factory=lambda: array("q"))  # of the sample's first header, in bytes
    samples: dict[str, "array[float]"] = field(default_factory=lambda: _columns(SAMPLE_COLUMNS))
    objects: dict[str, "array[float]"] = field(default_factory=lambda: _columns(OBJECT_COLUMNS))
    counts: dict[str, "Counter[str]"] = field(
        default_factory=lambda: {name: Counter() for name in ("source", "relation", "category", "pair", "license")}
    )
    photos: dict[tuple[str, str], int] = field(default_factory=dict)  # (source, photo id) -> number of the photo
    num_without_meta: int = 0
    strangers: "Counter[str]" = field(default_factory=Counter)  # members that are no plain files, by type
    broken: dict[str, str] = field(default_factory=dict)  # samples that could not be measured: key -> why
    index_remarks: list[str] = field(default_factory=list)  # how index.json and the folder differ


def survey_folder(folder: Path) -> Survey:
    """Reads the headers and metadata of all `*.tar` in `folder`, in the order of their names.

    Raises `UserError` for a missing folder, a folder without tars, a damaged tar and a meta.json that cannot be used.
    """
    require_folder(folder, "shards")
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"shards {folder}: no *.tar in it; expected a folder that `pics-data build` wrote")
    survey = Survey(folder)
    listed = _read_index(folder, {path.name for path in paths}, survey.index_remarks)
    total_bytes = sum(path.stat().st_size for path in paths)
    report = _reporter(total_bytes)
    done = 0
    for path in paths:
        before = len(survey.keys)
        _survey_shard(survey, path, len(survey.shards), lambda at, done=done: report(done + at, survey))
        done += path.stat().st_size
        counted = len(survey.keys) - before
        split, expected = listed.get(path.name, (path.name.partition("-")[0] if "-" in path.name else "", counted))
        if expected != counted:
            survey.index_remarks.append(f"{path.name} holds {counted:,} samples, index.json says {expected:,}.")
        survey.shards.append(Shard(path, split, counted, path.stat().st_size))
    return survey


def read_members(survey: Survey, index: int) -> dict[str, bytes]:
    """All members of one sample: extension (`bg.jpg`, `mask0.png`, ...) -> bytes."""
    path = survey.shards[survey.shard_of[index]].path
    members: dict[str, bytes] = {}
    with path.open("rb") as file:
        for name, offset, size in tar_members(file, path, start=survey.offset_of[index]):
            key, _, extension = name.partition(".")
            if key != survey.keys[index]:
                break
            file.seek(offset)
            members[extension] = file.read(size)
    return members


def tar_members(
    file: BinaryIO, path: Path, start: int = 0, strangers: "Counter[str] | None" = None
) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the contents, size) of every plain file in a tar from the header at `start` on.

    Python's tarfile makes an object of 1 kB for each member and keeps it; this reads a million headers in seconds. It
    knows ustar, pax and GNU long names. Other kinds of member are counted in `strangers` by their type.
    Raises `UserError` at a wrong header, a member that ends behind the file's end, and a missing end mark.
    """
    end = path.stat().st_size
    offset = start
    extended: dict[str, str] = {}
    while True:
        file.seek(offset)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise UserError(f"shard {path}: cut off at byte {offset:,}; build or download it again")
        if header[0] == 0 and not any(header):
            return
        try:
            whole = int(header[148:156].strip(b" \0"), 8) == sum(header) - sum(header[148:156]) + 8 * 32
            size = int(extended.get("size") or _tar_size(header[124:136]))
        except ValueError:
            whole, size = False, 0
        if not whole or size < 0:
            raise UserError(f"shard {path}: not a tar header at byte {offset:,}; build or download it again")
        contents = offset + BLOCK
        offset = contents + (size + BLOCK - 1) // BLOCK * BLOCK
        if offset > end:
            raise UserError(f"shard {path}: cut off inside {_tar_name(header)}; build or download it again")
        kind = header[156:157]
        if kind in b"xL":
            file.seek(contents)
            extended |= _extended(kind, file.read(size))
            continue
        if kind in b"0\0":
            yield extended.get("path") or _tar_name(header), contents, size
        elif kind not in b"g5" and strangers is not None:
            strangers[kind.decode("latin-1")] += 1
        extended = {}


def _tar_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "replace").removeprefix("./")


def _tar_size(text: bytes) -> int:
    """A size field: octal text, or from 8 GiB on a binary number with its first bit set."""
    return int.from_bytes(text[1:], "big") if text[0] & 0x80 else int(text.strip(b" \0") or b"0", 8)


def _extended(kind: bytes, data: bytes) -> dict[str, str]:
    """Name and size out of a pax record or a GNU long name, which stand before the member that they describe."""
    if kind == b"L":
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


def _survey_shard(survey: Survey, path: Path, shard: int, report: Any) -> None:
    """Adds the samples of one tar: neighbouring members that share the name before the first dot."""
    last, has_meta, next_header = "", True, 0
    with path.open("rb", buffering=4096) as file:
        for name, offset, size in tar_members(file, path, strangers=survey.strangers):
            key, _, extension = name.partition(".")
            if key != last:
                survey.num_without_meta += not has_meta
                survey.keys.append(key)
                survey.shard_of.append(shard)
                survey.offset_of.append(next_header)
                last, has_meta = key, False
                if len(survey.keys) % 256 == 0:
                    report(offset)
            if extension == "meta.json":
                file.seek(offset)
                data, has_meta = file.read(size), True
                try:
                    add_meta(survey, len(survey.keys) - 1, orjson.loads(data))
                except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
                    why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                    hint = "expected shards/schema.json; `pics-data verify` says more"
                    raise UserError(f"shard {path}: {key}.meta.json {why}; {hint}") from None
            next_header = offset + (size + BLOCK - 1) // BLOCK * BLOCK
    survey.num_without_meta += not has_meta


def add_meta(survey: Survey, index: int, meta: dict[str, Any]) -> None:
    """Adds the numbers of one meta.json (see shards/schema.json) to the columns.

    Raises KeyError, TypeError, ValueError, AttributeError or ZeroDivisionError where it is not what the schema says, as
    far as the page depends on it.
    """
    if missing := {"source", "split", "size"} - meta.keys():
        raise KeyError(min(missing))
    relation, photo, objects = meta["relation"], meta["photo"], meta["objects"]
    nan = float("nan")
    front = relation["front"]
    number = survey.photos.setdefault((meta["source"], photo["id"]), len(survey.photos))
    row = (index, number, len(objects), relation["box_iou"], relation["gap_px"], relation["gap_px"] / max(meta["size"]),
           relation["contact_px"], nan if front is None else front)  # fmt: skip
    _check_range("relation", relation, ("box_iou",), 1)
    _check_range("relation", relation, ("gap_px", "contact_px"), 1e9)
    for name, value in zip(SAMPLE_COLUMNS, row, strict=True):
        survey.samples[name].append(value)
    for item in objects:
        _check_range("objects", item, SHARES_OF_OBJECT, 1)
        _check_range("objects", item, ("parts", "holes"), 1e9)
        values = (index, item["area"], item["parts"], item["holes"], item["border"], item["edge"],
                  item.get("hidden", nan))  # fmt: skip
        for name, value in zip(OBJECT_COLUMNS, values, strict=True):
            survey.objects[name].append(value)
        survey.counts["category"][item["category"]] += 1
    survey.counts["pair"][" + ".join(sorted(item["category"] for item in objects))] += 1
    survey.counts["source"][meta["source"]] += 1
    survey.counts["license"][photo["license"]] += 1
    if label := relation.get("label", ""):
        survey.counts["relation"][label] += 1


def _check_range(part: str, values: dict[str, Any], names: Sequence[str], top: float) -> None:
    for name in names:
        if not 0 <= values.get(name, 0) <= top:
            raise ValueError(f"says {part}: {name} {values[name]}, which is not from 0 to {top:,.0f}")


def _read_index(folder: Path, names: set[str], remarks: list[str]) -> dict[str, tuple[str, int]]:
    """Tar name -> (split, number of samples) out of index.json; notes in `remarks` where index and folder differ."""
    path = folder / "index.json"
    if not path.is_file():
        remarks.append("index.json is missing: the build has not ended yet, or these are bare tars.")
        return {}
    try:
        shards = json.loads(path.read_bytes())["shardlist"]
        listed = {Path(item["url"]).name: (str(item.get("split", "")), int(item["nsamples"])) for item in shards}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"index {path}: not a shard index; expected a `shardlist` as in shards/README.md") from None
    remarks += [f"{name} stands in index.json and is not in the folder." for name in sorted(listed.keys() - names)]
    remarks += [f"{name} is in the folder and not in index.json." for name in sorted(names - listed.keys())]
    return listed


def _reporter(total_bytes: int) -> Any:
    """A function that prints a line about the progress now and then; nothing for a run that is quick."""
    start = last = time.monotonic()

    def report(done_bytes: int, survey: Survey) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= QUIET_SECONDS:
            last = now
            left = (now - start) * (total_bytes - done_bytes) / max(done_bytes, 1)
            print(f"inspect: {len(survey.keys):,} samples read, about {left:.0f} s left", file=sys.stderr)

    return report
