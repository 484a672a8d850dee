"""The solver that ``sample`` takes if none is named, chosen by measurement.

One method, the Adams-Bashforth-Moulton rule in the clock of the flow, on the grid "balanced"; its order grows with the
number of calls. Where networks are exact a higher order pays sooner (10 calls), where they are trained later, as it
carries a network's errors along: the orders below are the compromise of both measurements, in ``docs/choosing.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DEFAULTS: tuple[tuple[float, str], ...] = ((16, "flow_abm_2"), (25, "flow_abm_3"), (math.inf, "flow_abm_4"))
"""(largest number of network calls, solver)."""
ADAPTIVE = "adaptive_abm"
"""Where tolerances are given, or nothing: it needs the fewest calls at every error that was measured."""
REVERSIBLE_TOLERANCE = 1e-6
"""rtol and atol of ``encode``, ``decode`` and ``log_likelihood``, whose answers are numbers and not pictures."""


def default_solver(calls: int) -> str:
    """The solver for a number of network calls.

    >>> default_solver(8), default_solver(50)
    ('flow_abm_2', 'flow_abm_4')
    """
    return next(name for most, name in DEFAULTS if calls <= most)


def chosen(calls: int | None, options: Mapping[str, Any], tolerance: float | None = None) -> tuple[str, dict[str, Any]]:
    """The solver and its options where no solver is named: the best for a number of calls, or else the adaptive one.

    Args: calls, the number of calls or steps where one is given; tolerance, for rtol and atol where nothing is said.

    >>> chosen(10, {}), chosen(10, {"rtol": 0.1}), chosen(None, {}, 1e-6)
    (('flow_abm_2', {}), ('adaptive_abm', {'rtol': 0.1}), ('adaptive_abm', {'rtol': 1e-06, 'atol': 1e-06}))
    """
    if "rtol" in options or "atol" in options:
        return ADAPTIVE, dict(options)
    if calls is not None:
        return default_solver(calls), dict(options)
    unsaid = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance}
    return ADAPTIVE, {**unsaid, **options}
