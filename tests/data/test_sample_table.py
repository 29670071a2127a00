"""The table of samples: what goes in comes out, in any Parquet reader, from a path or a URL."""

import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_common import storage
from pics_common.errors import UserError
from pics_data.sample_table import SCHEMA, iter_tables, read_tables, table_of, write_table
from tests.data.metas_for_tests import METAS, meta_of


@pytest.fixture(params=["path", "URL"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder for shards, here or in a store."""
    if request.param == "path":
        yield str(tmp_path)
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def put(folder: str, shard: str, metas: list[dict[str, Any]], marked: bool = True) -> None:
    write_table(storage.join(folder, "parts", f"{shard}.parquet"), metas)
    if marked:
        storage.write(storage.join(folder, "parts", f"{shard}.json"), b"{}")


@given(st.lists(METAS, max_size=5))
def test_a_row_says_what_the_metadata_says(metas: list[dict[str, Any]]) -> None:
    rows = table_of(metas, "train-coco-000003").to_pylist()
    for meta, row in zip(metas, rows, strict=True):
        assert (row["key"], row["shard"], row["split"]) == (meta["key"], "train-coco-000003", meta["split"])
        assert (row["source"], row["seed"], row["num_bytes"]) == (meta["source"], meta["seed"], meta["num_bytes"])
        assert [row["height"], row["width"]] == meta["size"]
        photo = meta["photo"]
        assert (row["photo_id"], row["photo_width"], row["photo_height"]) == ("1", photo["width"], photo["height"])
        assert (row["file_name"], row["license"], row["url"]) == ("a.jpg", photo["license"], photo["url"])
        assert row["num_objects"] == len(meta["objects"])
        for i, item in enumerate(meta["objects"]):
            columns = {"ids": "id", "categories": "category", "areas": "area", "boxes": "box", "borders": "border"}
            for column, name in {**columns, "edges": "edge", "parts": "parts", "holes": "holes"}.items():
                assert row[column][i] == item[name]
            assert row["hidden"][i] == item.get("hidden")
        for k, relation in enumerate(meta["relations"]):
            for name in ("box_iou", "gap_px", "contact_px", "overlap_px", "front"):
                assert row[name][k] == relation[name]
            assert row["pairs"][k] == relation["objects"]
            assert row["labels"][k] is None
        assert len(row["pairs"]) == len(meta["relations"])


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    metas = [meta_of([{}, {"hidden": 0.5}], key=f"toy-{n}", seed=n) for n in range(50)]
    digests = set()
    for name in ("a", "b"):
        path = tmp_path / name / "train-000000.parquet"
        write_table(str(path), metas)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert pq.read_table(path).to_pylist() == table_of(metas, "train-000000").to_pylist()
    assert len(digests) == 1


def test_all_shards_are_read_in_the_order_of_their_names(folder: str) -> None:
    sizes = {"val-000000": 1, "train-coco-000001": 3, "train-coco-000000": 2, "train-bdd100k-000000": 0}
    for shard, size in sizes.items():
        metas = [meta_of([{}], key=f"{shard}-{n}", split=shard.partition("-")[0]) for n in range(size)]
        put(folder, shard, metas)
    put(folder, "train-coco-000002", [meta_of([{}], key="half")], marked=False)
    table = read_tables(folder)
    assert table.schema.equals(SCHEMA)
    assert table["shard"].to_pylist() == ["train-coco-000000"] * 2 + ["train-coco-000001"] * 3 + ["val-000000"]
    assert read_tables(folder, "val")["key"].to_pylist() == ["val-000000-0"]
    assert [part.num_rows for part in iter_tables(folder, "train")] == [0, 2, 3]
    some = read_tables(folder, "train", ["gap_px", "key"])
    assert some.column_names == ["gap_px", "key"]
    assert some["key"].to_pylist() == table["key"].to_pylist()[:5]


def test_a_split_without_shards_is_an_empty_table(folder: str) -> None:
    put(folder, "train-000000", [meta_of([{}])])
    assert read_tables(folder, "val", ["key"]).num_rows == 0


def test_what_cannot_be_read_is_named(folder: str) -> None:
    with pytest.raises(UserError, match=r"no parts/\*\.parquet"):
        read_tables(folder)
    put(folder, "train-000000", [meta_of([{}])])
    with pytest.raises(UserError, match="no column `area`; there are key, shard, "):
        read_tables(folder, columns=["area"])
    url = storage.join(folder, "parts", "train-000000.parquet")
    whole = storage.read(url)
    for data in (b"", whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        storage.write(url, data)
        with pytest.raises(UserError, match=r"train-000000\.parquet: cannot be read"):
            read_tables(folder)


def test_a_table_of_other_columns_is_named(tmp_path: Path) -> None:
    put(str(tmp_path), "train-000000", [meta_of([{}])])
    path = tmp_path / "parts" / "train-000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["edges"]), path)
    with pytest.raises(UserError, match=r"train-000000\.parquet: cannot be read"):
        read_tables(str(tmp_path))
    assert read_tables(str(tmp_path), columns=["key"]).num_rows == 1


def test_the_example_of_the_format_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "shards" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    put(
        str(tmp_path / "shards"), "train-000000", [meta_of([{}]), meta_of([{}, {}], [4]), meta_of([{}] * 2, key="near")]
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert [row["key"] for row in names["touching"]] == ["near"]


def test_the_format_describes_each_column() -> None:
    text = (Path(__file__).parents[2] / "shards" / "README.md").read_text()
    table = text[text.index("### The table of samples") :]
    described = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(described) == sorted(SCHEMA.names)
