"""The Fréchet distance of two sets of features, each as a Gaussian, gathered batch by batch.

Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local
Nash Equilibrium", NeurIPS 2017, equation 6. Legend: N features of C channels; all in float64.
"""

import torch
from torch import Tensor

from pics_model.metrics.score import Score


class Gaussian:
    """Mean [C] and covariance [C, C] of features that come in batches. Memory does not grow with their number."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self._scatter = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Takes features [N, C] in, by the update of Chan, Golub and LeVeque (1979), exact up to rounding."""
        batch = features.double().cpu()
        if not len(batch):
            return
        batch_mean = batch.mean(0)
        centred = batch - batch_mean
        total = self.count + len(batch)
        shift = batch_mean - self.mean
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Unbiased, as FID is computed everywhere."""
        assert self.count > 1, "a single feature has no covariance"
        return self._scatter / (self.count - 1)


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in [0, inf).

    The trace of the root of A B is that of the root of A^(1/2) B A^(1/2), which is symmetric: eigenvalues of symmetric
    matrices are real and stable, where a root of A B itself may turn out complex.
    """
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ covariance_b @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(0.0, float(distance))


def fid_score(results: Gaussian, truths: Gaussian) -> Score:
    """FID of two sets, or why not: C features need C + 1 samples for a covariance of full rank.

    With fewer, the distance says more of the number of samples than of the pictures.
    """
    least = len(results.mean) + 1
    fewest = min(results.count, truths.count)
    if fewest < least:
        return Score(
            "fid", None, f"{fewest} pictures; FID needs at least {least}, for a covariance of full rank", None, fewest
        )
    value = frechet_distance(results.mean, results.covariance, truths.mean, truths.covariance)
    return Score("fid", value, count=fewest)
