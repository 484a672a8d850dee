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

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..quadrature import lagrange_weights
from ..registry import solver
from ..sde import SDE
from ..table import Row, Table

Weights = Literal["published", "exact"]


def exponential_step(sde: SDE, t: float, s: float, log_q: float, data_rate: float) -> tuple[float, float, float]:
    """(x, data, noise) weights of the first-order step from t to s, finite at both ends.

    Args: ``log_q`` the logarithm of q above; ``data_rate`` the exponent h + log q of the data weight
    ``alpha_s (1 - e^{-data_rate})``, given by itself because h may be infinite.
    """
    ratio = sde.sigma(s) / sde.sigma(t)
    with np.errstate(divide="ignore"):
        noise = sde.sigma(s) * np.sqrt(-np.expm1(2 * log_q))
    if data_rate == -np.inf:  # up to alpha_s = 0: 0 * inf, whose limit is
        return ratio, sde.alpha(s) - sde.alpha(t) * ratio, noise
    return ratio * np.exp(log_q), -sde.alpha(s) * np.expm1(-data_rate), noise


def sde_step(sde: SDE, t: float, s: float, eta: float) -> tuple[float, float, float]:
    """The exact step for constant D at noise level eta: q = e^{-eta^2 h}."""
    h = sde.lam(s) - sde.lam(t)
    log_q = -(eta**2) * h if eta else 0.0  # not 0 * inf
    return exponential_step(sde, t, s, log_q, (1 + eta**2) * h)


def ddim_step(sde: SDE, t: float, s: float, eta: float) -> tuple[float, float, float]:
    """DDIM's step: q^2 = 1 - eta^2 (1 - e^{-2h})."""
    h = sde.lam(s) - sde.lam(t)
    if eta == 0:
        return exponential_step(sde, t, s, 0.0, h)
    removed = eta**2 * np.expm1(-2 * h)
    require(
        removed >= -1, f"a smaller eta: DDIM's variance exceeds the whole at eta={eta:g} on the step {t:g} -> {s:g}"
    )
    with np.errstate(divide="ignore"):
        log_q = 0.5 * float(np.log1p(removed))
    return exponential_step(sde, t, s, log_q, h - log_q)


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
    rows = [_first_order(t, s, ddim_step(sde, t, s, eta)) for t, s in pairwise(times.tolist())]
    return _table(rows, times, sde, "ddim", {"eta": eta})


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
    return _table(rows, times, sde, "dpmpp_2m", {"weights": weights, "lower_order_final": lower_order_final})


@solver(
    "dpmpp_2m_sde",
    kind="sde",
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
    return _table(rows, times, sde, "dpmpp_2m_sde", options)


def multistep_rows(sde: SDE, times: np.ndarray, *, eta: float, weights: Weights, lower_order_final: bool) -> list[Row]:
    """Rows of the two-step rule; of first order at the start, at noise zero, and after a start at alpha = 0."""
    require(weights in ("published", "exact"), f'weights="published" or "exact", got {weights!r}')
    lam = sde.lam(times)
    rows = []
    for i, (t, s) in enumerate(pairwise(times.tolist())):
        first_order = sde_step(sde, t, s, eta)
        last = i == len(times) - 2 and lower_order_final
        if i == 0 or last or not np.isfinite([lam[i - 1], lam[i + 1]]).all():
            rows.append(_first_order(t, s, first_order))
            continue
        of_x, of_data, noise = first_order
        if weights == "published":
            extrapolation = (lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1]))
            of_outputs: tuple[float, ...] = (of_data * (1 + extrapolation), -of_data * extrapolation)
        else:
            of_outputs = _exact_weights(lam[i - 1 : i + 2], 1 + eta**2, sde.alpha(s))
        rows.append(Row(t=t, s=s, commit=(of_x, *of_outputs), noise=noise))
    return rows


def _exact_weights(lam: np.ndarray, rate: float, alpha: float) -> tuple[float, ...]:
    """Weights of the last two outputs: the kernel's integral against the line through them."""
    before, here, there = lam
    integral = lagrange_weights(
        np.array([here, before]), here, there, lambda u: rate * np.exp(-rate * (there - u)), panel=4.0 / rate
    )
    return tuple((alpha * integral).tolist())


def _first_order(t: float, s: float, step: tuple[float, float, float]) -> Row:
    of_x, of_data, noise = step
    return Row(t=t, s=s, commit=(of_x, of_data), noise=noise)


def _table(rows: list[Row], times: np.ndarray, sde: SDE, name: str, options: Mapping[str, object]) -> Table:
    start = float(times[0])
    return Table(tuple(rows), "data", start, solver=name, path=repr(sde), options=options, exact_on="data")
