"""The published solvers that a search begins from, and that its result is held against."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ScoreSolveError, require, unknown
from ..grids import GRIDS as EVERY_GRID
from ..model import ScoreModel
from ..registry import get_solver
from ..sampling import sample
from ..table import Table
from .shooting import Features, Starts, root_mean, root_median, squares_of

Candidate: TypeAlias = tuple[str, str]
"""(solver, grid)."""
ODE_SOLVERS = (
    "ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "deis_tab2", "deis_tab3", "ipndm_2", "ipndm_3",
    "velocity_ab2", "velocity_ab3", "flow_abm_2", "flow_abm_3", "flow_abm_4", "heun", "midpoint", "dpm_solver_2s",
)  # fmt: skip
SDE_SOLVERS = ("dpmpp_2m_sde", "er_sde_2", "er_sde_3", "sa_solver", "ddpm", "euler_maruyama")
GRIDS = ("balanced", "quadratic", "karras", "log_snr", "uniform", "optimised", "cosine")


@dataclass(frozen=True)
class Trial:
    """A published solver on a grid, and its root mean square and median error."""

    candidate: Candidate
    table: Table
    error: float
    median: float

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.candidate[0]} on {self.candidate[1]}"


def check_candidates(candidates: Iterable[Candidate], stochastic: bool) -> None:
    """Raise TypeError for what are no pairs; ValueError, suggesting the nearest, for a solver or a grid that does not
    exist, and for a solver that is no table or whose ends are random where they are compared one by one.
    """
    pairs = [] if isinstance(candidates, str) else list(candidates)
    if isinstance(candidates, str) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise TypeError(f"candidates must be pairs of a solver and a grid, [('ddim', 'karras')], got {candidates!r}")
    for solver, grid in pairs:
        info = get_solver(solver)
        require(not info.adaptive, f"candidates with a fixed number of calls, got {solver!r}, which is adaptive")
        require(stochastic or info.kind == "ode", f"stochastic=True for {solver!r}, or candidates without noise")
        if grid not in EVERY_GRID:
            raise ValueError(unknown("grid", grid, EVERY_GRID))


def published(stochastic: bool) -> list[Candidate]:
    """Those that do best somewhere, on every grid that any of them likes."""
    return [(solver, grid) for solver in (SDE_SOLVERS if stochastic else ODE_SOLVERS) for grid in GRIDS]


def tried(
    model: ScoreModel,
    candidates: Iterable[Candidate],
    nfe: int,
    starts: Starts,
    features: Features,
    *,
    laws: bool,
    ends: tuple[float, float],
    batch_size: int | None,
) -> list[Trial]:
    """Those that can be run at ``nfe`` calls exactly and as a table, the best first. Cost: ``nfe`` calls each.

    Args: ends, the last and the first time.
    """
    t_min, t_max = ends
    wanted = features(starts.targets)
    found = []
    for solver, grid in candidates:
        try:
            with warnings.catch_warnings():  # of large weights: the error will say whether they matter
                warnings.simplefilter("ignore", UserWarning)
                run = sample(
                    model, start=starts.x, solver=solver, grid=grid, nfe=nfe, t_max=t_max, t_min=t_min,
                    batch_size=batch_size, noise=starts.noise,
                )  # fmt: skip
        except (ScoreSolveError, ValueError):  # no such grid on this process, or a solution that ran away
            continue
        if run.table is None or run.table.nfe != nfe or float(run.times[0]) != t_max:
            continue
        squares = squares_of(features(run.samples), wanted, laws)
        trial = Trial((solver, grid), run.table, root_mean(squares), root_median(squares))
        found += [trial] if math.isfinite(trial.error) else []  # the square of a large number may be none
    return sorted(found, key=lambda trial: trial.error)


def diverse(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The best of each grid first, then the best of the rest, ``count`` in all: descents end in different places."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.candidate[1], trial)
    rest = [trial for trial in trials if trial not in first.values()]
    return [*first.values(), *rest][:count]
