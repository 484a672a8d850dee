r"""Stochastic Runge-Kutta methods of strong order 1.5 on the reverse SDE: SRA1 and SOSRA.

With ``y = x e^{eta^2 lam} / sigma`` and ``c = 1 + eta^2`` the reverse SDE of the data prediction is

    dy = D dw + dB_V,       w = e^{c lam},     V = e^{2 eta^2 lam},

a drift and a Brownian motion B of clock V: the noise is additive and of unit size (at eta = 1, w = V is the
signal-to-noise ratio). With ``D dw = D (dw/dV) dV`` Roessler's methods for additive noise apply as they stand. With
dV the step, I_1 = B(V_s) - B(V_t) and I_10 = int (B(v) - B(V_t)) dv over it,

    Y_k = y + dV sum_j A_kj F_j + (sum_j B_kj) I_10 / dV,        y' = y + dV sum_k a_k F_k + I_1,

where F_k is the drift at Y_k and V_t + c_k dV. I_1 and I_10 are Gaussian of variances dV and dV^3/3 and covariance
dV^2/2:

    I_10 = dV^{3/2} z_0 / sqrt(3),       I_1 = sqrt(dV) (sqrt(3)/2 z_0 + z_1 / 2),

z_0 drawn with the first stage and z_1 with the last, so that both belong to one path. A drift that is constant in D is
integrated exactly (the weights a_k dw/dV are scaled to the sum w_s - w_t). Nothing of this kind holds where V is
infinite: the step to noise zero, and one from a time without signal, are the first-order ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import require
from ..forms import sde_step
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..single_step import first_free, noise_weights
from ..table import Table


@dataclass(frozen=True)
class Tableau:
    """places c_k; drift A_kj; stage noise sum_j B_kj; end weights a_k."""

    places: Sequence[float]
    drift: Sequence[Sequence[float]]
    noise: Sequence[float]
    weights: Sequence[float]


SRA1 = Tableau((0.0, 0.75), ((), (0.75,)), (0.0, 1.5), (1 / 3, 2 / 3))
SOSRA = Tableau(
    (0.0, 0.6923962376159507, 1.0),
    ((), (0.6923962376159507,), (-3.1609142252828395, 4.1609142252828395)),
    (0.0, 1.3371632704399763, 1.442371048468624 + 1.8632741501139225),
    (0.2889874966892885, 0.6859880440839937, 0.025024459226717772),
)


@solver("sra1", kind="sde", order=2, strong_order=1.5, evaluations=2, grid="log_snr", spare=({"first": 1},),
        reference="Roessler 2010, doi:10.1137/09076636X, SRA1")  # fmt: skip
def sra1(sde: SDE, times: np.ndarray, *, eta: float = 1.0, first: int | None = None) -> Table:
    """SRA1: stochastic Runge-Kutta of strong order 1.5 for additive noise, two calls a step.

    eta: multiplier of the noise's standard deviation, above 0. first: 1 begins by a first-order step.
    """
    return _table("sra1", SRA1, sde, times, eta, first)


@solver("sosra", kind="sde", order=2, strong_order=1.5, evaluations=3, grid="log_snr",
        spare=({"first": 1}, {"first": 2}),
        reference="Rackauckas and Nie 2020, doi:10.1109/HPEC43674.2020.9286178, SOSRA")  # fmt: skip
def sosra(sde: SDE, times: np.ndarray, *, eta: float = 1.0, first: int | None = None) -> Table:
    """SOSRA: stability-optimised stochastic Runge-Kutta of strong order 1.5 for additive noise, three calls a step.

    eta: multiplier of the noise's standard deviation, above 0. first: 1 begins by a first-order step, 2 by
    a step of SRA1.
    """
    return _table("sosra", SOSRA, sde, times, eta, first)


def _table(name: str, tableau: Tableau, sde: SDE, times: np.ndarray, eta: float, first: int | None) -> Table:
    require(
        eta > 0, f"eta > 0 for a stochastic Runge-Kutta method, got {eta}: use a solver of kind 'ode' without noise"
    )
    require(first in (None, *range(1, len(tableau.places))), f"first= below {len(tableau.places)}, got {first!r}")
    points = sde.points(times)
    rows: list[Row] = []
    for i, (here, there) in enumerate(pairwise(points)):
        if here.alpha == 0 or there.sigma == 0 or (first == 1 and i == first_free(points)):
            gain, of_data, noise = sde_step(here, there, eta)
            rows.append(Row(here.t, there.t, (gain, of_data), noise_weights(noise)))
        else:
            rows += _step(SRA1 if first == 2 and i == first_free(points) else tableau, sde, here, there, eta)
    options = {"eta": eta, "first": first}
    return Table.of(rows, times, sde, name, options=options, exact_on="data")


def _step(tableau: Tableau, sde: SDE, here: Point, there: Point, eta: float) -> list[Row]:
    """The rows of one step. All is in units of y_t and V_t: with L = lam - lam_t, V/V_t = e^{2 eta^2 L}."""
    growth = math.expm1(2 * eta**2 * (there.lam - here.lam))  # dV / V_t
    stages = [_inside(sde, here, there, eta, c * growth) for c in tableau.places]
    # drift per dV at each stage, for D in units of x: (dw/dV) with w = e^{c lam}, over y_t's e^{eta^2 lam_t} / sigma_t
    rate = (1 + eta**2) / (2 * eta**2)
    slopes = [rate * here.alpha * math.exp((1 - eta**2) * (p.lam - here.lam)) for p in stages]
    whole = here.alpha * math.expm1((1 + eta**2) * (there.lam - here.lam))  # the same for w_s - w_t
    deviation = here.sigma * math.sqrt(growth)  # of I_1
    rows = []
    for k, point in enumerate(stages):
        final = k == len(stages) - 1
        ahead = there if final else stages[k + 1]
        factor = ahead.sigma / here.sigma * math.exp(-(eta**2) * (ahead.lam - here.lam))  # x per y
        if not final:
            drift = [a * growth * slope for a, slope in zip(tableau.drift[k + 1], slopes, strict=False)]
            target = here.alpha * math.expm1((1 + eta**2) * (ahead.lam - here.lam))
            drift = _scaled(drift, target)
            stage_noise = tableau.noise[k + 1] * deviation / math.sqrt(3)
            z = (*[0.0] * k, factor * stage_noise)  # all stages use the normal of the first row
            rows.append(Row(point.t, None, propose=(factor, *(factor * w for w in drift[::-1])), propose_noise=z))
        else:
            drift = _scaled([a * growth * slope for a, slope in zip(tableau.weights, slopes, strict=True)], whole)
            z = (factor * deviation / 2, *[0.0] * (k - 1), factor * deviation * math.sqrt(3) / 2)
            rows.append(Row(point.t, there.t, commit=(factor, *(factor * w for w in drift[::-1])), noise=z))
    return rows


def _scaled(weights: list[float], target: float) -> list[float]:
    """The weights scaled to a sum, so that a constant is integrated exactly."""
    return [weight * target / sum(weights) for weight in weights]


def _inside(sde: SDE, here: Point, there: Point, eta: float, growth: float) -> Point:
    """The point at which V has grown by a share of V_t."""
    if growth == 0:
        return here
    lam = here.lam + math.log1p(growth) / (2 * eta**2)
    return there if lam >= there.lam else sde.points(np.array([sde.time(lam)]))[0]
