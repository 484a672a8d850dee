"""Errors of the registered solvers against exact answers, at several numbers of steps: what their orders are read from.

Between two noise levels (lam from -3 to 2.5), in float64, on a nonlinear law whose flow is known and on a Gaussian, on
which every table is an affine map that is known exactly (``ss.exact.affine_map``): no sampling there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scoresolve as ss

LAM = (-3.0, 2.5)
FLOW_STEPS = dict.fromkeys(("ipndm_v_4", "velocity_ab4", "flow_abm_3", "unipc_4"), (256, 512))
"""Steps of the mixture's flow, (128, 256) for the others; those on the Gaussian follow, for ODEs and SDEs."""
EXACT_STEPS = {"ode": (128, 256), "sde": (256, 512)}
FINER = {
    **dict.fromkeys(("ipndm_v_3", "lms_4", "exponential_3", "unipc_4"), (256, 512)),
    **dict.fromkeys(("ipndm_v_4", "deis_log_rho2", "edm_euler", "seeds_1"), (512, 1024)),
    "seeds_2": (1024, 2048),
}
"""Solvers of which terms of the next order still show at these steps."""
START_LENGTHS, END_LENGTHS = (1 / 64, 1 / 128), (1 / 256, 1 / 512)
SETTINGS: dict[str, dict[str, Any]] = {
    "sa_solver": {"start": "high", "between": (0.0, math.inf)},  # a noise level that jumps would hide the order
    "restart": {"low": 0.2, "high": 2.0},  # an interval inside the range that is measured
}


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
    info: ss.SolverInfo, sde: ss.SDE, steps: Iterable[int] | None = None, grid: str = "log_snr", **options: Any
) -> list[float]:
    """RMSE to the exact flow of the mixture."""
    law, (first, last) = mixture(), ends(sde)
    start = math.hypot(sde.alpha(first), sde.sigma(first)) * torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = quantile_flow(law, start, sde, first, last)
    errors = []
    for n in steps or FLOW_STEPS.get(info.name, (128, 256)):
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


def gaussian_error(solver_table: ss.Table, law: ss.exact.Gaussian, sde: ss.SDE, eta: float = 0.0) -> float:
    """Distance of a table's affine map from that of the dynamics of noise level eta, on Gaussian data.

    In an eigen-direction of variance v, with P = alpha^2 v + sigma^2 and R = P / alpha^2, the exact dynamics from u
    to t multiply the deviation from the mean by ``A = (alpha_t/alpha_u) (R_t/R_u)^{(1 + eta^2)/2}`` and add noise of
    variance ``P_t - A^2 P_u``. Deviations, offsets and noise are compared apart: a total variance may
    cross its target and fake an order.
    """
    gain, offset, noise = ss.exact.affine_map(solver_table, law, sde)
    u, t = solver_table.times[0], solver_table.times[-1]
    v, mean = law.variances[0], law.bases[0].T @ law.means[0]
    variance_u, variance_t = (sde.alpha(w) ** 2 * v + sde.sigma(w) ** 2 for w in (u, t))
    ratio = (variance_t / variance_u) * (sde.alpha(u) / sde.alpha(t)) ** 2
    exact_gain = (sde.alpha(t) / sde.alpha(u)) * ratio ** (0.5 * (1 + eta**2))
    exact_noise = variance_t - exact_gain**2 * variance_u
    unit = variance_u.sqrt()
    parts = [
        ((gain - exact_gain) * unit).abs().max(),
        (offset + sde.alpha(u) * gain * mean - sde.alpha(t) * mean).abs().max(),
        (noise.square().sum(0) - exact_noise).abs().max(),
    ]
    return float(max(parts))


def exact_error(info: ss.SolverInfo, solver_table: ss.Table, sde: ss.SDE) -> float:
    """The error on Gaussian data without sampling: of the map of an ODE solver, of the law of an SDE solver."""
    if info.kind == "ode":
        return gaussian_error(solver_table, gaussian(), sde)
    exact = gaussian().marginal(sde, float(solver_table.times[-1]))
    out = ss.exact.push(solver_table, gaussian(), sde)
    return float((out.covariance - exact.covariance).norm() + (out.mean - exact.mean).norm())


def start_errors(info: ss.SolverInfo, sde: ss.SDE, lengths: Iterable[float] = START_LENGTHS) -> list[float]:
    """The errors of six steps of the given lengths in lam about lam = 0, begun as the solver begins by itself."""
    options = {key: value for key, value in seeded(info).items() if key != "start"}
    times = (sde.time(h * np.arange(7)) for h in lengths)
    return [exact_error(info, ss.build_table(info.name, sde, one, **options), sde) for one in times]


def end_errors(info: ss.SolverInfo, sde: ss.SDE, lengths: Iterable[float] = END_LENGTHS) -> list[float]:
    """The errors of six steps, even in rho, from the given noise levels to none."""
    options = {key: value for key, value in seeded(info).items() if key != "start"}
    times = (np.array([*sde.time(-np.log(h * np.linspace(1, 0, 6, endpoint=False))), 0.0]) for h in lengths)
    return [exact_error(info, ss.build_table(info.name, sde, one, **options), sde) for one in times]


def exact_errors(info: ss.SolverInfo, sde: ss.SDE, steps: Iterable[int] | None = None, **options: Any) -> list[float]:
    """Errors on Gaussian data in closed form, by default at the steps that show the order."""
    steps = steps or FINER.get(info.name) or EXACT_STEPS[info.kind]
    return [exact_error(info, table(info, sde, n, **options), sde) for n in steps]


def constant(info: ss.SolverInfo, errors: list[float]) -> float:
    """C of error = C n^-order, at the finest of the steps that :func:`exact_errors` takes by default."""
    return float(errors[-1] * (FINER.get(info.name) or EXACT_STEPS[info.kind])[-1] ** info.order)
