"""The peers' time grids, in float64: as many of their noise levels as a run has steps, and the end point.

diffusers' own code puts its levels between the ends of a table of 1000 and, by default, jumps from the last of them to
noise zero. Here the same formulas are taken between the process' own ends, so that a peer starts where we start and
ends where we end (``tests/test_peers.py`` holds them against diffusers' own methods):

========  =====================================================================================================
uniform   equal steps in t: "linspace" without its rounding to whole indices; azula's and torchdiffeq's own
karras    ``use_karras_sigmas``: equal steps in rho^(1/7)
log_snr   ``use_lu_lambdas`` and ``use_exponential_sigmas``, which are one grid: equal steps in log rho
beta      ``use_beta_sigmas``: quantiles of a Beta(0.6, 0.6) law, in rho
========  =====================================================================================================

Where the process ends at noise zero, the last step jumps there, as it does in diffusers.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

import scoresolve as ss


def beta(sde: ss.SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Quantiles of Beta(0.6, 0.6) between the ends, in rho. Source: Lee et al. 2024, arXiv:2407.12173."""
    jump = sde.sigma(t_min) == 0
    if jump and steps == 1:
        return np.array([t_max, t_min])
    last = min(sde.t_eps, 0.5 * t_max) if jump else t_min
    high, low = float(sde.rho(t_max)), float(sde.rho(last))
    levels = low + betaincinv(0.6, 0.6, np.linspace(1, 0, steps + (0 if jump else 1))) * (high - low)
    times = np.asarray(sde.time(-np.log(levels)))
    times[0], times[-1] = t_max, last
    return np.append(times, t_min) if jump else times


GRIDS: dict[str, ss.grids.Grid] = {
    "uniform": ss.grids.uniform,
    "karras": ss.grids.karras,
    "log_snr": ss.grids.log_snr,
    "beta": beta,
}
