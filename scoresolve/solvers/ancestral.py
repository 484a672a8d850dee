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

k-diffusion's ancestral samplers take a deterministic step to a level below s, and come up to s by fresh noise:

    rho_up = min(rho_s, eta rho_s sqrt(1 - e^{-2h})),      rho_down = sqrt(rho_s^2 - rho_up^2),

so that at eta = 1 ``rho_down = rho_s^2 / rho_t``. With DDIM's (Euler's) step this is DDIM's own eta. Going up is
exact, so the order is that of the step and of the splitting: strong order 1, weak order 2 with a second-order step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..forms import Form, data_form, noise_form, sde_step
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..single_step import EULER, MIDPOINT, first_free, noise_weights, raised, single_step_rows
from ..table import Table
from .exponential import ddim_rows


@solver(
    "ddpm",
    kind="sde",
    order=1,
    strong_order=1,
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
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise_weights(noise)))
    return Table.of(rows, times, sde, "ddpm", options={"variance": variance}, exact_on="data")


@solver(
    "reverse_diffusion",
    kind="sde",
    order=1,
    strong_order=1,
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
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise_weights(noise)))
    return Table.of(rows, times, sde, "reverse_diffusion", options={"eta": eta})


@solver("euler_ancestral", kind="sde", order=1, strong_order=1, reference="Crowson 2022, k-diffusion")
def euler_ancestral(sde: SDE, times: np.ndarray, *, eta: float = 1.0) -> Table:
    """Euler ancestral: a step of Euler in rho to a lower level, and noise up to the next; DDIM of that eta.

    eta: DDIM's multiplier of the noise's standard deviation, 0 to 1.
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    return Table.of(ddim_rows(sde, times, eta), times, sde, "euler_ancestral", options={"eta": eta}, exact_on="data")


def _register(name: str, form: Callable[[SDE], Form], summary: str, step: str) -> None:
    def build(sde: SDE, times: np.ndarray, *, eta: float = 1.0, first: int | None = None) -> Table:
        return _ancestral(name, form(sde), times, eta, first)

    build.__doc__ = f"""{summary}: a step of ``{step}`` to a lower level, and noise up to the next.

    eta: as in ``euler_ancestral``. first: stages of the first step, 1 or 2.
    """
    reference, spare = "Crowson 2022, k-diffusion", ({"first": 1},)
    solver(name, kind="sde", order=2, strong_order=1, evaluations=2, reference=reference, spare=spare)(build)


_register("dpm_2_ancestral", noise_form, "DPM-Solver-2 ancestral", "dpm_solver_2s")
_register("dpmpp_2s_ancestral", data_form, "DPM-Solver++(2S) ancestral", "dpmpp_2s")


def _ancestral(name: str, form: Form, times: np.ndarray, eta: float, first: int | None) -> Table:
    require(eta >= 0, f"eta >= 0, got {eta}")
    require(first in (None, 1, 2), f"first= to be 1 or 2, got {first!r}")
    points = form.sde.points(times)
    rows: list[Row] = []
    for i, (here, there) in enumerate(pairwise(points)):
        scheme = EULER if first == 1 and i == first_free(points) else MIDPOINT
        down = _below(form.sde, here, there, eta)
        step = single_step_rows(form, scheme, here, down)
        rows += step if down is there else [*step[:-1], raised(step[-1], down, there)]
    options = {"eta": eta, "first": first}
    return Table.of(rows, times, form.sde, name, predicts=form.predicts, options=options)


def _below(sde: SDE, here: Point, there: Point, eta: float) -> Point:
    """The point that a step goes down to before noise lifts it to ``there``."""
    share = min(1.0, eta * math.sqrt(-math.expm1(-2 * (there.lam - here.lam))))
    if share == 0 or there.sigma == 0:
        return there
    if share == 1:  # from a time without signal: all the noise is new
        return Point(t=0.0, alpha=there.alpha, sigma=0.0, lam=math.inf)
    return sde.points(np.array([sde.time(there.lam - 0.5 * math.log1p(-(share**2)))]))[0]


def _share_added(here: Point, there: Point) -> float:
    """G^2 / sigma_t^2: the share of the noise at here that the forward chain adds on the way from there."""
    return -math.expm1(-2 * (there.lam - here.lam))
