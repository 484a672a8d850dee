r"""Euler-Maruyama on the reverse SDE of noise level eta.

A step from t down to s, with dt = t - s > 0:

    x_s = x_t - [f x_t - (1 + eta^2)/2 g^2 score] dt + eta g sqrt(dt) z,       score = (alpha D - x_t) / sigma^2,

all coefficients at t. In terms of x and D: ``x_s = (1 - f dt - k) x_t + k alpha D + eta g sqrt(dt) z`` with
``k = (1 + eta^2)/2 g^2 dt / sigma^2``. Strong order 1 (the noise is additive), weak order 1.

Where the coefficients diverge (alpha_t = 0), and on a last step to noise zero, the step is the exponential one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..errors import require
from ..forms import sde_step
from ..registry import solver
from ..row import Row
from ..sde import SDE
from ..single_step import noise_weights
from ..table import Table


@solver(
    "euler_maruyama",
    kind="sde",
    order=1,
    strong_order=1,
    reference="Maruyama 1955; Song et al. 2021, arXiv:2011.13456, app. E",
)
def euler_maruyama(sde: SDE, times: np.ndarray, *, eta: float = 1.0) -> Table:
    """Euler-Maruyama on the reverse SDE, in t.

    eta: multiplier of the noise's standard deviation (0 gives Euler's method on the probability flow).
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    rows = []
    rates = zip(sde.drift_rate(times).tolist(), sde.squared_diffusion(times).tolist(), strict=True)
    for (here, there), (f, g2) in zip(pairwise(sde.points(times)), rates, strict=False):
        if here.alpha == 0 or there.sigma == 0:
            of_x, of_data, noise = sde_step(here, there, eta)
        else:
            dt = here.t - there.t
            pull = 0.5 * (1 + eta**2) * g2 * dt / here.sigma**2
            of_x, of_data, noise = 1 - f * dt - pull, pull * here.alpha, eta and eta * math.sqrt(g2 * dt)
        rows.append(Row(t=here.t, s=there.t, commit=(of_x, of_data), noise=noise_weights(noise)))
    return Table.of(rows, times, sde, "euler_maruyama", options={"eta": eta})
