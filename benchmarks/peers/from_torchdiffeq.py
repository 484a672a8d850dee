"""torchdiffeq on the probability flow, in t: its fixed-grid methods on a grid of times, its adaptive ones by tolerance.

An adaptive method treats the batch as one system: one step size for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

from .base import Peer, Task

LIBRARY = "torchdiffeq"
COST = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}
GRIDS = ("uniform", "karras")
ADAPTIVE = ("adaptive_heun", "bosh3", "dopri5", "dopri8")


def peers() -> list[Peer]:
    """Every configuration that is run."""
    fixed = [
        Peer(LIBRARY, method, grid, "ode", _Solve(method), partial(_steps, cost), reaches_zero=method == "euler")
        for method, cost in COST.items()
        for grid in GRIDS
    ]
    return fixed + [
        Peer(LIBRARY, method, "adaptive", "ode", _Solve(method), adaptive=True, reaches_zero=False)
        for method in ADAPTIVE
    ]


def _steps(cost: int, nfe: int) -> int:
    return nfe // cost


@dataclass(frozen=True)
class _Solve:
    method: str

    def __call__(self, task: Task) -> Tensor:
        times = torch.as_tensor(task.times.copy())
        last, first = task.times[-1], task.times[0]

        def flow(t: Tensor, x: Tensor) -> Tensor:
            return task.network(x, min(max(float(t), last), first), "velocity")

        how: dict[str, Any] = {}
        if task.tolerance is not None:  # left alone, it steps past the last time and interpolates back
            how = {"rtol": task.tolerance, "atol": task.tolerance, "options": {"step_t": times[-1:]}}
        states: Tensor = torchdiffeq.odeint(flow, task.start, times, method=self.method, **how)
        return states[-1]
