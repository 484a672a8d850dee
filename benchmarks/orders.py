"""Measured orders of the registered solvers: ``python benchmarks/orders.py`` writes ``docs/assets/orders.csv``.

All in float64 on a two-mode mixture in one dimension, between two noise levels (lam from -3 to 2.5), the history of
multistep methods seeded at full order (``start="high"``).

- ODE: RMSE to the exact flow, which in one dimension takes quantiles to quantiles.
- strong: mean distance, on one Brownian path a sample, to the same solver's result on the finest grid.
- weak: the law of the output on Gaussian data in closed form (``ss.exact.push``; no sampling). On the mixture the
errors
  of the means of x and x^2 are mean differences between two grids on one path, known to their standard error.

The path is white noise in the clock V = e^{2 lam}, in which the noise of the reverse SDE (eta = 1) has equal weights.
The normals of a step are its increments over the parts of the step, in their order: from the time where the last one
ended to the time at which the network is asked next, or to the end. Those of SRA1 and SOSRA are ``int (B - B_t) dV``
and what makes up the increment.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import scoresolve as ss

LAM = (-3.0, 2.5)
ODE_STEPS, LAW_STEPS, STRONG_STEPS = (256, 512), (1024, 2048), (32, 64, 128, 256)
OUT = Path(__file__).resolve().parent.parent / "docs" / "assets" / "orders.csv"
AREAS = ("sra1", "sosra")
"""Solvers whose first normal of a step is the time integral of the path, not its increment."""


SETTINGS: dict[str, dict[str, Any]] = {
    "sa_solver": {"start": "high", "between": (0.0, math.inf)},  # a noise level that jumps would hide the order
    "restart": {"low": 0.2, "high": 2.0},  # an interval inside the range that is measured
}


@dataclass(frozen=True)
class Orders:
    """What was measured of a solver; None where it does not apply.

    Attributes: order (ODE: on the mixture; SDE: weak, closed form), strong, error (ODE: at the finest grid).
    """

    solver: str
    order: float
    strong: float | None = None
    error: float | None = None


def mixture() -> ss.exact.GaussianMixture:
    """Two modes of weights 0.7 and 0.3."""
    return ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.2]], [[0.09], [0.25]])


def gaussian() -> ss.exact.Gaussian:
    """Four directions of variances 0.03 to 2."""
    return ss.exact.Gaussian(torch.tensor([1.0, -0.5, 0.3, 2.0]), torch.logspace(-1.5, 0.3, 4, dtype=torch.float64))


def ends(sde: ss.SDE) -> tuple[float, float]:
    """The first and the last time."""
    return sde.time(LAM[0]), sde.time(LAM[1])


def seeded(info: ss.SolverInfo) -> dict[str, Any]:
    """The options that start a multistep method at full order, and what else a solver needs to show it."""
    if info.name in SETTINGS:
        return SETTINGS[info.name]
    high = info.options.get("start") in ("low", "high")
    return {"start": "high"} if high else {"start": "runge_kutta"} if "start" in info.options else {}


def table(info: ss.SolverInfo, sde: ss.SDE, steps: int, grid: str = "log_snr", **options: Any) -> ss.Table:
    """A solver's table between the two noise levels."""
    times = ss.grids.GRIDS[grid](sde, steps, *ends(sde))
    return ss.build_table(info.name, sde, times, **{**seeded(info), **options})


def slope(errors: list[float], last: int = 1) -> float:
    """The order between the last grids, each with twice the steps of the one before."""
    return float(np.mean(np.log2(np.array(errors[:-1]) / np.array(errors[1:]))[-last:]))


# -- deterministic ----------------------------------------------------------------------------------------------


def flow_errors(
    info: ss.SolverInfo, sde: ss.SDE, steps: Iterable[int] = ODE_STEPS, grid: str = "log_snr", **options: Any
) -> list[float]:
    """RMSE to the exact flow of the mixture."""
    law, (first, last) = mixture(), ends(sde)
    start = math.hypot(sde.alpha(first), sde.sigma(first)) * torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = quantile_flow(law, start, sde, first, last)
    errors = []
    for n in steps:
        out = ss.sample(law.model(sde), start=start[:, None], solver=table(info, sde, n, grid, **options)).samples[:, 0]
        errors.append(float((out - exact).square().mean().sqrt()))
    return errors


