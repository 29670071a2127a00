"""`make demo`: renders scenes, trains `tiny` on them briefly, composes unseen pairs, and shows them on a page.

Each stage is a command that anyone can run alone; run again, each goes on where it stopped or has nothing to do.
"""

import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from demo_page import DemoEntry, DemoFacts, write_demo_page
from demo_sheet import write_sheet
from numpy.typing import NDArray

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.examples import Example
from pics_model.framing import Frame, cut, resize
from pics_model.inputs import FramingSettings, compose
from pics_model.jobs import load_job, read_jobs
from pics_model.paste_back import region_union

SHOWN = 12
SIDE = 192  # pixels a side of the pictures on the page
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """The whole way once: scenes -> shards -> a trained model -> composites -> a page."""

    out: Path = Path("demo")
    scenes: int = 1100
    """Scenes to render; eight in a hundred are kept from training."""
    steps: int = 400
    """Training steps of 16 samples."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One composite against the truth. `front` is None where the objects hardly meet; `psnr_*` are over the regions."""

    entry: DemoEntry
    front: bool | None
    paste_front: bool | None
    error: float
    paste_error: float


def main(argv: list[str] | None = None) -> int:
    """Runs all stages; prints the page's path last."""
    config = parse_recipe(DemoConfig, sys.argv[1:] if argv is None else argv, prog="demo")
    shards, run, made = config.out / "shards", config.out / "run", config.out / "composites"
    seconds: dict[str, float] = {}

    def stage(name: str, *words: object) -> None:
        line = [sys.executable, "-m", *map(str, words)]
        print(f"\n== {name}\n$ {shlex.join(['python', *line[1:]])}", flush=True)
        start = time.monotonic()
        code = subprocess.run(line, check=False).returncode
        if code:
            raise UserError(f"{name} stopped, see above; `make demo` goes on from there, `make clean` starts anew")
        seconds[name] = time.monotonic() - start

    data = [
        "--source",
        "scenes",
        "--difficulty",
        "easy",
        "--num-scenes",
        config.scenes,
        "--val-fraction",
        0.08,
        "--object-size",
        128,
        "--out",
        shards,
    ]
    stage("build shards", "pics_data.cli", "build", *data, "--out", shards)
    # The object pictures of `tiny` lie on the scene's own pixels: turned, they would not.
    train = ["--shards", shards, "--out", run, "--cutouts", "full", "--save-every", 100, "--rotation", 0]
    stage("train", "pics_model.train", *train, "--steps", config.steps, "--resume")
    unseen = ["--jobs", shards, "--split", "val", "--cutouts", "full"]
    stage("compose", "pics_model.infer", "--model", run, *unseen, "--out", made)

    framing = _framing(run / "model")
    judged = [judge(example, made, framing) for example in unseen_examples(shards)]
    more = ["python", "-m", "pics_model.train", *train[:2], "--out", config.out / "longer", *train[4:]]
    facts = _facts(judged, config, run, seconds, shlex.join(map(str, [*more, "--steps", 20 * config.steps])))
    write_sheet(config.out / "sheet.png", [one.entry for one in islice(judged, 8)])
    page = config.out / "index.html"
    write_demo_page(page, [one.entry for one in islice(judged, SHOWN)], facts)
    print(f"\n{summary(facts)}\n{page.resolve()}")
    return 0


def unseen_examples(shards: Path) -> Iterator[Example]:
    """The samples kept from training, with whole objects."""
    for job in read_jobs(shards, "val", whole=True):
        yield replace(load_job(job), key=job.name)


def judge(example: Example, made: Path, framing: FramingSettings) -> Judged:
    """Compares the composite of an example, and copy-and-paste, with the photo it was taken from."""
    result = _read(made / f"{example.key}.png")
    inputs = compose(example, framing, None)
    inner, (x0, y0, x1, y1) = region_union(inputs)
    union = np.zeros(inputs.photo_size, bool)
    union[y0:y1, x0:x1] = inner
    holes = np.where(union[..., None], 0, example.photo).astype(np.uint8)
    layers = [layer_of(example, k) for k in range(len(example.objects))]
    # Holes left open would make copy-and-paste look worse than it is: they are filled from their edges.
    paste = np.asarray(cv2.inpaint(holes, union.astype(np.uint8), 5, cv2.INPAINT_TELEA), np.uint8)
    for colour, alpha in layers:
        paste = np.rint(paste + alpha * (colour - paste.astype(np.float32))).astype(np.uint8)
    show = inputs.frame
    meta_relation = example.meta.get("relation")
    label = meta_relation.get("label", "") if isinstance(meta_relation, dict) else ""
    front = in_front(example, layers, result)
    entry = DemoEntry(
        key=example.key,
        background_with_holes=np.dstack([_show(holes, show), _show(np.where(union, 0, 255).astype(np.uint8), show)]),
        objects=example.objects,
        result=_show(result, show),
        original=_show(example.photo, show),
        paste=_show(paste, show),
        relation=label,
        front_correct=front,
    )
    paste_front = in_front(example, layers, paste)
    return Judged(entry, front, paste_front, _error(result, example, union), _error(paste, example, union))


