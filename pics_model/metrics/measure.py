"""Pairs of pictures, one after the other -> a row of numbers for each, and the means of all.

No picture is kept: memory does not grow with the number of pairs, but for the rows' numbers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pics_common.errors import UserError
from pics_model.metrics.embeddings import cosine
from pics_model.metrics.frechet import Gaussian, fid_score
from pics_model.metrics.inception import FEATURES, Inception, fit_side
from pics_model.metrics.lpips import LEAST_SIDE, Lpips, lpips_distance, masked_lpips
from pics_model.metrics.networks import Networks
from pics_model.metrics.pixels import WINDOW, as_pictures, masked_psnr, psnr, region_mean, ssim_map, within_windows
from pics_model.metrics.score import OF_SETS, Row, Score, means

IDENTICAL = "the pictures are identical, their PSNR infinite"
NO_REGION = "no region"
EMPTY = "the region is empty"
ON_SAME_PIXELS = ("psnr", "ssim", "lpips", "mpsnr", "mssim", "mlpips")


@dataclass(frozen=True, slots=True)
class Pair:
    """What was made, and what it is held against.

    Pictures are uint8 arrays [H, W, 3], or tensors [3, H, W] of uint8 or of floats in [0, 1]. Of one size, unless only
    `clip`, `dinov2`, `dreamsim` and `fid` are measured. `region` [H, W] bool is where the m-metrics look; `words` is
    what the picture should show.
    """

    key: str
    result: Tensor | np.ndarray
    truth: Tensor | np.ndarray
    region: Tensor | np.ndarray | None = None
    words: str = ""


class Sets:
    """The results as a set and the truths as a set, for FID."""

    def __init__(self) -> None:
        self.results = Gaussian(FEATURES)
        self.truths = Gaussian(FEATURES)


@dataclass(frozen=True, slots=True)
class Measured:
    """A row a pair, in the pairs' order; and a score a metric, `fid` among them."""

    rows: list[Row]
    scores: list[Score]


def measure(pairs: Iterable[Pair], networks: Networks, batch: int = 8, seed: int = 0) -> Measured:
    """Everything that `networks` can measure. `batch` pairs are in memory at once; `seed` is of the intervals.

    Raises `UserError` for a pair whose pictures are not as `Pair` says.
    """
    sets = Sets()
    rows = list(measure_rows(pairs, networks, sets, batch))
    names = [name for name in networks.metrics if name not in OF_SETS]
    scores = means(rows, names, seed)
    if "fid" in networks.metrics:
        scores.append(measure_fid(networks, sets))
    return Measured(rows, scores)


def measure_rows(pairs: Iterable[Pair], networks: Networks, sets: Sets, batch: int = 8) -> Iterator[Row]:
    """The rows alone, as they are made, for whoever writes them at once; `sets` takes in what FID needs."""
    waiting = iter(pairs)
    while chunk := list(islice(waiting, batch)):
        with torch.inference_mode():  # left before rows are handed out: whoever takes them may be training
            rows = _measure_chunk([_read(pair, networks) for pair in chunk], networks, sets)
        yield from rows


def fid_of(
    results: Iterable[Tensor | np.ndarray], truths: Iterable[Tensor | np.ndarray], networks: Networks, batch: int = 8
) -> Score:
    """FID of two sets that are no pairs, results and real photos say; pictures are as in `Pair`, of any sizes.

    Raises `UserError` for something that is no picture.
    """
    sets = Sets()
    if networks.inception is not None:
        for name, pictures, gathered in (("result", results, sets.results), ("truth", truths, sets.truths)):
            waiting = enumerate(pictures)
            while chunk := list(islice(waiting, batch)):
                read = [_picture(picture, f"{name} {i}", networks.device) for i, picture in chunk]
                with torch.inference_mode():
                    _gather(read, networks.inception, gathered)
    return measure_fid(networks, sets)


def measure_fid(networks: Networks, sets: Sets) -> Score:
    """FID of the sets that `measure_rows` gathered."""
    if networks.inception is None:
        return Score("fid", None, networks.missing.get("fid", "not asked for"))
    return fid_score(sets.results, sets.truths)


@dataclass(frozen=True, slots=True)
class _Read:
    """A pair as tensors on the device: pictures [3, H, W] in [0, 1], region [H, W] bool."""

    key: str
    result: Tensor
    truth: Tensor
    region: Tensor | None
    words: str


class _Draft:
    """A row while it is filled: only metrics that were asked for get in."""

    def __init__(self, key: str, networks: Networks) -> None:
        self.key = key
        self.values: dict[str, float | None] = {name: None for name in networks.metrics if name not in OF_SETS}
        self.why = {name: why for name, why in networks.missing.items() if name in self.values}

    def wants(self, *names: str) -> bool:
        return any(name in self.values for name in names)

    def put(self, name: str, value: Tensor) -> None:
        if name in self.values:
            self.values[name] = float(value)

    def lack(self, name: str, why: str) -> None:
        if name in self.values:
            self.why[name] = why


