r"""Exponential integrators in lam = log(alpha / sigma), data prediction: DDIM, DPM-Solver++ and their SDE forms.

The reverse dynamics of noise level eta, ``dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dw``, has with
``score = (alpha D - x) / sigma^2`` and ``g^2 = -2 sigma^2 lam'`` the linear part solved exactly. With
``h = lam_s - lam_t`` the step from t to s is

    x_s = (sigma_s / sigma_t) e^{-eta^2 h} x_t
          + alpha_s int_{lam_t}^{lam_s} (1 + eta^2) e^{-(1 + eta^2)(lam_s - lam)} D(lam) d lam
          + sigma_s sqrt(1 - e^{-2 eta^2 h}) z.

(Check: d/ds of the first two terms at s = t is f x - (1 + eta^2)/2 g^2 score; the variance of the third solves
v' = 2 (f + (1 + eta^2) g^2 / (2 sigma^2)) v + eta^2 g^2 run backwards.)

- D constant on the step:  alpha_s (1 - e^{-(1 + eta^2) h}) D_t. eta = 0 is DDIM, eta = 1 the DDPM posterior step.
- D linear through the last two evaluations, "exact": weights by quadrature of the integral.
- "published" (DPM-Solver++ 2M): the linear interpolant frozen at the middle of the step, lam_t + h/2, so
  D = D_t + (D_t - D_prev) h / (2 h_prev). Both are of order 2, strong order 1 and weak order 2 for eta > 0.

DDIM's own eta (Song et al. 2021, eq. 12 and 16) scales the posterior's standard deviation instead,
``eta sigma_s sqrt(1 - e^{-2h})``, and shortens the noise direction to keep the variance:

    x_s = alpha_s D + sqrt(sigma_s^2 - sigma_eta^2) eps + sigma_eta z,    eps = (x_t - alpha_t D) / sigma_t.

Both families are (sigma_s / sigma_t) q x_t + alpha_s (1 - e^{-h} q) D + sigma_s sqrt(1 - q^2) z for their own q:
q = e^{-eta^2 h}, or q^2 = 1 - eta^2 (1 - e^{-2h}). They agree at eta = 0 and 1, and as h -> 0.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from ..errors import require
from ..quadrature import lagrange_weights
from ..registry import solver
from ..sde import SDE, Point
from ..table import Row, Table

Weights = Literal["published", "exact"]


Step: TypeAlias = tuple[float, float, float]
"""Weights of x, of the data and of the noise."""


def exponential_step(here: Point, there: Point, log_q: float, data_rate: float) -> Step:
    """The first-order step between two points, finite at both ends.

    Args: ``log_q`` the logarithm of q above; ``data_rate`` the exponent h - log q of the data weight
    ``alpha_s (1 - e^{-data_rate})``, given by itself because h may be infinite.
    """
    ratio = there.sigma / here.sigma
    noise = there.sigma * math.sqrt(-math.expm1(2 * log_q))
    if data_rate == -math.inf:  # up to alpha_s = 0, where 0 * inf stands for
        return ratio, there.alpha - here.alpha * ratio, noise
    return ratio * math.exp(log_q), -there.alpha * math.expm1(-data_rate), noise


def sde_step(here: Point, there: Point, eta: float) -> Step:
    """The exact step for constant D at noise level eta: q = e^{-eta^2 h}."""
    h = there.lam - here.lam
    log_q = -(eta**2) * h if eta else 0.0  # not 0 * inf
    return exponential_step(here, there, log_q, (1 + eta**2) * h)


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


@solver(
    "ddim",
    order=1,
    reference="Song, Meng and Ermon 2021, arXiv:2010.02502, eq. 12",
    aliases=("dpmpp_1",),
)
def ddim(sde: SDE, times: np.ndarray, *, eta: float = 0.0) -> Table:
    """DDIM: the first-order exponential integrator; eta = 1 is the DDPM posterior step.

    eta: DDIM's multiplier of the posterior's standard deviation, 0 to 1 (above 1 where the steps are short enough).
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    rows = [_first_order(t, s, ddim_step(t, s, eta)) for t, s in pairwise(sde.points(times))]
    return Table.of(rows, times, sde, "ddim", options={"eta": eta}, exact_on="data")


