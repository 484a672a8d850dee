"""Adaptive solvers of the probability flow, work against precision: ``python benchmarks/work_precision.py``.

On the four problems of ``problems.py`` every adaptive solver runs at tolerances (rtol = atol) from 1e-1 to 1e-7,
beside torchdiffeq's dopri5 and scipy's RK45 (score_sde's setting), both in t with one step for the whole batch, and the
published adaptive DPM-Solver-23. All run in float64 from the same starts, between t_max and the smallest time that the
network is asked about, against converged end points.

Work is the number of network calls that a sample took part in, on average over the batch: where all go together it is
the number of calls. Precision is the RMSE of the end points, and their median error. Written are
``work_precision_<process>.png`` and ``work_precision.csv``, and what a method needs at equal error as a table.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import scoresolve as ss
from benchmarks.digits import QUICK, Training
from benchmarks.plots import COLOURS, MARKERS
from benchmarks.problems import PROBLEMS, PROCESSES, Problem, Settings
from benchmarks.published import DpmAdaptive
from scoresolve.reference import converge

OUT = Path(__file__).resolve().parent / "results"
CACHE = Path(__file__).resolve().parent / "cache"
TOLERANCES = tuple(10.0**-k for k in np.arange(1.0, 7.5, 0.5))
ERRORS = (1e-2, 1e-3, 1e-4, 1e-5)
PUBLISHED = "dpm_adaptive, published"
OTHERS = {"rk45": "torchdiffeq dopri5", "scipy_rk45": "scipy RK45", PUBLISHED: PUBLISHED}
"""What ours are held against, and how the figures call it."""
YARDSTICKS = ("rk45", "scipy_rk45")
MOST_CALLS = 3000


@dataclass(frozen=True)
class Row:
    """One run. Attributes: work (calls a sample took part in, average), calls (of the network), rmse, median."""

    process: str
    problem: str
    solver: str
    tolerance: float
    work: float
    calls: int
    rmse: float
    median: float


def ours() -> list[str]:
    """Our adaptive solvers with a step for each sample."""
    return [info.name for info in ss.solvers() if info.adaptive and info.kind == "ode" and info.name not in OTHERS]


def measure(process: str, problem: Problem, ends: Tensor, model: ss.ScoreModel, job: tuple[str, float]) -> Row | None:
    """One solver at one tolerance; None if it does not arrive within the most calls."""
    solver, tolerance = job
    start = problem.starts[: len(ends)]
    try:
        if solver == PUBLISHED:
            run = DpmAdaptive(model, tolerance, tolerance)
            with torch.no_grad():
                found = run.run(start, model.t_max, model.t_min, MOST_CALLS)
            work, calls = float(run.calls), run.calls
        else:
            solution = ss.sample(model, start=start, solver=solver, rtol=tolerance, atol=tolerance, nfe=MOST_CALLS)
            found, calls = solution.samples, solution.nfe
            work = solution.stats["network_rows"] / len(start)
    except ss.ScoreSolveError:
        return None
    error = (found - ends).square().flatten(1).mean(1).sqrt()
    rmse, median = float(error.square().mean().sqrt()), float(error.median())
    return Row(process, problem.name, solver, tolerance, work, calls, rmse, median)


def measure_all(process: str, names: Sequence[str], paths: int, quick: bool) -> Iterator[Row]:
    """Every solver at every tolerance on every problem."""
    training = QUICK if quick else Training()
    settings = Settings(
        PROCESSES[process](), torch.device("cpu"), 0, paths, paths, training, CACHE, lambda line: tqdm.write(line)
    )
    tolerances = TOLERANCES[::4] if quick else TOLERANCES
    for name in names:
        problem = PROBLEMS[name](settings)
        model = copy.copy(problem.model)
        model.t_min = max(model.t_min, model.t_eps)
        start = problem.starts[:paths]
        if problem.gaussian is not None:
            ends = problem.gaussian.flow(model.sde, start, model.t_max, model.t_min)
        else:
            ends = converge(model, start, exact=True).ends
        jobs = [(solver, tolerance) for solver in (*ours(), *OTHERS) for tolerance in tolerances]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            torch.set_num_threads(1)
            work = pool.map(partial(measure, process, problem, ends, model), jobs)
            yield from (row for row in tqdm(work, f"{process}, {name}", len(jobs), leave=False) if row is not None)


def needed(rows: Sequence[Row], error: float) -> float:
    """The work that a solver needs for an error: interpolated between its runs, infinite where none was as accurate.

    The rows are those of one solver, from the rough to the fine.
    """
    for before, after in pairwise(rows):
        if before.rmse > error >= after.rmse:
            share = math.log(before.rmse / error) / math.log(before.rmse / after.rmse)
            return float(before.work ** (1 - share) * after.work**share)
    return rows[0].work if rows and rows[0].rmse <= error else math.inf


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """For each process, problem and error: the work of every solver, and ours over the better yardstick."""
    lines = []
    for process, problem in dict.fromkeys((row.process, row.problem) for row in rows):
        here = [row for row in rows if (row.process, row.problem) == (process, problem)]
        for error in ERRORS:
            found = {
                solver: needed([row for row in here if row.solver == solver], error)
                for solver in dict.fromkeys(row.solver for row in here)
            }
            best = min(found.get(name, math.inf) for name in YARDSTICKS)
            line = {"process": process, "problem": problem, "error": f"{error:.0e}"}
            line |= {solver: f"{value:.0f}" for solver, value in found.items()}
            lines.append(line | {"adaptive_abm / yardstick": f"{found['adaptive_abm'] / best:.2f}"})
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """RMSE against work above, median error over tolerance against tolerance below; a column for each problem."""
    problems = list(dict.fromkeys(row.problem for row in rows))
    solvers = list(dict.fromkeys(row.solver for row in rows))
    figure, axes = plt.subplots(2, len(problems), figsize=(4 * len(problems), 7.6), squeeze=False, layout="constrained")
    for column, problem in enumerate(problems):
        work, honesty = axes[:, column]
        honesty.fill_between([1e-7, 1e-1], 0.1, 10, color="0.93", zorder=0)
        for number, solver in enumerate(solvers):
            own = [row for row in rows if (row.problem, row.solver) == (problem, solver)]
            style = _style(solver, number)
            work.plot([row.work for row in own], [row.rmse for row in own], **style)
            honesty.plot([row.tolerance for row in own], [row.median / row.tolerance for row in own], **style)
        _finish(work, honesty, problem, first=column == 0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG, of at most 256 colours."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def write(lines: Sequence[Mapping[str, object]], path: Path) -> None:
    """A CSV of lines with the same columns, numbers with four digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines)


