"""One cell of the benchmark: a solver, a grid and a budget on a problem, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

import scoresolve as ss

from . import metrics
from .problems import Problem
from .settings import Setting, setting

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
QUICK_TOLERANCES = (1e-2, 1e-4)
STOCHASTIC_TOLERANCES = {1e-1: 0.2, 1e-2: 0.1, 1e-3: 0.05, 1e-4: 0.02}
"""What an adaptive SDE solver runs at in place of these: its error falls with a power of the calls of 1 or 1.5."""
MOST_CALLS = 2000
"""Of an adaptive solver."""
OURS = "scoresolve"
Result = TypeVar("Result")
SHOWN = 8
"""How many samples of a run are kept to be looked at."""


@dataclass(frozen=True)
class Cell:
    """What is run: a budget of calls for a solver of fixed steps, a tolerance for an adaptive one."""

    problem: str
    solver: str
    kind: str
    grid: str
    budget: int | None = None
    tolerance: float | None = None
    library: str = OURS

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.problem}: {'' if self.ours else self.library + ' '}{self.solver}, {self.grid}, {self.size}"

    @property
    def size(self) -> str:
        """The budget, or the tolerance."""
        return f"{self.budget} calls" if self.tolerance is None else f"tolerance {self.tolerance:g}"

    @property
    def ours(self) -> bool:
        """Whether the solver is this library's."""
        return self.library == OURS


@dataclass(frozen=True)
class Row:
    """A cell with its numbers; what was not measured is None.

    Attributes:
        status: "ok", "failed" (``message`` says why) or "left out" (the budget is below the solver's cost).
        nfe: network calls, counted.
        rmse, median: of the end points, against the exact ones (deterministic solvers).
        w2, std_error: Bures-Wasserstein distance to the exact law, and the largest relative error of its standard
            deviations (Gaussian problem; from the exact law of the output unless ``sampled``).
        sliced_w2, energy: between sample sets (stochastic solvers).
        seconds: wall time of the run.
    """

    cell: Cell
    status: Literal["ok", "failed", "left out"] = "ok"
    nfe: int | None = None
    rmse: float | None = None
    median: float | None = None
    w2: float | None = None
    std_error: float | None = None
    sliced_w2: float | None = None
    energy: float | None = None
    sampled: bool = True
    seconds: float | None = None
    message: str = ""
    shown: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def error(self) -> float | None:
        """The number that is plotted and ranked: RMSE of paths, or a Wasserstein-2 distance of laws."""
        if self.cell.kind == "ode":
            return self.rmse
        return self.w2 if self.w2 is not None else self.sliced_w2

    def record(self) -> dict[str, Any]:
        """A flat dictionary for CSV and JSON."""
        cell = self.cell
        numbers = ("rmse", "median", "w2", "std_error", "sliced_w2", "energy", "seconds")
        return {
            "problem": cell.problem,
            "library": cell.library,
            "solver": cell.solver,
            "kind": cell.kind,
            "grid": cell.grid,
            "budget": cell.budget,
            "tolerance": cell.tolerance,
            "status": self.status,
            "nfe": self.nfe,
            **{name: getattr(self, name) for name in numbers},
            "sampled": self.sampled,
            "message": self.message,
        }


def cells(
    problem: Problem,
    solvers: Sequence[Setting],
    grids: Sequence[str],
    budgets: Sequence[int],
    tolerances: Sequence[float] = TOLERANCES,
) -> Iterator[Cell]:
    """Every combination, once; an adaptive solver runs over tolerances instead, since it places its own times."""
    for one in solvers:
        if one.adaptive:
            for asked in tolerances if one.takes_tolerance else (None,):
                tolerance = STOCHASTIC_TOLERANCES.get(asked, asked) if asked and one.kind == "sde" else asked
                yield Cell(problem.name, one.label, one.kind, "adaptive", tolerance=tolerance)
            continue
        for grid in dict.fromkeys(one.grid if grid == "default" else grid for grid in grids):
            for budget in budgets:
                yield Cell(problem.name, one.label, one.kind, grid, budget)


def measure(problem: Problem, cell: Cell, seed: int) -> Row:
    """Run a cell. Whatever a solver raises becomes a row; nothing is raised."""
    one = setting(cell.solver)
    try:
        if problem.gaussian is not None and not one.adaptive and (row := _exact(problem, cell, seed)) is not None:
            return row
        return _sampled(problem, cell, seed)
    except Exception as error:
        if cell.budget is not None and cell.budget < _cost(problem, one):
            return Row(cell, "left out", message=str(error))
        return Row(cell, "failed", message=f"{type(error).__name__}: {error}")


