r"""What a sampler does to Gaussian data, exactly and without sampling: an affine map, read off basis vectors.

One run of a batch: row 0 starts at zero without noise (offset c), rows 1 ... d at unit vectors (gain A), and of the
rows after them each has one draw that is not zero (B_k). Then ``mean -> A mean + c``, ``cov -> A cov A^T + sum B_k^2``.

The exact dynamics of noise level eta multiply the deviation from the mean by
``A = (alpha_t / alpha_u) (R_t / R_u)^{(1 + eta^2) / 2}``, R = P / alpha^2, and add noise of variance
``P_t - A^2 P_u``. Deviation and noise are compared apart: a total variance may cross its target and fake an order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import basis, silent
from .subject import SHAPE, Course, Oracle, Subject

SIZE = math.prod(SHAPE)


@dataclass(frozen=True)
class Map:
    """x -> A x + c + sum_k B_k z_k; elements flat, B_k the same for every element of its draw.

    Attributes: gain (d, d), offset (d,), noise (draws, d), calls of the network.
    """

    course: Course
    gain: Tensor
    offset: Tensor
    noise: Tensor
    calls: int

    @property
    def variance(self) -> Tensor:
        """Of the noise that is added, (d,)."""
        return self.noise.square().sum(dim=0)


def affine_map(subject: Subject, course: Course, oracle: Oracle, draws: int) -> Map:
    """The map of a run of the sampler.

    Args: draws, a guess of how many there are: the run is made again if there are more. 0 where there are none.
    """
    before, scale = oracle.calls, math.hypot(*course.start)
    x = torch.zeros(1 + SIZE + draws, SIZE, dtype=torch.float64, device="cpu")
    x[1 : 1 + SIZE] = scale * torch.eye(SIZE, dtype=torch.float64, device="cpu")
    out, drawn = subject.run(course, oracle, x.reshape(-1, *SHAPE), basis(1 + SIZE) if draws else None)
    if drawn > draws:
        return affine_map(subject, course, oracle, drawn)
    out = out.double().flatten(1)
    offset, rest = out[0], out[1:] - out[0]
    return Map(course, rest[:SIZE].T / scale, offset, rest[SIZE : SIZE + drawn], oracle.calls - before)


def affine_maps(subject: Subject, courses: Sequence[Course], oracle: Oracle) -> list[Map]:
    """Those of several runs."""
    x = torch.zeros(1, *SHAPE, dtype=torch.float64, device="cpu")
    _, draws = subject.run(courses[0], Oracle(), x, silent)
    return [affine_map(subject, one, oracle, -(-draws * one.steps // courses[0].steps)) for one in courses]


@dataclass(frozen=True)
class Errors:
    """How far a map is from the truth, relative to the standard deviation (or the variance) of the exact output.

    Attributes: gain, offset, noise, of the dynamics of level eta (None where eta is not known); law, of mean and
    covariance when the start has the exact law; signed_gain, signed_noise, for each direction.
    """

    law: float
    gain: float | None = None
    offset: float | None = None
    noise: float | None = None
    signed_gain: tuple[float, ...] = ()
    signed_noise: tuple[float, ...] = ()

    @property
    def worst(self) -> float:
        """The largest of the parts; that of the law where the parts are not known."""
        parts = [part for part in (self.gain, self.offset, self.noise) if part is not None]
        return max(parts, default=self.law)


def errors(found: Map, oracle: Oracle, eta: float | None) -> Errors:
    """Those of a map."""
    start, end = found.course.start, found.course.end
    mean_u, variance_u = oracle.spread(start)
    mean_t, variance_t = oracle.spread(end)
    unit = variance_t.sqrt()
    mean = found.gain @ mean_u + found.offset
    covariance = found.gain @ torch.diag(variance_u) @ found.gain.T + torch.diag(found.variance)
    excess = (covariance - torch.diag(variance_t)) / (unit[:, None] * unit)
    law = max(_largest((mean - mean_t) / unit), _largest(excess))
    if eta is None:
        return Errors(law)
    exact = exact_gain(oracle, found, eta)
    away = (found.gain - torch.diag(exact)) * variance_u.sqrt() / unit[:, None]
    noise = (found.variance - (variance_t - exact**2 * variance_u)) / variance_t
    off = _largest((mean - mean_t) / unit)
    signed = tuple(away.diagonal().tolist()), tuple(noise.tolist())
    return Errors(law, _largest(away), off, _largest(noise), *signed)


def exact_gain(oracle: Oracle, found: Map, eta: float) -> Tensor:
    """A of the dynamics of level eta, (d,); where alpha is 0 at the start, its limit."""
    start, end = found.course.start, found.course.end
    (_, variance_u), (_, variance_t) = oracle.spread(start), oracle.spread(end)
    ratio = (variance_t / variance_u).sqrt()
    carried = (ratio * (start[0] / end[0])) ** (eta**2) if eta else torch.ones_like(ratio)
    return ratio * carried


def noise_level(maps: Sequence[Map], oracle: Oracle) -> float | None:
    """eta of the dynamics that the maps approach, if one eta fits all directions; 0 where nothing is drawn."""
    if all(len(one.noise) == 0 for one in maps):
        return 0.0
    coarse, fine = (_squared_level(one, oracle) for one in maps[-2:])
    if coarse is None or fine is None:
        return None
    before, spread = (float(level.max() - level.min()) for level in (coarse, fine))
    if spread > max(0.75 * before, 1e-3) or spread > 0.1:
        return None
    squared = float((2 * fine - coarse).mean())  # the limit, to second order
    eta = math.sqrt(max(squared, 0.0))
    return round(eta, 1) if abs(eta - round(eta, 1)) < 0.03 else eta


def _squared_level(found: Map, oracle: Oracle) -> Tensor | None:
    """eta^2 by each direction."""
    start, end = found.course.start, found.course.end
    if start[0] == 0 or end[0] == 0:
        return None
    (_, variance_u), (_, variance_t) = oracle.spread(start), oracle.spread(end)
    change = 0.5 * (variance_t / variance_u).log() + math.log(start[0] / end[0])
    gain = found.gain.diagonal() * (start[0] / end[0])
    return None if bool((gain <= 0).any()) else gain.log() / change - 1


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
