"""Photos, annotations, plan and shards behind an S3 API that refuses many a request: same bytes as a local build."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pics_common import storage
from pics_data import cli
from pics_data.options import RayOptions
from pics_data.pipeline import engine
from tests.data.photos_for_tests import DrawnSet, draw_set
from tests.data.plain_build import build_plainly, digests
from tests.data.stores_for_tests import Store, object_store

SETTINGS = ("--shard-samples", "4", "--object-size", "32")
BUCKET = "s3://pictures"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    pytest.importorskip("moto", reason="moto is not installed: pip install 'pics-compositing[dev]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with object_store("pictures") as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        ray.shutdown()  # workers of an earlier start would not know of this store
        with engine(RayOptions(workers=2)):
            yield store


@pytest.fixture(scope="module")
def drawn(store: Store, tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    """Photos and annotations, here and in the store."""
    drawn = draw_set(tmp_path_factory.mktemp("drawn"), num_photos=40)
    for path in drawn.images.iterdir():
        storage.write(f"{BUCKET}/photos/{path.name}", path.read_bytes())
    storage.write(f"{BUCKET}/instances.json", drawn.annotations.read_bytes())
    return drawn


@pytest.fixture(scope="module")
def expected(drawn: DrawnSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plain")
    build_plainly(drawn.config(folder, shard_samples=4, object_size=32))
    return digests(folder)


def argv_of(out: str, *more: str) -> list[str]:
    paths = ["--images", f"{BUCKET}/photos", "--annotations", f"{BUCKET}/instances.json", "--out", out]
    return ["build", "--source", "coco", *paths, *SETTINGS, *more]


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def fetch(url: str, folder: Path) -> Path:
    for name in storage.walk(url):
        storage.write(str(folder / name), storage.read(f"{url}/{name}"))
    return folder


def test_a_build_in_a_store_that_throttles(
    store: Store, drawn: DrawnSet, expected: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store.refuse, before = 1 / 6, store.refused
    try:
        assert run(*argv_of(f"{BUCKET}/out/shards", "--workers", "2")) == 0
        assert store.refused > before + 10
        assert digests(fetch(f"{BUCKET}/out/shards", tmp_path / "fetched")) == expected
        assert run("verify", f"{BUCKET}/out/shards") == 0
    finally:
        store.refuse = 0
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert run(*argv_of(f"{BUCKET}/out/shards")) == 0
    assert "whole from an earlier run" in capfd.readouterr().err
    assert run("verify", str(tmp_path / "fetched")) == 0


def test_a_store_is_asked_little(store: Store, drawn: DrawnSet, expected: dict[str, str]) -> None:
    """Requests cost money and time: each photo is fetched once, and a shard takes a handful of others."""
    store.requests.clear()
    assert run(*argv_of(f"{BUCKET}/counted", "--workers", "1")) == 0
    photos = Counter(path for (_, path) in store.requests.elements() if "/photos/" in path)
    planned = sum(name.endswith(".tar") for name in expected)
    assert photos
    assert set(photos.values()) == {1}
    shards = {path: n for (_, path), n in store.requests.items() if "/counted/" in path}
    a_shard = sum(n for path, n in shards.items() if path.endswith((".tar", ".json", ".parquet")) and "-00" in path)
    assert a_shard <= 4 * planned  # tar, table and mark, and a look whether the bucket takes them
    assert sum(shards.values()) <= 8 * planned + 30  # the plan's rows, and what is asked once a build


def test_killed_half_way_in_a_store(store: Store, drawn: DrawnSet, expected: dict[str, str], tmp_path: Path) -> None:
    out = f"{BUCKET}/killed"
    command = [sys.executable, "-m", "pics_data.cli", *argv_of(out, "--workers", "1")]
    driver = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while len(list(storage.list_names(f"{out}/parts"))) < 6:
        assert driver.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert storage.file_size(f"{out}/index.json") is None
    assert run(*argv_of(out)) == 0
    assert digests(fetch(out, tmp_path)) == expected


def test_what_is_wrong_with_a_store_is_one_line(
    store: Store, drawn: DrawnSet, capfd: pytest.CaptureFixture[str]
) -> None:
    good = argv_of(f"{BUCKET}/out2")
    for wrong, right, message in [
        ("s3://nowhere/photos", f"{BUCKET}/photos", "--images: s3://nowhere/photos does not exist"),
        (f"{BUCKET}/none.json", f"{BUCKET}/instances.json", f"{BUCKET}/none.json does not exist"),
        ("s3://nowhere/out", f"{BUCKET}/out2", "--out: s3://nowhere/out cannot be written to"),
        ("gopher://a/b", f"{BUCKET}/photos", "Protocol not known: gopher"),
    ]:
        assert run(*[wrong if word == right else word for word in good]) == 2
        errors = capfd.readouterr().err
        assert message in errors
        assert "Traceback" not in errors
    assert storage.list_folder(f"{BUCKET}/out2") == []
