"""From what a diffusers configuration and a pipeline say to the table of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ..defaults import default_solver
from ..errors import require, whole_number
from ..grids import GridLike
from ..model import ScoreModel
from ..planning import Request, check_table, plan
from ..presets import resolve
from ..registry import check_options, get_solver
from ..table import Table
from .loading import config_of
from .schedules import PREDICTIONS, Config, Schedule, kind_of, schedule_of
from .timesteps import flow_times, published_flow_times, shifted, spacing_of


def adopted(config: Any) -> dict[str, Any]:
    """A configuration of any scheduler in the keys of ours, which do not depend on the name of the class."""
    said = config_of(config)
    if said.get("_class_name") == "ScoreSolveScheduler":
        return said
    schedule_of(said)  # refuses what cannot be taken over
    match kind_of(said):
        case "flow":
            said |= {"prediction_type": "flow_prediction", "shift": said.get("flow_shift") or said.get("shift") or 1.0}
        case "edm":
            levels = schedule_of(said).sde
            said |= {"sigma_min": levels.t_eps, "sigma_max": levels.t_max, "beta_schedule": None}
            said["sigma_data"] = said.get("sigma_data") or 1.0
            said["use_karras_sigmas"] = bool(said.get("use_karras_sigmas") or said.get("sigma_schedule") == "karras")
            exponential = said.get("use_exponential_sigmas") or said.get("sigma_schedule") == "exponential"
            said["use_exponential_sigmas"] = bool(exponential)
        case "ve" | "vp":
            raise ValueError(f"{said.get('_class_name')} belongs to pipelines of its own: use ss.from_diffusers(...)")
    prediction = PREDICTIONS[said.get("prediction_type") or "epsilon"]
    if prediction == "data":  # theirs has two names
        said["prediction_type"] = "sample"
    if said.get("use_lu_lambdas"):
        said["use_exponential_sigmas"] = True
    return said


def table_from(solver: Any) -> Table | None:
    """The table that a scheduler is given as its solver: itself, its JSON's content or path; None otherwise."""
    if solver is None or isinstance(solver, Table):
        return solver
    if isinstance(solver, Mapping):
        return Table.from_json(json.dumps(dict(solver)))
    if not isinstance(solver, str):
        raise TypeError(f"solver must be a name, a Table or the path of its JSON, got {type(solver).__name__}")
    return Table.load(solver) if solver.endswith(".json") else None


