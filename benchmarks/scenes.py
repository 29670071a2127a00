"""How fast are the procedural scenes? CPU time of one process for each difficulty, with all truth, beside the floor.

    OMP_NUM_THREADS=1 python benchmarks/scenes.py [--scenes 60] [--size 256]

The claim: 10,000 mixed scenes at 256 px are built in at most 10 minutes on 2 cores: at most 90 ms of CPU a scene
for plan and rendering. As in a build, a scene is drawn twice (to plan it, to render it) and two of its objects are cut
out. The floor is what the ray caster alone needs for the same rays: below it no shading can go.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2

from pics_data.scenes import contact, shapes
from pics_data.scenes.arranging import DIFFICULTIES
from pics_data.scenes.rays import Tree
from pics_data.sources import scenes as source

WARM = 120  # scenes before the clock starts: by then most of the stock of shapes is made


def main() -> None:
    """Prints milliseconds a scene, for each difficulty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--meshes", default="")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{options.scenes} scenes a difficulty at {options.size} px, one process; CPU ms a scene\n")
    print(
        f"{'difficulty':12s} {'objects':>7s} {'plan':>6s} {'render':>7s} {'both':>6s} {'rays alone':>11s} {'rays':>7s}"
    )
    for difficulty in DIFFICULTIES:
        settings = source.SceneSettings(1, options.size, options.meshes, difficulty)
        for photo in source.photos(settings, WARM + options.scenes):
            source.render(photo, settings)
        start = time.process_time()
        found = list(source.photos(settings, options.scenes))
        plan = time.process_time() - start
        pairs = [replace(photo, instances=photo.instances[:2]) for photo in found]
        render, _, _ = _timed(pairs, settings)
        _, rays, seconds = _timed(pairs, settings, count_rays=True)
        each = 1e3 / options.scenes
        objects = sum(len(photo.instances) for photo in found) / options.scenes
        print(
            f"{difficulty:12s} {objects:7.1f} {plan * each:6.1f} {render * each:7.1f} {(plan + render) * each:6.1f} "
            f"{seconds * each:11.1f} {rays / options.scenes / 1e3:6.0f}k"
        )


def _timed(photos: list[Any], settings: Any, *, count_rays: bool = False) -> tuple[float, int, float]:
    """Seconds to render, rays cast, and seconds within the ray caster."""
    rays: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)

    def counted(name: str, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            out = function(*args, **kwargs)
            seconds[name] += time.process_time() - start
            rays[name] += len(args[place])
            return out

        return call

    known = [(Tree, "first", 3), (Tree, "blocked", 3), (contact, "distances", 1), (shapes, "distances", 1)]
    plain = [getattr(owner, name) for owner, name, _ in known]
    if count_rays:
        for owner, name, place in known:
            setattr(owner, name, counted(name, getattr(owner, name), place))
    start = time.process_time()
    for photo in photos:
        source.render(photo, settings)
    taken = time.process_time() - start
    for (owner, name, _), function in zip(known, plain, strict=True):
        setattr(owner, name, function)
    return taken, sum(rays.values()), sum(seconds.values())


if __name__ == "__main__":
    main()
