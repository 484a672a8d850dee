"""Stochastic solvers on Brownian paths: strong errors by sampling on a mixture, and in closed form on a Gaussian.

The path is white noise in the clock V = e^{2 lam}, in which the noise of the reverse SDE (eta = 1) has equal weights.
The normals of a step are its increments over the parts of the step, in their order: from the time where the last one
ended to the time at which the network is asked next, or to the end. Those of SRA1 and SOSRA are ``int (B - B_t) dV``
and what makes up the increment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

import scoresolve as ss

from .order_errors import LAM, ends, gaussian, mixture, table

STRONG_STEPS, CLOSED_STEPS = (32, 64, 128, 256), (64, 128)
"""Steps of the strong errors by sampling and in closed form."""
AREAS = ("sra1", "sosra")
"""Solvers whose first normal of a step is the time integral of the path, not its increment."""


class BrownianPath:
    """A Brownian path in the clock V = e^{2 lam}, on cells equal in lam, for a batch of one-dimensional samples."""

    def __init__(self, cells: int, batch: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lam = np.linspace(*LAM, cells + 1)
        self.clock = torch.from_numpy(np.exp(2 * self.lam))
        increments = torch.randn(cells, batch, generator=generator, dtype=torch.float64)
        increments *= self.clock.diff().sqrt()[:, None]
        self.values = torch.cat([torch.zeros(1, batch, dtype=torch.float64), increments.cumsum(0)])

    def cell(self, lam: float) -> int:
        """The grid point nearest to a noise level."""
        return round((lam - LAM[0]) / (LAM[1] - LAM[0]) * (len(self.lam) - 1))

    def increment(self, a: int, b: int) -> Tensor:
        """``B_b - B_a``, of unit variance."""
        return (self.values[b] - self.values[a]) / (self.clock[b] - self.clock[a]).sqrt()

    def area(self, a: int, b: int) -> Tensor:
        """``int_a^b (B - B_a) dV`` of the piecewise linear path, divided by ``dV^{3/2} / sqrt(3)``."""
        above = self.values[a : b + 1] - self.values[a]
        integral = (0.5 * (above[1:] + above[:-1]) * self.clock[a : b + 1].diff()[:, None]).sum(0)
        return integral * math.sqrt(3) / (self.clock[b] - self.clock[a]) ** 1.5


class Part(NamedTuple):
    """The piece of a path that a row's normal is made of: from lam = a to b, and what of it."""

    a: float
    b: float
    kind: Literal["increment", "area", "rest"]

    def kernel(self, clock: np.ndarray) -> np.ndarray:
        """phi of ``z = int phi dB``: of unit norm on the piece, zero outside."""
        low, high = math.exp(2 * self.a), math.exp(2 * self.b)
        even = np.full_like(clock, (high - low) ** -0.5)
        slanted = math.sqrt(3) * (high - clock) * (high - low) ** -1.5
        shapes = {"increment": even, "area": slanted, "rest": 2 * even - math.sqrt(3) * slanted}
        return np.where((clock > low) & (clock < high), shapes[self.kind], 0.0)


def parts(solver_table: ss.Table, sde: ss.SDE) -> dict[int, Part]:
    """What the normal of each row is made of, by the number of the row."""
    found, rows = {}, solver_table.rows
    begin = first = LAM[0]
    for k, row in enumerate(rows):
        if k == 0 or rows[k - 1].s is not None:
            begin = first = float(sde.lam(row.t))
        end = float(sde.lam(row.s if row.s is not None else rows[k + 1].t))
        if row.draws:
            area = solver_table.solver in AREAS and len(rows) > 1
            later = next(r.s for r in rows[k:] if r.s is not None)
            if area:
                found[k] = Part(first, float(sde.lam(later)), "area" if row.s is None else "rest")
            else:
                found[k] = Part(begin, end, "increment")
            begin = end
    return found


