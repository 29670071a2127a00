"""`run.json`: exactly what ran. A run that is continued adds to it."""

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pics_common.files import write_atomic
from pics_model.ranks import Ranks

PACKAGES = ("pics-compositing", "torch", "diffusers", "transformers", "numpy", "safetensors", "opencv-python-headless",
            "peft")  # fmt: skip


def write_run_facts(out: Path, facts: dict[str, Any], steps: int, ranks: Ranks) -> None:
    """Writes `run.json`: `facts` as they are now, and under `begun` each time that the run was started or continued,
    with the step, the date, the machine, the versions and the commit. Raises `OSError` if it cannot be written."""
    path = out / "run.json"
    begun = {
        "step": steps,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "ranks": ranks.size,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": code_commit(),
    }
    before = _begun_before(path) if steps else []
    write_atomic(path, json.dumps(facts | {"begun": [*before, begun]}, indent=1).encode())


def _begun_before(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text())["begun"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def code_commit() -> str | None:
    """The commit of this code, `+` behind it where files differ; None where it does not run from a clone of its own."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None

    def git(*words: str) -> str:
        line = ["git", "-C", str(here), *words]
        return subprocess.run(line, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
