"""Who is in front, read out of the blocks: alpha and scores by step, layer and object, as maps over the picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pics_model.objects import Reading


@dataclass(frozen=True, slots=True)
class Readout:
    """What one block decided about one picture in one step.

    `alpha` [K, n, n] float32 sums to 1 over the objects that cover a token, `scores` [K, n, n] float32 are what it is
    made of; both are NaN where fewer than two objects cover the token, and scores where this object does not.
    `step` counts from 0, `layer` is the block's name in the backbone.
    """

    step: int
    timestep: float
    layer: str
    alpha: NDArray[np.float32]
    scores: NDArray[np.float32]


def read_out(
    readings: Sequence[Reading], layers: Sequence[str], step: int, timestep: float, num_objects: Sequence[int]
) -> list[list[Readout]]:
    """One step's readings, a list for each picture. `num_objects` are the pictures' own, without padding objects.

    Pictures beyond `num_objects` in the readings (the branch without objects of guidance) are left out.
    """
    assert len(readings) == len(layers), "a reading of every block is expected"
    made: list[list[Readout]] = [[] for _ in num_objects]
    for layer, reading in zip(layers, readings, strict=True):
        side = math.isqrt(reading.num_tokens)
        owner = reading.tokens // reading.num_tokens
        for picture, count in enumerate(num_objects):
            mine = owner == picture
            place = (reading.tokens[mine] % reading.num_tokens).cpu()
            maps = []
            for values in (reading.alpha, reading.scores.masked_fill(reading.scores.isinf(), math.nan)):
                table = torch.full((side * side, count), math.nan)
                table[place] = values[mine, :count].float().cpu()
                maps.append(table.T.reshape(count, side, side).numpy())
            made[picture].append(Readout(step, timestep, layer, *maps))
    return made


def mean_alpha(readouts: Sequence[Readout], size: int) -> NDArray[np.float32]:
    """Alpha [K, size, size] of one picture, the mean over steps and layers.

    NaN where no two objects meet on the finest grid: on coarser ones a token stands for all pixels right of and below
    the one that says what it is.
    """
    num_objects = len(readouts[0].alpha)
    total, count = np.zeros((num_objects, size, size), np.float32), np.zeros((size, size), np.float32)
    for readout in readouts:
        rows = np.arange(size) * readout.alpha.shape[1] // size
        alpha = readout.alpha[:, rows[:, None], rows[None, :]]
        known = ~np.isnan(alpha[0])
        total[:, known] += alpha[:, known]
        count += known
    finest = max(readouts, key=lambda readout: readout.alpha.shape[1]).alpha[0]
    rows = np.arange(size) * len(finest) // size
    count[np.isnan(finest[rows[:, None], rows[None, :]])] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)