class PathNoise:
    """The normals of a table from a path."""

    def __init__(self, path: BrownianPath, solver_table: ss.Table, sde: ss.SDE) -> None:
        self.path, self.parts = path, parts(solver_table, sde)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The normal of a row."""
        part = self.parts[index]
        a, b = self.path.cell(part.a), self.path.cell(part.b)
        if part.kind == "increment":
            z = self.path.increment(a, b)
        elif part.kind == "area":
            z = self.path.area(a, b)
        else:
            z = 2 * self.path.increment(a, b) - math.sqrt(3) * self.path.area(a, b)
        return z[:, None]


def strong_errors(info: ss.SolverInfo, sde: ss.SDE, steps: Iterable[int], **options: Any) -> list[float]:
    """Root mean square distance to the exact solution of the reverse SDE on the same path, on Gaussian data.

    Of a direction of variance v let R = v + rho^2. Both ends are affine in the start and linear in the path,

        exact: x_t = (alpha_t/alpha_u) Phi(u) x_u + int k dB,   k(V) = alpha_t Phi(V) eta(V) / V,
               log Phi(w) = -int_{rho_t}^{rho_w} (1 + eta^2) rho / R drho,   V = e^{2 lam} = 1 / rho^2,
        table: A x_u + sum_i b_i int phi_i dB,

    so that the mean square distance is ``(A - (alpha_t/alpha_u) Phi)^2 Var x_u + int (k - sum_i b_i phi_i)^2 dV``,
    each piece by Gauss-Legendre quadrature: no sampling, no finest grid. eta = 1 for all but the ER-SDEs.
    """
    return [_strong_error(info.name, table(info, sde, n, **options), sde) for n in steps]


def _eta_squared(name: str, lam: np.ndarray) -> np.ndarray:
    """1, or that of the ER-SDE of ``phi(rho) = rho (e^{rho^0.3} + 10)``: ``d log phi / d log rho - 1``."""
    power = np.exp(-0.3 * lam)
    growth = np.exp(np.minimum(power, 700))
    return 0.3 * power * growth / (growth + 10) if name.startswith("er_sde") else np.ones_like(lam)


def _strong_error(name: str, solver_table: ss.Table, sde: ss.SDE) -> float:
    law, times = gaussian(), solver_table.times
    v = law.variances[0].numpy()
    gain, _, noise = (value.numpy() for value in ss.exact.affine_map(solver_table, law, sde))
    (alpha_u, rho_u), (alpha_t, _) = ((float(sde.alpha(t)), float(sde.rho(t))) for t in (times[0], times[-1]))
    # log Phi by a spline through many points, quartic in their distance: exact to 1e-12
    lam = np.linspace(float(sde.lam(times[0])), float(sde.lam(times[-1])), 4001)
    slope = (1 + _eta_squared(name, lam)[:, None]) * np.exp(-2 * lam)[:, None] / (v + np.exp(-2 * lam)[:, None])
    log_phi = CubicSpline(lam, slope).antiderivative()

    def phi(at: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.exp(log_phi(at) - log_phi(lam[-1]))
        return values

    pieces = list(parts(solver_table, sde).values())
    edges = np.exp(2 * np.unique([end for piece in pieces for end in piece[:2]]))
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half = 0.5 * np.diff(edges)
    clock = (edges[:-1] + half + nodes[:, None] * half).ravel()
    at = 0.5 * np.log(clock)
    left = alpha_t * phi(at) * (_eta_squared(name, at) ** 0.5 / clock)[:, None]
    for piece, weight in zip(pieces, noise, strict=True):
        left -= piece.kernel(clock)[:, None] * weight
    off = ((weights[:, None] * half).ravel()[:, None] * left**2).sum(0)
    start = alpha_u**2 * (v + rho_u**2)
    return float(np.sqrt(((gain - alpha_t / alpha_u * phi(lam[:1])[0]) ** 2 * start + off).max()))


def on_path(info: ss.SolverInfo, sde: ss.SDE, steps: int, path: BrownianPath, start: Tensor, **options: Any) -> Tensor:
    """A stochastic solver's result on a given path."""
    rows = table(info, sde, steps, **options)
    return ss.sample(mixture().model(sde), start=start, solver=rows, noise=PathNoise(path, rows, sde)).samples


def path_errors(
    info: ss.SolverInfo, sde: ss.SDE, steps: tuple[int, ...], batch: int, reference: int, **options: Any
) -> tuple[list[float], list[float], list[float]]:
    """(strong, weak, standard error of weak) against the same solver at ``reference`` steps, on one path a sample."""
    path = BrownianPath(6 * reference, batch)
    start = mixture().marginal(sde, ends(sde)[0]).sample(batch, generator=torch.Generator().manual_seed(1))
    finest = on_path(info, sde, reference, path, start, **options)
    strong, weak, spread = [], [], []
    for n in steps:
        out = on_path(info, sde, n, path, start, **options)
        strong.append(float((out - finest).abs().mean()))
        differences = torch.cat([out - finest, out**2 - finest**2], dim=1)
        worst = int(differences.mean(0).abs().argmax())
        weak.append(float(differences.mean(0).abs()[worst]))
        spread.append(float(differences[:, worst].std() / math.sqrt(batch)))
    return strong, weak, spread
