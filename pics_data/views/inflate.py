"""Views without any weights: the silhouette is inflated into a closed surface, and the cut-out is its skin.

The surface stands at z^2 = u over the silhouette, where u solves Poisson's equation, laplacian u = -`ROUND`, and is 0
along the outline (as in inflation modelling: over a disc it is a sphere with `ROUND` = 4, over a band a tube with 2).
So it is smooth everywhere, its rim included, has no spikes, and its back mirrors its front. The fuller the silhouette
fills its rectangle, the more the round profile becomes a rounded box's.

The skin is the cut-out, seen as its camera saw it. Close to the rim, where one pixel would be smeared over all of the
side, the skin goes on at the pace of the surface instead and turns back before the outline: the side shows what lies
next to it, in its true size. See `_skin_places`.

Legend: g grid nodes a side, V vertices, F faces; picture coordinates run right and down, from the grid's first node, in
cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.records import RejectError
from pics_data.scenes.meshes import look_up
from pics_data.scenes.rays import Array, Hits, Tree, blend
from pics_data.views import Cutout, Picture, ViewCamera
from pics_data.views.raycast import Subject, cameras_around, photograph

CELLS = 80  # of the grid along the object's longer side
ROUND = 3.0
SWEEPS = 110  # of the solver
STEEP = np.radians(58)  # from here on the skin goes at the surface's own pace
TURN_BACK = 0.97  # of the radius: where it turns
FAR = 3.5  # the own camera's distance, in the object's longer side
_INTS = NDArray[np.int64]


def generate(
    cutouts: Sequence[Cutout], cameras: Sequence[Sequence[ViewCamera]]
) -> Iterator[list[Picture] | RejectError]:
    """See `pics_data.views.Generator`."""
    for cutout, views in zip(cutouts, cameras, strict=True):
        try:
            yield views_of(cutout.rgba, views)
        except RejectError as error:
            yield error


def views_of(rgba: Picture, views: Sequence[ViewCamera]) -> list[Picture]:
    """The object of a cut-out [n, n, 4], seen from each of `views`: [n, n, 4].

    Raises `RejectError` "empty cut-out", or "cut-out without outline" if it touches all four borders.
    """
    subject, middle = inflated(rgba)
    distance = FAR * CELLS
    around = cameras_around(subject.points, views, ViewCamera(0, 0), distance, middle)
    return [photograph(subject, camera, rgba.shape[0]) for camera in around]


def inflated(rgba: Picture) -> tuple[Subject, Array]:
    """The object of a cut-out as a closed surface with its skin, in cells, and the middle [3] that it turns about.

    Seen from azimuth 0, `FAR * CELLS` away from that middle, it covers the cut-out. Raises as `views_of` does.
    """
    origin, cell, alpha = _grid_of(rgba)
    u = inflate(alpha)
    surface = _surface(alpha, u)
    profile = _profile(surface, _boxiness(alpha))
    points = np.concatenate([surface.places, (profile.height * surface.side)[:, None]], 1)
    low, high = surface.places.min(0), surface.places.max(0)
    middle = (low + high) / 2
    # The own camera has a perspective: what is nearer to it is smaller than it looks.
    nearer = (FAR * CELLS - points[:, 2:]) / (FAR * CELLS)
    flat = (points[:, :2] - middle) * nearer
    vertices = np.stack([flat[:, 0], -points[:, 2], -flat[:, 1]], 1).astype(np.float32)

    skin = _skin(rgba)
    places, dim = _skin_places(surface, profile)
    pixels = ((places * cell + origin) - 0.5).astype(np.float32)[surface.faces]
    light = dim.astype(np.float32)[surface.faces][..., None]

    def shade(hits: Hits, points: Array, directions: Array) -> Array:
        del points, directions  # nothing shines
        return look_up(skin, blend(pixels, hits), cv2.BORDER_REPLICATE) * blend(light, hits)

    tree = Tree(vertices, surface.faces)
    return Subject(vertices, surface.faces, tree, shade), np.zeros(3, np.float32)


def _grid_of(rgba: Picture) -> tuple[NDArray[np.float64], float, Array]:
    """Where node (0, 0) lies in the picture, in pixels; pixels a cell; and the opacity at each node, [g, g] in 0 to 1.

    Around the object there are two nodes of nothing.
    """
    opaque = (rgba[..., 3] >= 128).view(np.uint8)
    x, y, w, h = cv2.boundingRect(opaque)
    if not w or not h:
        raise RejectError("empty cut-out", "no pixel is opaque")
    if x == 0 and y == 0 and (h, w) == opaque.shape:
        raise RejectError("cut-out without outline", "it touches all four borders")
    cell = max(w, h) / CELLS
    origin = np.array([x - 2 * cell, y - 2 * cell])
    nodes = (int(np.ceil(w / cell)) + 5, int(np.ceil(h / cell)) + 5)
    alpha = rgba[..., 3].astype(np.float32) / np.float32(255)
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(0.4 * cell, 0.5), borderType=cv2.BORDER_CONSTANT)
    to_pixels = np.array([[cell, 0, origin[0] - 0.5], [0, cell, origin[1] - 0.5]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return origin, cell, cv2.warpAffine(alpha, to_pixels, nodes, flags=how, borderMode=cv2.BORDER_CONSTANT)


def inflate(alpha: Array) -> Array:
    """u [g, g] over the silhouette alpha > 0.5 of opacities [g, g]: laplacian u = -`ROUND` inside, 0 on the outline.

    The outline passes between nodes, where alpha crosses 0.5 (Shortley and Weller 1938): u does not show the grid's
    steps. Outside, the neighbours of the silhouette hold what continues u across the outline, all else 0. Solved by
    successive over-relaxation, red and black.
    """
    inside = alpha > 0.5
    inside[[0, -1]], inside[:, [0, -1]] = False, False
    diagonal = np.zeros(alpha.shape, np.float32)
    for axis, step in _NEIGHBOURS:
        reach = _reach(alpha, np.roll(alpha, step, axis))
        diagonal += np.where(np.roll(inside, step, axis), 1, 1 / reach)
    u = np.zeros(alpha.shape, np.float32)
    core = np.s_[1:-1, 1:-1]
    odd = np.indices(alpha.shape).sum(0) % 2 == 1
    slowest = np.cos(np.pi / np.array(alpha.shape)).mean()  # Jacobi's spectral radius for the whole rectangle
    pace = 2 / (1 + np.sqrt(1 - slowest**2))
    weights = [
        np.where(inside & (odd == color), pace / diagonal, 0)[core].astype(np.float32) for color in (False, True)
    ]
    stiff = diagonal[core]
    for _ in range(SWEEPS):
        for weight in weights:
            around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
            around += np.float32(ROUND)
            around -= stiff * u[core]
            around *= weight
            u[core] += around
    return u


_NEIGHBOURS = ((0, 1), (0, -1), (1, 1), (1, -1))  # axis, and the roll that brings the neighbour here


def _reach(here: Array, there: Array) -> Array:
    """How far towards the neighbour the outline is, in cells, where one of the two is inside and the other is not."""
    return np.clip((here - 0.5) / np.maximum(here - there, 1e-6), 0.1, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Surface:
    """`places` [V, 2] of the vertices in the picture, `side` [V] 1 in front, -1 at the back, 0 on the outline; `u` [V]
    and its gradient `slope` [V, 2]; `faces` [F, 3], outward."""

    places: NDArray[np.float64]
    side: NDArray[np.float64]
    u: NDArray[np.float64]
    slope: NDArray[np.float64]
    faces: NDArray[np.int32]


def _surface(alpha: Array, u: Array) -> _Surface:
    """Triangles over the silhouette, cut off where alpha crosses 0.5 (marching squares), in front and at the back."""
    inside = alpha > 0.5
    inside[[0, -1]], inside[:, [0, -1]] = False, False
    y, x = np.nonzero(inside)
    count = len(y)
    number = np.full(alpha.shape, -1)
    number[y, x] = np.arange(count)
    slope = _slope(alpha, u, inside)

    ends, rim_places, rim_slopes = {}, [], []
    total = 2 * count
    for axis in (1, 0):  # outline points on the edges that run right, and on those that run down
        a, b = (inside[:, :-1], inside[:, 1:]) if axis else (inside[:-1], inside[1:])
        ey, ex = np.nonzero(a != b)
        first = inside[ey, ex]
        iy, ix = ey + np.where(first | (axis == 1), 0, 1), ex + np.where(first | (axis == 0), 0, 1)
        oy, ox = ey + (axis == 0) - (iy - ey), ex + (axis == 1) - (ix - ex)
        reach = _reach(alpha[iy, ix], alpha[oy, ox])
        way = np.stack([ox - ix, oy - iy], 1)
        rim_places.append(np.stack([ix, iy], 1) + way * reach[:, None])
        at_rim = slope[iy, ix].astype(np.float64)
        along = 1 - axis
        at_rim[:, along] = -way[:, along] * (u[iy, ix] / reach)  # across the outline, u is known to fall to 0
        rim_slopes.append(at_rim)
        ends[axis] = np.full(a.shape, -1)
        ends[axis][ey, ex] = total + np.arange(len(ey))
        total += len(ey)

    corners = _cell_corners(number, ends)
    case = (inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]).astype(int)
    triangles = _CASES[case]  # [g - 1, g - 1, 3, 3]
    cy, cx, _ = np.nonzero(triangles[..., 0] >= 0)
    local = triangles[triangles[..., 0] >= 0]
    back = corners[cy[:, None], cx[:, None], local]  # clockwise as the viewer sees them: they face away
    front = back[:, ::-1]
    faces = np.concatenate([front, np.where(back < count, back + count, back)])

    rim = np.concatenate(rim_places)
    node = np.stack([x, y], 1)
    places = np.concatenate([node, node, rim]).astype(np.float64)
    side = np.repeat([1.0, -1.0, 0.0], [count, count, len(rim)])
    values = np.concatenate([u[y, x], u[y, x], np.zeros(len(rim))])
    slopes = np.concatenate([slope[y, x], slope[y, x], np.concatenate(rim_slopes)])
    return _Surface(places, side, values, slopes, np.ascontiguousarray(faces, np.int32))


def _slope(alpha: Array, u: Array, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The gradient of u at nodes inside, [g, g, 2] to the right and down; beyond the outline u goes on as it came."""
    out = np.zeros((*alpha.shape, 2))
    for axis in (0, 1):
        sides = []
        for step in (1, -1):
            reach = _reach(alpha, np.roll(alpha, step, axis))
            sides.append(np.where(np.roll(inside, step, axis), np.roll(u, step, axis), u - u / reach))
        out[..., 1 - axis] = (sides[1] - sides[0]) / 2
    return out


