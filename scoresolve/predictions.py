"""Conversions between everything that a network may predict.

Every prediction is a combination ``p data + q noise`` of the clean data and the noise in
``x = alpha data + sigma noise``:

    data (1, 0)    noise (0, 1)    v (-sigma, alpha)    velocity (alpha', sigma')    flow (-1, 1)
    score = -noise / sigma

so with the network's output o = p data + q noise, the wanted P data + Q noise = a x + b o solves

    | alpha  p | |a|   |P|                     a = (P q - Q p) / det,    b = (alpha Q - sigma P) / det,
    | sigma  q | |b| = |Q|     that is          det = alpha q - sigma p.

One formula for all the conversions, each as accurate as its determinant allows: noise and score networks give the
data wherever alpha > 0, data networks the noise wherever sigma > 0, v, velocity and flow networks give both
everywhere. (The flow prediction is noise minus data: the velocity of the rectified flow, at equal noise levels.)
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from .sde import SDE, over_batch

Prediction = Literal["score", "noise", "data", "v", "velocity", "flow"]
ELSEWHERE = {
    **dict.fromkeys(("eps", "epsilon"), "noise"),
    **dict.fromkeys(("x0", "x_0", "x_start", "sample", "denoiser", "denoised"), "data"),
    **dict.fromkeys(("v_prediction", "v-prediction"), "v"),
    **dict.fromkeys(("flow_prediction", "flow_matching", "rectified_flow"), "flow"),
}
"""Other libraries' words for predictions."""
Values = TypeVar("Values", np.ndarray, Tensor)


def conversion(
    source: Prediction, target: Prediction, native: SDE, tau: Values, own: SDE, t: Values
) -> tuple[Values, Values, Values]:
    """(a, b, scale): with the network asked at ``scale x``, the wanted prediction at x is ``a x + b output``.

    The network was trained along ``native`` and is asked at its time ``tau``; the wanted prediction is that of
    process ``own`` at time ``t``, where lam is the same (both are one process unless the model is a view of another).
    Infinite or NaN where the source does not determine the target.
    """
    alpha, sigma = native.alpha(tau), native.sigma(tau)
    one = 0 * alpha + 1
    if source == target and native is own:
        return 0 * alpha, one, one
    with np.errstate(all="ignore"):
        p, q = _coordinates(source, native, tau)
        wanted_p, wanted_q = _coordinates(target, own, t)
        det = alpha * q - sigma * p
        a = (wanted_p * q - wanted_q * p) / det
        b = (alpha * wanted_q - sigma * wanted_p) / det
        if source == "score":  # the noise is -sigma times the score
            b = -sigma * b
        if target == "score":  # of the process we are seen along
            a, b = -a / own.sigma(t), -b / own.sigma(t)
        if native is own:
            return a, b, one
        # alpha ratio = sigma ratio at equal lam; the ratio of sums stays finite where either vanishes
        scale = (alpha + sigma) / (own.alpha(t) + own.sigma(t))
        return a * scale, b, scale


def require_determined(
    source: Prediction, target: Prediction, sde: SDE, t: np.ndarray, a: np.ndarray, b: np.ndarray
) -> None:
    """Raise ValueError, naming the time, where the coefficients of a conversion are not finite."""
    bad = ~(np.isfinite(a) & np.isfinite(b))
    if bad.any():
        at = float(t[bad][0])
        raise ValueError(
            f"a network that predicts {source!r} does not determine the {target!r} at t = {at:g} of "
            f"{sde!r} (alpha = {sde.alpha(at):g}, sigma = {sde.sigma(at):g}): keep away from that "
            "end with t_max= or t_min=, or use a network that predicts data, v or velocity"
        )


def truth(prediction: Prediction, sde: SDE, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """What a network should answer for data x0 and noise, both (batch, ...), at times t (batch,): p x0 + q noise."""
    p, q = _coordinates(prediction, sde, t)
    if prediction == "score":
        q = -1 / sde.sigma(t)
    return over_batch(p, x0) * x0 + over_batch(q, x0) * noise


def _coordinates(prediction: Prediction, sde: SDE, t: Values) -> tuple[Values | float, Values | float]:
    """(p, q) of ``p data + q noise``; a score is treated as the noise it is a multiple of."""
    match prediction:
        case "data":
            return 1.0, 0.0
        case "noise" | "score":
            return 0.0, 1.0
        case "v":
            return -sde.sigma(t), sde.alpha(t)
        case "velocity":
            return sde.alpha_rate(t), sde.sigma_rate(t)
        case "flow":
            return -1.0, 1.0
