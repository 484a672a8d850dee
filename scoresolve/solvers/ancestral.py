r"""Ancestral sampling and reverse diffusion: two discretisations of the Markov chain that a grid makes of a process.

On a step from s (less noise) to t the forward chain is ``x_t = a x_s + G z`` with

    a = alpha_t / alpha_s,      G^2 = sigma_t^2 - a^2 sigma_s^2 = sigma_t^2 (1 - e^{-2h}),   h = lam_s - lam_t,

which on a table of betas is DDPM's ``a^2 = 1 - beta``, ``G^2 = beta`` and in VE SMLD's ``a = 1``,
``G^2 = sigma_t^2 - sigma_s^2``. Nothing below asks which process it is.

Ancestral sampling draws from the posterior q(x_s | x_t, x_0 = D), Gaussian with

    mean = a (sigma_s / sigma_t)^2 x_t + alpha_s (1 - e^{-2h}) D,     variance = (sigma_s / sigma_t)^2 G^2.

Since ``a (sigma_s/sigma_t)^2 = (sigma_s/sigma_t) e^{-h}`` this is the exponential step of eta = 1. DDPM's other choice
of variance, G^2 ("fixed large"), is offered as ``variance="forward"``.

Reverse diffusion (Song et al. 2021, app. E) discretises the reverse SDE as the forward one was,

    x_s = x_t - (a - 1) x_t + (1 + eta^2)/2 G^2 score(x_t, t) + eta G z,      score = (alpha_t D - x_t) / sigma_t^2.

Where either end has no noise or no signal, a step of it is the exponential one, of the same eta.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..registry import solver
from ..sde import SDE, Point
from ..table import Row, Table
from .exponential import sde_step


@solver(
    "ddpm",
    kind="sde",
    order=1,
    reference="Ho et al. 2020, arXiv:2006.11239, eq. 7; Song et al. 2021, arXiv:2011.13456, app. F",
    aliases=("ancestral",),
)
def ddpm(sde: SDE, times: np.ndarray, *, variance: Literal["posterior", "forward"] = "posterior") -> Table:
    """Ancestral sampling (DDPM, SMLD): draws from the posterior of each step given the predicted data.

    variance: "posterior" (the posterior's own) or "forward" (G^2, DDPM's beta); the last step to noise zero has none.
    """
    require(variance in ("posterior", "forward"), f'variance="posterior" or "forward", got {variance!r}')
    rows = []
    for here, there in pairwise(sde.points(times)):
        of_x, of_data, noise = sde_step(here, there, eta=1.0)
        if variance == "forward" and there.sigma > 0:
            noise = here.sigma * math.sqrt(_share_added(here, there))
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise))
    return Table.of(rows, times, sde, "ddpm", options={"variance": variance}, exact_on="data")


@solver(
    "reverse_diffusion",
    kind="sde",
    order=1,
    reference="Song et al. 2021, arXiv:2011.13456, eq. 46",
)
def reverse_diffusion(sde: SDE, times: np.ndarray, *, eta: float = 1.0) -> Table:
    """Reverse diffusion: the reverse SDE, discretised as the forward process was.

    eta: multiplier of the noise's standard deviation (0: score_sde's "probability flow" predictor).
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    rows = []
    for here, there in pairwise(sde.points(times)):
        if here.alpha == 0 or there.sigma == 0:
            of_x, of_data, noise = sde_step(here, there, eta)
        else:
            a, share = here.alpha / there.alpha, _share_added(here, there)
            pull = 0.5 * (1 + eta**2) * share
            of_x, of_data, noise = 2 - a - pull, pull * here.alpha, eta and eta * here.sigma * math.sqrt(share)
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise))
    return Table.of(rows, times, sde, "reverse_diffusion", options={"eta": eta})


def _share_added(here: Point, there: Point) -> float:
    """G^2 / sigma_t^2: the share of the noise at here that the forward chain adds on the way from there."""
    return -math.expm1(-2 * (there.lam - here.lam))