def _cell_corners(number: _INTS, ends: dict[int, _INTS]) -> _INTS:
    """The vertices of each cell, [g - 1, g - 1, 8]: its corners clockwise from the top left, then the outline's points
    on its top, right, bottom and left edge; -1 where there is none."""
    right, down = ends[1], ends[0]
    return np.stack(
        [
            number[:-1, :-1],
            number[:-1, 1:],
            number[1:, 1:],
            number[1:, :-1],
            right[:-1],
            down[:, 1:],
            right[1:],
            down[:, :-1],
        ],
        axis=-1,
    )


def _cases() -> _INTS:
    """For each set of corners inside (bits: top left, top right, bottom right, bottom left) up to three triangles,
    [16, 3, 3], of the vertices of `_cell_corners`, clockwise."""
    polygons = {
        1: ["047"], 2: ["415"], 3: ["0157"], 4: ["526"], 5: ["047", "526"], 6: ["4126"], 7: ["01267"], 8: ["763"],
        9: ["0463"], 10: ["415", "763"], 11: ["01563"], 12: ["7523"], 13: ["04523"], 14: ["41237"], 15: ["0123"],
    }  # fmt: skip
    out = np.full((16, 3, 3), -1)
    for case, parts in polygons.items():
        fans = [(p[0], p[k], p[k + 1]) for p in parts for k in range(1, len(p) - 1)]
        out[case, : len(fans)] = np.array(fans).astype(int)
    return out


