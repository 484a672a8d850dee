r"""Stochastic exponential multistep methods with a noise level that varies: SA-Solver and ER-SDE-Solver.

Both are the multistep rule (``multistep.py``) on the data form (``forms.py``).

**SA-Solver** (Xue et al. 2023): Adams-Bashforth predictor and Adams-Moulton corrector in lam, with the noise level
``tau`` frozen over each step. Predictor and corrector share a step's noise, so that the corrector is, as UniC, a
combination of outputs. Here tau is 1 for rho between two levels and 0 outside, as for EDM in the paper.

**ER-SDE** (Cui et al. 2023): any reverse SDE ``phi``, with ``gain = (alpha_s/alpha_t) phi_s/phi_t``; their choice
is ``phi(rho) = rho (exp(rho^0.3) + 10)``. The derivatives of the data prediction in rho are those of the polynomial
through past outputs, so order k is exact interpolation in the clock rho. As published the second derivative is a
difference of two slopes at the middles of steps, and the slope that of the last step: "published" weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ..errors import require
from ..forms import Form, data_form
from ..multistep import RULES, Corrector, Multistep, Rule, Start, exact, taylor
from ..registry import solver
from ..sde import SDE, Point
from ..table import Table
from .families import Correction, table_of


@solver(
    "sa_solver",
    kind="sde",
    grid="log_snr",
    order=2,
    strong_order=1,
    reference="Xue et al. 2023, arXiv:2309.05019, alg. 1",
)
def sa_solver(
    sde: SDE,
    times: np.ndarray,
    *,
    predictor_order: int = 3,
    corrector_order: int = 4,
    tau: float | Callable[[float], float] = 1.0,
    between: tuple[float, float] = (0.05, 1.0),
    weights: Correction = "exact",
    start: Start = "low",
    lower_order_final: bool | None = None,
) -> Table:
    """SA-Solver: stochastic Adams predictor and corrector with a noise level that is switched on in the middle.

    predictor_order: outputs of the predictor, 1 to 4. corrector_order: nodes of the corrector, 0 (none) to one more.
    tau: multiplier of the noise's standard deviation for steps from rho ``between`` the two levels, 0 elsewhere; or a
    function of t that gives it for the step from t. weights: "exact", or "bh1" (the authors' for two nodes). start,
    lower_order_final: as in ``dpmpp_2m``.
    """
    require(1 <= predictor_order <= 4, f"predictor_order= from 1 to 4, got {predictor_order}")
    most = predictor_order + 1
    require(0 <= corrector_order <= most, f"corrector_order= from 0 to {most}, got {corrector_order}")
    require(weights in ("exact", "bh1", "bh2"), f'weights="exact", "bh1" or "bh2", got {weights!r}')
    require(len(between) == 2 and between[0] <= between[1], f"between=(low, high) levels of rho, got {between!r}")
    quiet = data_form(sde)
    noisy = quiet if callable(tau) else data_form(sde, tau)

    def form_at(here: Point) -> Form:
        if callable(tau):
            return data_form(sde, tau(here.t))
        return noisy if between[0] * here.alpha <= here.sigma <= between[1] * here.alpha else quiet

    again = Corrector(RULES[weights], corrector_order) if corrector_order > 1 else None
    method = Multistep.started(form_at, predictor_order, RULES[weights], again, start, lower_order_final)
    orders = {"predictor_order": predictor_order, "corrector_order": corrector_order}
    level = getattr(tau, "__name__", repr(tau)) if callable(tau) else tau
    options = {**orders, "tau": level, "between": list(between), "weights": weights}
    said = {**options, "start": start, "lower_order_final": lower_order_final}
    return table_of("sa_solver", quiet, times, method.rows(sde, times), said)


def er_profile(lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log phi and its slope in lam, for ``phi = rho (exp(rho^0.3) + 10)``, rho = e^{-lam}."""
    power = np.exp(-0.3 * lam)
    total = np.logaddexp(power, np.log(10.0))
    return -lam + total, -1 - 0.3 * power * np.exp(power - total)


def er_published(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """ER-SDE's Taylor weights as published: the last step's slope, twice the difference of slopes over both."""
    if len(nodes) < 3:
        return exact(form, nodes, here, there)
    rho = np.array([form.place(node) for node in nodes])
    h = form.place(there) - rho[0]
    slope = np.array([1.0, -1.0, 0.0]) / (rho[0] - rho[1])
    older = np.array([0.0, 1.0, -1.0]) / (rho[1] - rho[2])
    second = 2 * (slope - older) / (rho[0] - rho[2])
    return taylor(form, here, there, h * slope, h**2 * second)


def _register(order: int) -> None:
    def build(
        sde: SDE,
        times: np.ndarray,
        *,
        weights: Literal["published", "exact"] = "published",
        start: Start = "low",
        lower_order_final: bool | None = None,
    ) -> Table:
        require(weights in ("published", "exact"), f'weights="published" or "exact", got {weights!r}')
        rule: Rule = exact if weights == "exact" else er_published
        form = data_form(sde, clock="rho", profile=er_profile)
        method = Multistep.started(lambda _: form, order, rule, None, start, lower_order_final)
        options = {"weights": weights, "start": start, "lower_order_final": lower_order_final}
        return table_of(f"er_sde_{order}", form, times, method.rows(sde, times), options)

    build.__doc__ = f"""ER-SDE-{order}: extended reverse SDE, {order} output{"s" * (order > 1)} of data in rho.

    weights: "published" (they differ for three outputs) or "exact". start, lower_order_final: as in ``dpmpp_2m``.
    """
    solver(
        f"er_sde_{order}",
        kind="sde",
        order=min(order, 2),
        strong_order=1,
        reference="Cui et al. 2023, arXiv:2309.06169",
    )(build)


for _order in (1, 2, 3):
    _register(_order)
