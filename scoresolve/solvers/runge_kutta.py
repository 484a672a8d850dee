r"""Runge-Kutta methods on the probability flow, in the clocks flow, rho, log rho and t.

A step is a scheme of ``single_step.py`` on one of four forms (``forms.py``):

    clock      output     the integral           the same as
    flow       flow       classical Runge-Kutta  the rectified flow's own, at equal noise levels of any path
    rho        noise      classical Runge-Kutta  Karras et al. 2022 (Heun), DEIS rho-RK
    log_rho    noise      exponential            DPM-Solver (stages equally spaced in lam)
    t          velocity   classical Runge-Kutta  torchdiffeq's fixed grids

All but t give the same result on every path. "flow" is the default: with ``u = sigma/(alpha + sigma)`` and
``y = x/(alpha + sigma)`` the flow is ``dy/du = eps - D``, whose slope stays bounded from pure noise (u = 1) to data
(u = 0). In rho a step from rho = 80 that spans the data's scale takes the slope at its far end, about zero, for half of
the step, and is left with half the noise; in u it is not. Euler in flow, rho and log rho is DDIM.

No stage is asked for at noise zero: there the last step is Euler's (EDM's 2N - 1 calls).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..errors import require
from ..forms import Form, flow_form, noise_form, velocity_form
from ..registry import solver
from ..sde import SDE
from ..single_step import BOGACKI, EULER, FOUR_STAGE, HEUN, KUTTA, MIDPOINT, Scheme
from ..table import Table
from .families import lower, single_step_table

RungeKuttaClock = Literal["rho", "log_rho", "flow", "t"]
DEIS = "Zhang and Chen 2023, arXiv:2204.13902, rho-RK"


def clock_form(sde: SDE, clock: str) -> Form:
    """The form whose stages are equally spaced in a clock."""
    require(clock in get_args(RungeKuttaClock), f'clock="rho", "log_rho", "flow" or "t", got {clock!r}')
    if clock in ("flow", "t"):
        return flow_form(sde) if clock == "flow" else velocity_form(sde)
    return noise_form(sde, clock="rho" if clock == "rho" else "lam")


def _register(
    name: str, schemes: dict[int, Scheme], order: int, summary: str, reference: str, aliases: tuple[str, ...] = ()
) -> None:
    stages = max(schemes)

    def build(sde: SDE, times: np.ndarray, *, clock: RungeKuttaClock = "flow", first: int | None = None) -> Table:
        return single_step_table(name, clock_form(sde, clock), times, schemes, first, clock=clock)

    build.__doc__ = f"""{summary}

    clock: "flow" (sigma / (alpha + sigma)), "rho" (EDM's sigma, on any process), "log_rho" or "t". first:
    stages of the first step, 1 to {stages} (default {stages}), to meet a budget exactly.
    """
    solver(name, order=order, evaluations=stages, reference=reference, spare=lower(schemes), aliases=aliases)(build)


_register(
    "euler",
    {1: EULER},
    1,
    "Euler's method on the probability flow.",
    "Euler 1768; Karras et al. 2022, arXiv:2206.00364",
)
_register(
    "heun", {1: EULER, 2: HEUN}, 2, "Heun's method: the trapezoid rule, predicted by Euler.",
    f"Heun 1900; Karras et al. 2022, arXiv:2206.00364, alg. 1; {DEIS}", aliases=("rho_rk2",),
)  # fmt: skip
_register(
    "midpoint", {1: EULER, 2: MIDPOINT}, 2, "The midpoint method; in log rho it is DPM-Solver-2.",
    f"Runge 1895; {DEIS}",
)  # fmt: skip
_register(
    "kutta_3", {1: EULER, 2: MIDPOINT, 3: KUTTA}, 3, "Kutta's third-order method.",
    f"Kutta 1901; {DEIS}", aliases=("rho_rk3",),
)  # fmt: skip
_register(
    "bogacki_shampine", {1: EULER, 2: MIDPOINT, 3: BOGACKI}, 3, "Bogacki and Shampine's third-order method.",
    "Bogacki and Shampine 1989",
)  # fmt: skip
_register(
    "rk4", {1: EULER, 2: MIDPOINT, 3: KUTTA, 4: FOUR_STAGE}, 4, "The classical fourth-order Runge-Kutta method.",
    f"Kutta 1901; {DEIS}", aliases=("rho_rk4",),
)  # fmt: skip
