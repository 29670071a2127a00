"""`python -m pics_model.infer`: composes jobs in batches, one picture a job, with a `results.jsonl`.

A job's picture depends on the model, the job and `--seed` only: its noise is drawn from its own seed.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pics_common.errors import UserError, require_folder, run_command
from pics_common.files import write_atomic
from pics_common.recipe import parse_recipe
from pics_model.examples import Example
from pics_model.jobs import Job, JobError, load_job, read_jobs
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import one_process_group


@dataclass(frozen=True, slots=True)
class InferConfig:
    """Composes pictures: each job's objects into its background."""

    model: Path
    """Folder of a run, or of a model."""
    jobs: Path
    """Folder of job folders, one job folder, a JSON-lines file, or shards."""
    out: Path
    """Folder of the pictures and of results.jsonl."""
    batch_size: int = 8
    steps: int | None = None
    """Denoising steps; the model's own number if not given."""
    guidance: float | None = None
    """Classifier-free guidance; the model's own if not given, 1 is none."""
    seed: int = 0
    limit: int | None = None
    """At most so many jobs, the first in order."""
    split: Literal["train", "val", "all"] = "all"
    """Which samples of shards to compose."""
    cutouts: Literal["visible", "full"] = "visible"
    """Object pictures of shards: as far as the photo shows them, or whole where the shards know it."""


def load_model(folder: Path) -> PICSPipeline:
    """The model in `folder`, or in its `model/` if `folder` is a run. Raises `UserError` if there is none."""
    require_folder(folder, "--model")
    found = [place for place in (folder, folder / "model") if (place / "model_index.json").is_file()]
    if not found:
        raise UserError(f"--model {folder}: no model_index.json here or in model/; expected a run or a saved model")
    try:
        # The defaults announce a package that is not needed, and draw a bar for a load of a second.
        return PICSPipeline.from_pretrained(found[0], low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"--model {found[0]}: cannot be loaded ({error})") from None


def job_seed(seed: int, name: str) -> int:
    """A job's own seed: its noise does not depend on its neighbours, nor on its place in the list."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def compose_jobs(
    pipeline: PICSPipeline, jobs: Iterable[Job], config: InferConfig
) -> Iterator[tuple[Job, NDArray[np.uint8] | JobError]]:
    """Yields each job with its picture [H, W, 3] uint8 or with what is wrong with it, batch by batch."""
    pending = iter(jobs)
    while group := list(islice(pending, config.batch_size)):
        loaded: list[tuple[Job, Example | JobError]] = []
        for job in group:
            try:
                loaded.append((job, load_job(job)))
            except JobError as error:
                loaded.append((job, error))
        good = [(job, example) for job, example in loaded if isinstance(example, Example)]
        seeds = [job_seed(config.seed, job.name) for job, _ in good]
        pictures = pipeline([example for _, example in good], seeds, config.steps, config.guidance) if good else []
        made = iter(pictures)
        for job, example in loaded:
            yield job, example if isinstance(example, JobError) else next(made)


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """[H, W, 3] uint8 RGB -> PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def run(config: InferConfig, pipeline: PICSPipeline, jobs: Sequence[Job]) -> int:
    """Composes all jobs into `config.out`; returns how many could not be."""
    config.out.mkdir(parents=True, exist_ok=True)
    failed, start = 0, time.monotonic()
    lines: list[dict[str, object]] = []
    for number, (job, outcome) in enumerate(compose_jobs(pipeline, jobs, config), 1):
        if isinstance(outcome, JobError):
            failed += 1
            print(f"error: {outcome}", file=sys.stderr)
            lines.append({"job": job.name, "status": "failed", "error": str(outcome)})
        else:
            write_atomic(config.out / f"{job.name}.png", encode_png(outcome))
            facts = {"seed": job_seed(config.seed, job.name), "size": list(outcome.shape[:2])}
            lines.append({"job": job.name, "status": "ok", "picture": f"{job.name}.png", **facts})
        if number % config.batch_size == 0 or number == len(jobs):
            pace = number / (time.monotonic() - start)
            print(f"composed {number}/{len(jobs)}  {pace:.1f}/s  {(len(jobs) - number) / pace:.0f} s left", flush=True)
    write_atomic(config.out / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    print(f"{len(jobs) - failed} pictures, {failed} jobs failed: {config.out / 'results.jsonl'}")
    return failed


def main(argv: list[str] | None = None) -> int:
    """The command; 1 if a job failed. Raises `UserError` for what the user can mend."""
    config = parse_recipe(InferConfig, sys.argv[1:] if argv is None else argv, prog="pics_model.infer")
    jobs = list(islice(read_jobs(config.jobs, config.split, config.cutouts == "full"), config.limit))
    with one_process_group() as ranks, torch.inference_mode():
        return 1 if run(config, load_model(config.model).to(ranks.device), jobs) else 0


if __name__ == "__main__":
    run_command(main)
