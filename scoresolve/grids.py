"""Time grids: pure functions ``(sde, steps, t_max, t_min) -> times``, float64, strictly decreasing, steps + 1 long.

The first time is t_max and the last t_min, exactly. A grid spaced in a clock that is infinite at an end (alpha = 0
or sigma = 0) cannot reach it by equal steps: where sigma(t_min) = 0 the last positive time is the process' ``t_eps``
and one more step jumps to t_min; where alpha(t_max) = 0 the clock starts at rho = 80 and its first time is t_max.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from .errors import require, unknown
from .sde import SDE

Grid: TypeAlias = Callable[[SDE, int, float, float], np.ndarray]
GridLike: TypeAlias = str | Grid | np.ndarray | torch.Tensor | Sequence[float]
RHO_CAP = 80.0
"""The noise-to-signal ratio at which a clock starts where alpha(t_max) = 0: the field's customary sigma_max."""


def uniform(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in t.

    >>> import scoresolve as ss
    >>> ss.grids.uniform(ss.VPSDE(), 4, 1.0, 0.0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return _pinned(np.linspace(t_max, t_min, steps + 1), t_max, t_min)


def quadratic(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in sqrt(t): finer towards the data (DDIM's "quadratic", DEIS's rho = 2).

    >>> import scoresolve as ss
    >>> ss.grids.quadratic(ss.VPSDE(), 2, 1.0, 0.0).tolist()
    [1.0, 0.25, 0.0]
    """
    return _pinned(np.linspace(t_max**0.5, t_min**0.5, steps + 1) ** 2, t_max, t_min)


def log_snr(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in lam = log(alpha / sigma). Source: Lu et al. 2022, arXiv:2206.00927, sec. 3.4.

    >>> import scoresolve as ss
    >>> ss.grids.log_snr(ss.EDM(), 2, 64.0, 1.0).round(9).tolist()
    [64.0, 8.0, 1.0]
    """
    return _in_clock(sde, steps, t_max, t_min, lambda lam: lam, lambda u: u)


def karras(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 7.0) -> np.ndarray:
    """Equal steps in rho^(1/7), on any process. Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.

    >>> import scoresolve as ss
    >>> ss.grids.karras(ss.EDM(), 3, 80.0, 0.0).round(3).tolist()  # the last step jumps from sigma_min to 0
    [80.0, 2.515, 0.002, 0.0]
    """
    return _in_clock(sde, steps, t_max, t_min, lambda lam: np.exp(-lam / power), lambda u: -power * np.log(u))


def balanced(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 6.0) -> np.ndarray:
    """Equal steps in ``log(1 + rho^2)^(1/6)``, on any process: the default of most solvers.

    ``log(1 + rho^2)`` is minus the logarithm of the share of signal, ``alpha^2 / (alpha^2 + sigma^2)``. At low noise
    the steps are equal in rho^(1/3), longer than those of "karras" and "log_snr"; at high noise they are equal in a
    root of lam. Chosen by measurement on the benchmark's problems (``docs/choosing.md``).

    >>> import scoresolve as ss
    >>> ss.grids.balanced(ss.EDM(), 3, 80.0, 0.0).round(3).tolist()
    [80.0, 0.505, 0.002, 0.0]
    """
    return _in_clock(
        sde,
        steps,
        t_max,
        t_min,
        lambda lam: np.logaddexp(0.0, -2 * lam) ** (1 / power),
        lambda u: -0.5 * np.log(np.expm1(u**power)),
    )


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
    "balanced": balanced,
}


def make_grid(grid: GridLike, sde: SDE, steps: int | None, t_max: float, t_min: float) -> np.ndarray:
    """The times of a named grid, of a function with a grid's signature, or of an array, checked.

    Raises: ValueError for an unknown name (the nearest is suggested), steps < 1, ``t_min >= t_max``, or times that
    are not finite, do not decrease strictly, or leave the interval.
    """
    if isinstance(grid, str) or callable(grid):
        require(steps is not None, "steps= or nfe= with a named grid")
        assert steps is not None
        require(steps >= 1, f"at least one step, got steps={steps}")
        require(0 <= t_min < t_max, f"0 <= t_min < t_max, got t_min={t_min:g} and t_max={t_max:g}")
        if isinstance(grid, str):
            if grid not in GRIDS:
                raise ValueError(unknown("grid", grid, GRIDS))
            grid = GRIDS[grid]
        times = np.asarray(grid(sde, steps, t_max, t_min), dtype=np.float64)
        require(times.shape == (steps + 1,), f"{steps + 1} times from the grid, got shape {times.shape}")
        return check_times(times, t_max, t_min)
    if isinstance(grid, torch.Tensor):
        grid = grid.detach().cpu().numpy()
    times = check_times(np.array(grid, dtype=np.float64), t_max, t_min)
    if steps is not None and len(times) != steps + 1:
        raise ValueError(f"grid= has {len(times)} times, that is {len(times) - 1} steps, but steps={steps}")
    return times


def check_times(times: np.ndarray, t_max: float, t_min: float) -> np.ndarray:
    """The times, if they are a strictly decreasing vector inside [t_min, t_max]; else ValueError."""
    require(times.ndim == 1 and times.size >= 2, f"a vector of at least two times, got shape {times.shape}")
    require(bool(np.isfinite(times).all()), f"finite times, got {times}")
    rises = np.flatnonzero(np.diff(times) >= 0)
    if rises.size:
        i = int(rises[0])
        word = "repeats" if times[i] == times[i + 1] else "increases"
        raise ValueError(
            f"times must decrease from noise to data; the grid {word} at {i}: {times[i]:.9g}, {times[i + 1]:.9g}"
        )
    slack = 1e-12 * max(1.0, t_max)
    if times[0] > t_max + slack or times[-1] < t_min - slack:
        raise ValueError(
            f"the grid runs from {times[0]:.9g} to {times[-1]:.9g} and leaves [t_min, t_max] = [{t_min:g}, {t_max:g}]"
        )
    return times


def snap_to_indices(times: np.ndarray, count: int) -> np.ndarray:
    """The times moved to those of a table of ``count`` betas, ``t = (i + 1) / count`` or 0, kept distinct.

    A network that is told a whole index is then asked at exactly the noise level of that index. Where several times
    fall on one index the noisier ones move up to the next free one, and down again where the table is full.
    """
    wanted = np.rint(times * count).astype(int)
    steps = len(wanted) - 1
    if steps + wanted[-1] > count:
        raise ValueError(f"{steps} steps do not fit on a table of {count} betas: ask for fewer steps")
    for i in range(steps - 1, -1, -1):
        wanted[i] = max(wanted[i], wanted[i + 1] + 1)
    return np.asarray(np.minimum(wanted, count - np.arange(steps + 1)) / count)


def _in_clock(
    sde: SDE,
    steps: int,
    t_max: float,
    t_min: float,
    clock: Callable[[np.ndarray], np.ndarray],
    inverse: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Equal steps in a function of lam, with the ends where lam is infinite treated as the module says."""
    jump = sde.sigma(t_min) == 0
    if jump and steps == 1:
        return np.array([t_max, t_min])
    last = min(sde.t_eps, 0.5 * t_max) if jump else t_min
    lam = np.array([max(sde.lam(t_max), -np.log(RHO_CAP)) if sde.alpha(t_max) == 0 else sde.lam(t_max), sde.lam(last)])
    ends = clock(lam)
    inner = sde.time(inverse(np.linspace(ends[0], ends[1], steps + (0 if jump else 1))))
    times = _pinned(inner, t_max, last)
    return np.append(times, t_min) if jump else times


def _pinned(times: np.ndarray, first: float, last: float) -> np.ndarray:
    """The times with their ends set exactly, free of the rounding of the clock's inverse."""
    times[0], times[-1] = first, last
    return times