def _cost(problem: Problem, one: Setting) -> int:
    """Network calls of the shortest run, as far as they can be known."""
    try:
        ends = np.array([problem.model.t_max, problem.model.t_min])
        return ss.registry.build(str(one.solver), problem.model.sde, ends, **one.options).nfe or 0
    except Exception:
        return 0


def _run(problem: Problem, cell: Cell, start: Tensor, seed: int) -> tuple[ss.Solution, float]:
    one = setting(cell.solver)
    fixed: dict[str, Any] = {"nfe": MOST_CALLS} if cell.tolerance is not None else {}
    if cell.budget is not None:
        fixed = {"nfe": cell.budget, "grid": cell.grid}
    options = dict(one.options)
    if cell.tolerance is not None:
        known = ss.get_solver(str(one.solver)).options
        options |= {name: cell.tolerance for name in ("rtol", "atol") if name in known}
    model, solver = problem.model, one.solver
    return timed(
        lambda: ss.sample(model, start=start, solver=solver, seed=seed, solver_options=options, **fixed),
        start.device,
    )


def timed(run: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What a run returns, and the seconds it took."""
    _wait(device)
    begin = time.perf_counter()
    result = run()
    _wait(device)
    return result, time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _exact(problem: Problem, cell: Cell, seed: int) -> Row | None:
    """Errors of a table on the Gaussian problem, in closed form; None if the solver is not a table."""
    law, sde, t_max = problem.gaussian, problem.model.sde, problem.model.t_max
    assert law is not None
    first = law.marginal(sde, t_max)
    centre, d = first.mean, len(first.mean)
    probes = torch.cat([centre[None], centre + torch.eye(d, dtype=torch.float64)])
    solution, seconds = _run(problem, cell, probes.to(problem.starts.device), seed)
    if solution.table is None:
        return None
    last = float(solution.times[-1])
    truth = law.marginal(sde, last)
    output = ss.exact.push(solution.table, law, sde)
    return Row(
        cell,
        nfe=solution.nfe,
        rmse=probed_rmse(problem, probes, solution.samples, last) if cell.kind == "ode" else None,
        w2=metrics.gaussian_wasserstein(output.mean, output.covariance, truth.mean, truth.covariance),
        std_error=metrics.std_error(output.covariance, truth.covariance),
        sampled=False,
        seconds=seconds,
    )


def probed_rmse(problem: Problem, probes: Tensor, ends: Tensor, last: float) -> float:
    """RMSE of a deterministic solver on the Gaussian problem, from its end points for the probes.

    Output and exact flow are affine, so their difference is known from its values at the law's centre and one unit
    beside it along each axis.
    """
    law, sde, t_max = problem.gaussian, problem.model.sde, problem.model.t_max
    assert law is not None
    difference = ends.cpu() - law.flow(sde, probes, t_max, last)
    matrix = (difference[1:] - difference[0]).T
    return metrics.affine_rmse(difference[0], matrix, law.marginal(sde, t_max).covariance)


def _sampled(problem: Problem, cell: Cell, seed: int) -> Row:
    """Errors over the problem's starts."""
    solution, seconds = _run(problem, cell, starts_of(problem, cell), seed)
    return sampled_row(problem, cell, solution.samples, solution.nfe, float(solution.times[-1]), seconds)


def starts_of(problem: Problem, cell: Cell) -> Tensor:
    """The starts of a deterministic solver, whose ends are known, or of a stochastic one."""
    return problem.starts[: len(problem.reference.ends)] if cell.kind == "ode" else problem.starts


def sampled_row(problem: Problem, cell: Cell, x: Tensor, nfe: int, last: float, seconds: float) -> Row:
    """A row with the errors of the end points x, at time ``last``."""
    shown = x[:SHOWN].float().cpu() if problem.images else None
    if cell.kind == "ode":
        ends = problem.reference.ends
        rmse, median = metrics.rmse(x, ends), metrics.median_error(x, ends)
        return Row(cell, nfe=nfe, rmse=rmse, median=median, seconds=seconds, shown=shown)
    w2 = std_error = None
    if problem.gaussian is not None:
        truth = problem.gaussian.marginal(problem.model.sde, last)
        mean, covariance = (part.cpu() for part in metrics.moments(x))
        w2 = metrics.gaussian_wasserstein(mean, covariance, truth.mean, truth.covariance)
        std_error = metrics.std_error(covariance, truth.covariance)
    return Row(
        cell,
        nfe=nfe,
        w2=w2,
        std_error=std_error,
        sliced_w2=metrics.sliced_wasserstein(x, problem.exact[0]),
        energy=metrics.energy_distance(x, problem.exact[0]),
        seconds=seconds,
        shown=shown,
    )
