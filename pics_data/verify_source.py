"""`verify --deep`: a stored sample against what it was made from: the photo's file, and the annotation in the plan.

Nothing is taken over from the build but its plan: photos are read and silhouettes rasterised again.
"""

from collections import Counter
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_common import storage
from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.cutout import shrink
from pics_data.decompose import output_size, render_scene, resize_mask
from pics_data.labels import Labels, decode_labels
from pics_data.masks import mask_of
from pics_data.measure import bounding_box
from pics_data.members import as_mask, decode
from pics_data.photofile import decode_photo
from pics_data.records import Composition, Instance, Photo, Pixels, RejectError
from pics_data.tar_read import DamageError
from pics_data.verify_sample import Opened

# Of the pixels along a silhouette's outline: another version of a rasteriser may decide some otherwise. A mask that
# lies one pixel beside its place differs in half of them or more.
MASK_TOLERANCE = 0.1
PSNR_MARGIN = 3.0  # dB below what encoding anew costs
PSNR_ENOUGH = 45.0  # dB: nobody sees a difference


class SourceCheck:
    """Compares the samples of one shard with their sources; a photo is read once if its samples stand together.

    `counts` says what was compared ("photos", "masks") and what could not be ("photos not reached",
    "masks without annotation", "label pictures not reached").
    """

    def __init__(self, config: BuildConfig) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._photo_id: str | None = None
        self._file: bytes | None = None
        self._labels: bytes | None = None
        self._scene: Pixels | None = None
        self._good_background: bytes | None = None

    def check(self, sample: Opened, composition: Composition) -> None:
        """Raises `DamageError` where the sample is not what the plan says."""
        photo = composition.photo
        _check_names(sample, composition)
        if photo.id != self._photo_id:
            self._open(photo)
        size = output_size(photo.height, photo.width, self._config.size)
        if sample.pictures["bg.jpg"].shape[:2] != size:
            found = sample.pictures["bg.jpg"].shape[:2]
            raise DamageError(f"bg.jpg: {found[1]} x {found[0]}; the plan's photo gives {size[1]} x {size[0]}")
        if self._scene is not None:
            self._check_scene(sample, self._scene)
            return
        self._check_photo(sample, photo, size)
        for i, item in enumerate(photo.instances):
            self._check_mask(sample, i, item, photo, size)

    def _open(self, photo: Photo) -> None:
        self._photo_id, self._good_background = photo.id, None
        self._scene = render_scene(photo, self._config) if self._config.source == "scenes" else None
        if self._scene is None:
            self._file = self._read(photo.path, "photos not reached")
            self._labels = self._read(photo.labels, "label pictures not reached") if photo.labels else None

    def _read(self, url: str, what: str) -> bytes | None:
        try:
            return storage.read(url)
        except OSError:
            self.counts[what] += 1
            return None

    def _check_photo(self, sample: Opened, photo: Photo, size: tuple[int, int]) -> None:
        stored = sample.members["bg.jpg"]
        if self._file is None or stored == self._good_background:
            return
        name = storage.base_name(photo.path)
        try:
            rgb, verbatim = decode_photo(photo, self._file, self._config.max_pixels)
        except RejectError as error:
            raise DamageError(
                f"bg.jpg: its source is no longer a photo to use: {error.reason} ({error.detail})"
            ) from None
        if size == (photo.height, photo.width):
            if verbatim is not None and stored != verbatim:
                raise DamageError(f"bg.jpg: not the bytes of {name}, which the plan names")
            if verbatim is None:
                _check_likeness(sample.pictures["bg.jpg"], rgb, codecs.JPEG_QUALITY, name)
        else:
            _check_likeness(sample.pictures["bg.jpg"], shrink(rgb, *size), codecs.RESIZED_JPEG_QUALITY, name)
        self._good_background = stored
        self.counts["photos"] += 1

    def _check_mask(self, sample: Opened, i: int, item: Instance, photo: Photo, size: tuple[int, int]) -> None:
        if item.segmentation is None:
            self.counts["masks without annotation"] += 1
            return
        if photo.labels and self._labels is None:
            return  # counted when the file could not be read
        try:
            mask = mask_of(item.segmentation, photo.height, photo.width, partial(self._labels_as, photo))
        except RejectError as error:
            raise DamageError(
                f"mask{i}.png: annotation {item.id} is none to use: {error.reason} ({error.detail})"
            ) from None
        _check_mask_likeness(
            sample, f"mask{i}.png", resize_mask(mask, *size), f"annotation {item.id} ({item.category})"
        )
        self.counts["masks"] += 1

    def _labels_as(self, photo: Photo, form: str) -> Labels:
        assert self._labels is not None
        size = photo.height, photo.width
        return decode_labels(self._labels, form, storage.base_name(photo.labels), size, self._config.max_pixels)

    def _check_scene(self, sample: Opened, scene: Pixels) -> None:
        if scene.front is not None and "front.png" not in sample.pictures:
            raise DamageError("front.png: missing")
        _check_likeness(sample.pictures["bg.jpg"], scene.rgb, codecs.JPEG_QUALITY, "the scene rendered again")
        self.counts["photos"] += 1
        for i in range(sample.num_objects):
            _check_mask_likeness(sample, f"mask{i}.png", scene.masks[i], "the scene rendered again")
            _check_mask_likeness(sample, f"amodal{i}.png", scene.full_masks[i], "the scene rendered again")
            self.counts["masks"] += 2
        if scene.front is not None and (sample.pictures["front.png"] != scene.front + 1).any():
            raise DamageError("front.png: the scene rendered again has other objects in front")


