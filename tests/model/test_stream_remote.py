"""Shards on a web server and in an object store: the same batches, fetched once, within bounds, whole or not there."""

import hashlib
import http.server
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from pics_common import storage
from pics_common.errors import UserError
from pics_model import shard_cache
from pics_model.inputs import Batch, FramingSettings
from pics_model.shard_cache import ShardCache, _locked
from pics_model.shard_set import Shard, find_shards
from pics_model.stream import ShardStream
from tests.data.stores_for_tests import object_store, put_folder
from tests.model.shards_for_tests import write_shards

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FRAMING = FramingSettings(resolution=32, object_resolution=24)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, counts what is asked for, fails as often as it is told, and sends slowly if told so."""

    asked: Counter[str]
    failures: dict[str, int]
    seconds = 0.0

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if self.failures.get(self.path, 0) > 0:
            self.failures[self.path] -= 1
            self.send_error(503)
            return
        time.sleep(self.seconds)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """A running web server of a folder."""

    def __init__(self, folder: Path) -> None:
        self.handler = type("Own", (Handler,), {"asked": Counter(), "failures": {}})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(self.handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def tars(self) -> Counter[str]:
        """How often each tar was asked for."""
        return Counter({path.strip("/"): n for path, n in self.handler.asked.items() if path.endswith(".tar")})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"train-{i:06}.tar": n for i, n in enumerate([3, 1, 4, 2, 3, 2])}
    return write_shards(tmp_path_factory.mktemp("shards"), counts, size=(40, 56))


@pytest.fixture
def server(shards: Path) -> Iterator[Server]:
    server = Server(shards)
    yield server
    server.server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "FIRST_WAIT", 0.01)


def take(path: str | Path, num_batches: int, start: int = 0, **options: object) -> list[Batch]:
    stream = ShardStream(path, FRAMING, **{"batch_size": 4, "shuffle_shards": 2, **options})  # type: ignore[arg-type]
    return list(islice(stream.batches(start), num_batches))


def same(one: list[Batch], two: list[Batch]) -> bool:
    return [batch.keys for batch in one] == [batch.keys for batch in two] and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, two, strict=True)
        for name in ("target", "objects", "regions", "seeds")
    )


def tars_of(cache: Path) -> list[Path]:
    return sorted((cache / "shards").glob("*.tar"))


# --- the same batches ---


@pytest.mark.parametrize("workers", [0, 2])
def test_a_web_server_gives_the_batches_of_the_folder(shards, server, tmp_path, workers) -> None:
    found = take(server.url, 9, cache=tmp_path, num_workers=workers)
    assert same(found, take(shards, 9))
    assert set(server.tars().values()) == {1}
    # A second run finds all that it needs here.
    assert same(take(server.url, 9, cache=tmp_path, num_workers=workers), found)
    assert set(server.tars().values()) == {1}


def test_an_object_store_gives_the_batches_of_the_folder(shards, tmp_path, monkeypatch) -> None:
    pytest.importorskip("moto", reason="moto is not installed: pip install 'pics-compositing[dev]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with object_store("shards") as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        put_folder(shards, "s3://shards/set")
        store.refuse = 0.2  # the client library tries again
        assert same(take("s3://shards/set", 6, cache=tmp_path / "a", num_workers=2), take(shards, 6))
        store.refuse = 0.0
        storage.remove("s3://shards/set/index.json")
        bare = take("s3://shards/set", 6, cache=tmp_path / "b")
        assert [batch.keys for batch in bare] == [batch.keys for batch in take(shards, 6)]
        asked = store.requests.copy()
        again = take("s3://shards/set", 6, cache=tmp_path / "b")
        assert [batch.keys for batch in again] == [batch.keys for batch in bare]
        assert store.requests.keys() - asked.keys() == set()
        fetched = [key for key in asked if key[0] == "GET" and key[1].endswith(".tar")]
        assert all(store.requests[key] == asked[key] for key in fetched), "counted once, and known from then on"
        with pytest.raises(UserError, match=r"s3://shards/nothing: does not exist"):
            take("s3://shards/nothing", 1, cache=tmp_path / "c")


def test_one_tar_of_a_server_and_a_folder_of_this_machine_mix(shards, server, tmp_path) -> None:
    sources = [(f"{server.url}/train-000002.tar", 2.0), (shards, 1.0)]
    stream = ShardStream(sources, FRAMING, batch_size=1, cache=tmp_path)
    assert stream.num_samples == 2 * 4 + 15
    seen = Counter(batch.keys[0] for batch in islice(stream.batches(), stream.num_samples))
    assert seen == {f"s{i:06}": 3 if 4 <= i < 8 else 1 for i in range(15)}


def test_a_server_without_an_index_is_told(server, tmp_path) -> None:
    with pytest.raises(UserError, match=r"/nowhere: does not exist; expected a folder of shards with index.json"):
        take(f"{server.url}/nowhere", 1, cache=tmp_path)


# --- fetched once, ahead, within bounds ---


def count_keys(url: str, cache: Path, out: "multiprocessing.SimpleQueue[list[str]]") -> None:
    out.put([key for batch in take(url, 9, cache=cache) for key in batch.keys])


def test_processes_that_start_together_fetch_each_shard_once(server, tmp_path) -> None:
    server.handler.seconds = 0.05
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    processes = [context.Process(target=count_keys, args=(server.url, tmp_path, out)) for _ in range(3)]
    for process in processes:
        process.start()
    keys = [out.get() for _ in processes]
    for process in processes:
        process.join()
    assert keys[0] == keys[1] == keys[2]
    assert set(server.tars().values()) == {1}


def test_the_next_group_is_fetched_while_one_is_read(server, tmp_path) -> None:
    stream = ShardStream(server.url, FRAMING, batch_size=1, shuffle_shards=2, cache=tmp_path)
    next(iter(stream.batches()))
    deadline = time.monotonic() + 10
    while len(tars_of(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    here = {path.name.partition("-")[2] for path in tars_of(tmp_path)}
    assert here == {stream.samples.table.shards[number].name for number in stream.order.needed(0)}


def test_a_bounded_cache_stays_within_its_bounds_and_gives_the_same(shards, server, tmp_path) -> None:
    sizes = sorted((path.stat().st_size for path in shards.glob("*.tar")), reverse=True)
    most = sum(sizes[:4])
    stream = ShardStream(server.url, FRAMING, batch_size=4, shuffle_shards=2, cache=tmp_path, cache_bytes=most)
    expected = take(shards, 12)
    for batch, right in zip(stream.batches(), expected, strict=False):
        assert batch.keys == right.keys
        assert sum(path.stat().st_size for path in tars_of(tmp_path)) <= most
    with pytest.raises(UserError, match="allow it more, or mix fewer shards"):
        take(server.url, 1, cache=tmp_path, cache_bytes=most - 1)


def test_what_was_used_longest_ago_goes_first(shards, server, tmp_path) -> None:
    found = find_shards(server.url)
    cache = ShardCache(tmp_path, sum(shard.size or 0 for shard in found[:3]))
    for shard in (*found[:3], found[0], found[3]):
        cache.fetch(shard)
        time.sleep(0.01)
    # The second was used longest ago; whether the third had to go as well is a matter of sizes.
    assert cache.has(found[0])
    assert cache.has(found[3])
    assert not cache.has(found[1])


def test_a_copy_that_another_run_removes_is_fetched_again(shards, server, tmp_path) -> None:
    """Between being fetched and being opened, too: runs with other bounds may share a cache."""
    stream = ShardStream(server.url, FRAMING, batch_size=4, shuffle_shards=2, cache=tmp_path)
    cache = stream.samples.table.remote
    fetch, removed = cache.fetch, set()

    def fetch_and_lose(shard: Shard, wait: bool = True) -> Path | None:
        path = fetch(shard, wait)
        if path is not None and wait and shard.name not in removed:
            removed.add(shard.name)
            path.unlink()
        return path

    cache.fetch = fetch_and_lose  # type: ignore[method-assign]
    assert same(list(islice(stream.batches(), 9)), take(shards, 9))
    assert len(removed) == 6


# --- whole, or not there ---


def test_a_server_that_fails_at_times_is_asked_again(shards, server, tmp_path) -> None:
    server.handler.failures = {"/train-000000.tar": 2, "/train-000003.tar": 3}
    assert same(take(server.url, 4, cache=tmp_path), take(shards, 4))


def test_a_shard_that_does_not_come_is_named(server, tmp_path) -> None:
    server.handler.failures = {"/train-000001.tar": 10**6}
    with pytest.raises(UserError, match=r"shard http://.*/train-000001.tar: cannot be fetched .*5 times"):
        take(server.url, 9, cache=tmp_path)


def test_a_shard_that_is_missing_is_named_at_once(shards, tmp_path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        if path.name != "train-000001.tar":
            os.link(path, copy / path.name)
    server = Server(copy)
    with pytest.raises(UserError, match=r"shard http://.*/train-000001.tar: does not exist"):
        take(server.url, 9, cache=tmp_path / "cache")
    assert server.tars()["train-000001.tar"] < shard_cache.TRIES
    server.server.shutdown()


def test_what_is_not_the_shard_of_the_index_is_refused(shards, tmp_path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == "train-000002.tar":
            data[600] ^= 1
        (copy / path.name).write_bytes(data)
    server = Server(copy)
    with pytest.raises(UserError, match=r"train-000002.tar: its SHA-256 is \w{16}\.\.\., the index says"):
        take(server.url, 9, cache=tmp_path / "cache")
    assert not [path for path in tars_of(tmp_path / "cache") if "train-000002" in path.name]
    server.server.shutdown()


@pytest.mark.parametrize("damage", ["cut", "header", "pixels"])
def test_a_copy_that_went_bad_is_fetched_again(shards, server, tmp_path, damage) -> None:
    expected = take(server.url, 9, cache=tmp_path)
    index = json.loads((shards / "index.json").read_text())["shardlist"]
    for path, entry in zip(sorted(tars_of(tmp_path), key=lambda p: p.name[25:]), index, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        data = bytearray(path.read_bytes())
        if damage == "cut":
            data = data[: len(data) // 2]
        else:
            begin = 0 if damage == "header" else 700
            data[begin : begin + 400] = bytes(400)
        path.write_bytes(data)
    assert same(take(server.url, 9, cache=tmp_path, num_workers=2), expected)


def fetch_slowly(url: str, cache: Path) -> None:
    real = storage._ask

    def slow(where: str, call: object) -> object:
        if where.endswith(".tar"):
            part = ShardCache(cache / "shards").path(find_shards(url)[0])
            part.parent.mkdir(parents=True, exist_ok=True)
            part.with_name(part.name + ".part").write_bytes(b"half of it")
            time.sleep(60)
        return real(where, call)  # type: ignore[arg-type]

    storage._ask = slow  # type: ignore[assignment]
    ShardCache(cache / "shards").fetch(find_shards(url)[0])


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_in_the_way(shards, server, tmp_path) -> None:
    process = multiprocessing.get_context("fork").Process(target=fetch_slowly, args=(server.url, tmp_path))
    process.start()
    deadline = time.monotonic() + 20
    while not list(tmp_path.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.rglob("*.part"))
    assert same(take(server.url, 9, cache=tmp_path, num_workers=2), take(shards, 9))
    assert not list(tmp_path.rglob("*.part"))


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cache .*file/shards: cannot be written"):
        take(server.url, 1, cache=tmp_path / "file")


def test_shards_of_the_same_content_share_their_place_and_bare_ones_do_not(tmp_path) -> None:
    cache = ShardCache(tmp_path)
    here, there = (Shard(f"http://{host}/a.tar", 1, 10, "ab" * 32) for host in ("one", "two"))
    assert cache.path(here) == cache.path(there)
    here, there = (Shard(f"http://{host}/a.tar", None, 10) for host in ("one", "two"))
    assert cache.path(here) != cache.path(there)


def test_a_process_that_is_forked_while_a_thread_fetches_does_not_keep_its_lock(tmp_path) -> None:
    """As a training process does that validates on remote shards, and then starts its loader processes."""
    path = tmp_path / "lock"
    held, go_on = threading.Event(), threading.Event()

    def fetch() -> None:
        with _locked(path, wait=True):
            held.set()
            go_on.wait(10)

    thread = threading.Thread(target=fetch)
    thread.start()
    assert held.wait(10)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    child.start()
    try:
        go_on.set()
        thread.join(10)
        with _locked(path, wait=False) as ours:
            assert ours
    finally:
        child.kill()
        child.join()
