"""The probability flow by general-purpose adaptive Runge-Kutta 4(5), from torchdiffeq and from scipy.

Two names for what ``backends.py`` does: ``dx/dt = velocity(x, t)`` in t, with one step size for the whole batch, to
local tolerances ``atol + rtol |x|``.
"""

from __future__ import annotations

import numpy as np

from ..backends import BackendRun, backend
from ..registry import solver
from ..sde import SDE


@solver(
    "rk45",
    order=5,
    evaluations=6,
    reference="Dormand and Prince 1980; torchdiffeq (Chen 2018)",
    adaptive=True,
    aliases=("adaptive_rk45",),
)
def rk45(sde: SDE, times: np.ndarray, *, rtol: float = 1e-5, atol: float = 1e-5) -> BackendRun:
    """Adaptive Dormand-Prince 5(4) on the probability flow, through torchdiffeq.

    rtol, atol: local tolerances.
    """
    return backend("torchdiffeq", "dopri5", rtol=rtol, atol=atol).build(sde, times)


@solver(
    "scipy_rk45",
    order=5,
    evaluations=6,
    reference="Dormand and Prince 1980; Song et al. 2021, arXiv:2011.13456, app. D.4",
    adaptive=True,
    aliases=("adaptive_scipy_rk45",),
)
def scipy_rk45(sde: SDE, times: np.ndarray, *, rtol: float = 1e-5, atol: float = 1e-5) -> BackendRun:
    """Adaptive Dormand-Prince 5(4) on the probability flow, through scipy (score_sde's reference method).

    rtol, atol: local tolerances.
    """
    return backend("scipy", "RK45", rtol=rtol, atol=atol).build(sde, times)