@dataclass(frozen=True)
class TableMaker:
    """What makes the tables of a scheduler.

    Attributes:
        config: the scheduler's. schedule, model: what it says of the network.
        solver: a registered name; "" for the default at each number of steps, or with a table. options: the solver's.
        grid: a name, "config", or None.
        fixed: the table that is the solver.
    """

    config: Config
    schedule: Schedule
    model: ScoreModel
    solver: str
    options: Mapping[str, Any]
    grid: str | None
    fixed: Table | None = None

    @classmethod
    def of(cls, config: Config, schedule: Schedule, model: ScoreModel, solver: Any) -> TableMaker:
        """The maker of a solver by name, by its table or by that table's path. Raises: ValueError, TypeError."""
        options, grid = dict(config["solver_options"] or {}), config["grid"]
        maker = cls(config, schedule, model, "", options, grid, table_from(solver))
        if maker.fixed is not None:
            check_table(maker.fixed, model, None, {"grid": grid, "solver_options": options or None})
        if maker.fixed is not None or solver is None:
            return maker
        preset = resolve(solver)
        info = get_solver(preset.solver)
        if info.adaptive:
            raise ValueError(
                f"{solver!r} decides as it runs when to ask the network, and a pipeline wants its timesteps before: "
                "take a solver on a fixed grid, or ss.sample(ss.from_diffusers(pipeline), ...)"
            )
        options = {**preset.options, **options}
        check_options(info, options)
        return replace(maker, solver=info.name, options=options, grid=preset.grid if grid is None else grid)

    def table(self, steps: int | None, timesteps: Any = None, sigmas: Any = None, mu: float | None = None) -> Table:
        """The table of a run; arguments as ``ScoreSolveScheduler.set_timesteps`` has them."""
        if self.fixed is not None:
            own = len(self.fixed.times) - 1
            fits = steps in (None, own) and timesteps is None and (sigmas is None or len(sigmas) == own)
            require(fits, f"num_inference_steps={own}, those of the table that is the solver, without other times")
            return self.fixed
        levels = None if sigmas is None else _levels(sigmas)
        if timesteps is not None:
            return self._on(np.append(self.schedule.times(_host(timesteps)), self.model.t_min))
        if levels is not None and not self._customary(levels):
            return self._on(self._times_of(levels, mu))
        steps = len(levels) if steps is None and levels is not None else steps
        steps = whole_number("num_inference_steps", steps)
        return self._on(self._named(steps, mu), steps)

    def rest(self, table: Table, row: int) -> Table:
        """The table of the same run begun at one of its calls, without the outputs of those before."""
        starts = step_starts(table)
        if calls_per_step(table) is None or row not in starts:
            raise ValueError(
                f"a run of {table.solver!r} begins at the first call of a step, {starts} of its timesteps, and only if "
                f"each step has as many; not at {row}: take a solver of one call a step"
            )
        if self.fixed is not None:
            return replace(table, rows=table.rows[row:], start=table.rows[row].t)
        found = self._on(table.times[starts.index(row) :], solver=self.solver or table.solver)
        same = [each.t for each in found.rows] == [each.t for each in table.rows[row:]]
        require(same, f"a solver whose calls do not depend on where it begins, {table.solver!r} makes others")
        return found

    def _on(self, grid: GridLike, steps: int | None = None, solver: str = "") -> Table:
        name, model = solver or self._solver(len(np.asarray(grid)) - 1 if steps is None else steps), self.model
        request = Request(model, get_solver(name), grid, model.t_max, model.t_min, self.options)
        runner, _ = plan(request, steps, None)
        if not isinstance(runner, Table):
            raise ValueError(f"expected a solver that is a table, {name!r} decides as it runs: use ss.sample")
        return runner

    def _solver(self, steps: int) -> str:
        return self.solver or default_solver(steps)

    def _named(self, steps: int, mu: float | None) -> GridLike:
        """The grid where a pipeline asks for no times."""
        if self.schedule.kind == "flow" and self.grid in (None, "config"):
            return partial(flow_times if self.grid is None else published_flow_times, config=self.config, mu=mu)
        if self.grid == "config":
            return spacing_of(self.config)
        return get_solver(self._solver(steps)).grid if self.grid is None else self.grid

    def _customary(self, levels: np.ndarray) -> bool:
        """Whether the levels are 1, 1 - 1/n, ..., 1/n of a flow: pipelines give these where the user gives none."""
        count = len(levels)
        return self.schedule.kind == "flow" and np.allclose(levels, 1 - np.arange(count) / count, atol=1e-6)

    def _times_of(self, levels: np.ndarray, mu: float | None) -> np.ndarray:
        """The times of noise levels sigma / alpha, or of a flow's times before their shift."""
        sde = self.model.sde
        inner = shifted(levels, self.config, mu) if self.schedule.kind == "flow" else sde.time(-np.log(levels))
        return np.append(inner, self.model.t_min)


def step_starts(table: Table) -> list[int]:
    """The first call of each step."""
    return [0, *(number + 1 for number, row in enumerate(table.rows[:-1]) if row.s is not None)]


def calls_per_step(table: Table) -> int | None:
    """The calls of each step, but for the last one, which may do with fewer; None if steps differ."""
    sizes = np.diff([*step_starts(table), len(table.rows)])
    return int(sizes[0]) if (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0] else None


def _levels(sigmas: Any) -> np.ndarray:
    levels = _host(sigmas)
    return levels[:-1] if len(levels) > 1 and levels[-1] == 0 else levels


def _host(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
