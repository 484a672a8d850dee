r"""Laws of the noise level, from which training and bounds draw their times.

A law is a growing function F of a clock c (t, or lam), known with its inverse and its slope. Cut to the times
[t_min, t_max] and normalised, the time at a place u in (0, 1) and the density with respect to lam are

    c = F^{-1}(F(a) + u (F(b) - F(a))),          F'(c) / (F(b) - F(a))  [/ |dlam/dt| if the clock is t],

with a, b the ends of the clock. The field's laws are few once they are written in lam:

    uniform            F = t       Ho et al. 2020, Song et al. 2021
    uniform_lam        F = lam     since ``g^2 / sigma^2 dt = -2 dlam``, it is ScoreFlow's density g^2 / sigma^2
    log_normal         lam normal  EDM's ln rho; and SD3's logit-normal t, since on a rectified flow logit t = log rho
    matched            F = softplus(2 (lam + log s)) / 2, the likelihood's integrand for data N(0, s^2) (``bound.py``)
    levels             each level of a table of betas, with equal chance; the density is then that of one level

:class:`Adaptive` makes any of them draw more often where the loss has been large.

Source: Song et al. 2021, arXiv:2101.09258; Kingma et al. 2021, arXiv:2107.00630; Karras et al. 2022,
arXiv:2206.00364, table 1; Esser et al. 2024, arXiv:2403.03206, sec. 3.1; Nichol and Dhariwal 2021, arXiv:2102.09672.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .custom import DiscreteVPSDE
from .errors import require, whole_number
from .rounding import sigmoid, softplus
from .sde import SDE

Real: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TimeLaw:
    """A law of the noise level on any process; made by ``uniform`` and the others of ``time_laws.py``.

    Attributes:
        name: how it is written.
        clock: "t", "lam" or "level" (i of ``t = i / N``).
        cumulative, quantile, slope: F, its inverse and F', on float64 tensors; F need not be normalised.
    """

    name: str
    clock: Literal["t", "lam", "level"]
    cumulative: Real = field(repr=False)
    quantile: Real = field(repr=False)
    slope: Real = field(repr=False)

    def on(self, sde: SDE, t_min: float, t_max: float) -> Times:
        """The law cut to [t_min, t_max] of a process. Raises: ValueError if it has no mass there, or an infinite one.

        >>> import torch, scoresolve as ss
        >>> times = uniform_lam().on(ss.EDM(), 0.01, 100.0)
        >>> round(times.at(torch.tensor([0.5])).item(), 6)
        1.0
        """
        match self.clock:
            case "t":
                ends = (t_min, t_max)
            case "lam":
                ends = (sde.lam(t_max), sde.lam(t_min))
            case "level":
                if not isinstance(sde, DiscreteVPSDE):
                    raise ValueError(
                        f"{self.name} are those of a table of betas, {sde!r} has none: use times=ss.losses.uniform(), "
                        "or ss.DiscreteVPSDE(betas)"
                    )
                slack = 1e-9 * sde.N
                ends = (math.ceil(t_min * sde.N - slack), math.floor(t_max * sde.N + slack) + 1)
        bottom, top = self.cumulative(torch.tensor(ends, dtype=torch.float64, device="cpu")).tolist()
        require(
            math.isfinite(top - bottom) and top > bottom,
            f"a law with a finite mass from t = {t_min:g} to {t_max:g} of {sde!r}, where {self.clock} goes from "
            f"{ends[0]:g} to {ends[1]:g}; got {self.name}: use another, such as ss.losses.log_normal(), or other ends",
        )
        return Times(self, sde, t_min, t_max, bottom, top)


@dataclass(frozen=True)
class Times:
    """A law on a stretch of a process; made by :meth:`TimeLaw.on`."""

    law: TimeLaw
    sde: SDE
    t_min: float
    t_max: float
    bottom: float
    top: float

    @property
    def discrete(self) -> bool:
        """Whether the times are levels of a table."""
        return self.law.clock == "level"

    def at(self, place: Tensor) -> Tensor:
        """The times of places in (0, 1), float64."""
        c = self.law.quantile(self.bottom + (self.top - self.bottom) * place.double())
        match self.law.clock:
            case "lam":
                c = self.sde.time(c)
            case "level":
                assert isinstance(self.sde, DiscreteVPSDE)
                c = c.floor() / self.sde.N
        return c.clamp(self.t_min, self.t_max)

    def density(self, t: Tensor) -> Tensor:
        """With respect to lam, or the chance of a level; float64, shaped as t."""
        mass = self.top - self.bottom
        if self.law.clock == "lam":
            return self.law.slope(self.sde.lam(t)) / mass
        if self.law.clock == "level":
            return torch.full_like(t, 1 / mass)
        falling = 0.5 * self.sde.squared_diffusion(t) / self.sde.sigma(t) ** 2  # -dlam/dt
        return self.law.slope(t) / mass / falling


def uniform() -> TimeLaw:
    """Uniform in t."""
    return TimeLaw("uniform()", "t", _same, _same, torch.ones_like)


def uniform_lam() -> TimeLaw:
    """Uniform in lam: proportional to g^2 / sigma^2 in t. Both ends must have a finite lam."""
    return TimeLaw("uniform_lam()", "lam", _same, _same, torch.ones_like)


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimeLaw:
    """``log rho ~ N(mean, std^2)``, rho = sigma / alpha; EDM's by default, here cut to the process' noise levels."""
    require(std > 0, f"std > 0, got {std}")
    norm = 1 / (std * math.sqrt(2 * math.pi))
    return TimeLaw(
        f"log_normal({mean:g}, {std:g})",
        "lam",
        lambda lam: torch.special.ndtr((lam + mean) / std),
        lambda y: std * torch.special.ndtri(y) - mean,
        lambda lam: norm * (-0.5 * ((lam + mean) / std) ** 2).exp(),
    )


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeLaw:
    """Logit-normal t of a rectified flow (noise at 1), as SD3's: ``logit t = log rho ~ N(mean, std^2)``.

    On another process it is the law of equal noise levels.
    """
    return log_normal(mean, std)


def matched(std: float) -> TimeLaw:
    """The density in lam of the likelihood's integrand for data N(0, std^2): ``std^2 / (std^2 + rho^2)``."""
    require(std > 0, f"std > 0, the data's standard deviation, got {std}")
    shift = math.log(std)
    return TimeLaw(
        f"matched({std:g})",
        "lam",
        lambda lam: 0.5 * softplus(2 * (lam + shift)),
        lambda y: 0.5 * (2 * y + torch.log(-torch.expm1(-2 * y))) - shift,
        lambda lam: sigmoid(2 * (lam + shift)),
    )


