"""The solver that ``sample`` takes if none is named, chosen by measurement.

Over four problems (an ill-conditioned Gaussian, a mixture, the empirical law of images, a trained network) on three
processes (VP, EDM, rectified flow), the geometric mean of the error is lowest, of every deterministic solver of one
grid, for those below; the numbers are in ``docs/choosing.md``. All are on the grid "balanced".
"""

from __future__ import annotations

import math

DEFAULTS: tuple[tuple[float, str], ...] = ((6, "velocity_ab3"), (16, "flow_abm_3"), (math.inf, "flow_abm_4"))
"""(largest number of network calls, solver)."""
LATENT_SOLVER = "dpmpp_2m"
"""Of ``encode`` and ``decode``."""
LIKELIHOOD_SOLVER, LIKELIHOOD_NFE = "flow_abm_4", 50
"""Of ``log_likelihood``, and its network calls where no amount of work is named."""
LIKELIHOOD_ADAPTIVE = "rk45"
"""Of ``log_likelihood`` with tolerances."""


def default_solver(calls: int) -> str:
    """The solver for a number of network calls.

    >>> default_solver(8), default_solver(50)
    ('flow_abm_3', 'flow_abm_4')
    """
    return next(name for most, name in DEFAULTS if calls <= most)
