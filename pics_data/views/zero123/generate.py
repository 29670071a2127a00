"""The views of many objects, in batches that take no notice of where one object ends and the next begins.

Legend: B views in a batch; C, h, w of a latent; n pixels a side of a cut-out.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pics_common.saliency import Saliency
from pics_data.records import RejectError
from pics_data.views import Cutout, Generator, Picture, ViewCamera
from pics_data.views.zero123.network import Condition, Network, decode, denoise, encode
from pics_data.views.zero123.picture import Framed, Rgb, cut_out, frame, unframe

# From the middle of an object whose longest side is 1 to the camera, in training: U(1.5, 2.2), of which this is the
# mean (objaverse-rendering/scripts/blender_script.py). A cut-out does not tell its own.
RADIUS: Final = 1.85


@dataclass(frozen=True, slots=True)
class Settings:
    """See `pics_data.views.zero123.load`."""

    num_steps: int
    guidance_scale: float
    batch: int
    seed: int


@dataclass(slots=True)
class _Object:
    """One object on its way; finished when it has all its views, or a reason why it has none."""

    cutout: Cutout
    cameras: Sequence[ViewCamera]
    framed: Framed | None = None
    condition: Condition | None = None
    pictures: list[Picture] = field(default_factory=list)
    reject: RejectError | None = None

    @property
    def finished(self) -> bool:
        return self.reject is not None or len(self.pictures) == len(self.cameras)


def generator(network: Network, settings: Settings, saliency: Saliency | None) -> Generator:
    """The network as a generator of views."""

    def generate(
        cutouts: Sequence[Cutout], cameras: Sequence[Sequence[ViewCamera]]
    ) -> Iterator[list[Picture] | RejectError]:
        waiting: deque[_Object] = deque()  # in order, from the first that has not been handed out
        pairs: deque[tuple[_Object, int]] = deque()  # views to make: an object, and which of its views
        for cutout, its_cameras in zip(cutouts, cameras, strict=True):
            item = _start(cutout, its_cameras)
            waiting.append(item)
            if item.reject is None:
                pairs.extend((item, view) for view in range(len(its_cameras)))
            while len(pairs) >= settings.batch:
                _make([pairs.popleft() for _ in range(settings.batch)], network, settings, saliency)
            yield from _finished(waiting)
        if pairs:
            _make(list(pairs), network, settings, saliency)
        yield from _finished(waiting)
        assert not waiting

    return generate


def pose_of(camera: ViewCamera) -> tuple[float, float, float, float]:
    """What the network is told of a camera: the changes from the cut-out's, as its training had them.

    Change of the polar angle in radians, sine and cosine of the change of azimuth, change of the distance in units of
    the object's longest side (`get_T` in the authors' ldm/data/simple.py). The polar angle is measured from the top, so
    a camera that climbs has a negative change; azimuth grows to the right, anticlockwise seen from above, as ours does
    ("positive values move the camera right", "down" and "further away" say the sliders of their gradio_new.py).
    """
    azimuth = math.radians(camera.azimuth)
    return -math.radians(camera.elevation), math.sin(azimuth), math.cos(azimuth), RADIUS * (camera.distance - 1)


def noise_of(cutout: Cutout, view: int, seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What the view starts from: its own, in any batch, on any device."""
    digest = hashlib.sha256(f"{seed} {view} {cutout.index} {cutout.key}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    return rng.standard_normal(shape, dtype=np.float32)


def _start(cutout: Cutout, cameras: Sequence[ViewCamera]) -> _Object:
    item = _Object(cutout, cameras)
    try:
        item.framed = frame(cutout.rgba)
    except RejectError as error:
        item.reject = error
    return item


def _finished(waiting: deque[_Object]) -> Iterator[list[Picture] | RejectError]:
    while waiting and waiting[0].finished:
        item = waiting.popleft()
        yield item.reject or item.pictures


def _make(pairs: list[tuple[_Object, int]], network: Network, settings: Settings, saliency: Saliency | None) -> None:
    """Adds the views of one batch to their objects."""
    condition = _conditions(pairs, network)
    shape = tuple(condition.latent.shape[1:])
    noise = np.stack([noise_of(item.cutout, view, settings.seed, shape) for item, view in pairs])
    poses = torch.tensor([pose_of(item.cameras[view]) for item, view in pairs])
    latents = denoise(network, condition, poses, torch.from_numpy(noise), settings.num_steps, settings.guidance_scale)
    for (item, view), picture in zip(pairs, decode(network, latents), strict=True):
        try:
            if item.reject is None and item.framed is not None:
                item.pictures.append(unframe(cut_out(_to_uint8(picture), saliency), item.framed))
        except RejectError as error:
            item.reject = RejectError(error.reason, f"view {view + 1} of {len(item.cameras)}")


def _conditions(pairs: list[tuple[_Object, int]], network: Network) -> Condition:
    """What the network knows of each pair's object; what it has not seen yet is shown to it."""
    new = list({id(item): item for item, _ in pairs if item.condition is None}.values())
    if new:
        shown = torch.stack([_to_tensor(item.framed.rgb) for item in new if item.framed is not None])
        encoded = encode(network, shown)
        for i, item in enumerate(new):
            item.condition = Condition(encoded.embedding[i], encoded.latent[i])
    known = [item.condition for item, _ in pairs if item.condition is not None]
    return Condition(torch.stack([one.embedding for one in known]), torch.stack([one.latent for one in known]))


def _to_tensor(rgb: Rgb) -> Tensor:
    """[256, 256, 3] uint8 -> [3, 256, 256], -1 to 1."""
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1) / 127.5 - 1


def _to_uint8(picture: Tensor) -> Rgb:
    """[3, 256, 256], -1 to 1 -> [256, 256, 3] uint8. Raises `RejectError` where half precision was not enough."""
    if not bool(picture.isfinite().all()):
        raise RejectError("view not finite")
    return ((picture.permute(1, 2, 0).numpy() + 1) * 127.5 + 0.5).astype(np.uint8)
