"""The grid that minimises a bound on the error of a multistep method, for a network that errs more at more noise.

In ``y = x / sigma`` the probability flow is a quadrature: with D(lam) the denoised estimate,

    y(lam_n) = y(lam_0) + int_{lam_0}^{lam_n} exp(lam) D(lam) dlam.

A multistep method of order q (DPM-Solver++, UniPC; q = 3 here) puts for D on each step ``[lam_s, lam_{s+1}]`` the
polynomial through its last q values, only s + 1 of them while there are no more,

    y_{s+1} = y_s + sum_j w_{sj} D_{s-j},     w_{sj} = int_{lam_s}^{lam_{s+1}} exp(lam) L_{sj}(lam) dlam.

If the network misses D(lam) by at most ``e(lam) = sigma^2 / alpha`` (that of a variance-preserving process at lam:
Xue et al.'s model of it, up to a factor), the misses, apart from what they do to later estimates, move the end of
the run by at most ``sigma(lam_n)`` times

    bound(lam_0, ..., lam_n) = sum_s sum_j |w_{sj}| e(lam_{s-j}).

Long steps use an inaccurate value for too long, and steps that grow extrapolate with large weights of both signs.
On a step the signs of w_{sj} alternate whatever its length, so the bound is smooth; from random starts the search
found one minimum. It depends on lam alone: no network is called, and the noise levels are those of any process.

Xue et al. sum the weights of one value over the steps before they take the absolute value, which lets steps cancel:
the function then has kinks, and minima that rest on them (several points nearly coincide, others are left out), so
that what a search returns depends on its start. The bound above is at least theirs, by the triangle inequality.

Source: Xue et al. 2024, "Accelerating Diffusion Sampling with Optimized Time Steps", arXiv:2402.17376, sec. 4.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from .errors import ScoreSolveError, require
from .grid_clocks import over_lam
from .sde import SDE

SHORTEST = 0.25
"""No step is shorter than this share of an equal one: on a short range of lam the bound alone has no minimum."""
_POINTS, _WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(32))


def optimised(sde: SDE, steps: int, t_max: float, t_min: float, order: int = 3) -> np.ndarray:
    """The noise levels that minimise a bound on the error of a multistep method; derived in ``optimised.py``.

    Meant for few steps (5 to 20) of a multistep solver over the whole range of noise levels: the bound charges the
    network's error, not the solver's, so on a short range, or with many steps, the first step, which is of order 1
    and extrapolates nothing, is long. No step of lam is shorter than a quarter of an equal one.

    Source: Xue et al. 2024, arXiv:2402.17376, sec. 4, with the absolute value inside the sum over steps.
    Cost: about 20 ms for 10 steps, 50 ms for 50 and 3 s for 1000, once for each range of lam and number of steps.

    >>> import scoresolve as ss
    >>> ss.grids.optimised(ss.VPSDE(), 5, 1.0, 1e-3).round(3).tolist()
    [1.0, 0.401, 0.162, 0.058, 0.014, 0.001]
    """
    return over_lam(sde, steps, t_max, t_min, lambda first, last, count: optimal_lams(first, last, count, order)[1:-1])


@functools.lru_cache(maxsize=256)
def optimal_lams(first: float, last: float, steps: int, order: int = 3) -> np.ndarray:
    """The steps + 1 values from first to last, rising, that minimise :func:`bound`; read-only.

    The steps are ``(last - first) (w / n + (1 - w) softmax(z))`` with w = ``SHORTEST``, and z is free.

    Raises: ValueError unless ``first < last``; ScoreSolveError if the search does not end at a minimum.

    >>> optimal_lams(-4.0, 4.0, 4).round(3).tolist()
    [-4.0, 0.167, 1.43, 2.294, 4.0]
    """
    require(first < last, f"lam rising from first to last, got {first} and {last}")
    require(order >= 1, f"order >= 1, got {order}")

    def value_and_slope(z: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.inference_mode(False), torch.enable_grad():
            free = torch.from_numpy(z.copy()).requires_grad_()
            value = _bound(_spread(free, first, last), order).log()
            (slope,) = torch.autograd.grad(value, free)
        return value.item(), slope.numpy()

    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 40, "gtol": 1e-9, "ftol": 1e-15}
    found = minimize(value_and_slope, np.zeros(steps), jac=True, method="L-BFGS-B", options=options)
    steepest = np.abs(found.jac).max()
    if not steepest < 1e-5:
        raise ScoreSolveError(
            f"no optimal grid of {steps} steps was found for lam from {first:g} to {last:g} "
            f"(slope {steepest:.1e}: {found.message}): use another grid"
        )
    lams = _spread(torch.from_numpy(found.x), first, last).numpy()
    lams.setflags(write=False)
    return lams


def bound(lams: np.ndarray, order: int = 3) -> float:
    """``sum_s sum_j |w_sj| e(lam_{s-j})``, the bound that :func:`optimal_lams` minimises, of rising values of lam."""
    return _bound(torch.tensor(lams, dtype=torch.float64, device="cpu"), order).item()


def _bound(lam: Tensor, order: int) -> Tensor:
    """The bound of n + 1 values, differentiable: one 32-point Gauss-Legendre rule a step, all steps at once."""
    steps = len(lam) - 1
    half = 0.5 * lam.diff()[:, None]
    u = lam[:-1, None] + half * (1 + _POINTS)
    kernel = u.exp() * half * _WEIGHTS
    error = torch.sigmoid(-2 * lam) / torch.sigmoid(2 * lam).sqrt()
    total = lam.new_zeros(())
    for q in range(1, min(order, steps) + 1):  # the steps that have q values behind them
        low, high = q - 1, q if q < order else steps
        nodes = [lam[low - j : high - j, None] for j in range(q)]
        for j in range(q):
            basis = kernel[low:high]
            for k in range(q):
                if k != j:
                    basis = basis * (u[low:high] - nodes[k]) / (nodes[j] - nodes[k])
            total = total + (basis.sum(1).abs() * error[low - j : high - j]).sum()
    return total


def _spread(z: Tensor, first: float, last: float) -> Tensor:
    """Rising values from first to last, whose steps are a floor plus a softmax."""
    shares = SHORTEST / len(z) + (1 - SHORTEST) * torch.softmax(z, 0)
    return first + (last - first) * torch.cat([z.new_zeros(1), shares.cumsum(0)])