_CASES = _cases()


@dataclass(frozen=True, slots=True)
class _Profile:
    """Where each vertex lies on the cross-section that it belongs to: a superellipse of exponent `power` and of
    `radius` [V] cells, `across` [V] of which it is off the middle; `height` [V] in cells, `tilt` [V] in radians."""

    power: float
    radius: NDArray[np.float64]
    across: NDArray[np.float64]
    height: NDArray[np.float64]
    tilt: NDArray[np.float64]


def _boxiness(alpha: Array) -> float:
    """The exponent of the cross-section: 2, an ellipse, for what is no fuller than a disc, to 3.5 for a rectangle."""
    outline, _ = cv2.findContours((alpha > 0.5).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    _, (wide, tall), _ = cv2.minAreaRect(np.concatenate(outline))
    fill = np.count_nonzero(alpha > 0.5) / ((wide + 1) * (tall + 1))
    return float(2 + 1.5 * np.clip((fill - 0.8) / 0.15, 0, 1))


def _profile(surface: _Surface, power: float) -> _Profile:
    """A ball of radius R that stands at z^2 = u has a gradient of u of twice the distance from its middle."""
    steep = np.hypot(surface.slope[:, 0], surface.slope[:, 1]) / 2
    radius = np.maximum(np.hypot(np.sqrt(np.maximum(surface.u, 0)), steep), 1e-9)
    across = np.where(surface.side == 0, 1, np.minimum(steep / radius, 1))
    up = (1 - across**power) ** (1 / power)
    return _Profile(power, radius, across, radius * up, np.arctan2(across ** (power - 1), up ** (power - 1)))


def _skin_places(surface: _Surface, profile: _Profile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where in the picture each vertex has its colour from [V, 2], and how bright it is relative to there [V].

    A surface that is tilted by more than `STEEP` has its colour from where one would come that went on at the surface's
    own pace from there, and turned back at `TURN_BACK`. Brightness is that of soft light from above the camera, at the
    one place and at the other.
    """
    power, across = profile.power, profile.across
    # Where the superellipse is tilted by STEEP: across / up is `ratio`.
    ratio = np.tan(STEEP) ** (1 / (power - 1))
    start = ratio / (1 + ratio**power) ** (1 / power)
    gone = np.hypot(across - start, start / ratio - profile.height / profile.radius)
    reach = start + np.cos(STEEP) * gone
    reach = np.where(reach > TURN_BACK, 2 * TURN_BACK - reach, reach)
    reach = np.where(profile.tilt > STEEP, reach, across)

    inward = surface.slope / np.maximum(np.hypot(surface.slope[:, 0], surface.slope[:, 1]), 1e-9)[:, None]
    places = surface.places + inward * (profile.radius * (across - reach))[:, None]
    up = np.maximum(1 - np.clip(reach, 0, 1) ** power, 0) ** (1 / power)
    there = np.arctan2(np.clip(reach, 0, 1) ** (power - 1), up ** (power - 1))
    facing = np.cos(profile.tilt) * np.where(surface.side < 0, -1, 1)
    brightness = _brightness(-inward, np.sin(profile.tilt), facing)
    return places, brightness / _brightness(-inward, np.sin(there), np.cos(there))


_LIGHT = np.array([-0.25, -0.55, 0.8]) / np.linalg.norm([-0.25, -0.55, 0.8])  # right, down, towards the camera


def _brightness(
    outward: NDArray[np.float64], across: NDArray[np.float64], facing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of a surface whose normal is `outward` [V, 2] times `across` in the picture and `facing` towards the camera."""
    cosine = (outward @ _LIGHT[:2]) * across + _LIGHT[2] * facing
    return 0.72 + 0.28 * cosine


def _skin(rgba: Picture) -> Array:
    """The cut-out's colours [n, n, 3] float32 in 0 to 255, carried on beyond its outline: what was mixed with white or
    with the background at its edge is left out."""
    solid = cv2.erode((rgba[..., 3] >= 250).view(np.uint8), np.ones((3, 3), np.uint8))
    weight = solid.astype(np.float32) if solid.any() else rgba[..., 3].astype(np.float32) / np.float32(255)
    return _carried_on(rgba[..., :3].astype(np.float32), weight)


def _carried_on(colors: Array, weight: Array) -> Array:
    """Colours [h, w, 3] where `weight` [h, w] is 1; elsewhere those of what is near, ever smoother with distance."""
    if min(weight.shape) <= 2:
        return np.broadcast_to(np.average(colors, (0, 1), np.repeat((weight + 1e-6)[..., None], 3, 2)), colors.shape)
    half = (-(-weight.shape[1] // 2), -(-weight.shape[0] // 2))
    share = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(colors * weight[..., None], half, interpolation=cv2.INTER_AREA)
    small = _carried_on(sums / np.maximum(share, 1e-6)[..., None], np.minimum(share * 4, 1))
    around = cv2.resize(np.ascontiguousarray(small), weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(around + (colors - around) * weight[..., None], np.float32)
