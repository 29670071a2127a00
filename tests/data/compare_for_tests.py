"""A folder of shards against the truth: every file, every byte, every key."""

import hashlib
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from tests.data.kills_for_tests import build_command


def digests_of_all(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones too, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(out: Path, truth: dict[str, str]) -> list[str]:
    """How a finished folder differs from the truth's digests; in keys, from its own plan; and what `pics-data verify`
    finds wrong in it."""
    found = digests_of_all(out)
    wrong = [f"{name}: missing" for name in truth.keys() - found.keys()]
    wrong += [f"{name}: left over" for name in found.keys() - truth.keys()]
    wrong += [f"{name}: other bytes" for name in found.keys() & truth.keys() if found[name] != truth[name]]
    verify = subprocess.run(build_command(["verify", str(out)]), capture_output=True, text=True, check=False)
    if verify.returncode:
        wrong.append(f"verify: {verify.stderr.strip()[-200:]}")
    return sorted(wrong + _wrong_keys(out))


def _wrong_keys(out: Path) -> list[str]:
    """Keys that the plan does not hold, or that were not written or rejected exactly once."""
    plans = [path for path in out.glob("plan/*.parquet") if path.stem != "rejects"]
    planned = Counter(key for path in plans for key in pq.read_table(path, columns=["key"])["key"].to_pylist())
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    made = Counter(reject["key"] for reject in rejects if reject["stage"] != "plan")
    for tar in out.glob("*.tar"):
        with tarfile.open(tar) as file:
            made.update(name.partition(".")[0] for name in file.getnames() if name.endswith(".meta.json"))
    return [f"{key}: planned {planned[key]} times, made {made[key]}" for key in planned | made if made[key] != 1]