def _style(solver: str, number: int) -> dict[str, object]:
    other = solver in OTHERS
    return {
        "color": "0.45" if other else COLOURS[number % len(COLOURS)],
        "linestyle": (":", "--", "-.")[list(OTHERS).index(solver)] if other else "-",
        "linewidth": 2.4 if solver == "adaptive_abm" else 1.2,
        "marker": "" if other else MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "label": OTHERS.get(solver, solver),
    }


def _finish(work: Axes, honesty: Axes, problem: str, first: bool) -> None:
    work.set(xscale="log", yscale="log", title=problem, xlabel="network calls a sample took part in")
    honesty.set(xscale="log", yscale="log", xlabel="tolerance (rtol = atol)", ylim=(1e-2, 1e2))
    honesty.invert_xaxis()
    if first:
        work.set_ylabel("RMSE of the end points")
        honesty.set_ylabel("median error / tolerance")
    for axis in (work, honesty):
        axis.grid(alpha=0.25)
    work.set_xlim(8, 1000)
    work.set_ylim(1e-8, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write the CSV and the figures, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", nargs="+", choices=PROCESSES, default=["vp", "edm"])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--paths", type=int, default=64, help="starts of each problem")
    parser.add_argument("--quick", action="store_true", help="few paths, few tolerances")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = 8 if options.quick else options.paths
    rows = [row for name in options.processes for row in measure_all(name, options.problems, paths, options.quick)]
    for process in options.processes:
        draw([row for row in rows if row.process == process], options.out / f"work_precision_{process}.png")
    for name, lines in (("work_precision", [asdict(row) for row in rows]), ("work_at_equal_error", table(rows))):
        write(lines, options.out / f"{name}.csv")
    for line in table(rows):
        print("  ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