def quantile_flow(law: ss.exact.GaussianMixture, x: Tensor, sde: ss.SDE, t: float, s: float) -> Tensor:
    """The exact probability flow in one dimension: it keeps the order of points, so quantiles go to quantiles."""
    level = _cdf(law, x, sde, t)
    low, high = torch.full_like(x, -50.0), torch.full_like(x, 50.0)
    for _ in range(80):
        middle = 0.5 * (low + high)
        below = _cdf(law, middle, sde, s) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def _cdf(law: ss.exact.GaussianMixture, x: Tensor, sde: ss.SDE, t: float) -> Tensor:
    noisy = law.marginal(sde, t)
    z = (x[:, None] - noisy.means[:, 0]) / noisy.variances[:, 0].sqrt()
    shares: Tensor = (noisy.weights * torch.special.ndtr(z)).sum(1)
    return shares


# -- stochastic -------------------------------------------------------------------------------------------------


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


class PathNoise:
    """The normals of a table from a path."""

    def __init__(self, path: BrownianPath, solver_table: ss.Table, sde: ss.SDE) -> None:
        self.path, self.parts = path, dict[int, tuple[int, int, str]]()
        cells = [path.cell(float(sde.lam(t))) for t in (row.t for row in solver_table.rows)]
        begin = first = 0
        for k, row in enumerate(solver_table.rows):
            if solver_table.rows[k - 1].s is not None or k == 0:
                begin = first = cells[k]
            end = path.cell(float(sde.lam(row.s))) if row.s is not None else cells[k + 1]
            if row.draws:
                area = solver_table.solver in AREAS and len(solver_table.rows) > 1
                later = next(r.s for r in solver_table.rows[k:] if r.s is not None)
                stop = path.cell(float(sde.lam(later)))
                kind = "increment" if not area else "area" if row.s is None else "rest"
                self.parts[k] = (first, stop, kind) if area else (begin, end, kind)
                begin = end

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The normal of a row."""
        a, b, kind = self.parts[index]
        if kind == "increment":
            z = self.path.increment(a, b)
        elif kind == "area":
            z = self.path.area(a, b)
        else:
            z = 2 * self.path.increment(a, b) - math.sqrt(3) * self.path.area(a, b)
        return z[:, None]


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


def law_errors(info: ss.SolverInfo, sde: ss.SDE, steps: Iterable[int] = LAW_STEPS, **options: Any) -> list[float]:
    """Distance of mean and covariance of the output, in closed form, from those of the data's marginal."""
    law = gaussian()
    exact = law.marginal(sde, ends(sde)[1])
    errors = []
    for n in steps:
        out = ss.exact.push(table(info, sde, n, **options), law, sde)
        errors.append(float((out.covariance - exact.covariance).norm() + (out.mean - exact.mean).norm()))
    return errors


def measure(info: ss.SolverInfo, sde: ss.SDE, batch: int = 4096) -> Orders:
    """The orders of a solver."""
    if info.kind == "ode":
        errors = flow_errors(info, sde)
        return Orders(info.name, slope(errors), error=errors[-1])
    order = slope(law_errors(info, sde))
    if info.strong_order is None:
        return Orders(info.name, order)
    fine = info.strong_order > 1  # terms of order 2 hide the 1.5 on coarser grids
    steps, finest, paths = ((256, 512, 1024), 4096, batch // 4) if fine else (STRONG_STEPS, 2048, batch)
    strong, _, _ = path_errors(info, sde, steps, paths, finest)
    return Orders(info.name, order, slope(strong, last=2))


def main() -> None:
    """Measure every fixed-grid solver and write the CSV."""
    torch.set_num_threads(1)
    found = [measure(info, ss.VPSDE()) for info in tqdm(ss.solvers()) if not info.adaptive and info.order]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in found
        )


if __name__ == "__main__":
    main()
