r"""Euler-Maruyama on the reverse SDE of noise level eta.

A step from t down to s, with dt = t - s > 0:

    x_s = x_t - [f x_t - (1 + eta^2)/2 g^2 score] dt + eta g sqrt(dt) z,       score = (alpha D - x_t) / sigma^2,

all coefficients at t. In terms of x and D: ``x_s = (1 - f dt - k) x_t + k alpha D + eta g sqrt(dt) z`` with
``k = (1 + eta^2)/2 g^2 dt / sigma^2``. Strong order 1 (the noise is additive), weak order 1.

Where the coefficients diverge (alpha_t = 0), and on a last step to noise zero, the step is the exponential one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..errors import require
from ..registry import solver
from ..sde import SDE
from ..table import Row, Table
from .exponential import sde_step


@solver(
    "euler_maruyama",
    kind="sde",
    order=1,
    reference="Maruyama 1955; Song et al. 2021, arXiv:2011.13456, app. E",
)
def euler_maruyama(sde: SDE, times: np.ndarray, *, eta: float = 1.0) -> Table:
    """Euler-Maruyama on the reverse SDE, in t.

    eta: multiplier of the noise's standard deviation (0 gives Euler's method on the probability flow).
    """
    require(eta >= 0, f"eta >= 0, got {eta}")
    rows = []
    for t, s in pairwise(times.tolist()):
        if sde.alpha(t) == 0 or sde.sigma(s) == 0:
            of_x, of_data, noise = sde_step(sde, t, s, eta)
        else:
            dt, g2 = t - s, sde.squared_diffusion(t)
            pull = 0.5 * (1 + eta**2) * g2 * dt / sde.sigma(t) ** 2
            of_x, of_data = 1 - sde.drift_rate(t) * dt - pull, pull * sde.alpha(t)
            noise = eta * (g2 * dt) ** 0.5
        rows.append(Row(t=t, s=s, commit=(of_x, of_data), noise=noise))
    start = float(times[0])
    return Table(tuple(rows), "data", start, solver="euler_maruyama", path=repr(sde), options={"eta": eta})
