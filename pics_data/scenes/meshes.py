"""The user's meshes: files -> solids that stand upright at unit size, with their own texture or colours."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray

from pics_common.errors import UserError, require_folder
from pics_data.scenes import MESH_SUFFIXES
from pics_data.scenes.materials import Array, to_linear
from pics_data.scenes.rays import Hits, Tree, blend
from pics_data.scenes.solids import Ints, Solid, corner_normals, grounded

Z_UP = (".stl",)  # the other formats have y up, by their standard or by habit
MAX_TEXTURE = 512  # pixels; objects are at most half a picture wide
MAX_FACES = 400_000
MAX_BYTES = 500_000_000
MEND = "mend it or take it out of the folder"


@dataclass(frozen=True, slots=True)
class Skin:
    """A mesh's own colours, linear RGB: `colors` [F, 3, 3] at face corners, times the texture of the face's image.

    `uv` [F, 3, 2] runs right and down, in picture widths; `image` [F] is the number in `images`, -1 for none.
    """

    colors: Array
    uv: Array
    image: Ints
    images: tuple[Array, ...]

    def at(self, hits: Hits) -> Array:
        """Colours [M, 3] at the hits."""
        color, uv = blend(self.colors, hits), blend(self.uv, hits)
        which = self.image[hits.face]
        for k, image in enumerate(self.images):
            here = np.flatnonzero(which == k)
            if len(here):
                color[here] *= _sample(image, uv[here])
        return color


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded mesh with its ray tree and corner normals; `skin` is None where the file has no colours."""

    solid: Solid
    tree: Tree
    corners: Array
    skin: Skin | None


def mesh_files(folder: str) -> tuple[Path, ...]:
    """The meshes of a folder and its subfolders, sorted by their path in it; none for "".

    Raises `UserError` if it is not a folder or holds no mesh.
    """
    if not folder:
        return ()
    root = require_folder(Path(folder), "meshes")
    found = [p for p in root.rglob("*") if p.suffix.lower() in MESH_SUFFIXES and p.is_file()]
    if not found:
        raise UserError(f"meshes: {root} holds no mesh; expected files ending in {', '.join(MESH_SUFFIXES)}")
    return tuple(sorted(found, key=lambda p: p.relative_to(root).as_posix()))


class _Resolver(trimesh.resolvers.FilePathResolver):
    """Finds what a mesh file names beside it, and remembers what is not there: trimesh goes on without."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.missing: list[str] = []

    def get(self, name: str) -> bytes:
        """The bytes of a file by its name."""
        try:
            return bytes(super().get(name))
        except OSError:
            self.missing.append(name)
            raise


@lru_cache(maxsize=64)
def load_model(path: Path) -> Model:
    """Reads a mesh file.

    Raises `UserError` that names the file if it cannot be read, lacks a file that it names, holds no surface, or is
    too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"mesh {path}: {path.stat().st_size:,} bytes; expected at most {MAX_BYTES:,}: simplify it")
    vertices, faces, skins = _read(path)
    if len(faces) > MAX_FACES:
        raise UserError(f"mesh {path}: {len(faces):,} triangles; expected at most {MAX_FACES:,}: simplify it")
    if not np.isfinite(vertices[faces]).all():
        raise UserError(f"mesh {path}: some of its vertices are no numbers (NaN); {MEND}")
    if float(np.ptp(vertices[faces], axis=(0, 1)).max()) <= 0:
        raise UserError(f"mesh {path}: all its vertices are one point; {MEND}")
    solid, kept = _solid(path, vertices, faces)
    if not kept.any():
        raise UserError(f"mesh {path}: its triangles have no area; {MEND}")
    tree = Tree(solid.vertices, solid.faces)
    return Model(solid, tree, corner_normals(solid.vertices, solid.faces), _join_skins(skins, kept))


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], "list[Skin | None]"]:
    """Vertices [V, 3], faces [F, 3] and the skin of each part of a file, in its own space."""
    resolver = _Resolver(path)
    try:
        with path.open("rb") as file:
            scene: Any = trimesh.load_scene(file, file_type=path.suffix.lower()[1:], resolver=resolver, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        skins = [_part_skin(part) for part in parts]
    except Exception as error:  # whatever a broken file makes the reader stumble over
        if not resolver.missing:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"mesh {path}: cannot be read ({reason}); {MEND}") from error
    if resolver.missing:
        raise UserError(f"mesh {path}: {path.parent / resolver.missing[0]} is missing, which it names; put it there")
    if not parts:
        raise UserError(f"mesh {path}: holds no triangles; {MEND}")
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    faces = np.concatenate([np.asarray(part.faces) + start for part, start in zip(parts, starts, strict=True)])
    return vertices, faces, skins


