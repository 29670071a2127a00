"""How fast are views? Milliseconds of one core for `mesh` and `inflate`, beside the floor: their rays alone.

    OMP_NUM_THREADS=1 python benchmarks/views.py [--size 256] [--meshes FOLDER]

The claims: at most 15 ms a 256 px view of a mesh of 20,000 faces, light included, a ball that fills the picture among
them; at most 120 ms an object for four views by `inflate`. The floor of a view is one ray through each pixel of the
object's window, which is what any picture of it needs; for `inflate` also the tree over its surface.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import trimesh

from pics_data.scenes.meshes import load_model, mesh_files
from pics_data.scenes.rays import Pose, Tree
from pics_data.views import ViewCamera, draw_cameras
from pics_data.views.inflate import CELLS, FAR, inflated, views_of
from pics_data.views.mesh import DISTANCE, views_of_file
from pics_data.views.raycast import cameras_around

HERE = Pose(np.eye(3, dtype=np.float32), 1.0, np.zeros(3, np.float32))
CAMERAS = draw_cameras(4, (0,))


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median of `rounds`, after one that does not count; of the core's time, so that its other users count less."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times)


def rays_alone(tree: Tree, points: np.ndarray, distance: float, size: int) -> None:
    """One ray a pixel of the window of each view."""
    for camera in cameras_around(points, CAMERAS, ViewCamera(0, 0), distance):
        spots = camera.project(points, size)
        left, top = np.clip(np.floor(spots.min(0)).astype(int), 0, size - 1)
        right, bottom = np.clip(np.ceil(spots.max(0)).astype(int), 1, size)
        tree.first(HERE, camera.position, camera.rays(size, left, top, right, bottom))


def knot(path: Path) -> Path:
    """A mesh of 20,480 faces with vertex colours: a ball with dents, which hides parts of itself."""
    mesh = trimesh.creation.icosphere(subdivisions=5)
    dents = 1 + 0.12 * np.sin(5 * mesh.vertices).prod(1)
    mesh.vertices = mesh.vertices * dents[:, None]
    colors = (np.sin(mesh.vertices * 4) * 100 + 128).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    mesh.export(path)
    return path


def cutout(size: int) -> np.ndarray:
    """A cut-out that fills most of its square: three discs in random colours."""
    rgba = np.zeros((size, size, 4), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    rgba[..., :3] = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    alpha = np.zeros((size, size), np.uint8)
    for x, y, r in ((0.5, 0.62, 0.3), (0.36, 0.34, 0.18), (0.68, 0.3, 0.16)):
        cv2.circle(alpha, (int(x * size), int(y * size)), int(r * size), 255, -1, cv2.LINE_AA)
    rgba[..., 3] = alpha
    return rgba


def main() -> None:
    """Prints a row for each mesh, and one for `inflate`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--meshes", default="")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    size, count = options.size, len(CAMERAS)
    print(f"mesh, {size} px, {count} views an object; ms a view, and its share for rays alone\n")
    for path in (*mesh_files(options.meshes), knot(Path("out/views-benchmark.ply"))):
        model = load_model(path)
        points = model.solid.vertices
        made = milliseconds(lambda path=path: views_of_file(path, CAMERAS, size), options.rounds) / count
        floor = milliseconds(lambda m=model, p=points: rays_alone(m.tree, p, DISTANCE, size), options.rounds) / count
        facts = f"{len(model.solid.faces):7,d} faces {made:6.1f} ms, rays {floor:5.1f} ({made / floor:.1f} times)"
        print(f"{path.stem[:32]:32s} {facts}")
    rgba = cutout(size)
    subject, _ = inflated(rgba)
    made = milliseconds(lambda: views_of(rgba, CAMERAS), options.rounds)
    build = milliseconds(lambda: Tree(subject.points, subject.faces), options.rounds)
    floor = build + milliseconds(lambda: rays_alone(subject.tree, subject.points, FAR * CELLS, size), options.rounds)
    print(f"\ninflate, {size} px, {len(subject.faces):,d} faces: {made:.0f} ms an object of {count} views,")
    print(f"tree and rays {floor:.0f} ({made / floor:.1f} times)")


if __name__ == "__main__":
    Path("out").mkdir(exist_ok=True)
    main()
