"""How fast are the procedural scenes? CPU time of one process, with all truth, part by part, beside the floor.

    python benchmarks/scenes.py [--scenes 60] [--size 256]

The claim: at least 10 scenes a second on 2 cores at 256 px, that is at most 200 ms of CPU a scene. The floor is what
the ray caster alone needs for the same rays: below it no shading can go.
"""

import argparse
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pics_data.scenes import background, placing, render, shading
from pics_data.scenes.rays import Tree
from pics_data.sources import scenes as source

# Part -> where its function is looked up. A part's time leaves out that of the parts it calls.
PARTS: dict[str, tuple[Any, str]] = {
    "layout: draw, place, judge": (source, "draw_scene"),
    "layout: solids": (placing, "make_solid"),
    "ground: colour": (background, "_ground_color"),
    "ground: sun shadows": (background, "_ground_sun"),
    "ground: open sky": (background, "_ground_sky"),
    "ground: the rest": (render, "background"),
    "objects: shading": (render, "surface_of"),
    "objects: open sky": (shading, "_open"),
    "objects: sun shadows": (render, "sunlight"),
    "objects: cut-outs": (render, "_cut_out"),
    "samples -> picture, masks": (source, "render_scene"),
    "truth: in front": (source, "front"),
}
RAYS = {"trees": (Tree, "__init__"), "first hits": (Tree, "first"), "shadow rays": (Tree, "blocked")}


class Clock:
    """CPU seconds by part, without what nested parts took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.rays: dict[str, int] = defaultdict(int)
        self._nested = [0.0]

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._nested.append(0.0)
            start = time.process_time()
            out = function(*args, **kwargs)
            taken = time.process_time() - start
            self.seconds[name] += taken - self._nested.pop()
            self._nested[-1] += taken
            self.calls[name] += 1
            if name in ("first hits", "shadow rays"):
                self.rays[name] += len(args[3])
            return out

        return timed


def main() -> None:
    """Prints scenes a second and where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--meshes", default="")
    options = parser.parse_args()
    settings = source.SceneSettings(seed=1, size=options.size, meshes=options.meshes)

    start = _cpu()
    found = list(source.photos(settings, options.scenes))
    planning = (_cpu() - start) / options.scenes
    for photo in found[:3]:
        source.render(photo, settings)
    start = _cpu()
    for photo in found:
        source.render(photo, settings)
    rendering = (_cpu() - start) / options.scenes
    objects = sum(len(photo.instances) for photo in found) / options.scenes

    print(f"{options.scenes} scenes of {objects:.1f} objects at {options.size} px, one process")
    print(f"plan    {planning * 1e3:6.1f} ms CPU a scene")
    print(f"render  {rendering * 1e3:6.1f} ms CPU a scene, all truth for all objects included")
    print(f"both    {1 / (planning + rendering):6.1f} scenes a second and core")

    clock = Clock()
    for name, (owner, attribute) in {**PARTS, **RAYS}.items():
        setattr(owner, attribute, clock.wrap(name, getattr(owner, attribute)))
    for photo in found:
        source.render(photo, settings)
    print(f"\n{'part of render, without nested parts':38s}    ms  share")
    total = sum(clock.seconds.values())
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        if name not in RAYS:
            print(f"  {name:36s} {seconds / options.scenes * 1e3:5.1f}  {seconds / total:5.0%}")
    floor = sum(clock.seconds[name] for name in RAYS)
    for name in RAYS:
        per = clock.seconds[name] / options.scenes
        rays = clock.rays[name] / options.scenes
        rate = f"{rays / 1e3:.0f}k rays, {rays / per / 1e6:.1f} M/s" if rays else "BVH builds"
        print(f"  ray caster: {name:24s} {per * 1e3:5.1f}  {clock.seconds[name] / total:5.0%}  {rate}")
    print(f"\nfloor (ray caster alone) {floor / options.scenes * 1e3:.1f} ms; render is {total / floor:.1f} x that")


def _cpu() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


if __name__ == "__main__":
    main()
