"""What the time grids share: equal steps in a clock, on any process, with the ends where lam is infinite.

A clock is a monotone function of ``lam = log(alpha / sigma)``, so a grid spaced in it visits the same noise levels
on every process. Two ends have no finite lam: alpha(t_max) = 0 and sigma(t_min) = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from .sde import SDE

Clock: TypeAlias = Callable[[np.ndarray], np.ndarray]
End: TypeAlias = Literal["jump", "reach", "replace"]
RHO_CAP = 80.0
"""The noise-to-signal ratio at which a clock starts where alpha(t_max) = 0: the field's customary sigma_max."""


def in_clock(
    sde: SDE, steps: int, t_max: float, t_min: float, clock: Clock, inverse: Clock, end: End = "jump"
) -> np.ndarray:
    """Times with equal steps in a clock, first t_max and last t_min exactly.

    Where alpha(t_max) = 0, a clock that is infinite there starts at rho = 80. Where sigma(t_min) = 0, ``end`` says
    what the last step does: "jump" from the process' t_eps to t_min; "reach" t_min by an equal step, in a clock that
    is finite there; "replace" the last of the times spaced down to t_eps by t_min.
    """

    def place(first: float, last: float, count: int) -> np.ndarray:
        ends = clock(np.array([first, last]))
        return inverse(np.linspace(ends[0], ends[1], count + 1)[1:-1])

    capped = not np.isfinite(clock(np.array([-np.inf]))[0])
    return over_lam(sde, steps, t_max, t_min, place, end, capped)


def over_lam(
    sde: SDE,
    steps: int,
    t_max: float,
    t_min: float,
    place: Callable[[float, float, int], np.ndarray],
    end: End = "jump",
    capped: bool = True,
) -> np.ndarray:
    """Times at the lam of ``place(first, last, count)``, the count - 1 values inside; ends as :func:`in_clock` says."""
    noiseless = end != "reach" and sde.sigma(t_min) == 0
    jump = noiseless and end == "jump"
    if jump and steps == 1:
        return np.array([t_max, t_min])
    last = last_positive(sde, t_max, t_min) if noiseless else t_min
    first_lam = -float(np.log(RHO_CAP)) if capped and sde.alpha(t_max) == 0 else sde.lam(t_max)
    inner = sde.time(place(first_lam, sde.lam(last), steps - jump))
    return np.array([t_max, *inner, last, t_min] if jump else [t_max, *inner, t_min])


def last_positive(sde: SDE, t_max: float, t_min: float) -> float:
    """The last time with noise: the process' t_eps before a jump to noise zero, else t_min."""
    return min(sde.t_eps, 0.5 * t_max) if sde.sigma(t_min) == 0 else t_min
