"""What training does to an object's picture before the model sees it: mirrored, recoloured, turned in the plane.

Only the picture of the object changes, never the photo: so the model learns to give a thing the pose and the light of
the scene. Each object of a sample has its own draws, and all of them are drawn whatever the settings, so that one
setting does not shift another's. Inference and evaluation draw none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_common.turn import on_white, premultiplied, turn_on_white
from pics_model.examples import View
from pics_model.object_picture import PlacedCutout
from pics_model.settings import require_ranges


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How object pictures are changed in training; nothing by default. Not a part of the model."""

    rotation: float = 0.0
    """Most degrees a: turned by an angle from U(-a, a)."""
    rotation_chance: float = 1.0
    flip: float = 0.0
    """Chance to be mirrored, left to right."""
    colour: float = 0.0
    """Strength s: colours in 0 to 1 become gain * colour + shift, gain from U(1 - s, 1 + s), shift from U(-s, s)."""
    colour_chance: float = 1.0
    stored_rotations: bool = False
    """Take one of the turned pictures that a sample holds, where one is within `rotation`, in place of turning."""

    @classmethod
    def of(cls, options: Any) -> "AugmentSettings":
        """The settings that a command's options of the same names say."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def __post_init__(self) -> None:
        chance = (0, 1)
        require_ranges(self, {"rotation": (0, 180), "rotation_chance": chance, "flip": chance, "colour": chance,
                              "colour_chance": chance})  # fmt: skip
        for name, fits, needed in (
            ("rotation_chance", self.rotation_chance == 1 or self.rotation, "rotation"),
            ("colour_chance", self.colour_chance == 1 or self.colour, "colour"),
            ("stored_rotations", not self.stored_rotations or self.rotation, "rotation"),
        ):
            if not fits:
                option = name.replace("_", "-")
                raise UserError(f"--{option}: no effect with --{needed} 0; leave it out, or give --{needed}")


@dataclass(frozen=True, slots=True)
class Look:
    """What was drawn for one object. `degrees` are counterclockwise; `shift` is in colours of 0 to 1; `place` in
    [0, 1) says which of several stored pictures is taken."""

    degrees: float = 0.0
    mirrored: bool = False
    gain: float = 1.0
    shift: float = 0.0
    place: float = 0.0


def draw_looks(rng: np.random.Generator, num_objects: int, settings: AugmentSettings) -> list[Look]:
    """A look an object, each from a generator of its own that springs from `rng`; `rng` itself goes on as before."""
    return [_draw_look(own, settings) for own in rng.spawn(num_objects)]


def _draw_look(rng: np.random.Generator, settings: AugmentSettings) -> Look:
    turn, angle, flip, recolour, gain, shift, place = rng.random(7).tolist()
    strength = settings.colour if recolour < settings.colour_chance else 0.0
    return Look(
        degrees=(2 * angle - 1) * settings.rotation if turn < settings.rotation_chance else 0.0,
        mirrored=flip < settings.flip,
        gain=1 + (2 * gain - 1) * strength,
        shift=(2 * shift - 1) * strength,
        place=place,
    )


def pick_stored(look: Look, angles: Sequence[float], settings: AugmentSettings) -> int | None:
    """Which of an object's stored pictures, turned by `angles`, is taken in place of turning it by `look.degrees`.

    One of those within `settings.rotation`, each as likely; None where there is none, or where `look` does not turn.
    """
    fitting = [number for number, angle in enumerate(angles) if abs(angle) <= settings.rotation]
    return fitting[int(look.place * len(fitting))] if fitting and look.degrees else None


def stored_as(look: Look, angle: float | None) -> Look:
    """What is left of `look` for a picture that is stored turned by `angle`, None for an upright one."""
    return look if angle is None else replace(look, degrees=0.0)


def change(cutout: PlacedCutout, look: Look) -> PlacedCutout:
    """The cut-out as `look` says, of the same scale; the middle of the object stays where it is in the photo."""
    picture = _recoloured(cutout.picture, look)
    if look.degrees:
        picture = turn_on_white(picture, look.degrees, grow=True)
    return cutout if picture is cutout.picture else cutout.showing(picture)


def change_view(view: View, look: Look) -> View:
    """Another view of the object: of the same colours, from the other side where the object is mirrored. It is not
    turned, as its camera's place is told in the upright object's own space."""
    picture = _recoloured(view.picture, look)
    return replace(view, picture=picture, azimuth=-view.azimuth if look.mirrored else view.azimuth)


def _recoloured(picture: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """[h, w, 4] on white: mirrored and with its colours changed, as `look` says; itself where it says neither."""
    if look.mirrored:
        picture = np.asarray(cv2.flip(picture, 1), np.uint8)
    if (look.gain, look.shift) == (1.0, 0.0):
        return picture
    alpha = cv2.extractChannel(picture, 3)
    most = cv2.merge([alpha] * 4)
    # Premultiplied: alpha * (gain * colour + shift), which is 0 to alpha.
    ink = cv2.min(cv2.addWeighted(premultiplied(picture), look.gain, most, look.shift, 0), most)
    return on_white(np.asarray(cv2.insertChannel(alpha, ink, 3), np.uint8))