def _check_names(sample: Opened, composition: Composition) -> None:
    """Raises `DamageError` where the metadata speaks of another photo or other objects than the plan."""
    photo, meta = composition.photo, sample.meta
    told: list[tuple[str, Any, Any]] = [
        ("source", meta["source"], photo.source),
        ("photo.id", meta["photo"]["id"], photo.id),
        ("split", meta["split"], composition.split),
        ("seed", meta["seed"], composition.seed),
        ("objects", [(o["id"], o["category"]) for o in meta["objects"]], [(i.id, i.category) for i in photo.instances]),
    ]
    for name, found, wanted in told:
        if found != wanted:
            raise DamageError(f"meta.json: `{name}` is {found}; the plan says {wanted}")


def _check_likeness(found: NDArray[np.uint8], wanted: NDArray[np.uint8], quality: int, name: str) -> None:
    """Raises `DamageError` unless `found` is as near to `wanted` as encoding `wanted` allows."""
    near = psnr(found, wanted)
    if near >= PSNR_ENOUGH:
        return
    possible = psnr(decode("bg.jpg", codecs.jpeg(wanted, quality), wanted.size), wanted)
    if near < possible - PSNR_MARGIN:
        raise DamageError(f"bg.jpg: does not show {name}: PSNR {near:.0f} dB, expected {possible:.0f}")


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio in dB of two pictures of one size; infinite where they are equal."""
    return float(cv2.PSNR(a, b)) if (a != b).any() else float("inf")


def _check_mask_likeness(sample: Opened, name: str, wanted: NDArray[np.bool_], truth: str) -> None:
    if name not in sample.pictures:
        raise DamageError(f"{name}: missing")
    differing = int(np.count_nonzero(as_mask(sample.pictures[name]) != wanted))
    if not differing:
        return
    x, y, w, h = bounding_box(wanted)
    tight = np.pad(wanted[y : y + h, x : x + w], 1).view(np.uint8)
    outline = int(np.count_nonzero(tight)) - int(np.count_nonzero(cv2.erode(tight, np.ones((3, 3), np.uint8))))
    if differing > max(1, MASK_TOLERANCE * outline):
        raise DamageError(f"{name}: {differing} pixels differ from {truth}, whose outline has {outline}")
