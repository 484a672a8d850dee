r"""Exponential integrators in lam = log(alpha / sigma): DDIM, the DPM-Solver family and their exact counterparts.

The step, its kernels and signs are derived in ``forms.py``; the rules for the integral in ``multistep.py``. Here stand
the names:

- D constant on the step is DDIM (eta = 0) or the DDPM posterior step (eta = 1).
- DPM-Solver-2M and -3M integrate the noise prediction, DPM-Solver++ the data prediction, the SDE forms the data
  prediction at eta > 0. "published" weights are those of the papers' code, "exact" those of the integral. Published
  2M and exact 2M are both of order 2; published 3M is of order 2, exact 3M of order 3.
- ``exponential_k``: exact weights through k outputs, order k, started at that order.
- In the SDE forms the increments of the path inside a step are not seen by past outputs: strong order 1 and weak order
  2 at most, however many outputs are used.

DDIM's own eta (Song et al. 2021, eq. 12 and 16) scales the posterior's standard deviation,
``eta sigma_s sqrt(1 - e^{-2h})``, and shortens the noise direction to keep the variance:

    x_s = alpha_s D + sqrt(sigma_s^2 - sigma_eta^2) eps + sigma_eta z,    eps = (x_t - alpha_t D) / sigma_t.

Both families are (sigma_s / sigma_t) q x_t + alpha_s (1 - e^{-h} q) D + sigma_s sqrt(1 - q^2) z for their own q:
q = e^{-eta^2 h}, or q^2 = 1 - eta^2 (1 - e^{-2h}). They agree at eta = 0 and 1, and as h -> 0.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..errors import require
from ..forms import Step, data_form, exponential_step, noise_form
from ..multistep import Start
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..single_step import noise_weights
from ..table import Table
from .families import Correction, Weights, counted, multistep_solver, multistep_table

DPM_SOLVER, DPM_SOLVER_PP = "Lu et al. 2022, arXiv:2206.00927", "Lu et al. 2022, arXiv:2211.01095"


def ddim_step(here: Point, there: Point, eta: float) -> Step:
    """DDIM's step: q^2 = 1 - eta^2 (1 - e^{-2h})."""
    h = there.lam - here.lam
    removed = eta**2 * math.expm1(-2 * h) if eta else 0.0
    if removed < -1:
        raise ValueError(
            f"DDIM's noise at eta={eta:g} exceeds the whole on the step from t = {here.t:g} to {there.t:g}: "
            "use eta=1 or less, or the solver 'dpmpp_2m_sde', which takes any eta"
        )
    log_q = 0.5 * math.log1p(removed) if removed > -1 else -math.inf
    return exponential_step(here, there, log_q, h - log_q)


def ddim_rows(sde: SDE, times: np.ndarray, eta: float) -> list[Row]:
    """The rows of DDIM on a grid."""
    rows = []
    for here, there in pairwise(sde.points(times)):
        of_x, of_data, noise = ddim_step(here, there, eta)
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise_weights(noise)))
    return rows


@solver(
    "ddim",
    order=1,
    reference="Song, Meng and Ermon 2021, arXiv:2010.02502, eq. 12",
    aliases=("dpmpp_1", "dpm_solver_1"),
)
def ddim(sde: SDE, times: np.ndarray, *, eta: float = 0.0) -> Table:
    """DDIM: the first-order exponential integrator; eta = 1 is the DDPM posterior step.

    eta: DDIM's multiplier of the posterior's standard deviation, 0 to 1 (above 1 where the steps are short enough).
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    return Table.of(ddim_rows(sde, times, eta), times, sde, "ddim", options={"eta": eta}, exact_on="data")


multistep_solver(
    "dpmpp_2m", "DPM-Solver++(2M): second-order multistep exponential integrator, data prediction.", data_form,
    outputs=2, order=2, weights="published", reference=f"{DPM_SOLVER_PP}, alg. 2",
)  # fmt: skip
multistep_solver(
    "dpmpp_3m", "DPM-Solver++(3M), data prediction: order 2 as published (exact weights: exponential_3).", data_form,
    outputs=3, order=2, weights="published", reference=f"{DPM_SOLVER_PP}, app. B",
)  # fmt: skip
multistep_solver(
    "dpm_solver_2m", "DPM-Solver(2M): second-order multistep exponential integrator, noise prediction.", noise_form,
    outputs=2, order=2, weights="published", reference=f"{DPM_SOLVER}; {DPM_SOLVER_PP}, app. B",
)  # fmt: skip
multistep_solver(
    "dpm_solver_3m", "DPM-Solver(3M), noise prediction: order 2 as published, like dpmpp_3m.", noise_form,
    outputs=3, order=2, weights="published", reference=f"{DPM_SOLVER}; {DPM_SOLVER_PP}, app. B",
)  # fmt: skip
for _n in (1, 2, 3, 4):
    multistep_solver(
        f"exponential_{_n}", f"Exponential Adams-Bashforth through {counted(_n)} of data: order {_n}.", data_form,
        outputs=_n, order=_n, start="high",
        reference="Norsett 1969; Hochbruck and Ostermann 2010, doi:10.1017/S0962492910000048, sec. 2.5",
    )  # fmt: skip


def _register_sde(outputs: int, summary: str, reference: str) -> None:
    name = f"dpmpp_{outputs}m_sde"

    def build(
        sde: SDE,
        times: np.ndarray,
        *,
        eta: float = 1.0,
        weights: Weights = "published",
        start: Start = "low",
        lower_order_final: bool | None = None,
        unic: Correction | None = None,
    ) -> Table:
        form = data_form(sde, eta)
        return multistep_table(name, form, times, outputs, weights, start, lower_order_final, unic, eta=eta)

    build.__doc__ = f"""{summary}

    eta: multiplier of the noise's standard deviation (the square root of k-diffusion's). weights, start,
    lower_order_final, unic: as in ``dpmpp_{outputs}m``, which eta = 0 is.
    """
    # of weak order 2 at most: past outputs do not see the path inside a step
    solver(name, kind="sde", grid="log_snr", order=2, strong_order=1, reference=reference)(build)


_register_sde(
    2, "SDE-DPM-Solver++(2M): multistep exponential integrator of the reverse SDE.", f"{DPM_SOLVER_PP}, app. D"
)
_register_sde(
    3, "DPM-Solver++(3M) SDE: three outputs of data, of weak order 2.", f"{DPM_SOLVER_PP}, app. D; k-diffusion"
)
