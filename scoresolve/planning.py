"""From a request (solver, budget, grid, ends) to a runner: how many steps a budget buys, and on which times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from .correctors import CorrectorLike, PredictorCorrector, make_corrector
from .errors import require
from .grids import GridLike, make_grid, snap_to_indices
from .model import ScoreModel
from .per_sample import PerSampleRunner
from .registry import Runner, SolverInfo, build
from .sde import SDE
from .table import Table

LONGEST = 100_000
"""The most steps that a grid is made for: a table has a row for each."""


def times_given(grid: GridLike | None) -> GridLike | None:
    """A grid given as times as an array, a name or a function as it is. Raises: TypeError, ValueError."""
    if grid is None or isinstance(grid, str) or callable(grid):
        return grid
    try:
        times = np.array(grid.detach().cpu().numpy() if isinstance(grid, Tensor) else grid, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            "grid must be a name, a function of (sde, steps, t_max, t_min), or times such as [1.0, 0.5, 0.01], "
            f"got {grid!r}"
        ) from None
    require(times.ndim == 1 and times.size >= 2, f"grid= of at least two times, got shape {times.shape}")
    return times


@dataclass(frozen=True)
class Request:
    """What the user asked for, apart from the state and the amount of work."""

    model: ScoreModel
    info: SolverInfo
    asked_grid: GridLike | None
    t_max: float
    t_min: float
    options: Mapping[str, Any]
    corrector: CorrectorLike | None = None
    floor: float = 0.0  # the lowest time that an array may end at
    upwards: bool = False

    @property
    def grid(self) -> GridLike:
        """The grid asked for, or the solver's own."""
        return self.info.grid if self.asked_grid is None else self.asked_grid

    @property
    def named(self) -> bool:
        """Whether the grid is made for a number of steps, rather than given as an array."""
        return isinstance(self.grid, str) or callable(self.grid)

    @property
    def ends_noisy(self) -> bool:
        """Whether there is noise at the last time."""
        last = self.t_min if self.named else float(np.asarray(self.grid, dtype=np.float64).reshape(-1)[-1])
        return self.model.sde.sigma(last) > 0

    def times_of(self, steps: int | None) -> np.ndarray:
        """The grid, decreasing from t_max to t_min (increasing when a latent is encoded)."""
        if steps is not None and steps > LONGEST:
            raise ValueError(f"at most {LONGEST} steps make a table, got steps={steps}, or nfe= for them: take fewer")
        low = self.t_min if self.named else self.floor  # an array says itself where it ends
        times = make_grid(self.grid, self.model.sde, steps, self.t_max, low)
        if self.model.time == "index":
            times = self._on_indices(times)
        return times[::-1].copy() if self.upwards else times

    def _on_indices(self, times: np.ndarray) -> np.ndarray:
        """A named grid moved to whole indices; what must lie between them is taken as it is, with a warning."""
        native: SDE = self.model.native
        count: int = len(native.betas)  # type: ignore[attr-defined]
        at_home = native is self.model.sde  # seen along another process its times are not those of the table
        if at_home and self.named and not self.info.adaptive:
            return snap_to_indices(times, count)
        if not at_home or self.info.adaptive or np.abs(times * count - np.rint(times * count)).max() > 1e-6:
            warnings.warn(
                f"{self.info.name!r} asks the network at times between the indices of its table, but time='index' "
                "tells it whole ones, so label and noise level differ: if it takes fractions, use "
                "time='fractional_index'",
                stacklevel=5,
            )
        return times

    def runner_of(self, times: np.ndarray, **more: Any) -> Runner:
        """The table or runner on a grid, with its corrector."""
        options = {**self.options, **more}
        if self.upwards and build(self.info, self.model.sde, times[::-1], **options).stochastic:
            raise ValueError(
                f"encode follows the probability flow, {self.info.name!r} adds noise: use a solver of kind 'ode'"
            )
        runner = build(self.info, self.model.sde, times, **options)
        if self.corrector is None:
            return runner
        noiseless = self.model.sde.sigma(float(times[-1])) == 0
        return PredictorCorrector.of(runner, make_corrector(self.corrector), noiseless)


