r"""Converged end points of the probability flow, for laws and networks without a closed form.

Integrated in the coordinates in which nothing diverges: ``y = x / s`` with ``s^2 = alpha^2 + sigma^2`` lies on a path
of unit variance, ``y = cos(theta) x_0 + sin(theta) eps``, along which ``dy / d theta = v``. The clock is

    w = log((sin theta + c) / (cos theta + c)),

which is log(sigma / alpha) in the middle and becomes linear in theta at both ends, where that would be infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from .errors import BudgetError, ScoreSolveError
from .model import ScoreModel
from .sampling import sample

SOFTENING = 2e-3
NOISELESS = 1e-5
"""The noise-to-signal ratio at which a flow towards noise zero is ended by its denoised estimate (exact laws only)."""
GOAL = 1e-6
MOST_CALLS = 4000


@dataclass(frozen=True)
class Reference:
    """Converged end points.

    Attributes: ends (the states at t_min), consistency (RMSE between the two most accurate integrations), method (how
    they were made), calls (network calls of the most accurate one).
    """

    ends: Tensor
    consistency: float
    method: str
    calls: int


def converge(model: ScoreModel, start: Tensor, exact: bool = False) -> Reference:
    """Integrate at ever tighter tolerances until two results agree, to 1e-6 where the arithmetic allows it.

    Args: start (batch, ...), the states at t_max; exact, whether the network has no error of its own down to noise
    zero: else a flow to there ends with its data prediction at t_eps, as solvers do.

    A network that computes in float32 (or less) is asked for as much as its rounding leaves. One whose answer jumps
    with time (a rounded index label) cannot be integrated adaptively: then a fine fixed grid is taken. Either way
    ``consistency`` says what was reached.
    """
    if model.time == "index":
        return _fixed(model, start)
    goal, tolerances = (GOAL, (1e-7, 1e-9, 1e-11)) if _double(model, start) else (1e-4, (1e-4, 1e-5))
    found: Reference | None = None
    for tolerance in tolerances:
        before = model.nfe
        try:
            ends = _integrate(model, start, exact, tolerance)
        except ScoreSolveError:
            break
        gap = math.inf if found is None else _gap(ends, found.ends)
        found = Reference(ends, gap, f"DOP853, tolerance {tolerance:.0e}", model.nfe - before)
        if gap <= goal:
            return found
    return found if found is not None and math.isfinite(found.consistency) else _fixed(model, start)


def _double(model: ScoreModel, start: Tensor) -> bool:
    """Whether the network computes in float64; a plain function is taken to follow its input."""
    parameters = model.net.parameters() if isinstance(model.net, torch.nn.Module) else iter(())
    return all(p.dtype == torch.float64 for p in [start, *parameters] if p.is_floating_point())


def draw(model: ScoreModel, start: Tensor) -> Tensor:
    """End points for sample sets, whose comparison sees no error of this size: one integration, to 1e-4."""
    if model.time == "index":
        return _fixed(model, start).ends
    try:
        return _integrate(model, start, exact=False, tolerance=1e-4)
    except ScoreSolveError:
        return _fixed(model, start).ends


def _gap(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean().sqrt())


def _fixed(model: ScoreModel, start: Tensor) -> Reference:
    """Second-order multistep on 250 and on 500 steps; the finer one is the reference."""
    grid = "uniform" if model.time == "index" else None  # the only one that fits on a table of a thousand
    coarse, fine = (sample(model, start=start, solver="dpmpp_2m", steps=n, grid=grid) for n in (250, 500))
    return Reference(fine.samples, _gap(fine.samples, coarse.samples), "dpmpp_2m, 500 steps", fine.nfe)


def _integrate(model: ScoreModel, start: Tensor, exact: bool, tolerance: float) -> Tensor:
    """Dormand and Prince's method of order 8 (scipy's), which never steps past its end."""
    sde, t_max, t_min = model.sde, model.t_max, model.t_min
    noiseless = sde.sigma(t_min) == 0
    last = (sde.time(-math.log(NOISELESS)) if exact else model.t_eps) if noiseless else t_min
    clock = (_clock(sde.rho(t_max)), _clock(sde.rho(last)))
    limit = model.nfe + MOST_CALLS

    def flow(w: float, flat: np.ndarray) -> np.ndarray:
        theta, rate = _angle(min(max(w, clock[1]), clock[0]))
        t = min(max(sde.time(-math.log(math.tan(theta))), last), t_max)
        norm = math.hypot(sde.alpha(t), sde.sigma(t))
        if model.nfe >= limit:
            raise BudgetError(f"more than {MOST_CALLS} network calls at tolerance {tolerance:g}")
        state = torch.from_numpy(flat).to(start).reshape(start.shape)
        velocity = model.v(norm * state, t) * (rate / norm)
        return velocity.double().flatten().cpu().numpy()

    with torch.no_grad():
        first = (start.double() / math.hypot(sde.alpha(t_max), sde.sigma(t_max))).flatten().cpu().numpy()
        found = solve_ivp(flow, clock, first, method="DOP853", t_eval=clock[1:], rtol=tolerance, atol=tolerance)
        if not found.success:
            raise ScoreSolveError(found.message)
        y = torch.from_numpy(found.y[:, -1].copy()).to(start).reshape(start.shape)
        x: Tensor = y * math.hypot(sde.alpha(last), sde.sigma(last))
        return model.data(x, last) * sde.alpha(t_min) if noiseless else x


def _clock(rho: float) -> float:
    theta = math.atan(rho)
    return math.log((math.sin(theta) + SOFTENING) / (math.cos(theta) + SOFTENING))


def _angle(w: float) -> tuple[float, float]:
    """theta and d theta / dw at w: the inverse of the clock, by ``sin - e^w cos = c (e^w - 1)``."""
    ratio = math.exp(w)
    theta = math.atan(ratio) + math.asin(SOFTENING * (ratio - 1) / math.hypot(1.0, ratio))
    sine, cosine = math.sin(theta), math.cos(theta)
    return theta, 1 / (cosine / (sine + SOFTENING) + sine / (cosine + SOFTENING))