@solver(
    "dpmpp_2m",
    order=2,
    reference="Lu et al. 2022, arXiv:2211.01095, alg. 2",
)
def dpmpp_2m(sde: SDE, times: np.ndarray, *, weights: Weights = "published", lower_order_final: bool = False) -> Table:
    """DPM-Solver++(2M): second-order multistep exponential integrator.

    weights: "published" (the interpolant frozen at the middle of the step) or "exact" (its integral).
    lower_order_final: end with a step of first order; always so where the last noise level is zero.
    """
    rows = multistep_rows(sde, times, eta=0.0, weights=weights, lower_order_final=lower_order_final)
    options = {"weights": weights, "lower_order_final": lower_order_final}
    return Table.of(rows, times, sde, "dpmpp_2m", options=options, exact_on="data")


@solver(
    "dpmpp_2m_sde",
    kind="sde",
    grid="log_snr",
    order=2,
    reference="Lu et al. 2022, arXiv:2211.01095, app. D (SDE-DPM-Solver++(2M))",
)
def dpmpp_2m_sde(
    sde: SDE,
    times: np.ndarray,
    *,
    eta: float = 1.0,
    weights: Weights = "published",
    lower_order_final: bool = False,
) -> Table:
    """SDE-DPM-Solver++(2M): second-order (weak) multistep exponential integrator of the reverse SDE.

    eta: multiplier of the noise's standard deviation (the square root of k-diffusion's). weights,
    lower_order_final: as in ``dpmpp_2m``, which eta = 0 is.
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    rows = multistep_rows(sde, times, eta=eta, weights=weights, lower_order_final=lower_order_final)
    options = {"eta": eta, "weights": weights, "lower_order_final": lower_order_final}
    return Table.of(rows, times, sde, "dpmpp_2m_sde", options=options, exact_on="data")


def multistep_rows(sde: SDE, times: np.ndarray, *, eta: float, weights: Weights, lower_order_final: bool) -> list[Row]:
    """Rows of the two-step rule; of first order at the start, at noise zero, and after a start at alpha = 0."""
    require(weights in ("published", "exact"), f'weights="published" or "exact", got {weights!r}')
    points = sde.points(times)
    rows = []
    for i, (here, there) in enumerate(pairwise(points)):
        step = sde_step(here, there, eta)
        before = points[i - 1] if i > 0 else None
        last = i == len(points) - 2 and lower_order_final
        if before is None or last or not (math.isfinite(before.lam) and math.isfinite(there.lam)):
            rows.append(_first_order(here, there, step))
            continue
        of_x, of_data, noise = step
        if weights == "published":
            extrapolation = (there.lam - here.lam) / (2 * (here.lam - before.lam))
            of_outputs: tuple[float, ...] = (of_data * (1 + extrapolation), -of_data * extrapolation)
        else:
            of_outputs = _exact_weights(before, here, there, 1 + eta**2)
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, *of_outputs), noise=noise))
    return rows


def _exact_weights(before: Point, here: Point, there: Point, rate: float) -> tuple[float, ...]:
    """Weights of the last two outputs: the kernel's integral against the line through them."""
    integral = lagrange_weights(
        np.array([here.lam, before.lam]),
        here.lam,
        there.lam,
        lambda lam: rate * np.exp(-rate * (there.lam - lam)),
        panel=4.0 / rate,
    )
    return tuple((there.alpha * integral).tolist())


def _first_order(here: Point, there: Point, step: Step) -> Row:
    of_x, of_data, noise = step
    return Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise)
