"""Stochastic tables tuned for the law of their samples, against the best published stochastic solver and the floor.

    python -m benchmarks.tuning_laws --problems mixture network --calls 5 8 10 --minutes 1

Both run from starts and with noise that took no part in the tuning. Their samples are held against exact ones: energy
distance and sliced Wasserstein distance, beside what two exact sets are apart (the floor) and what the default
deterministic solver gets. On the Gaussian the Wasserstein distance of the laws themselves is known in closed form.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table as Printed

import scoresolve as ss

from . import metrics
from .digits import CACHE, Training
from .problems import PROBLEMS, Problem, Settings

SEED = 7
"""Of the noise that the solvers are judged with."""


def measured(problem: Problem, solver: ss.Table | str, calls: int, grid: str | None = None) -> list[float]:
    """Energy, sliced Wasserstein and (on a Gaussian, else NaN) Wasserstein distance to the truth."""
    nfe = None if isinstance(solver, ss.Table) else calls
    run = ss.sample(problem.model, start=problem.starts, solver=solver, grid=grid, nfe=nfe, seed=SEED)
    truth = problem.exact[0]
    found = [metrics.energy_distance(run.samples, truth), metrics.sliced_wasserstein(run.samples, truth)]
    if problem.gaussian is None or run.table is None:
        return [*found, float("nan")]
    law, sde = problem.gaussian, problem.model.sde
    out, exact = ss.exact.push(run.table, law, sde), law.marginal(sde, problem.model.t_min)
    w2 = metrics.gaussian_wasserstein(out.mean.flatten(), out.covariance, exact.mean.flatten(), exact.covariance)
    return [*found, w2]


def lines(problem: Problem, calls: int, table: ss.Table) -> Iterator[tuple[str, list[float]]]:
    """What is compared at a number of calls, by its name."""
    best, grid = table.options["best_published"].split(" on ")
    yield f"{best} on {grid}", measured(problem, best, calls, grid)
    held = f"held-out MMD {table.options['mmd']:.4f}, was {table.options['best_published_mmd']:.4f}"
    yield f"tuned ({held})", measured(problem, table, calls)
    plain = ss.default_solver(calls)
    yield f"{plain} (deterministic)", measured(problem, plain, calls)


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--calls", nargs="+", type=int, default=[5, 8, 10])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each table, the teacher apart")
    parser.add_argument("--starts", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=2000)
    asked = parser.parse_args()
    console = Console(width=130)
    settings = Settings(ss.VPSDE(), torch.device("cpu"), 0, 16, asked.samples, Training(), CACHE, lambda line: None)
    for name in asked.problems:
        problem = PROBLEMS[name](settings)
        printed = Printed("calls", "solver", "energy", "sliced W2", "W2 of the laws", title=problem.title)
        floor = problem.floor()
        printed.add_row("", "two exact sets", f"{floor['energy']:.4f}", f"{floor['sliced_w2']:.4f}", "0")
        tables = ss.tune(
            problem.model, problem.shape, asked.calls, stochastic=True, starts=asked.starts, held_out=asked.starts,
            minutes=asked.minutes * len(asked.calls),
        )  # fmt: skip
        for calls, table in tables.items():
            for title, values in lines(problem, calls, table):
                printed.add_row(str(calls), title, *(f"{value:.4f}" for value in values))
        console.print(printed)


if __name__ == "__main__":
    main()
