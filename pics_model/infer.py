"""`python -m pics_model.infer`: composes jobs in batches, one picture a job, with a `results.jsonl`.

A job's picture depends on the model, the job and `--seed` only: its noise is drawn from its own seed.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

import cv2
import numpy as np
import torch
from diffusers.utils import logging
from numpy.typing import NDArray

from pics_common.errors import UserError, require_folder, run_command
from pics_common.files import write_atomic
from pics_common.quiet import quiet
from pics_common.recipe import parse_recipe
from pics_model.cut_out import load_cut_out
from pics_model.draw import draw_alpha
from pics_model.examples import Example
from pics_model.jobs import Job, JobError, load_job, read_jobs
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import one_process_group
from pics_model.settings import require_ranges


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
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    limit: int | None = None
    """At most so many jobs, the first in order."""
    split: Literal["train", "val", "all"] = "all"
    """Which samples of shards to compose."""
    cutouts: Literal["visible", "full"] = "visible"
    """Object pictures of shards: as far as the photo shows them, or whole where the shards know it."""
    cut_out: str = ""
    """Cuts objects out of pictures that neither have alpha nor stand on white: an ONNX file of a saliency network, or
    the name of a rembg session. Without, all of such a picture is the object."""
    interactions: bool = False
    """Also draws who is in front where objects meet, as `interactions/<job>.png`."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "batch_size": (1, math.inf),
                "steps": (1, math.inf),
                "guidance": (0, 1000),
                "threads": (0, math.inf),
                "limit": (1, math.inf),
            },
        )


def load_model(folder: Path | str, option: str = "--model") -> PICSPipeline:
    """The model in `folder`, or in its `model/` if `folder` is a run. Raises `UserError`, naming the option that gave
    it, if there is none."""
    found = model_folder(Path(folder), option)
    try:
        with quiet(logging):
            # Safetensors only: without them diffusers would go on to pickles.
            pipeline = PICSPipeline.from_pretrained(found, use_safetensors=True)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.framing  # noqa: B018  # refuses settings that cannot work
    except (UserError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        said = str(error).strip().splitlines()[0].split(". If you want")[0]
        raise UserError(f"{option} {found}: cannot be loaded ({said}); save or fetch it again") from None
    return pipeline


def model_folder(folder: Path, option: str = "--model") -> Path:
    """`folder`, or its `model/` if it is a run. Raises `UserError`, naming the option, if there is no model."""
    require_folder(folder, option)
    found = [place for place in (folder, folder / "model") if (place / "model_index.json").is_file()]
    if not found:
        raise UserError(f"{option} {folder}: no model_index.json here or in model/; expected a run or a saved model")
    return found[0]


def job_seed(seed: int, name: str) -> int:
    """A job's own seed: its noise does not depend on its neighbours, nor on its place in the list."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


@dataclass(frozen=True, slots=True)
class Composed:
    """A picture [H, W, 3] uint8; how many of its objects' pictures are opaque all over; and, if asked for, the sheet
    that shows who is in front."""

    picture: NDArray[np.uint8]
    num_opaque: int
    sheet: NDArray[np.uint8] | None = None


def compose_jobs(
    pipeline: PICSPipeline, jobs: Iterable[Job], config: InferConfig
) -> Iterator[tuple[Job, Composed | JobError]]:
    """Yields each job with its picture or with what is wrong with it, batch by batch."""
    pending = iter(jobs)
    while group := list(islice(pending, config.batch_size)):
        loaded: list[tuple[Job, Example | JobError]] = []
        for job in group:
            try:
                loaded.append((job, load_job(job, pipeline.framing.views)))
            except JobError as error:
                loaded.append((job, error))
        good = [(job, example) for job, example in loaded if isinstance(example, Example)]
        seeds = [job_seed(config.seed, job.name) for job, _ in good]
        examples = [example for _, example in good]
        made = iter(_compose(pipeline, examples, seeds, config) if good else [])
        for job, example in loaded:
            yield job, example if isinstance(example, JobError) else next(made)


def _compose(
    pipeline: PICSPipeline, examples: Sequence[Example], seeds: Sequence[int], config: InferConfig
) -> list[Composed]:
    read = config.interactions
    pictures, readouts = pipeline.compose_examples(examples, seeds, config.steps, config.guidance, read=read)
    opaque = [sum(bool((picture[..., 3] == 255).all()) for picture in example.objects) for example in examples]
    if not read:
        return [Composed(picture, number) for picture, number in zip(pictures, opaque, strict=True)]
    rows = zip(pictures, opaque, examples, readouts, strict=True)
    return [Composed(p, number, draw_alpha(p, example, pipeline.framing, r)) for p, number, example, r in rows]


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """[H, W, 3] uint8 RGB -> PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def run(config: InferConfig, pipeline: PICSPipeline, jobs: Sequence[Job]) -> int:
    """Composes all jobs into `config.out`; returns how many could not be."""
    path = config.out / "results.jsonl"
    failed, opaque, start = 0, 0, time.monotonic()
    # A line is written once its picture is whole, so that after an interruption the file tells what there is.
    with _open_results(path) as results:
        for number, (job, outcome) in enumerate(compose_jobs(pipeline, jobs, config), 1):
            line: dict[str, object] = {"job": job.name}
            if isinstance(outcome, JobError):
                failed += 1
                print(f"error: {outcome}", file=sys.stderr)
                line |= {"status": "failed", "error": str(outcome)}
            else:
                opaque += outcome.num_opaque
                picture = f"{job.name}.png"
                write_atomic(config.out / picture, encode_png(outcome.picture))
                if outcome.sheet is not None:
                    write_atomic(config.out / "interactions" / picture, encode_png(outcome.sheet))
                size = list(outcome.picture.shape[:2])
                line |= {"status": "ok", "picture": picture, "seed": job_seed(config.seed, job.name), "size": size}
            results.write(json.dumps(line) + "\n")
            results.flush()
            if number % config.batch_size == 0 or number == len(jobs):
                pace = number / (time.monotonic() - start)
                left = (len(jobs) - number) / pace
                print(f"composed {number}/{len(jobs)}  {pace:.1f}/s  {left:.0f} s left", flush=True)
    if opaque and not config.cut_out:
        print(
            f"note: {opaque} object pictures have neither transparent parts nor a white ground: all of each was taken "
            f"for the object; --cut-out cuts it out",
            file=sys.stderr,
        )
    print(f"{len(jobs) - failed} pictures, {failed} jobs failed: {path}")
    return failed


def _open_results(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path.parent}: cannot be written ({error.strerror}); choose another folder") from None


def main(argv: list[str] | None = None) -> int:
    """The command; 1 if a job failed. Raises `UserError` for what the user can mend."""
    config = parse_recipe(InferConfig, sys.argv[1:] if argv is None else argv, prog="pics_model.infer")
    cut = load_cut_out(config.cut_out, config.threads) if config.cut_out else None
    jobs = list(islice(read_jobs(config.jobs, config.split, config.cutouts == "full", cut), config.limit))
    with one_process_group(config.threads) as ranks, torch.inference_mode():
        pipeline = load_model(config.model).to(ranks.device)
        most = pipeline.scheduler.config.num_train_timesteps
        if config.steps is not None and config.steps > most:
            raise UserError(f"--steps {config.steps}: the model in {config.model} has {most} timesteps; expected fewer")
        failed = run(config, pipeline, jobs)
        if cut is not None and not cut.num_cut and not failed:
            print("note: --cut-out had nothing to do: all objects have alpha or stand on white", file=sys.stderr)
        return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
