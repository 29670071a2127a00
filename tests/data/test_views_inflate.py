"""Views out of a silhouette alone: a closed surface that turns as a solid does, in the colours of its cut-out."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pics_data.records import RejectError
from pics_data.views import Cutout, ViewCamera
from pics_data.views.inflate import ROUND, _reach, generate, inflate, inflated, views_of

SIZE = 128


def disc(radius: float = 44.0, size: int = SIZE) -> NDArray[np.uint8]:
    """An opaque grey disc, [size, size, 4], its edge soft."""
    y, x = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(x - size / 2, y - size / 2)
    rgba = np.full((size, size, 4), 128, np.uint8)
    rgba[..., 3] = np.clip((radius - distance + 0.5) * 255, 0, 255)
    return rgba


@st.composite
def silhouettes(draw: st.DrawFn) -> NDArray[np.float32]:
    """Opacities [g, g] of blobs, bars and holes, with an empty border."""
    size = draw(st.integers(12, 26))
    canvas = np.zeros((size * 4, size * 4), np.uint8)
    for _ in range(draw(st.integers(1, 5))):
        x, y = (draw(st.integers(12, size * 4 - 13)) for _ in range(2))
        value = draw(st.sampled_from([255, 255, 255, 0]))
        if draw(st.booleans()):
            cv2.circle(canvas, (x, y), draw(st.integers(2, size)), value, -1)
        else:
            cv2.line(canvas, (x, y), (draw(st.integers(12, size * 4 - 13)), y), value, draw(st.integers(2, 14)))
    canvas[:8], canvas[-8:], canvas[:, :8], canvas[:, -8:] = 0, 0, 0, 0
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)


def dense_solution(alpha: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same discrete equation as a dense linear system, node by node."""
    inside = alpha > 0.5
    inside[[0, -1]], inside[:, [0, -1]] = False, False
    nodes = {tuple(node): k for k, node in enumerate(np.argwhere(inside))}
    matrix, right = np.zeros((len(nodes), len(nodes))), np.full(len(nodes), float(ROUND))
    for (y, x), k in nodes.items():
        for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if neighbour in nodes:
                matrix[k, k] += 1
                matrix[k, nodes[neighbour]] = -1
            else:
                matrix[k, k] += 1 / float(_reach(alpha[y, x], alpha[neighbour]))
    u = np.zeros(alpha.shape)
    if nodes:
        u[inside] = np.linalg.solve(matrix, right)
    return u


@settings(max_examples=25, deadline=None)
@given(silhouettes())
def test_the_solver_solves(alpha: NDArray[np.float32]) -> None:
    true = dense_solution(alpha)
    assert np.abs(inflate(alpha) - true).max() <= 1e-3 * max(true.max(), 1)


def test_a_disc_becomes_a_ball_and_a_band_a_tube() -> None:
    y, x = np.mgrid[:90, :90]
    radius = 35.3  # the outline passes between nodes
    distance = np.hypot(x - 44.7, y - 45.2)
    u = inflate(np.clip(radius - distance + 0.5, 0, 1).astype(np.float32))
    within = distance < radius - 1
    assert np.abs(u - ROUND / 4 * (radius**2 - distance**2))[within].max() < 0.02 * radius**2
    band = np.zeros((40, 300), np.float32)
    band[10:30, 5:-5] = 1  # from 9.5 to 29.5
    middle = inflate(band)[:, 150]
    expected = ROUND / 2 * (10**2 - (np.arange(40) - 19.5) ** 2)
    assert np.abs(middle - expected)[10:30].max() < 0.02 * expected.max()


@settings(max_examples=25, deadline=None)
@given(silhouettes())
def test_the_surface_is_closed_faces_out_and_has_no_spikes(alpha: NDArray[np.float32]) -> None:
    rgba = np.full((*(side * 4 for side in alpha.shape), 4), 200, np.uint8)
    rgba[..., 3] = cv2.resize(alpha, rgba.shape[1::-1], interpolation=cv2.INTER_LINEAR) * 255
    if (rgba[..., 3] >= 128).sum() < 40:
        return
    subject, _ = inflated(rgba)
    vertices, faces = subject.points.astype(np.float64), subject.faces
    edges = Counter((int(face[k]), int(face[(k + 1) % 3])) for face in faces for k in range(3))
    assert all(count == 1 and edges[b, a] == 1 for (a, b), count in edges.items()), "each edge joins two faces"
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a) * (a + b + c)).sum() > 0, "its faces look outward"
    # No part of it is thicker than the ball that fits in there, but for what the equation adds to a band.
    opaque = np.pad((rgba[..., 3] >= 128).astype(np.uint8), 1)
    room = cv2.distanceTransform(opaque, cv2.DIST_L2, 5).max()
    scale = 80 / max(cv2.boundingRect(opaque)[2:])
    assert np.abs(vertices[:, 1]).max() <= 1.5 * room * scale + 1.5