def in_front(
    example: Example, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]], result: Picture
) -> bool | None:
    """Whether, where both whole objects lie, `result` is nearer to the photo than to the object behind.

    None where they share fewer than 0.1 % of the photo's pixels: there is nothing to judge.
    """
    contested = example.whole_masks[0] & example.whole_masks[1]
    right = wrong = 0.0
    num = 0
    for k in (0, 1):
        here = contested & example.masks[k]
        behind, alpha = layers[1 - k]
        here &= alpha[..., 0] > 0.9
        num += int(here.sum())
        shown = result[here].astype(np.float32)
        right += float(np.square(shown - example.photo[here]).sum())
        wrong += float(np.square(shown - behind[here]).sum())
    return None if num < contested.size / 1000 else right < wrong


def layer_of(example: Example, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Object k laid over the photo at its place: colour [H, W, 3] in 0 to 255, alpha [H, W, 1] in 0 to 1."""
    square = example.squares[k]
    assert square is not None, "scenes know what their object pictures show"
    height, width = example.photo.shape[:2]
    picture = example.objects[k].astype(np.float32)
    scale = square[2] / picture.shape[1]
    place = np.array([[scale, 0, square[0] + (scale - 1) / 2], [0, scale, square[1] + (scale - 1) / 2]])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    warped = cv2.warpAffine(picture, place, (width, height), flags=how, borderValue=(255, 255, 255, 0))
    alpha = warped[..., 3:] / 255
    # Object pictures are composed on white; what is laid over a photo must be the object's own colour.
    colour = np.where(alpha > 0.02, 255 + (warped[..., :3] - 255) / np.maximum(alpha, 0.02), 255)
    return np.clip(colour, 0, 255), alpha


def _error(picture: Picture, example: Example, union: NDArray[np.bool_]) -> float:
    """Mean squared error inside the regions, values in 0 to 1."""
    return float(np.square(picture[union] / 255.0 - example.photo[union] / 255.0).mean())


def _show(picture: Picture, frame: Frame) -> Picture:
    return resize(np.ascontiguousarray(cut(picture, frame)), SIDE)


def _read(path: Path) -> Picture:
    data = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if data is None:
        raise UserError(f"composite {path}: missing or unreadable; remove {path.parent} and run again")
    return np.asarray(data, np.uint8)


def _framing(model: Path) -> FramingSettings:
    settings = json.loads((model / "model_index.json").read_text())["framing"]
    return FramingSettings(**settings)


def _facts(judged: list[Judged], config: DemoConfig, run: Path, seconds: dict[str, float], more: str) -> DemoFacts:
    about = json.loads((run / "run.json").read_text())
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    front = [one.front for one in judged if one.front is not None]
    paste = [one.paste_front for one in judged if one.paste_front is not None]
    return DemoFacts(
        command=more,
        training_steps=config.steps,
        training_samples=history[-1]["samples"],
        scenes=about["samples_in_shards"],
        seconds=seconds,
        loss=float(np.mean([entry["loss"] for entry in history[-5:]])),
        loss_curve=[(entry["samples"], entry["loss"]) for entry in history],
        parameters=about["parameters"],
        front_share=float(np.mean(front)) if front else None,
        front_judged=len(front),
        paste_front_share=float(np.mean(paste)) if paste else None,
        psnr_result=_psnr([one.error for one in judged]),
        psnr_paste=_psnr([one.paste_error for one in judged]),
    )


def _psnr(errors: list[float]) -> float:
    """Mean over pictures of each one's PSNR in dB."""
    return float(np.mean([-10 * math.log10(max(error, 1e-10)) for error in errors]))


def summary(facts: DemoFacts) -> str:
    """Two lines for the terminal."""
    lines = [f"inside the regions {facts.psnr_result:.1f} dB PSNR, copy-and-paste {facts.psnr_paste:.1f} dB"]
    if facts.front_share is not None and facts.paste_front_share is not None:
        lines.append(
            f"right object in front in {facts.front_share:.0%} of {facts.front_judged} unseen scenes, "
            f"copy-and-paste {facts.paste_front_share:.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