def _solid(path: Path, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[Solid, NDArray[np.bool_]]:
    """Upright, welded, without empty triangles: the solid and which of the faces were kept."""
    if path.suffix.lower() not in Z_UP:
        vertices = vertices[:, [0, 2, 1]] * np.array([1, -1, 1])
    low = vertices[faces.ravel()].min(0)
    unit = (vertices - low) / float(np.ptp(vertices[faces.ravel()], axis=0).max())
    used, corners = np.unique(faces.ravel(), return_inverse=True)
    _, first, inverse = np.unique(np.round(unit[used], 5), axis=0, return_index=True, return_inverse=True)
    welded = inverse.ravel()[corners.ravel()].reshape(-1, 3).astype(np.int32)
    points = unit[used][first].astype(np.float32)
    a, b, c = (points[welded[:, k]] for k in range(3))
    kept = (np.cross(b - a, c - a) ** 2).sum(1) > 1e-16
    solid = Solid(path.stem, points, np.ascontiguousarray(welded[kept]), "boxy", closed=False)
    return grounded(solid), kept


def _part_skin(part: Any) -> Skin | None:
    """The colours of one part, or None."""
    visual, count = part.visual, len(part.faces)
    colors = np.ones((count, 3, 3), np.float32)
    uv = np.zeros((count, 3, 2), np.float32)
    if visual.kind in ("vertex", "face"):
        rgb = to_linear(
            np.asarray(visual.vertex_colors if visual.kind == "vertex" else visual.face_colors)[:, :3] / 255
        )
        colors = rgb[part.faces] if visual.kind == "vertex" else np.repeat(rgb[:, None], 3, axis=1)
        return Skin(colors, uv, np.full(count, -1, np.int32), ())
    if visual.kind != "texture":
        return None
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None or visual.uv is None:
        colors[:] = to_linear(np.asarray(material.main_color[:3]) / 255)
        return Skin(colors, uv, np.full(count, -1, np.int32), ())
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None:
        colors[:] = to_linear(np.asarray(factor[:3]) / 255)
    uv = np.asarray(visual.uv, np.float32)[part.faces] * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
    return Skin(colors, uv, np.zeros(count, np.int32), (_texture(image),))


def _texture(image: Any) -> Array:
    """A PIL image -> linear RGB [h, w, 3], at most `MAX_TEXTURE` a side; what is transparent becomes white."""
    rgba = np.asarray(image.convert("RGBA"), np.float32) / np.float32(255)
    rgb = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
    linear = to_linear(rgb)
    shrink = MAX_TEXTURE / max(linear.shape[:2])
    if shrink < 1:
        linear = cv2.resize(linear, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(linear, np.float32)


def _join_skins(skins: list[Skin | None], kept: NDArray[np.bool_]) -> Skin | None:
    """One skin for all parts; None if some part has no colours, as half a skin looks broken."""
    whole = [skin for skin in skins if skin is not None]
    if len(whole) < len(skins):
        return None
    images = tuple(image for skin in whole for image in skin.images)
    shift = np.cumsum([0] + [len(skin.images) for skin in whole[:-1]])
    image = np.concatenate([np.where(s.image < 0, -1, s.image + k) for s, k in zip(whole, shift, strict=True)])
    colors, uv = (np.concatenate([getattr(s, name) for s in whole])[kept] for name in ("colors", "uv"))
    return Skin(colors, uv, image[kept].astype(np.int32), images)


def look_up(image: Array, places: Array, border: int = cv2.BORDER_WRAP) -> Array:
    """Colours [N, 3] of an `image` [h, w, 3] at `places` [N, 2], x and y in pixels between pixels' middles; bilinear.

    `border` is OpenCV's word for what lies beyond the image.
    """
    # remap takes maps of at most 32767 a side: fold the list into rows of 4096.
    count = len(places)
    padded = np.zeros((-(-count // 4096) * 4096, 2), np.float32)
    padded[:count] = places
    x, y = (np.ascontiguousarray(padded[:, k].reshape(-1, 4096)) for k in range(2))
    found = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(found.reshape(-1, 3)[:count])


def _sample(image: Array, uv: Array) -> Array:
    """Bilinear, repeating; uv [N, 2] in picture widths -> [N, 3]."""
    high, wide = image.shape[:2]
    return look_up(image, np.mod(uv, 1) * np.array([wide, high], np.float32) - np.float32(0.5))