def plan(request: Request, steps: int | None, nfe: int | None) -> tuple[Runner, np.ndarray]:
    """The runner and times for a number of steps, a budget of network calls, or the times of an array.

    Raises: ValueError if neither is given, or if the budget is below the solver's cost.
    """
    if request.info.adaptive and request.named:
        times = request.times_of(steps or 1)
        return _limited(request.runner_of(times), nfe), times
    if not request.named or steps is not None:
        times = request.times_of(steps)
        runner = request.runner_of(times)
        if nfe is not None and runner.nfe is not None and runner.nfe > nfe:
            raise ValueError(
                f"{request.info.name!r} needs {runner.nfe} network calls on this grid, more than nfe={nfe}"
            )
        return _limited(runner, nfe), times
    require(nfe is not None, f"steps= or nfe= for {request.info.name!r}: how many steps, or network calls, to spend")
    assert nfe is not None
    return _within_budget(request, nfe)


def _limited(runner: Runner, nfe: int | None) -> Runner:
    """The runner with a budget, if it looks after one itself."""
    return runner.limited(nfe) if nfe is not None and isinstance(runner, PerSampleRunner) else runner


Plan: TypeAlias = tuple[int, Runner, np.ndarray]
"""Cost, runner, times."""


def _within_budget(request: Request, nfe: int) -> tuple[Runner, np.ndarray]:
    """The runner that makes the most calls up to ``nfe``: of the most steps, or with options that the solver spares."""
    best: Plan | None = None
    for spare in ({}, *request.info.spare):
        more = {name: value for name, value in spare.items() if name not in request.options}
        if spare and not more:
            continue
        found = _longest(request, nfe, more)
        if found[0] <= nfe and (best is None or found[0] > best[0]):
            best = found
        if best is not None and best[0] == nfe:
            break
        cheapest = found[0] if best is None else 0
    if best is None:
        raise ValueError(
            f"one step of {request.info.name!r} needs {cheapest} network calls here, more than nfe={nfe}: "
            f"ask for nfe={cheapest} at least, or use a solver of one call a step"
        )
    return best[1:]


def _longest(request: Request, nfe: int, more: Mapping[str, Any]) -> Plan:
    """The run of the most steps that makes at most ``nfe`` calls; that of one step if none does."""

    def attempt(steps: int) -> Plan:
        times = request.times_of(steps)
        runner = request.runner_of(times, **more)
        assert runner.nfe is not None
        return runner.nfe, runner, times

    # one call a step unless the solver says otherwise: the guess is nearly always right
    steps = max(1, nfe // request.info.evaluations)
    best = attempt(steps)
    while best[0] > nfe and steps > 1:
        steps = max(1, min(steps - 1, steps * nfe // best[0]))
        best = attempt(steps)
    while best[0] < nfe:
        try:
            longer = attempt(steps + 1)
        except ValueError:  # no room: a table of betas has only so many times
            break
        if longer[0] > nfe:
            break
        steps, best = steps + 1, longer
    return best


def check_begins(request: Request, noisiest: float) -> None:
    """Raise ValueError where a state that is said to stand at ``t_max=`` would be taken to stand at another time.

    Grids of indices may begin below t_max. An array says itself where it begins.
    """
    t_max = request.t_max
    if request.named and abs(noisiest - t_max) > 1e-9 * t_max:
        raise ValueError(
            f"expected a grid that begins at t_max={t_max:.9g}, where the state stands, got one that begins at "
            f'{noisiest:.9g}: take another, such as grid="trailing", or let the state stand at {noisiest:.9g} and give '
            f"the times themselves, grid=[{noisiest:.9g}, ...]"
        )


def check_table(
    table: Table, model: ScoreModel, nfe: int | None, given: Mapping[str, Any], denoise: bool = False
) -> Table:
    """The table, if it can be run on this model and nothing contradicts it, the call that denoises included.

    Raises: ValueError.
    """
    extra = sorted(name for name, value in given.items() if value is not None)
    require(not extra, f"nothing beside solver=table that the table itself fixes, got {', '.join(extra)}")
    require(
        table.path in ("", repr(model.sde)),
        f"a table made for {model.sde!r}, got one for {table.path}: its weights belong to that path",
    )
    times = [table.start, *(time for row in table.rows for time in (row.t, row.s) if time is not None)]
    inside = min(times) >= 0 and max(times) <= model.t_max * (1 + 1e-9)
    require(inside, f"times within [0, {model.t_max:g}], got a table from {max(times):g} to {min(times):g}")
    calls = table.nfe + (denoise and model.sde.sigma(float(table.times[-1])) > 0)
    closing = " with denoise=True" if calls > table.nfe else ""
    require(
        nfe in (None, calls), f"nfe={calls} or none with this table, which makes that many calls{closing}; got {nfe}"
    )
    return table
