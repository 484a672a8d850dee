"""Time grids: pure functions ``(sde, steps, t_max, t_min) -> times``, float64, strictly decreasing, steps + 1 long.

The first time is t_max and the last t_min, exactly; only "leading", and "linspace" with one step, start below t_max,
as their definition says. A grid spaced in a clock that is infinite at an end (alpha = 0 or sigma = 0) cannot reach it
by equal steps: where sigma(t_min) = 0 the last positive time is the process' ``t_eps`` and one more step jumps to
t_min; where alpha(t_max) = 0 the clock starts at rho = 80 and its first time is t_max.

Grids that are published as tables are in ``grid_tables.py``, the one found by optimisation in ``optimised.py``. To
change a parameter pass a function: ``grid=functools.partial(ss.grids.karras, power=5.0)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from scipy.special import betaincinv, expit, logit

from .errors import require, unknown
from .grid_clocks import RHO_CAP, in_clock, last_positive, over_lam
from .grid_tables import ays_sd15, ays_sdxl, ays_svd, leading, linspace, linspace_dpm, trailing
from .optimised import optimised
from .remembered import Remembered
from .sde import SDE

__all__ = [
    "GRIDS", "RHO_CAP", "Grid", "GridLike", "ays_sd15", "ays_sdxl", "ays_svd", "balanced", "beta", "check_times",
    "cosine", "exponential", "flow_shift", "karras", "leading", "linspace", "linspace_dpm", "log_snr", "make_grid",
    "optimised", "poly_exponential", "power", "quadratic", "snap_to_indices", "trailing", "uniform",
]  # fmt: skip

Grid: TypeAlias = Callable[[SDE, int, float, float], np.ndarray]
GridLike: TypeAlias = str | Grid | np.ndarray | torch.Tensor | Sequence[float]


def uniform(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in t.

    >>> import scoresolve as ss
    >>> ss.grids.uniform(ss.VPSDE(), 4, 1.0, 0.0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return _pinned(np.linspace(t_max, t_min, steps + 1), t_max, t_min)


def power(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 2.0) -> np.ndarray:
    """Equal steps in ``t^(1/power)``: finer towards the data the larger the power; 1 is "uniform".

    Source: Zhang and Chen 2023, arXiv:2204.13902 (where the power is called rho).

    >>> import scoresolve as ss
    >>> ss.grids.power(ss.VPSDE(), 2, 1.0, 0.0, power=3.0).tolist()
    [1.0, 0.125, 0.0]
    """
    require(power > 0, f"power > 0, got {power}")
    return _pinned(np.linspace(t_max ** (1 / power), t_min ** (1 / power), steps + 1) ** power, t_max, t_min)


def quadratic(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in sqrt(t): "power" with 2 (DDIM's "quadratic", DEIS's rho = 2).

    >>> import scoresolve as ss
    >>> ss.grids.quadratic(ss.VPSDE(), 2, 1.0, 0.0).tolist()
    [1.0, 0.25, 0.0]
    """
    return power(sde, steps, t_max, t_min, 2.0)