def normalised(rgba: NDArray[np.uint8], side: int = 96) -> NDArray[np.float32]:
    """What a picture shows, its box brought to `side` x `side`, premultiplied."""
    x, y, w, h = cv2.boundingRect((rgba[..., 3] >= 128).view(np.uint8))
    part = rgba[y : y + h, x : x + w].astype(np.float32)
    part[..., :3] *= part[..., 3:] / 255
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)


def painted() -> NDArray[np.uint8]:
    """A pear of colour gradients and a bar, with a hole."""
    rgba = np.zeros((SIZE * 2, SIZE * 2, 4), np.uint8)
    y, x = np.mgrid[: SIZE * 2, : SIZE * 2]
    rgba[..., 0], rgba[..., 1], rgba[..., 2] = x // 2 + 60, y // 2 + 60, 120
    alpha = np.zeros(rgba.shape[:2], np.uint8)
    cv2.circle(alpha, (128, 160), 70, 255, -1, cv2.LINE_AA)
    cv2.circle(alpha, (128, 80), 40, 255, -1, cv2.LINE_AA)
    cv2.circle(alpha, (128, 165), 22, 0, -1, cv2.LINE_AA)
    rgba[..., 3] = alpha
    return rgba


def test_seen_from_its_own_camera_it_is_the_cut_out() -> None:
    cutout = painted()
    (own,) = views_of(cutout, [ViewCamera(0, 0)])
    found, wanted = normalised(own), normalised(cutout)
    both, either = (found[..., 3] > 127) & (wanted[..., 3] > 127), (found[..., 3] > 127) | (wanted[..., 3] > 127)
    assert both.sum() > 0.97 * either.sum()
    core = cv2.erode(both.view(np.uint8), np.ones((11, 11))) > 0
    assert np.abs(found - wanted)[core].mean() < 4


def test_a_ball_stays_round_from_all_sides_where_a_card_would_vanish() -> None:
    cameras = [ViewCamera(azimuth, elevation) for azimuth in (0, 45, 90, 180, 270) for elevation in (0, 40)]
    areas = [int((view[..., 3] >= 128).sum()) for view in views_of(disc(), cameras)]
    assert min(areas) > 0.8 * max(areas)


def test_going_to_the_right_brings_the_right_side_into_sight_and_climbing_the_top() -> None:
    for place, camera in (((SIZE // 2 + 30, SIZE // 2), (40, 0)), ((SIZE // 2, SIZE // 2 - 30), (0, 40))):
        cutout = disc()
        mark = np.zeros(cutout.shape[:2], np.uint8)
        cv2.circle(mark, place, 6, 255, -1)
        cutout[mark > 0, :3] = (255, 0, 0)
        before, after = views_of(cutout, [ViewCamera(0, 0), ViewCamera(*camera)])
        moved = [np.argwhere((v[..., 0] > 180) & (v[..., 1] < 90) & (v[..., 3] > 127)).mean(0) for v in (before, after)]
        off = [np.abs(spot - SIZE / 2).max() for spot in moved]
        assert off[1] < 0.5 * off[0], "the mark has come to the middle"


def test_nothing_of_what_was_around_the_object_gets_into_its_views() -> None:
    cutout = disc()
    cutout[..., :3] = (200, 40, 40)
    cutout[cutout[..., 3] < 255, :3] = (0, 0, 255)  # the background's colour, in and beyond the soft edge
    for view in views_of(cutout, [ViewCamera(a, e) for a, e in ((30, 0), (90, 20), (180, 0))]):
        shown = view[view[..., 3] > 0].astype(int)
        assert (shown[:, 2] < 90).all()
        assert (shown[:, 0] > 100).all()


def test_what_has_no_silhouette_has_no_views_and_costs_its_neighbours_nothing() -> None:
    full = np.full((32, 32, 4), 255, np.uint8)
    tiny = np.zeros((32, 32, 4), np.uint8)
    tiny[16, 16] = 255
    cutouts = [Cutout("a", k, rgba) for k, rgba in enumerate((np.zeros((32, 32, 4), np.uint8), disc(), full, tiny))]
    empty, good, whole, one = generate(cutouts, [[ViewCamera(90, 0)]] * 4)
    assert isinstance(empty, RejectError)
    assert empty.reason == "empty cut-out"
    assert isinstance(whole, RejectError)
    assert whole.reason == "cut-out without outline"
    assert isinstance(good, list)
    assert isinstance(one, list)


def test_the_same_cut_out_gives_the_same_bytes() -> None:
    cameras = [ViewCamera(70, 10), ViewCamera(200, -5)]
    for first, second in zip(views_of(painted(), cameras), views_of(painted(), cameras), strict=True):
        assert (first == second).all()


@pytest.mark.parametrize("side", [8, 33, 224])
def test_views_have_the_side_of_the_cut_out(side: int) -> None:
    (view,) = views_of(disc(side / 3, side), [ViewCamera(45, 0)])
    assert view.shape == (side, side, 4)
    assert view.dtype == np.uint8
    assert view[..., 3].any()
