"""Grids published as tables: evenly spaced indices of a table of betas, and the noise levels of Align Your Steps."""

from __future__ import annotations

import numpy as np

from .custom import DiscreteVPSDE
from .errors import require
from .grid_clocks import in_clock
from .sde import SDE

CUSTOMARY_INDICES = 1000
"""How many indices a process without a table is taken to have."""

AYS_LEVELS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The noise levels rho of ten steps, as published: Sabour et al. 2024, arXiv:2404.14507, and its project page."""


def leading(sde: SDE, steps: int, t_max: float, t_min: float, offset: int = 0, spared: int = 0) -> np.ndarray:
    """Every ``N // steps``-th index from 0, plus an offset: diffusers' timestep_spacing="leading"; then t_min.

    Index i of a table of N betas is the time (i + 1) / N. The first index is *below* N - 1 (with one step it is 0):
    the run starts at less noise than there is. Stable Diffusion's published settings have offset=1. With ``spared=1``
    it is every ``N // (steps + 1)``-th without the lowest, as diffusers' DPM-Solver, UniPC, DEIS and SA-Solver have it.

    The indices are those whose times lie in (t_min, t_max], counted from 0. A process without a table is taken to
    have N = 1000, at equal steps of t. Raises: ValueError for more steps than indices.

    Source: Ho et al. 2020, arXiv:2006.11239; Song et al. 2021, arXiv:2010.02502; named in Lin et al. 2023,
    arXiv:2305.08891, table 2.

    >>> import scoresolve as ss
    >>> ss.grids.leading(ss.DiscreteVPSDE.linear(), 4, 1.0, 0.0).tolist()
    [0.751, 0.501, 0.251, 0.001, 0.0]
    """
    known = _index_times(sde, steps, t_max, t_min)
    spared = min(spared, len(known) - steps)  # as many steps as indices: all of them
    indices = np.arange(spared, steps + spared)[::-1] * (len(known) // (steps + spared)) + offset
    inside = offset >= 0 and indices[0] < len(known)
    require(inside, f"indices of 0 to {len(known) - 1}, got {indices[-1]} to {indices[0]} with offset={offset}")
    return np.append(known[indices], t_min)


def linspace(sde: SDE, steps: int, t_max: float, t_min: float, spared: int = 0) -> np.ndarray:
    """``round(linspace(N - 1, 0, steps + spared))`` without the last ``spared``; then t_min.

    diffusers' timestep_spacing="linspace" of DDIM. The first index is N - 1, the last 0 (with one step: only 0, which
    starts below t_max); what the indices are is said at :func:`leading`. Source: Nichol and Dhariwal 2021,
    arXiv:2102.09672; Lin et al. 2023, arXiv:2305.08891, table 2.

    >>> import scoresolve as ss
    >>> ss.grids.linspace(ss.DiscreteVPSDE.linear(), 4, 1.0, 0.0).tolist()
    [1.0, 0.667, 0.334, 0.001, 0.0]
    """
    known = _index_times(sde, steps, t_max, t_min)
    spared = min(spared, len(known) - steps)
    indices = np.rint(np.linspace(0, len(known) - 1, steps + spared)).astype(int)[spared:][::-1]
    return np.append(known[indices], t_min)


def linspace_dpm(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """:func:`linspace` with ``spared=1``, the default of diffusers' DPM-Solver, UniPC, DEIS and SA-Solver.

    The last index is about N / steps.

    >>> import scoresolve as ss
    >>> ss.grids.linspace_dpm(ss.DiscreteVPSDE.linear(), 4, 1.0, 0.0).tolist()
    [1.0, 0.75, 0.501, 0.251, 0.0]
    """
    return linspace(sde, steps, t_max, t_min, spared=1)


def trailing(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """``round(N, N - N / steps, ...) - 1``: diffusers' timestep_spacing="trailing"; then t_min.

    The first index is N - 1 and the steps are equal, the last one included; what the indices are is said at
    :func:`leading`. Source: Lin et al. 2023, arXiv:2305.08891, table 2.

    >>> import scoresolve as ss
    >>> ss.grids.trailing(ss.DiscreteVPSDE.linear(), 4, 1.0, 0.0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    known = _index_times(sde, steps, t_max, t_min)
    # arange as in diffusers, so that halves round alike; it may overshoot by one entry, which they keep
    indices = np.rint(np.arange(len(known), 0, -len(known) / steps)[:steps]).astype(int) - 1
    return np.append(known[indices], t_min)


def ays_sd15(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Align Your Steps for Stable Diffusion 1.5: the published noise levels, on any process and in any number.

    The table of eleven levels is a clock: equal steps of it, with log rho linear between its entries, are what its
    authors prescribe for other numbers of steps. The clock starts at rho(t_max) and ends at rho(t_min), whatever
    they are: the steps are as dense at each noise level as the table's, and beyond it as in its last interval. An
    end within a hundredth of a step of the table's is taken for it, so that ten steps of a model of that range are
    the table. Where sigma(t_min) = 0 the clock runs to t_eps and its last level is replaced by zero, as is customary.

    Source: Sabour et al. 2024, arXiv:2404.14507, and its project page ("how to").

    >>> import scoresolve as ss
    >>> sde = ss.DiscreteVPSDE.scaled_linear()
    >>> sde.rho(ss.grids.ays_sd15(sde, 5, 1.0, 0.0)).round(3).tolist()
    [14.615, 3.861, 1.886, 0.963, 0.399, 0.0]
    """
    return _in_table("sd15", sde, steps, t_max, t_min)


def ays_sdxl(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Align Your Steps for Stable Diffusion XL; see :func:`ays_sd15`.

    >>> import scoresolve as ss
    >>> sde = ss.DiscreteVPSDE.scaled_linear()
    >>> sde.rho(ss.grids.ays_sdxl(sde, 5, 1.0, 0.0)).round(3).tolist()
    [14.615, 3.771, 1.342, 0.555, 0.234, 0.0]
    """
    return _in_table("sdxl", sde, steps, t_max, t_min)


def ays_svd(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Align Your Steps for Stable Video Diffusion; see :func:`ays_sd15`.

    >>> import scoresolve as ss
    >>> ss.grids.ays_svd(ss.EDM(sigma_max=700.0), 5, 700.0, 0.0).round(3).tolist()
    [700.0, 15.886, 4.248, 0.981, 0.173, 0.0]
    """
    return _in_table("svd", sde, steps, t_max, t_min)


def _index_times(sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """The times in (t_min, t_max] of a table's indices, rising; of a thousand customary ones without a table."""
    if isinstance(sde, DiscreteVPSDE):
        known = np.arange(1, sde.N + 1) / sde.N
        known = known[(known > t_min) & (known <= t_max * (1 + 1e-12))]
    else:
        known = np.linspace(t_min, t_max, CUSTOMARY_INDICES + 1)[1:]
    if steps > len(known):
        raise ValueError(
            f"{steps} steps do not fit on the {len(known)} indices from t_max={t_max:g} to t_min={t_min:g}: "
            "ask for fewer steps, or a grid that is not made of indices"
        )
    return known


def _in_table(name: str, sde: SDE, steps: int, t_max: float, t_min: float) -> np.ndarray:
    """Equal steps in the position between the entries of a table, which goes on beyond it as in its last intervals."""
    entries = -np.log(AYS_LEVELS[name])
    count, far = len(entries) - 1, 1000.0
    slopes = np.diff(entries)[[0, -1]] * far
    lams = np.array([entries[0] - slopes[0], *entries, entries[-1] + slopes[1]])
    places = np.array([-far, *range(count + 1), count + far])

    def clock(lam: np.ndarray) -> np.ndarray:
        place = np.interp(lam, lams, places, left=-np.inf, right=np.inf)
        for end in (0.0, float(count)):
            place = np.where(np.abs(place - end) < 0.01, end, place)
        return np.asarray(place)

    return in_clock(sde, steps, t_max, t_min, clock, lambda u: np.asarray(np.interp(u, places, lams)), end="replace")
