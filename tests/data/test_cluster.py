"""A build on a Ray cluster of several nodes, of which one is lost half way."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.cluster_for_tests import cluster_of_two
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import build_plainly, digests


def test_a_lost_node_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    drawn = draw_set(tmp_path / "drawn", num_photos=120)
    build_plainly(drawn.config(tmp_path / "plain", shard_samples=2, object_size=32))
    expected = digests(tmp_path / "plain")
    num_shards = len(list((tmp_path / "plain").glob("parts/*.json")))

    out = tmp_path / "shards"
    with cluster_of_two() as (address, kill_one):
        argv = drawn.argv(out, "--shard-samples", "2", "--object-size", "32", "--address", address)
        command = [sys.executable, "-m", "pics_data.cli", *argv]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
        while len(list(out.glob("parts/*.json"))) < 6 and driver.poll() is None:
            time.sleep(0.01)
        assert len(list(out.glob("parts/*.json"))) < num_shards, "too late: all shards were done"
        kill_one()
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert digests(out) == expected
