r"""Adams' predictor and corrector of variable order and step: one network call a step, each sample for itself.

Let f be the slope dz/du, known at the places u_n, u_{n-1}, ... of earlier steps, and let s = (v - u_n) / h measure
places in units of the step. The polynomial through q + 1 slopes in Newton's form, integrated over the step, is

    h sum_{r<=q} g_r f[s_0, ..., s_r],     g_r = int_0^1 prod_{i<r} (s - s_i) ds,

with the divided differences ``f[s_0..s_r] = sum_j f_j / prod_{i<=r, i!=j} (s_j - s_i)``. Predictor of order q: the
nodes are the last q slopes. There the network is asked. Corrector of order q + 1: the slope found and the last q. The
slope at the predicted state stands for that at the corrected one ever after (PEC: they differ by as much as the
predictor's error), so that a step costs one call, as does a rejected one.

What the corrector's last term r = q adds is the error of order q, and the terms r < q and r = q + 1 those of the orders
beside it: each sample takes the order whose error allows the longest step, at most one above the last. It begins at
order 1 with what is known at the start, the network's output there.

Sources: Hairer, Noersett and Wanner 1993, "Solving Ordinary Differential Equations I", sect. III.5 and III.7; in the
coordinates of ``coordinates.py`` these are the implicit and explicit forms of ``flow_abm``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .controller import Controller
from .coordinates import Clock
from .errors import require
from .flow import Flow
from .lanes import Lanes, Method, Trial
from .sde import over_batch


def integrated_differences(s: Tensor) -> Tensor:
    """W with ``int_0^1 polynomial ds = sum_r sum_j W[r, j] f_j``; row r is the r-th term of Newton's form.

    Args: s (n, k) nodes, float64, all different within a row; k at most 10. Returns (n, k, k), lower triangular.

    >>> import torch
    >>> weights = integrated_differences(torch.tensor([[1.0, 0.0]]).double())[0].sum(0)
    >>> [round(weight, 12) for weight in weights.tolist()]  # the trapezoid rule
    [0.5, 0.5]
    """
    k = s.shape[1]
    points, weights = np.polynomial.legendre.leggauss(5)  # exact up to degree 9
    x = torch.as_tensor(0.5 * (points + 1), device=s.device)
    w = torch.as_tensor(0.5 * weights, device=s.device)
    factors = x - s[:, : k - 1, None]
    products = torch.cat([torch.ones_like(x).expand(len(s), 1, -1), factors.cumprod(dim=1)], dim=1)
    integrals = products @ w
    differences = (s[:, :, None] - s[:, None, :]).diagonal_scatter(torch.ones_like(s), dim1=1, dim2=2)
    return (integrals[:, None, :] / differences.cumprod(dim=2)).mT.tril()


CONTROLLER = Controller(integral=0.7, proportional=0.3, safety=0.8, grow=2.0)
"""Steps that at most double: the weights stay small, and orders are gained on the way."""


@dataclass(frozen=True)
class Adams(Method):
    """Adams' predictor-corrector of orders 1 to ``order``. Cost: one network call an attempt."""

    order: int = 5
    clock: Clock = "log_flow"
    controller: Controller = CONTROLLER

    calls = 1
    first_order = 1

    def __post_init__(self) -> None:
        require(1 <= self.order <= 8, f"an order from 1 to 8, got {self.order}")

    @property
    def history(self) -> int:  # type: ignore[override]
        """One slope more than the highest order needs, for the error of the order above it."""
        return self.order + 1

    def attempt(self, flow: Flow, lanes: Lanes) -> Trial:
        """One step of every sample, each of its own order."""
        s = self._nodes(lanes)
        before = integrated_differences(s[:, 1:])
        predicted = lanes.z + over_batch(lanes.h, lanes.z) * _sum(_up_to(before, lanes.order - 1), lanes.slopes)
        end = lanes.u + lanes.h
        slope = flow.slope(predicted, end)
        slopes = torch.cat([slope[:, None], lanes.slopes], dim=1)
        after = integrated_differences(s)
        z = lanes.z + over_batch(lanes.h, lanes.z) * _sum(_up_to(after, lanes.order), slopes)
        terms = (after[:, 1:] * lanes.h[:, None, None]).to(slopes.dtype) @ slopes
        errors = flow.norm(terms * flow.weight(lanes.z, z, end)[:, None])
        return self._judged(lanes, z, slope, errors)

    def _judged(self, lanes: Lanes, z: Tensor, slope: Tensor, errors: Tensor) -> Trial:
        """Which order goes on, and by how much the step changes. Args: errors (n, k) of the orders 1 to k."""
        orders = torch.arange(1, self.history + 1, device=errors.device)
        error = errors.gather(1, lanes.order[:, None] - 1)[:, 0]
        known = orders <= lanes.filled[:, None]  # the error of order q needs q slopes before this one
        highest = torch.where(error <= 1, lanes.order + 1, lanes.order).clamp(max=self.order)
        factors = torch.stack(
            [self.controller.factor(errors[:, q - 1], lanes.error, q + 1) for q in orders.tolist()], dim=1
        )
        factors = torch.where(known & (orders <= highest[:, None]), factors, 0.0)
        factor, best = factors.max(dim=1)
        return Trial(z, slope, error, factor, best + 1)

    def _nodes(self, lanes: Lanes) -> Tensor:
        """Places of the slopes in units of the step, the new one first; those not there yet far behind, all apart."""
        s = (lanes.places - lanes.u[:, None]) / lanes.h[:, None]
        index = torch.arange(self.history, device=s.device)
        s = torch.where(index < lanes.filled[:, None], s, -1e3 * (index + 1.0))
        return torch.cat([torch.ones_like(s[:, :1]), s], dim=1)


def _up_to(terms: Tensor, last: Tensor) -> Tensor:
    """The weights (n, k) of the polynomial whose last term is number ``last`` (n,)."""
    index = torch.arange(terms.shape[1], device=terms.device)
    return torch.where((index <= last[:, None])[:, :, None], terms, 0.0).sum(dim=1)


def _sum(weights: Tensor, slopes: Tensor) -> Tensor:
    return (weights.to(slopes.dtype)[:, None] @ slopes)[:, 0]
