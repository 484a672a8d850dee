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
from .copies import on_device
from .errors import require
from .flow import Flow
from .lanes import Lanes, Method, Trial

_POINTS, _WEIGHTS = (
    torch.from_numpy(values) for values in 0.5 * (np.polynomial.legendre.leggauss(5) + np.array([[1.0], [0.0]]))
)
"""Gauss and Legendre's on (0, 1), exact up to degree 9."""


def integrated_differences(s: Tensor) -> Tensor:
    """W with ``int_0^1 polynomial ds = sum_r sum_j W[r, j] f_j``; row r is the r-th term of Newton's form.

    Args: s (n, k) nodes, float64, all different within a row; k at most 10. Returns (n, k, k), lower triangular.

    >>> import torch
    >>> weights = integrated_differences(torch.tensor([[1.0, 0.0]]).double())[0].sum(0)
    >>> [round(weight, 12) for weight in weights.tolist()]  # the trapezoid rule
    [0.5, 0.5]
    """
    k = s.shape[1]
    x, w = on_device(_POINTS, s.device), on_device(_WEIGHTS, s.device)
    products = (x - s[:, : k - 1, None]).cumprod(dim=1).mul(w).sum(dim=2)
    integrals = torch.cat([torch.ones_like(s[:, :1]), products], dim=1)
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
        end, order = lanes.u + lanes.h, lanes.order
        before, after = self._terms(lanes)
        predicted = lanes.z + _weighted(_row(before.cumsum(dim=1), order - 1), lanes)[:, 0]
        slope = flow.slope(predicted, end)
        finite = torch.isfinite(slope).all(dim=1)
        slope = torch.where(finite[:, None], slope, 0.0)  # it stays in its slot when the attempt is made again
        lanes.slopes = _written(lanes.slopes, lanes.slots[:, 0], slope)
        beside = torch.stack([order - 1, order, order + 1], dim=1)
        rows = [_row(after.cumsum(dim=1), order), _row(after, beside.clamp(1, self.order + 1))]
        moved = _weighted(torch.cat(rows, dim=1), lanes)
        z = lanes.z + moved[:, 0]
        errors = flow.norm(moved[:, 1:] * flow.weight(lanes.z, z, end)[:, None])
        return self._judged(lanes, z, slope, torch.where(finite[:, None], errors, torch.inf), beside)

    def remember(self, lanes: Lanes, slope: Tensor, accept: Tensor) -> None:
        """The slope is in its slot already: it is the newest now, and the oldest one's slot is free."""
        chosen = accept[:, None]
        lanes.slots = torch.where(chosen, lanes.slots.roll(1, dims=1), lanes.slots)
        lanes.places = torch.where(chosen, torch.cat([lanes.u[:, None], lanes.places[:, :-1]], dim=1), lanes.places)
        lanes.filled = (lanes.filled + accept).clamp(max=self.history)

    def _judged(self, lanes: Lanes, z: Tensor, slope: Tensor, errors: Tensor, orders: Tensor) -> Trial:
        """Which order goes on, and by how much the step changes. Args: errors and orders (n, 3), in the middle this."""
        error = errors[:, 1]
        factors = self.controller.factor(errors, lanes.error[:, None], orders + 1)
        # the error of order q needs q slopes before this one; nothing is learnt of more from a step that failed
        most = torch.where(error <= 1, lanes.order + 1, lanes.order).clamp(max=self.order).minimum(lanes.filled)
        factor, best = torch.where((orders >= 1) & (orders <= most[:, None]), factors, 0.0).max(dim=1)
        factor = torch.where(error <= 1, factor, factor.clamp(max=self.controller.safety))
        return Trial(z, slope, error, factor, lanes.order + best - 1)

    def _terms(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """The weights of Newton's terms without and with the slope at the end, by slot (free one first) (n, k, k)."""
        s = (lanes.places - lanes.u[:, None]) / lanes.h[:, None]
        index = torch.arange(self.history, device=s.device)
        s = torch.where(index < lanes.filled[:, None], s, -1e3 * (index + 1.0))  # those not there yet far behind
        new, unused = torch.ones_like(s[:, :1]), torch.full_like(s[:, :1], 1e6)
        both = integrated_differences(torch.cat([torch.cat([s, unused], 1), torch.cat([new, s], 1)]))
        before, after = both.chunk(2)
        return torch.cat([torch.zeros_like(before[..., :1]), before[..., :-1]], dim=2), after


def _row(terms: Tensor, index: Tensor) -> Tensor:
    """Rows (n, m, k) of terms (n, k, k); index (n,) or (n, m)."""
    index = index.reshape(len(index), -1, 1)
    return terms.gather(1, index.expand(-1, -1, terms.shape[2]))


def _weighted(weights: Tensor, lanes: Lanes) -> Tensor:
    """The step times sums (n, m, d) of slopes, for weights (n, m, k) in the order of ``lanes.slots``."""
    weights = weights * lanes.h[:, None, None]
    placed = torch.zeros_like(weights).scatter_(2, lanes.slots[:, None].expand_as(weights), weights)
    return placed.to(lanes.slopes.dtype) @ lanes.slopes


def _written(slopes: Tensor, slot: Tensor, slope: Tensor) -> Tensor:
    """The slopes with a new one in its slot; in place, unless a graph still needs the old."""
    index = torch.arange(len(slot), device=slot.device), slot
    return slopes.index_put(index, slope) if torch.is_grad_enabled() else slopes.index_put_(index, slope)