def beta(sde: SDE, steps: int, t_max: float, t_min: float, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    """Quantiles of a Beta(a, b) distribution, in t: ``t_i = low + (t_max - low) Q(1 - i / steps)``, then t_min.

    Q is the quantile function, and low is t_min, or t_eps where sigma(t_min) = 0. With a = b < 1 the steps are short
    at both ends. On a table of N betas the index is ``(N - 1) Q``, which is the "beta" scheduler of the web
    interfaces before it rounds. diffusers' ``use_beta_sigmas`` spaces sigma, not t, by quantiles that reach Q(0): on
    "edm", whose t is sigma, the two differ only in that.

    Source: Lee et al. 2024, "Beta Sampling is All You Need", arXiv:2407.12173.

    >>> import scoresolve as ss
    >>> ss.grids.beta(ss.VPSDE(), 4, 1.0, 0.0).round(3).tolist()
    [1.0, 0.824, 0.501, 0.177, 0.0]
    """
    require(a > 0 and b > 0, f"a > 0 and b > 0, got a={a} and b={b}")
    low = last_positive(sde, t_max, t_min)
    quantiles = betaincinv(a, b, 1 - np.arange(steps + 1) / steps)
    return _pinned(low + (t_max - low) * quantiles, t_max, t_min)


def log_snr(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in lam = log(alpha / sigma); k-diffusion's "exponential", which is equal steps in log rho = -lam.

    Source: Lu et al. 2022, arXiv:2206.00927, sec. 3.4; k-diffusion's ``get_sigmas_exponential``.

    >>> import scoresolve as ss
    >>> ss.grids.log_snr(ss.EDM(), 2, 64.0, 1.0).round(9).tolist()
    [64.0, 8.0, 1.0]
    >>> ss.grids.exponential is ss.grids.log_snr
    True
    """
    return in_clock(sde, steps, t_max, t_min, lambda lam: lam, lambda u: u)


exponential = log_snr


def poly_exponential(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 1.0) -> np.ndarray:
    """``log rho = log rho_min + r^power (log rho_max - log rho_min)``, the ramp r falling from 1 to 0 by equal steps.

    A power above 1 puts more of the steps at low noise, below 1 at high noise; 1, the published default, is
    "exponential". Source: k-diffusion's ``get_sigmas_polyexponential``.

    >>> import scoresolve as ss
    >>> ss.grids.poly_exponential(ss.EDM(), 2, 256.0, 1.0, power=2.0).round(9).tolist()
    [256.0, 4.0, 1.0]
    """
    require(power > 0, f"power > 0, got {power}")

    def place(first: float, last: float, count: int) -> np.ndarray:
        return np.asarray(last + np.linspace(1.0, 0.0, count + 1)[1:-1] ** power * (first - last))

    return over_lam(sde, steps, t_max, t_min, place)


def karras(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 7.0) -> np.ndarray:
    """Equal steps in rho^(1/7), on any process. Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.

    >>> import scoresolve as ss
    >>> ss.grids.karras(ss.EDM(), 3, 80.0, 0.0).round(3).tolist()  # the last step jumps from sigma_min to 0
    [80.0, 2.515, 0.002, 0.0]
    """
    return in_clock(sde, steps, t_max, t_min, lambda lam: np.exp(-lam / power), lambda u: -power * np.log(u))


def balanced(sde: SDE, steps: int, t_max: float, t_min: float, power: float = 6.0) -> np.ndarray:
    """Equal steps in ``log(1 + rho^2)^(1/6)``, on any process: the default of most solvers.

    ``log(1 + rho^2)`` is minus the logarithm of the share of signal, ``alpha^2 / (alpha^2 + sigma^2)``. At low noise
    the steps are equal in rho^(1/3), longer than those of "karras" and "log_snr"; at high noise they are equal in a
    root of lam. Chosen by measurement on the benchmark's problems (``docs/choosing.md``).

    >>> import scoresolve as ss
    >>> ss.grids.balanced(ss.EDM(), 3, 80.0, 0.0).round(3).tolist()
    [80.0, 0.505, 0.002, 0.0]
    """
    return in_clock(
        sde,
        steps,
        t_max,
        t_min,
        lambda lam: np.logaddexp(0.0, -2 * lam) ** (1 / power),
        lambda u: -0.5 * np.log(np.expm1(u**power)),
    )


def cosine(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in the angle ``theta = arctan(rho)`` of (alpha, sigma), on any process: ``rho = tan(theta)``.

    These are the noise levels of the cosine schedule alpha = cos(theta), sigma = sin(theta) at equal times (up to
    its offset s), so on "cosine" it is nearly "uniform". What others call a cosine *schedule* is that process
    (``CosineVPSDE``, ``DiscreteVPSDE.squared_cosine``); as a grid on other processes the web interfaces have the same
    levels as "KL optimal": they minimise a Kullback-Leibler bound on Gaussian data of unit variance.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17; Sabour et al. 2024, arXiv:2404.14507 (on Gaussian data).

    >>> import scoresolve as ss
    >>> ss.grids.cosine(ss.RectifiedFlow(), 3, 1.0, 0.0).round(3).tolist()  # the last step jumps from t_eps to 0
    [1.0, 0.5, 0.001, 0.0]
    """
    return in_clock(sde, steps, t_max, t_min, lambda lam: np.arctan(np.exp(-lam)), lambda u: -np.log(np.tan(u)))


def flow_shift(sde: SDE, steps: int, t_max: float, t_min: float, shift: float = 3.0) -> np.ndarray:
    """Uniform times of a rectified flow, shifted once: ``t' = shift t / (1 + (shift - 1) t)``; noise levels anywhere.

    The shift multiplies rho = t / (1 - t), so the clock with equal steps is ``rho / (rho + shift)``. On another
    process the grid visits the noise levels of the flow. It is finite at both ends, so noise zero is reached by
    an equal step, as in the pipelines of SD3 and Flux; where the ends are not 1 and 0 they are kept, and the equal
    steps lie between. (Some schedulers shift a range that is shifted already; this does not.)

    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23.

    >>> import scoresolve as ss
    >>> ss.grids.flow_shift(ss.RectifiedFlow(), 4, 1.0, 0.0).round(3).tolist()
    [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    require(shift > 0, f"shift > 0, got {shift}")
    offset = float(np.log(shift))
    return in_clock(
        sde,
        steps,
        t_max,
        t_min,
        lambda lam: np.asarray(expit(-lam - offset)),
        lambda u: np.asarray(-logit(u) - offset),
        end="reach",
    )


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "power": power,
    "quadratic": quadratic,
    "beta": beta,
    "log_snr": log_snr,
    "exponential": exponential,
    "poly_exponential": poly_exponential,
    "karras": karras,
    "balanced": balanced,
    "cosine": cosine,
    "flow_shift": flow_shift,
    "leading": leading,
    "linspace": linspace,
    "linspace_dpm": linspace_dpm,
    "trailing": trailing,
    "ays_sd15": ays_sd15,
    "ays_sdxl": ays_sdxl,
    "ays_svd": ays_svd,
    "optimised": optimised,
}


def make_grid(grid: GridLike, sde: SDE, steps: int | None, t_max: float, t_min: float) -> np.ndarray:
    """The times of a named grid, of a function with a grid's signature, or of an array, checked.

    They may start below t_max and end above t_min, as "leading" and arrays do.

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
            named = GRIDS[grid]
            key = named, steps, t_max, t_min
            return _GRIDS.of(sde, None, key, lambda: _spaced(named, sde, steps, t_max, t_min)).copy()
        return _spaced(grid, sde, steps, t_max, t_min)
    if isinstance(grid, torch.Tensor):
        grid = grid.detach().cpu().numpy()
    times = check_times(np.array(grid, dtype=np.float64), t_max, t_min)
    if steps is not None and len(times) != steps + 1:
        raise ValueError(f"grid= has {len(times)} times, that is {len(times) - 1} steps, but steps={steps}")
    return times


def _spaced(grid: Grid, sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    times = np.asarray(grid(sde, steps, t_max, t_min), dtype=np.float64)
    require(times.shape == (steps + 1,), f"{steps + 1} times from the grid, got shape {times.shape}")
    return check_times(times, t_max, t_min)


_GRIDS = Remembered[np.ndarray]()
"""The last grids by name: where the clock has no closed inverse one takes as long as a run's arithmetic."""


def check_times(times: np.ndarray, t_max: float, t_min: float) -> np.ndarray:
    """The times, if they are a strictly decreasing vector inside [t_min, t_max]; else ValueError."""
    require(times.ndim == 1 and times.size >= 2, f"a grid of at least two times, got shape {times.shape}")
    if not np.isfinite(times).all():  # printing an array takes as long as the rest of the plan
        raise ValueError(f"expected finite times in the grid, got {times}")
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


def _pinned(times: np.ndarray, first: float, last: float) -> np.ndarray:
    """The times with their ends set exactly, free of the rounding of the clock's inverse."""
    times[0], times[-1] = first, last
    return times
