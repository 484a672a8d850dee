r"""Empirical model statistics (DPM-Solver-v3): how a network's output moves along its flow, as functions of lam.

With ``y = x / alpha`` and ``n = sigma eps / alpha`` the probability flow is ``dy/dlam = -n``. For any function l of lam

    dy/dlam = -l y - f,        f = n - l y = (sigma eps - l x) / alpha,

of which the linear part is solved exactly; l = 1 leaves the data prediction (f = -D), l = 0 the noise prediction. The
best l is the one that leaves least of the output's change with x in f,

    l = argmin E |sigma grad eps - l I|_F^2 = sigma E[tr grad eps] / d,

and f is then followed by its own rate of growth along the flow, ``f' = s f + rest``, with

    s = argmin E |f' - s f|^2 = E[f . f'] / E[f . f],        f' = df/dlam = n' - l' y + l n  along the flow

(n' the derivative of n along it, ``y' = -n`` put in). On an isotropic Gaussian N(m, v I) l = sigma^2 / (alpha^2 v +
sigma^2) and f = -l m, so s = l'/l, and one step of ``dpm_solver_v3`` is exact, whatever its length.

The paper has l and s for each element of a sample, and a third statistic b, the part of f' that is the same for all
samples (``f' = s f + b``). A table has one weight for all elements and none for a constant: here l and s are averages
over elements, and s is fitted without b, that is through the origin.

Source: Zheng et al. 2023, arXiv:2310.13268; elementwise l is their diagonal of ``sigma E[grad eps]``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from .chunks import chunks_of
from .errors import require, whole_number
from .model import ScoreModel
from .noise import START, SampleStreams
from .reading import fits, parse_json
from .starting import check_batch, check_model
from .tuning.smoothness import accepted_dtype, difference_step

SMALL = 1e-9
"""Of f beside n, in mean squares, where it is rounding and no rate can be told from it."""
STEP = 1e-2
"""Of the differences in lam."""
FURTHEST = 8.0
"""The range of lam is cut at minus and plus this: beyond, the statistics are what they are there."""


@dataclass(frozen=True)
class ModelStatistics:
    """The statistics l and s at places lam; between them cubic, outside them constant.

    Attributes: lam (increasing), linear (l), growth (s): tuples of floats, as many of each, at least 2.

    Raises: ValueError for numbers that are not finite, or places that do not rise.

    >>> import scoresolve as ss
    >>> statistics = ss.ModelStatistics((-5.0, 0.0, 5.0), (1.0, 0.5, 0.0), (0.0, -0.5, -2.0))
    >>> ss.ModelStatistics.from_json(statistics.to_json()) == statistics
    True
    """

    lam: tuple[float, ...]
    linear: tuple[float, ...]
    growth: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.lam, self.linear, self.growth)
        require(len({len(column) for column in columns}) == 1, "as many places lam as values of linear and of growth")
        require(len(self.lam) >= 2, f"at least 2 places lam, got {len(self.lam)}")
        require(bool(np.isfinite(columns).all()), "finite statistics")
        require(bool((np.diff(self.lam) > 0).all()), "places lam that rise")

    def l(self, lam: np.ndarray) -> np.ndarray:  # noqa: E743 (the paper's name)
        """l at places lam."""
        return self._linear(lam)

    def integrals(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The integrals of l and of s from the first place to lam."""
        return self._linear.integral(lam), self._growth.integral(lam)

    @cached_property
    def _linear(self) -> _Curve:
        return _Curve(self.lam, self.linear)

    @cached_property
    def _growth(self) -> _Curve:
        return _Curve(self.lam, self.growth)

    @property
    def summary(self) -> str:
        """What a table made of them says: how many places, from where to where, and a hash that tells them apart."""
        told = hashlib.sha256(self.to_json().encode()).hexdigest()[:12]
        return f"{len(self.lam)} places of lam from {self.lam[0]:.4g} to {self.lam[-1]:.4g}, {told}"

    def to_json(self) -> str:
        """As JSON text, numbers to the last bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelStatistics:
        """From the text of :meth:`to_json`. Raises: ValueError."""
        content = parse_json(text)
        require(fits(content, {"lam": [float], "linear": [float], "growth": [float]}), "the JSON of statistics")
        return cls(**{name: tuple(map(float, column)) for name, column in content.items()})


class _Curve:
    """A cubic spline through points, constant outside them, and its integral from the first place."""

    def __init__(self, places: Sequence[float], values: Sequence[float]) -> None:
        self.ends = places[0], places[-1]
        self.spline = CubicSpline(places, values)
        self.area = self.spline.antiderivative()

    def __call__(self, lam: np.ndarray) -> np.ndarray:
        return np.asarray(self.spline(np.clip(lam, *self.ends)))

    def integral(self, lam: np.ndarray) -> np.ndarray:
        inside = np.clip(lam, *self.ends)
        return np.asarray(self.area(inside) + self(lam) * (lam - inside))


def model_statistics(
    model: ScoreModel, data: Tensor, *, places: int = 65, seed: int = 0, batch_size: int | None = None
) -> ModelStatistics:
    """The statistics of a network, from states ``alpha x_0 + sigma eps`` of some data.

    Args:
        model: the network with its process; its conditioning may have a row for each of the data.
        data: (n, ...) samples of its law, real ones or the network's own; a few hundred are enough.
        places: how many noise levels, evenly in lam.
        seed: of the noise, which is the same at all of them.
        batch_size: how many states the network sees at once.

    Returns: :class:`ModelStatistics`, for ``solver="dpm_solver_v3", statistics=...``. Cost: 5 network calls a place on
    all the data, and 15 on a few. Raises: ValueError, TypeError.

    >>> import torch, scoresolve as ss
    >>> law, sde = ss.exact.Gaussian(torch.full((3,), 2.0), 0.25), ss.VPSDE()
    >>> statistics = ss.model_statistics(law.model(sde), law.sample(64, generator=torch.Generator().manual_seed(0)))
    >>> solution = ss.sample(law.model(sde), (5, 3), solver="dpm_solver_v3", nfe=1, seed=1, statistics=statistics)
    >>> start = ss.sample(law.model(sde), (5, 3), solver="ddim", nfe=1, seed=1, trajectory=True).trajectory[0]
    >>> torch.allclose(solution.samples, law.flow(sde, start, 1.0, sde.t_min), atol=1e-4)  # one call, and exact
    True
    """
    check_model(model)
    check_batch(data, "data")
    require(model.time != "index", 'time="fractional_index": rounded indices have no derivative in time')
    require(whole_number("places", places) >= 8, f"places= of at least 8, got {places}")
    sde = model.sde
    ends = [float(sde.lam(t)) for t in (model.t_max, max(model.t_min, model.t_eps))]
    low, high = max(ends[0], -FURTHEST) + STEP, min(ends[1], FURTHEST) - STEP
    few = model.take(torch.arange(min(len(data), 16), device=data.device), len(data))
    data = data.to(accepted_dtype(few, data[:16].double()))
    step = difference_step(few, data[:16], float(sde.time(0.5 * (low + high))))
    lam = np.linspace(low, high, places)
    means = np.zeros((places, 6))
    for rows, x0, noise, probe in _batches(data, seed, batch_size or len(data)):
        part = model.take(rows, len(data))
        means += len(rows) / len(data) * np.array([_moments(part, x0, noise, probe, u, step) for u in lam.tolist()])
    # f . f and f . f' from the moments of n, y, n', as l and its derivative are known only now
    nn, ny, yy, dn, dy, trace = means.T
    spline = CubicSpline(lam, trace)
    linear, slope = trace, spline(lam, 1)
    square = nn - 2 * linear * ny + linear**2 * yy
    change = (dn - linear * dy) - slope * (ny - linear * yy) + linear * (nn - linear * ny)
    growth = np.where(square > SMALL * nn, change / np.where(square > SMALL * nn, square, 1.0), 0.0)
    return ModelStatistics(tuple(lam.tolist()), tuple(linear.tolist()), tuple(growth.tolist()))


def _batches(data: Tensor, seed: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(rows, x_0, noise, signs) of parts of the data."""
    for chunk in chunks_of(len(data), size):
        streams = SampleStreams(seed, chunk)
        x0 = data[chunk.start : chunk.stop]
        rows = torch.arange(chunk.start, chunk.stop, device=data.device)
        yield rows, x0, streams.draw(START, 0, x0), streams.draw(START, 1, x0).sign()


@torch.no_grad()
def _moments(model: ScoreModel, x0: Tensor, noise: Tensor, probe: Tensor, lam: float, step: float) -> list[Any]:
    """Means of n.n, n.y, y.y, n'.n and n'.y, and l, at one noise level."""

    def at(place: float, y: Tensor) -> Tensor:
        """n = sigma eps / alpha."""
        t = float(model.sde.time(place))
        return math.exp(-place) * model.noise(float(model.sde.alpha(t)) * y, t).double()

    rho = math.exp(-lam)
    y = x0 + rho * noise
    n = at(lam, y).clone()
    moved = (at(lam + STEP, (y - STEP * n).to(y)).clone() - at(lam - STEP, (y + STEP * n).to(y))) / (2 * STEP)
    h = step * rho
    trace = (probe * (at(lam, y + h * probe).clone() - at(lam, y - h * probe)) / (2 * h)).mean()
    y = y.double()
    pairs = [(n, n), (n, y), (y, y), (moved, n), (moved, y)]
    return torch.stack([*((a * b).mean() for a, b in pairs), trace]).cpu().tolist()
