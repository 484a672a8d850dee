r"""Exponential Runge-Kutta methods in lam: single-step DPM-Solver and DPM-Solver++, RES, SEEDS and DPM-Solver++ SDE.

All are schemes of ``single_step.py`` on a form in lam (``forms.py``): noise prediction is DPM-Solver and SEEDS, data
prediction DPM-Solver++ and RES; at eta > 0 the stages share the increments of one path.

- 2S, published: the output at the middle (r = 1/2) for the whole step. Exact: the line through both, RES 2s.
- 3S: r = 1/3 and 2/3, the line through 0 and 2/3 integrated exactly, as published.
- RES 3s fulfils the stiff order conditions of Hochbruck and Ostermann (2005, eq. 5.9), with c2 = 1/2, c3 = 1:

      psi_3 (all): sum b_j c_j = phi_2,   sum b_j c_j^2 = 2 phi_3 at h = 0,   a_32 = g c2 phi_2(c2) + c3^2/c2 phi_2(c3),
      b_2 = g b_3,  b_3 = phi_2 / (g c2 + c3),  g from  2 (g c2 + c3) = 3 (g c2^2 + c3^2).

  In the words here: the end uses the line through the first output and the mixture (g m_2 + m_3)/(1 + g) at the place
  (g c2 + c3)/(1 + g); the last stage the line through 0 and c2, and g times what that line adds over the part up to c2.
- ``dpm_fast``: 3S steps, the last one or two of lower order so that any number of calls is met.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..forms import Form, data_form, noise_form
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..single_step import (
    BY_STAGES,
    EULER,
    MIDPOINT,
    THREE_STAGE,
    TWO_STAGE,
    Scheme,
    first_free,
    single_step_rows,
    step_table_rows,
)
from ..table import Table
from .families import lower, single_step_table, table_of

DPM_SOLVER, DPM_SOLVER_PP = "Lu et al. 2022, arXiv:2206.00927", "Lu et al. 2022, arXiv:2211.01095"
RES = "Zhang et al. 2023, arXiv:2308.02157; Hochbruck and Ostermann 2005"
TwoS = Literal["published", "exact"]


def _two(weights: str) -> dict[int, Scheme]:
    require(weights in ("published", "exact"), f'weights="published" or "exact", got {weights!r}')
    return {1: EULER, 2: MIDPOINT if weights == "published" else TWO_STAGE}


_THREE = {1: EULER, 2: TWO_STAGE, 3: THREE_STAGE}


@solver(
    "dpm_solver_2s",
    order=2,
    evaluations=2,
    reference=f"{DPM_SOLVER}, alg. 1",
    aliases=("dpm_2",),
    spare=lower(_two("exact")),
)
def dpm_solver_2s(sde: SDE, times: np.ndarray, *, weights: TwoS = "published", first: int | None = None) -> Table:
    """DPM-Solver-2: the noise at the middle of the step in log rho (``dpm_2`` of k-diffusion).

    weights: "published" or "exact" (the line through both outputs). first: stages of the first step.
    """
    return single_step_table("dpm_solver_2s", noise_form(sde), times, _two(weights), first, weights=weights)


@solver("dpm_solver_3s", order=3, evaluations=3, reference=f"{DPM_SOLVER}, alg. 2", spare=lower(_THREE))
def dpm_solver_3s(sde: SDE, times: np.ndarray, *, first: int | None = None) -> Table:
    """DPM-Solver-3: three calls of noise prediction a step.

    first: stages of the first step, 1 to 3.
    """
    return single_step_table("dpm_solver_3s", noise_form(sde), times, _THREE, first)


@solver("dpmpp_2s", order=2, evaluations=2, reference=f"{DPM_SOLVER_PP}, alg. 1", spare=lower(_two("exact")))
def dpmpp_2s(sde: SDE, times: np.ndarray, *, weights: TwoS = "published", first: int | None = None) -> Table:
    """DPM-Solver++(2S): the data prediction at the middle of the step in lam.

    weights: "published" or "exact" (the line through both outputs: RES 2s). first: stages of the first step.
    """
    return single_step_table("dpmpp_2s", data_form(sde), times, _two(weights), first, weights=weights)


@solver("dpmpp_3s", order=3, evaluations=3, reference=f"{DPM_SOLVER_PP}, app. B", spare=lower(_THREE))
def dpmpp_3s(sde: SDE, times: np.ndarray, *, first: int | None = None) -> Table:
    """DPM-Solver++(3S): three calls of data prediction a step.

    first: stages of the first step, 1 to 3.
    """
    return single_step_table("dpmpp_3s", data_form(sde), times, _THREE, first)


@solver("dpm_fast", order=2, evaluations=3, reference=f"{DPM_SOLVER}, app. D", spare=({"ends": (2,)}, {"ends": (1,)}))
def dpm_fast(sde: SDE, times: np.ndarray, *, ends: tuple[int, ...] = (2, 1)) -> Table:
    """DPM-Solver-fast: steps of DPM-Solver-3, and last ones of lower order that meet any budget; order 2 for these.

    ends: orders of the last steps, (2, 1), (2,), (1,) or () (then of order 3); chosen by the budget if one is given.
    """
    require(all(order in (1, 2, 3) for order in ends), f"orders 1 to 3 in ends=, got {ends!r}")
    # steps from a time without signal and to noise zero are of first order anyhow
    before, jump = first_free(sde.points(times)), 1 if sde.sigma(float(times[-1])) == 0 else 0
    steps = max(0, len(times) - 1 - jump - before)
    orders = [1] * before + [3] * max(0, steps - len(ends)) + list(ends)[max(0, len(ends) - steps) :] + [1] * jump
    form = noise_form(sde)
    rows = step_table_rows(sde, times, form, [BY_STAGES[order] for order in orders])
    return table_of("dpm_fast", form, times, rows, {"ends": list(ends)})


@solver("res_2s", order=2, evaluations=2, reference=RES, spare=lower(_two("exact")))
def res_2s(sde: SDE, times: np.ndarray, *, first: int | None = None) -> Table:
    """RES 2s: exponential Runge-Kutta of two stages with the stiff order conditions (c2 = 1/2).

    first: stages of the first step.
    """
    return single_step_table("res_2s", data_form(sde), times, _two("exact"), first)


@solver("res_3s", order=3, evaluations=3, reference=RES, spare=({"first": 1}, {"first": 2}))
def res_3s(sde: SDE, times: np.ndarray, *, first: int | None = None) -> Table:
    """RES 3s: exponential Runge-Kutta of three stages with the stiff order conditions (c2 = 1/2, c3 = 1).

    first: stages of the first step, 1 to 3.
    """
    require(first in (None, 1, 2, 3), f"first= to be 1, 2 or 3, got {first!r}")
    form, points = data_form(sde), sde.points(times)
    rows: list[Row] = []
    for i, (here, there) in enumerate(pairwise(points)):
        stages = first if first and i == first_free(points) else 3
        whole = stages == 3 and there.sigma > 0 and form.within(here, there)
        rows += (
            _stiff_rows(form, here, there) if whole else single_step_rows(form, BY_STAGES[min(stages, 2)], here, there)
        )
    return table_of("res_3s", form, times, rows, {"first": first})


def _stiff_rows(form: Form, here: Point, there: Point) -> list[Row]:
    """One step of RES 3s."""
    c2, c3 = 0.5, 1.0
    g = (2 * c3 - 3 * c3**2) / (3 * c2**2 - 2 * c2)
    first, h = form.place(here), form.place(there) - form.place(here)
    middle = form.point(first + c2 * h)
    to_middle, to_end = form.step(here, middle), form.step(here, there)
    over_half = form.weights([first, first + c2 * h], here, middle)[1] * there.alpha / middle.alpha
    of_second = float(form.weights([first, first + c2 * h], here, there)[1] + g * over_half)
    of_mixture = float(form.weights([first, first + (g * c2 + c3) / (1 + g) * h], here, there)[1])
    second, third = of_mixture * g / (1 + g), of_mixture / (1 + g)
    return [
        Row(here.t, None, propose=to_middle[:2]),
        Row(middle.t, None, propose=(to_end[0], of_second, to_end[1] - of_second)),
        Row(there.t, there.t, commit=(to_end[0], third, second, to_end[1] - second - third)),
    ]


# -- stochastic -------------------------------------------------------------------------------------------------


@solver(
    "dpmpp_sde", kind="sde", order=2, strong_order=1, evaluations=2, grid="log_snr",
    reference=f"Crowson 2022, k-diffusion; {DPM_SOLVER_PP}, app. D", spare=lower(_two("exact")),
)  # fmt: skip
def dpmpp_sde(
    sde: SDE, times: np.ndarray, *, eta: float = 1.0, weights: TwoS = "published", first: int | None = None
) -> Table:
    """DPM-Solver++ SDE: DPM-Solver++(2S) on the reverse SDE, its middle and its end on one Brownian path.

    eta: multiplier of the noise's standard deviation. weights, first: as in ``dpmpp_2s``.
    """
    form = data_form(sde, eta)
    return single_step_table("dpmpp_sde", form, times, _two(weights), first, eta=eta, weights=weights)


def _register_seeds(stages: int, order: int) -> None:
    schemes = {1: {1: EULER}, 2: _two("published"), 3: _THREE}[stages]

    def build(sde: SDE, times: np.ndarray, *, eta: float = 1.0, first: int | None = None) -> Table:
        return single_step_table(f"seeds_{stages}", noise_form(sde, eta), times, schemes, first, eta=eta)

    build.__doc__ = f"""SEEDS-{stages}: stochastic exponential method of {stages} call{"s" * (stages > 1)} on the noise.

    eta: multiplier of the noise's standard deviation. first: stages of the first step, 1 to {stages}.
    """
    solver(
        f"seeds_{stages}", kind="sde", order=order, strong_order=1, evaluations=stages, grid="log_snr",
        reference="Gonzalez et al. 2023, arXiv:2305.14267, alg. 1 to 4", spare=lower(schemes),
    )(build)  # fmt: skip


for _stages, _order in ((1, 1), (2, 2), (3, 2)):
    _register_seeds(_stages, _order)
