"""Where the terms of a variational bound stand, and the Gaussians they are made of; derived in ``bound.py``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .custom import DiscreteVPSDE
from .errors import require, whole_number
from .model import ScoreModel
from .time_laws import Times

Variance: TypeAlias = Literal["small", "large"] | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class DiscreteLevels:
    """The terms i = 2 ... T of a table of betas, each drawn with a probability; weights and constants are over it."""

    sde: DiscreteVPSDE
    weights: Tensor
    constants: Tensor
    cumulative: Tensor
    decoder_variance: float

    first = 1.0
    decoder_calls = 1  # of the network

    @property
    def points(self) -> int:
        """All terms but the decoder."""
        return len(self.weights)

    @property
    def most(self) -> int:
        """As many as there are."""
        return self.points

    @classmethod
    def of(
        cls, sde: DiscreteVPSDE, variance: Variance, importance: float | None, device: torch.device
    ) -> DiscreteLevels:
        """With variances by name or one for each level, on the device of the data."""
        total = -np.expm1(np.cumsum(np.log1p(-sde.betas)))  # sigma^2
        betas, above, below = sde.betas[1:], total[1:], total[:-1]
        posterior = betas * below / above
        given = _variances(sde.betas, posterior, variance)
        ratio = posterior / given[1:]
        weights = 0.5 * ((1 - below) * betas**2 / above**2) / given[1:]
        constants = 0.5 * (ratio - 1 - np.log(ratio))
        chance = np.ones_like(weights)
        if importance is not None:  # what a term is, on average, for the best denoiser of N(0, s^2)
            chance = constants + weights * importance**2 * above / ((1 - above) * importance**2 + above)
        chance = chance / chance.sum()
        columns = np.stack([weights / chance, constants / chance, np.cumsum(chance)])
        weight, constant, cumulative = torch.from_numpy(columns).to(device)
        return cls(sde, weight, constant, cumulative, float(given[0]))

    def at(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For places in (0, 1), (batch,): the times t, and (w, k) of the estimate ``w |x_0 - D(x_t)|^2 + k d``."""
        number = torch.searchsorted(self.cumulative, place, right=True).clamp(max=self.points - 1)
        return (number.double() + 2) / self.sde.N, self.weights[number], self.constants[number]

    def decoder(self, model: ScoreModel, x0: Tensor, noise: Tensor, bins: Bins | None) -> Tensor:
        """``-log p(x_0 | x_1)``, (batch,): one network call, at the first level."""
        t = 1 / self.sde.N
        mean = model.data(self.sde.perturb(x0, t, noise=noise), t)
        return negative_log(x0, mean, self.decoder_variance, bins)


def _variances(betas: np.ndarray, posterior: np.ndarray, variance: Variance) -> np.ndarray:
    """One for each level, the decoder's first. Raises: ValueError."""
    if isinstance(variance, str):
        require(variance in ("small", "large"), f"variance='small' or 'large' or an array, got {variance!r}")
        decoder = posterior[:1] if len(posterior) else betas
        return np.concatenate([decoder, posterior if variance == "small" else betas[1:]])
    given = np.array(variance, dtype=np.float64)
    fits = given.shape == betas.shape and bool((given > 0).all())
    require(fits, f"{len(betas)} positive variances, one for each level, got shape {given.shape}")
    return given


@dataclass(frozen=True)
class ContinuousLevels:
    """The integral over lam, by quantiles of its proposal."""

    times: Times

    decoder_calls = 0
    points = 64
    most = sys.maxsize

    @property
    def first(self) -> float:
        """The end of most noise."""
        return self.times.t_max

    def at(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, t the quantile of the proposal at a place; its density divides the integrand."""
        t = self.times.at(place)
        return t, (2 * self.times.sde.lam(t)).exp() / self.times.density(t), torch.zeros_like(place)

    def decoder(self, model: ScoreModel, x0: Tensor, noise: Tensor, bins: Bins | None) -> Tensor:
        """``-log p(x_0 | x_1)``, (batch,): the expectation in closed form for a density, a draw of it for bins."""
        rho = self.times.sde.rho(self.times.t_min)
        if bins is None:
            constant = 0.5 * x0[0].numel() * (math.log(2 * math.pi * rho**2) + 1)
            return torch.full((len(x0),), constant, dtype=torch.float64, device=x0.device)
        return negative_log(x0, x0 + rho * noise, rho**2, bins)


Levels: TypeAlias = DiscreteLevels | ContinuousLevels

# -- Gaussians ------------------------------------------------------------------------------------------------------


def squared(x: Tensor) -> Tensor:
    """``|x|^2`` of each sample, float64 (batch,)."""
    return x.reshape(len(x), -1).double().square().sum(dim=1)


@dataclass(frozen=True)
class Bins:
    """Equally spaced values ``low + k spacing``, k = 0 ... levels - 1."""

    low: float
    high: float
    spacing: float

    @classmethod
    def of(cls, levels: int, data_range: tuple[float, float], x0: Tensor) -> Bins:
        """Raises: ValueError unless x0 lies on the values."""
        low, high = map(float, data_range)
        require(low < high, f"data_range=(low, high) with low < high, got {data_range}")
        spacing = (high - low) / (whole_number("levels", levels, least=2) - 1)
        place = (x0.double() - low) / spacing
        on_values = (place - place.round()).abs().max() < 0.01 and place.min() > -0.5 and place.max() < levels - 0.5
        require(
            bool(on_values),
            f"x0 on {levels} values from {low:g} to {high:g}, such as 2 * image / 255 - 1; got others: take "
            "levels=None for a density, or give data_range=",
        )
        return cls(low, high, spacing)


def negative_log(x0: Tensor, mean: Tensor, variance: float, bins: Bins | None) -> Tensor:
    """``-log N(x_0; mean, variance)`` of each sample, or of the Gaussian's mass in the bin of each element."""
    apart = (x0.double() - mean.double()).reshape(len(x0), -1) / math.sqrt(variance)
    if bins is None:
        return 0.5 * (apart**2 + math.log(2 * math.pi * variance)).sum(dim=1)
    flat, half = x0.double().reshape(len(x0), -1), 0.5 * bins.spacing
    below = torch.where(flat < bins.low + half, -math.inf, apart - half / math.sqrt(variance))
    above = torch.where(flat > bins.high - half, math.inf, apart + half / math.sqrt(variance))
    # in the left tail, where the two cumulative probabilities do not both round to 1
    right = below > 0
    below, above = torch.where(right, -above, below), torch.where(right, -below, above)
    upper, lower = torch.special.log_ndtr(above), torch.special.log_ndtr(below)
    mass: Tensor = upper + torch.log(-torch.expm1(lower - upper))
    return -mass.sum(dim=1)
