"""The files in pipelines/cluster: what they run is understood, and the Slurm script really builds."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pics_common.recipe import parse_recipe
from pics_data.config import BuildConfig
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import build_plainly, digests

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "pipelines" / "cluster"

# A cluster of two machines that are both this one: `srun` runs its command here, less its own options.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
  case $1 in -w) shift 2 ;; *) shift ;; esac
done
if [[ $1 == hostname ]]; then echo 127.0.0.1; else exec "$@"; fi
"""
SCONTROL = "#!/bin/bash\necho one; echo two\n"


def test_the_job_of_kuberay_is_a_build(monkeypatch: Any) -> None:
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["pics-data", "build"]
    monkeypatch.chdir(ROOT)
    config = parse_recipe(BuildConfig, words[2:], prog="pics-data build").check()
    assert config.address == "auto"
    assert all(url.startswith("s3://") for url in (*config.images, *config.annotations, config.out))
    cluster = job["spec"]["rayClusterSpec"]
    (pinned,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert pinned == f"ray=={cluster['rayVersion']}"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "store-keys"}}]


def test_the_script_for_slurm_builds(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path / "drawn", num_photos=20)
    build_plainly(drawn.config(tmp_path / "plain", shard_samples=4, object_size=32))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "machines[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_PORT": str(port),
        "RAY_TMPDIR": f"/tmp/r{port}",
    }
    argv = drawn.argv(tmp_path / "shards", "--shard-samples", "4", "--object-size", "32")
    done = subprocess.run(
        [str(CLUSTER / "slurm.sh"), *argv[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "shards") == digests(tmp_path / "plain")