def _read(pair: Pair, networks: Networks) -> _Read:
    result, truth = (_picture(picture, f"sample {pair.key}", networks.device) for picture in (pair.result, pair.truth))
    if result.shape != truth.shape and any(name in networks.metrics for name in ON_SAME_PIXELS):
        raise UserError(
            f"sample {pair.key}: the result is {_size(result)}, the truth {_size(truth)}; expected pictures of one size"
        )
    region = None
    if pair.region is not None:
        region = torch.tensor(pair.region) if isinstance(pair.region, np.ndarray) else pair.region
        region = region.to(networks.device)
        if region.dtype != torch.bool or region.shape != truth.shape[1:]:
            raise UserError(
                f"sample {pair.key}: the region is {region.dtype} {list(region.shape)}; expected bool "
                f"{list(truth.shape[1:])}"
            )
    return _Read(pair.key, result, truth, region, pair.words)


def _picture(picture: Tensor | np.ndarray, what: str, device: str) -> Tensor:
    try:
        pictures = as_pictures(picture)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None
    if len(pictures) != 1:
        raise UserError(f"{what}: {len(pictures)} pictures; expected one")
    return pictures[0].to(device)


def _measure_chunk(pairs: Sequence[_Read], networks: Networks, sets: Sets) -> list[Row]:
    drafts = [_Draft(pair.key, networks) for pair in pairs]
    for pair, draft in zip(pairs, drafts, strict=True):
        _put_psnr(pair, draft)
        if draft.wants("ssim", "mssim"):
            _put_ssim(pair, draft)
        if networks.lpips is not None:
            _put_lpips(pair, draft, networks.lpips)
    _put_embeddings(pairs, drafts, networks)
    if networks.inception is not None:
        _gather([pair.result for pair in pairs], networks.inception, sets.results)
        _gather([pair.truth for pair in pairs], networks.inception, sets.truths)
    return [Row(draft.key, draft.values, draft.why) for draft in drafts]


def _put_psnr(pair: _Read, draft: _Draft) -> None:
    if draft.wants("psnr"):
        _put_decibels(draft, "psnr", psnr(pair.result[None], pair.truth[None]), IDENTICAL)
    if draft.wants("mpsnr"):
        region = _region(pair, draft, "mpsnr")
        if region is not None:
            value = masked_psnr(pair.result[None], pair.truth[None], region)
            _put_decibels(draft, "mpsnr", value, f"within the region {IDENTICAL}")


def _put_decibels(draft: _Draft, name: str, value: Tensor, why: str) -> None:
    if math.isinf(value):
        draft.lack(name, why)
    else:
        draft.put(name, value)


def _put_ssim(pair: _Read, draft: _Draft) -> None:
    if min(pair.truth.shape[1:]) < WINDOW:
        for name in ("ssim", "mssim"):
            draft.lack(name, f"the picture is smaller than SSIM's window of {WINDOW} pixels")
        return
    similarity = ssim_map(pair.result[None], pair.truth[None])
    draft.put("ssim", similarity.mean())
    region = _region(pair, draft, "mssim")
    if region is None:
        return
    inside = within_windows(region)
    if not inside.any():
        draft.lack("mssim", f"the region lies within {WINDOW // 2} pixels of the border, where SSIM has no window")
    else:
        draft.put("mssim", region_mean(similarity, inside))


def _put_lpips(pair: _Read, draft: _Draft, network: Lpips) -> None:
    if min(pair.truth.shape[1:]) < LEAST_SIDE:
        for name in ("lpips", "mlpips"):
            draft.lack(name, f"the picture is smaller than the {LEAST_SIDE} pixels that AlexNet needs")
        return
    maps = network(pair.result[None], pair.truth[None])
    draft.put("lpips", lpips_distance(maps))
    region = _region(pair, draft, "mlpips")
    if region is not None:
        draft.put("mlpips", masked_lpips(maps, region))


def _put_embeddings(pairs: Sequence[_Read], drafts: Sequence[_Draft], networks: Networks) -> None:
    results, truths = [pair.result for pair in pairs], [pair.truth for pair in pairs]
    if networks.clip is not None:
        embedded = networks.clip.pictures(results)
        _put_all(drafts, "clip", cosine(embedded, networks.clip.pictures(truths)))
        worded = [i for i, pair in enumerate(pairs) if pair.words]
        if worded and "clip_text" in networks.metrics:
            words = networks.clip.words([pairs[i].words for i in worded])
            _put_all([drafts[i] for i in worded], "clip_text", cosine(embedded[worded], words))
        for pair, draft in zip(pairs, drafts, strict=True):
            if not pair.words:
                draft.lack("clip_text", "no words")
    if networks.dino is not None:
        _put_all(drafts, "dinov2", cosine(networks.dino.pictures(results), networks.dino.pictures(truths)))
    if networks.dreamsim is not None:
        _put_all(drafts, "dreamsim", networks.dreamsim.distances(results, truths))


def _put_all(drafts: Sequence[_Draft], name: str, values: Tensor) -> None:
    for draft, value in zip(drafts, values, strict=True):
        draft.put(name, value)


def _gather(pictures: Sequence[Tensor], network: Inception, gathered: Gaussian) -> None:
    gathered.add(network(torch.cat([fit_side(picture[None]) for picture in pictures])))


def _region(pair: _Read, draft: _Draft, name: str) -> Tensor | None:
    """Where the metric looks, [1, H, W]; None, with the reason in the draft, if that is nowhere."""
    if pair.region is None or not pair.region.any():
        draft.lack(name, NO_REGION if pair.region is None else EMPTY)
        return None
    return pair.region[None]


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-1]} x {picture.shape[-2]}"
