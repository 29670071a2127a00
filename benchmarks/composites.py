"""Are a model's composites nearer to the truth than copy-and-paste, where objects overlap?

    python benchmarks/composites.py --model runs/scenes --shards out/scenes

Takes apart held-out scenes whose whole objects are known, composes them again, and compares with the scene: the model,
copy-and-paste in the order of the shard, and in the true and the wrong order of depth. PSNR in dB, the mean over
pictures, in three places: where both whole objects lie (`overlap`), where any does (`objects`), and in all `regions`;
`all pictures as one` is the PSNR of the mean squared error, in which pictures that are quite wrong count for more. At
the photo's size, to which the model's small pictures are enlarged, and at the model's own. Behind the difference to
copy-and-paste stand 95 % of 2,000 bootstrap samples of the pictures.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipelines"))

from demo import in_front, layer_of

from pics_common.errors import run_command
from pics_common.recipe import parse_recipe
from pics_model.examples import Example
from pics_model.framing import cut
from pics_model.infer import job_seed, load_model
from pics_model.inputs import compose
from pics_model.jobs import load_job, read_jobs
from pics_model.paste_back import region_union
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import one_process_group

Picture = NDArray[np.uint8]
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
LEAST = 0.001  # of the photo's pixels in the overlap, or there is nothing to judge


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Compares composites of held-out scenes with the truth and with copy-and-paste."""

    model: Path
    shards: Path
    limit: int = 200
    steps: int | None = None
    threads: int = 0


def pasted(example: Example, union: NDArray[np.bool_], layers: list[Layer], order: tuple[int, ...]) -> Picture:
    """Copy-and-paste: holes filled from their edges, objects laid over them in that order."""
    holes = np.where(union[..., None], 0, example.photo).astype(np.uint8)
    paste = np.asarray(cv2.inpaint(holes, union.astype(np.uint8), 5, cv2.INPAINT_TELEA), np.uint8)
    for k in order:
        colour, alpha = layers[k]
        paste = np.rint(paste + alpha * (colour - paste.astype(np.float32))).astype(np.uint8)
    return paste


def psnr(picture: Picture, truth: Picture, where: NDArray[np.bool_]) -> float:
    error = np.square(picture[where] / 255.0 - truth[where] / 255.0).mean()
    return float(-10 * np.log10(max(error, 1e-10)))


def judge(example: Example, result: Picture, pipeline: PICSPipeline) -> dict[tuple[str, str, str], float]:
    """(scale, place, who) -> PSNR, and whether the right object is in front."""
    inputs = compose(example, pipeline.framing, None)
    inner, (x0, y0, x1, y1) = region_union(inputs)
    union = np.zeros(inputs.photo_size, bool)
    union[y0:y1, x0:x1] = inner
    layers = [layer_of(example, k) for k in range(2)]
    overlap = example.whole_masks[0] & example.whole_masks[1]
    front = int((overlap & example.masks[1]).sum() > (overlap & example.masks[0]).sum())
    pictures = {
        "model": result,
        "paste": pasted(example, union, layers, (0, 1)),
        "paste, true order": pasted(example, union, layers, (1 - front, front)),
        "paste, wrong order": pasted(example, union, layers, (front, 1 - front)),
    }
    places = {"overlap": overlap, "objects": example.whole_masks[0] | example.whole_masks[1], "regions": union}
    found = {}
    size, frame = pipeline.framing.resolution, inputs.frame

    def small(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(cut(values, frame), (size, size), interpolation=cv2.INTER_AREA), np.uint8)

    for who, picture in pictures.items():
        for place, where in places.items():
            found["photo", place, who] = psnr(picture, example.photo, where)
            few = small(where.view(np.uint8) * np.uint8(255)) >= 128
            if few.any():
                found["model", place, who] = psnr(small(picture), small(example.photo), few)
        right = in_front(example, layers, picture)
        if right is not None:
            found["photo", "in front", who] = float(right)
    return found


def main() -> int:
    config = parse_recipe(BenchConfig, sys.argv[1:], prog="composites")
    with one_process_group(config.threads):
        pipeline = load_model(config.model)
        scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        judged = 0
        for job in read_jobs(config.shards, "val", whole=True):
            example = replace(load_job(job), key=job.name)
            if len(example.masks) != 2 or not example.whole_masks:
                continue
            if (example.whole_masks[0] & example.whole_masks[1]).mean() < LEAST:
                continue
            (result,), _ = pipeline.compose_examples([example], [job_seed(0, job.name)], config.steps)
            for key, value in judge(example, result, pipeline).items():
                scores[key].append(value)
            judged += 1
            if judged == config.limit:
                break
    print(f"{config.model}: {judged} held-out scenes whose objects overlap\n")
    print("| at the size of | where | model | paste | true order | wrong order | model - paste | model - true order |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    whos = ("model", "paste", "paste, true order", "paste, wrong order")
    for scale in ("photo", "model"):
        for place in ("overlap", "objects", "regions"):
            columns = [np.array(scores[scale, place, who]) for who in whos]
            cells = [f"{column.mean():.2f}" for column in columns]
            cells += [difference(columns[0] - columns[other]) for other in (1, 2)]
            print(f"| {scale} | {place} | " + " | ".join(cells) + " |")
            pooled = [f"{-10 * np.log10((10 ** (-column / 10)).mean()):.2f}" for column in columns]
            print(f"| {scale} | {place}, all pictures as one | " + " | ".join(pooled) + " | | |")
    shares = ", ".join(f"{who} {np.mean(scores['photo', 'in front', who]):.0%}" for who in whos[:2])
    print(f"\nright object in front, of {len(scores['photo', 'in front', 'model'])}: {shares}")
    return 0


def difference(values: NDArray[np.float64]) -> str:
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    run_command(main)
