r"""Sampling that goes up in noise between steps: EDM's churn and Restart.

The forward process costs no network call: from (alpha, sigma) up to (alpha', sigma'),

    x' = (alpha'/alpha) x + sqrt(sigma'^2 - (alpha'/alpha)^2 sigma^2) z.

In a table it is part of the commit before it, so that a row may end at a higher time than it was asked at.

**Churn** (Karras et al. 2022, alg. 2): before each step from rho with ``s_tmin <= rho <= s_tmax`` the state goes up to
``rho (1 + gamma)``, ``gamma = min(s_churn / steps, sqrt(2) - 1)``, with noise of deviation s_noise. A process has no
time above t_max: the first step is not churned, and no other goes higher.

**Restart** (Xu et al. 2023, alg. 1): when the descent has reached the lower level of an interval, it goes up to the
upper one by fresh noise and down again by a few steps, ``repeats`` times: errors made before are contracted, and the
discretisation error of these steps is small. The levels are of rho; the lower one is the nearest time of the grid
below it; by default the steps of the way down are the grid's. A grid that steps over the whole interval does not
restart.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..errors import require
from ..forms import Form, noise_form
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..single_step import EULER, HEUN, Scheme, first_free, raised, single_step_rows
from ..table import Table

EDM = "Karras et al. 2022, arXiv:2206.00364, alg. 2"


@solver("edm_euler", kind="sde", order=1, reference=EDM)
def edm_euler(
    sde: SDE,
    times: np.ndarray,
    *,
    s_churn: float = 40.0,
    s_tmin: float = 0.05,
    s_tmax: float = 50.0,
    s_noise: float = 1.0,
) -> Table:
    """Euler's method in rho with EDM's churn.

    s_churn: how much noise is added in all, 0 or more; 0 is ``euler``. s_tmin, s_tmax: the levels of rho between
    which it is added. s_noise: standard deviation of the noise (EDM's 1.003 or 1.007 inflate it to make up for lost
    detail).
    """
    return _churned("edm_euler", EULER, sde, times, None, s_churn, s_tmin, s_tmax, s_noise)


@solver("edm_heun", kind="sde", order=2, evaluations=2, reference=EDM, spare=({"first": 1},))
def edm_heun(
    sde: SDE,
    times: np.ndarray,
    *,
    s_churn: float = 40.0,
    s_tmin: float = 0.05,
    s_tmax: float = 50.0,
    s_noise: float = 1.0,
    first: int | None = None,
) -> Table:
    """EDM's stochastic sampler: Heun's method in rho with churn.

    s_churn, s_tmin, s_tmax, s_noise: as in ``edm_euler``. first: stages of the first step, 1 or 2.
    """
    return _churned("edm_heun", HEUN, sde, times, first, s_churn, s_tmin, s_tmax, s_noise)


def _churned(
    name: str,
    scheme: Scheme,
    sde: SDE,
    times: np.ndarray,
    first: int | None,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
) -> Table:
    require(s_churn >= 0 and s_noise >= 0, f"s_churn and s_noise of at least 0, got {s_churn} and {s_noise}")
    require(0 <= s_tmin <= s_tmax, f"0 <= s_tmin <= s_tmax, got {s_tmin} and {s_tmax}")
    require(first in (None, 1, 2), f"first= to be 1 or 2, got {first!r}")
    points, form = sde.points(times), noise_form(sde, clock="rho")
    gamma = min(s_churn / (len(points) - 1), math.sqrt(2) - 1)
    rows: list[Row] = []
    here = points[0]
    for i, there in enumerate(points[1:]):
        rows += single_step_rows(form, EULER if first == 1 and i == first_free(points) else scheme, here, there)
        here = there
        if i < len(points) - 2 and s_tmin * there.alpha <= there.sigma <= s_tmax * there.alpha and gamma > 0:
            here = form.point(min(form.place(there) * (1 + gamma), form.place(points[0])))
            rows[-1] = raised(rows[-1], there, here, s_noise)
    options = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise, "first": first}
    return Table.of(rows, times, sde, name, predicts="noise", options=options)


@solver("restart", kind="sde", order=2, evaluations=2, reference="Xu et al. 2023, arXiv:2306.14878, alg. 1",
        spare=tuple({"repeats": n, "euler_steps": k} for n in (2, 1, 0) for k in (1, 2)))  # fmt: skip
def restart(
    sde: SDE,
    times: np.ndarray,
    *,
    low: float = 0.06,
    high: float = 0.30,
    repeats: int = 2,
    restart_steps: int | None = None,
    euler_steps: int = 1,
) -> Table:
    """Restart: Heun's method in rho, with ``repeats`` returns from one noise level up to another.

    low, high: the levels of rho. repeats: how often the state goes up and down again, 0 or more. restart_steps: of
    each way down, two calls each, equal in rho^(1/7) from ``high``; None: those of the grid itself, from its first
    time below ``high``. euler_steps: how many of the first steps are Euler's: they leave the order as it is, cost one
    call, and do not overshoot as Heun's do where a step spans a large part of the noise.
    """
    require(0 < low < high, f"0 < low < high, got {low} and {high}")
    require(repeats >= 0, f"repeats of at least 0, got {repeats}")
    require(restart_steps is None or restart_steps >= 1, f"restart_steps of at least 1 or None, got {restart_steps}")
    require(euler_steps >= 0, f"euler_steps of at least 0, got {euler_steps}")
    points, form = sde.points(times), noise_form(sde, clock="rho")
    rows: list[Row] = []
    for i, (here, there) in enumerate(pairwise(points)):
        easy = i - first_free(points) < euler_steps
        rows += single_step_rows(form, EULER if easy else HEUN, here, there)
        if form.place(there) <= low < form.place(here) <= high < form.place(points[0]) and there.sigma > 0:
            own = [point for point in points[: i + 2] if form.place(point) <= high]
            way = own if restart_steps is None else _way_down(form, high, there, restart_steps)
            for _ in range(repeats):
                rows[-1] = raised(rows[-1], there, way[0])
                rows += [row for a, b in pairwise(way) for row in single_step_rows(form, HEUN, a, b)]
    options = {"low": low, "high": high, "repeats": repeats, "restart_steps": restart_steps, "euler_steps": euler_steps}
    return Table.of(rows, times, sde, "restart", predicts="noise", options=options)


def _way_down(form: Form, high: float, there: Point, steps: int) -> list[Point]:
    levels = np.linspace(high ** (1 / 7), form.place(there) ** (1 / 7), steps + 1)[:-1] ** 7
    return [*(form.point(float(level)) for level in levels), there]