def levels() -> TimeLaw:
    """The levels ``t = i / N`` of a table of betas, i = 1 ... N, with equal chance."""
    return TimeLaw("levels()", "level", _same, _same, torch.ones_like)


class Adaptive(torch.nn.Module):
    """Draws times more often where the loss is large: bins of equal chance are redrawn in proportion to its root mean
    square there, which has the least variance among all choices of chances for the bins.

    The estimate stays unbiased, since each loss is divided by how much more often it is drawn. Its numbers are buffers
    of a module: ``state_dict`` saves them.

    Args:
        bins: how many, at least 1.
        floor: the part of the draws that stays as it was, in (0, 1].
        memory: how many losses of a bin are remembered, roughly, at least 1.

    Until each bin has seen ten losses nothing changes.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, sec. 3.3 (one bin a level, the last ten losses of each).
    """

    moments: Tensor
    counts: Tensor

    def __init__(self, bins: int = 32, *, floor: float = 0.05, memory: int = 1000) -> None:
        super().__init__()
        self.bins, self.memory = whole_number("bins", bins), whole_number("memory", memory)
        require(0 < floor <= 1, f"0 < floor <= 1, got {floor}")
        self.floor = float(floor)
        for name in ("moments", "counts"):
            self.register_buffer(name, torch.zeros(bins, dtype=torch.float64))

    @property
    def chances(self) -> Tensor:
        """Of each bin, float64 (bins,), at least ``floor / bins``."""
        size = self.moments.sqrt()
        known = (self.counts >= 10).all() & (size.sum() > 0)
        share = torch.where(known, size / size.sum(), torch.full_like(size, 1 / self.bins))
        return (1 - self.floor) * share + self.floor / self.bins

    def warp(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Places (batch,) of a uniform law, moved to where the loss is large; and how much denser they are there."""
        self.to(place.device)
        chances = self.chances
        above = chances.cumsum(0)
        k = torch.searchsorted(above, place).clamp(max=self.bins - 1)
        inside = (1 - (above[k] - place) / chances[k]).clamp(1e-12, 1 - 1e-12)
        return (k + inside) / self.bins, chances[k] * self.bins

    @torch.no_grad()
    def learn(self, place: Tensor, size: Tensor) -> None:
        """Note what the losses (batch,) at these places are, as they would be without this. NaN is passed over."""
        k = (place * self.bins).long().clamp(max=self.bins - 1)
        squared = size.double().square()
        finite = torch.isfinite(squared)
        new = torch.bincount(k, finite.double(), self.bins)
        total = torch.bincount(k, torch.where(finite, squared, 0.0), self.bins)
        rate = 1 / (self.counts.clamp(max=self.memory) + new).clamp(min=1)
        self.moments += (total - new * self.moments) * rate
        self.counts += new


def _same(c: Tensor) -> Tensor:
    return c
