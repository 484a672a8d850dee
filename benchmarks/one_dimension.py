"""Laws in one dimension, where quantiles are exact, and estimators of how far a solver's samples are from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import scoresolve as ss

Law = ss.exact.GaussianMixture


# -- what is exact ----------------------------------------------------------------------------------------------------


def posterior(law: Law, x: Tensor) -> Tensor:
    """The probability of each component given x (n,) in one dimension; (components, n)."""
    variance = law.variances.to(x.device)
    logits = (x - law.means).square_().div_(-2 * variance) + (law.weights.log()[:, None] - 0.5 * variance.log())
    return logits.softmax(dim=0)


def network(law: Law, sde: ss.SDE) -> ss.ScoreModel:
    """The exact network of a law in one dimension; as ``law.model``, and faster for many samples at one time."""

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        now = float(t[0])
        noisy = law.marginal(sde, now)
        gain = sde.alpha(now) * law.variances / noisy.variances
        each = law.means + gain * (x[:, 0] - noisy.means)
        return (posterior(noisy, x[:, 0]) * each).sum(dim=0)[:, None]

    return ss.ScoreModel(denoiser, sde, predicts="data")


def quantiles(law: Law, levels: Tensor) -> Tensor:
    """The points below which a law in one dimension has these probabilities, by bisection."""
    means, widths = law.means[:, 0], law.variances[:, 0].sqrt()
    low = torch.full_like(levels, float((means - 20 * widths).min()))
    high = torch.full_like(levels, float((means + 20 * widths).max()))
    for _ in range(64):
        middle = 0.5 * (low + high)
        below = (law.weights * torch.special.ndtr((middle[:, None] - means) / widths)).sum(dim=1) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def centred(n: int) -> Tensor:
    """n levels, each in the middle of its n-th part."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


# -- the estimators ---------------------------------------------------------------------------------------------------


def wasserstein(x: Tensor, exact: Tensor, power: int = 1) -> float:
    """Wasserstein distance of samples (n,) or (n, 1) to a law, given its quantiles at the n centred levels."""
    return float((x.flatten().sort().values - exact).abs().pow(power).mean() ** (1 / power))


def floor(law: Law, n: int, power: int = 1, sets: int = 32, seed: int = 0) -> float:
    """The mean distance of n exact independent samples to their law."""
    exact, generator = quantiles(law, centred(n)), torch.Generator().manual_seed(seed)
    return sum(wasserstein(law.sample(n, generator=generator), exact, power) for _ in range(sets)) / sets


def mode_share(law: Law, x: Tensor) -> tuple[float, float]:
    """Share of the first mode among independent samples, and its standard error.

    The mean of the posterior probabilities: for samples of the law its expectation is the weight, however much the
    modes overlap.
    """
    first = posterior(law, x.flatten())[0]
    return float(first.mean()), float(first.std() / math.sqrt(len(first)))


class Stratified:
    """Normals that leave less noise in the law of many samples than independent ones.

    Each draw sorts the samples by where they are and gives each block of neighbours one normal from each of as many
    parts of equal probability, in an order shuffled anew: the array form of randomised quasi-Monte Carlo (L'Ecuyer,
    Lecot and Tuffin 2008, doi:10.1287/opre.1080.0556). The normals of any one sample are independent standard normals,
    so its law is the solver's own; only those of neighbours are not independent of each other.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """A normal for each sample; ``like`` is the state itself."""
        n = len(like)
        side = 2 ** (int(math.log2(n)) // 2)
        parts = torch.rand(n // side, side, generator=self.generator).numpy().argsort(axis=1)  # faster than torch's
        within = torch.rand(n // side, side, generator=self.generator, dtype=torch.float64)
        levels = ((torch.from_numpy(parts) + within) / side).clamp_(1e-16, 1 - 1e-16)
        z = torch.empty_like(like)
        z[torch.from_numpy(like[:, 0].numpy().argsort()), 0] = torch.special.ndtri(levels).flatten()
        return z
