"""The mask stage on one record: a `Photo` whose instances lack silhouettes -> the same with them, measured anew."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pics_data.photofile import read_photo
from pics_data.predict import Kind, Predictor, load_predictor
from pics_data.predict.regions import Mask, clip_box, tight_box
from pics_data.predict.rle import mask_to_rle
from pics_data.records import Instance, Photo, Reject, RejectError

STAGE = "masks"


def predict_masks(predictor: Predictor, photo: Photo, rgb: NDArray[np.uint8]) -> tuple[Photo, list[Reject]]:
    """Gives every instance of `photo` a silhouette; finds its objects where it has no instance at all.

    rgb [H, W, 3] uint8 is the photo in the frame of its annotations. Instances that have a silhouette, and crowds,
    are left alone. An instance for which none is found leaves the photo and comes back as a `Reject`.
    """
    if not photo.instances:
        return replace(photo, instances=find_objects(predictor, rgb)), []
    return _fill_boxes(predictor, photo, rgb)


def find_objects(predictor: Predictor, rgb: NDArray[np.uint8]) -> tuple[Instance, ...]:
    """The objects of a photo that nobody has annotated, largest first: ids "0", "1", ..., category "object"."""
    found = [_with_mask(Instance("", "object", (0, 0, 0, 0), 0), mask) for mask, _ in predictor.masks_of_photo(rgb)]
    found.sort(key=lambda instance: -instance.area)
    return tuple(replace(instance, id=str(number)) for number, instance in enumerate(found))


def _fill_boxes(predictor: Predictor, photo: Photo, rgb: NDArray[np.uint8]) -> tuple[Photo, list[Reject]]:
    height, width = rgb.shape[:2]
    boxes = {
        i: clip_box(instance.box, width, height)
        for i, instance in enumerate(photo.instances)
        if instance.segmentation is None and not instance.crowd
    }
    masks = predictor.masks_of_boxes(rgb, [box for box in boxes.values() if box is not None])
    instances: list[Instance] = []
    rejects: list[Reject] = []
    for i, instance in enumerate(photo.instances):
        if i not in boxes:
            instances.append(instance)
            continue
        mask = None if boxes[i] is None else next(masks)
        if mask is not None and mask.any():
            instances.append(_with_mask(instance, mask))
        else:
            reason = "box outside of the photo" if mask is None else "empty mask"
            detail = f"{photo.path}: box {list(instance.box)} in a photo of {width} x {height}"
            rejects.append(Reject(f"{photo.id}/{instance.id}", STAGE, reason, detail))
    return replace(photo, instances=tuple(instances)), rejects


def _with_mask(instance: Instance, mask: Mask) -> Instance:
    area = float(np.count_nonzero(mask))
    return replace(instance, segmentation=mask_to_rle(mask), box=tight_box(mask), area=area)


class PredictMasks:
    """The stage as an actor holds it: the weights are loaded once.

    `device` is `cuda` for an actor that asked for a GPU, else `cpu`. `threads` of the CPU are fixed, as a result must
    not depend on how many workers share a machine.
    """

    def __init__(self, kind: Kind, weights: str, max_pixels: int, device: str = "cpu", threads: int = 1) -> None:
        self.predictor = load_predictor(kind, weights, device, threads)
        self.max_pixels = max_pixels

    def __call__(self, photo: Photo) -> tuple[Photo | None, list[Reject]]:
        """The photo with silhouettes, and what was rejected of it; None where its file is of no use."""
        try:
            rgb, _ = read_photo(photo, self.max_pixels)
        except RejectError as error:
            return None, [Reject(photo.id, STAGE, error.reason, error.detail)]
        return predict_masks(self.predictor, photo, rgb)
