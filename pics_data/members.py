"""The members of a stored sample -> pixels, for whoever reads shards back: strict, as the bytes come from anywhere."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pics_data.photofile import BROKEN, MAX_PIXELS, decode_photo, open_image, what_is_wrong
from pics_data.records import Photo, RejectError
from pics_data.tar_read import DamageError


def decode(name: str, data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The pixels of a member: [H, W] bool of a 1-bit picture, else [H, W] or [H, W, C] uint8.

    A JPEG comes as [H, W, 3], whatever its colours. Raises `DamageError` for what does not decode without complaint,
    for another format than the name says, and for more than `max_pixels` pixels.
    """
    wanted = "JPEG" if name.endswith(".jpg") else "PNG"
    try:
        image = open_image(data)
        if image.format != wanted and not (wanted == "JPEG" and image.format == "MPO"):
            raise DamageError(f"{name}: holds {image.format}")
        if image.width * image.height > max_pixels:
            raise DamageError(f"{name}: {image.width} x {image.height} pixels, limit {max_pixels}")
        if wanted == "JPEG":
            photo = Photo(id="", source="", path=name, width=image.width, height=image.height)
            return decode_photo(photo, data, max_pixels)[0]  # hears of damage that Pillow paints grey
        image.load()
    except BROKEN as error:
        raise DamageError(f"{name}: does not decode ({what_is_wrong(error)})") from None
    except RejectError as error:
        raise DamageError(f"{name}: does not decode ({error.detail.removeprefix(f'{name}: ')})") from None
    return np.asarray(image)


def decode_mask(name: str, data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """A silhouette of 1 bit or, as in published shards, of 8 bits: [H, W] bool. Raises `DamageError`."""
    pixels = decode(name, data, max_pixels)
    if pixels.ndim != 2:
        raise DamageError(f"{name}: {pixels.shape[2]} channels; expected grey")
    return as_mask(pixels)


def as_mask(grey: NDArray[Any]) -> NDArray[np.bool_]:
    """Decoded grey -> bool: what is above 127 of 255, or a 1-bit picture as it is."""
    return grey if grey.dtype == np.bool_ else grey > 127
