"""Runge-Kutta methods on the probability flow ``dx/dt = velocity(x, t)``, in the clock t.

A step from t to s with dt = s - t (negative when sampling):

    Euler:  x_s = x + dt v(x, t)
    Heun:   y = x + dt v(x, t),    x_s = x + dt/2 (v(x, t) + v(y, s))

The velocity ``alpha' data + sigma' noise`` is not defined at noise zero for most networks, so Heun's last step is
Euler's where sigma(s) = 0, as in EDM: 2N - 1 calls.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..registry import solver
from ..sde import SDE
from ..table import Row, Table


@solver("euler", order=1, reference="Euler 1768; in rho, Karras et al. 2022, arXiv:2206.00364, alg. 1")
def euler(sde: SDE, times: np.ndarray) -> Table:
    """Euler's method on the probability flow, in t."""
    rows = [_euler_row(t, s) for t, s in pairwise(times.tolist())]
    return Table.of(rows, times, sde, "euler", predicts="velocity", exact_on="velocity")


@solver(
    "heun",
    order=2,
    evaluations=2,
    reference="Heun 1900; Karras et al. 2022, arXiv:2206.00364, alg. 1",
    spare={"last": "euler"},
)
def heun(sde: SDE, times: np.ndarray, *, last: Literal["heun", "euler"] = "heun") -> Table:
    """Heun's method (the trapezoid rule, predicted by Euler) on the probability flow, in t.

    last: "euler" ends with a step of Euler, one call cheaper; always so where the last noise level is zero.
    """
    require(last in ("heun", "euler"), f'last="heun" or "euler", got {last!r}')
    rows: list[Row] = []
    for t, s in pairwise(times.tolist()):
        if sde.sigma(s) == 0 or (s == times[-1] and last == "euler"):
            rows.append(_euler_row(t, s))
            continue
        dt = s - t
        rows.append(Row(t=t, s=None, propose=(1.0, dt)))
        rows.append(Row(t=s, s=s, commit=(1.0, dt / 2, dt / 2)))
    return Table.of(rows, times, sde, "heun", predicts="velocity", exact_on="velocity")


def _euler_row(t: float, s: float) -> Row:
    return Row(t=t, s=s, commit=(1.0, s - t))
