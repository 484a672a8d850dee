"""Stochastic solvers in three figures: ``python benchmarks/stochastic.py [--out FOLDER] [--quick] [--seed N]``.

In one dimension (two modes, of weights 0.70 and 0.30, on VPSDE, from the exact marginal at t_max) everything exact is
at hand: the network, the starts and the quantiles of the law at t_min. Every registered solver of kind "sde" that walks
a grid is run on its default grid, in float64.

- ``sde_error.png``: Wasserstein-1 distance to the exact law against network calls, and two floors: the distance of as
  many exact independent samples, and what the noise of the measurement itself leaves (``one_dimension.Stratified``).
- ``sde_strong.png``: mean distance on one Brownian path a sample to the same solver's finest grid (``orders.py``).
- ``sde_modes.png``: share of the 0.70 mode against network calls, from independent samples, with its standard error.

All numbers go to ``stochastic.csv``.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks import order_errors, order_paths
from benchmarks.one_dimension import Law, Stratified, centred, floor, mode_share, network, quantiles, wasserstein

OUT = Path(__file__).resolve().parent / "results"
FAMILIES = {
    "exponential": "exponential, multistep",
    "sa": "SA-Solver, ER-SDE",
    "single": "exponential, single-step",
    "srk": "stochastic Runge-Kutta",
    "ancestral": "ancestral, Euler-Maruyama",
    "euler_maruyama": "ancestral, Euler-Maruyama",
    "restart": "churn, Restart, Langevin",
    "langevin": "churn, Restart, Langevin",
}
"""The family of a solver by the module that registers it."""
OTHER = "other"


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes: budgets (of network calls), samples and repeats (for the distance), independent (samples for the share),
    steps, finest and paths (on one Brownian path a sample; for strong order 1.5 twice the steps, half the paths).
    """

    budgets: Sequence[int] = (5, 7, 10, 15, 20, 30, 50, 100, 200)
    samples: int = 2**15
    repeats: int = 2
    independent: int = 2**17
    steps: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    finest: int = 2048
    paths: int = 1024
    seed: int = 0


QUICK = {"budgets": (5, 10, 20, 50), "samples": 2**12, "independent": 2**14, "finest": 512, "paths": 64}


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        quantity: "w1", "share", "strong", or "floor" (the distance of exact independent samples).
        budget, nfe: network calls allowed and counted; steps, step: their number, and their length in lam.
        value: what was measured; w2 the Wasserstein-2 distance beside the Wasserstein-1 distance.
        noise: of a share, its standard error; of a distance, what an exact solver would have shown here.
    """

    quantity: str
    solver: str
    family: str = ""
    grid: str = ""
    strong_order: float | None = None
    budget: int | None = None
    nfe: int | None = None
    steps: int | None = None
    step: float | None = None
    value: float = math.nan
    w2: float | None = None
    noise: float | None = None

    def within(self, errors: float = 3.0) -> bool:
        """Whether a share is that of the law, to so many standard errors."""
        return abs(self.value - float(order_errors.mixture().weights[0])) <= errors * (self.noise or 0.0)


# -- the measurements -------------------------------------------------------------------------------------------------


def row(info: ss.SolverInfo, quantity: str, **numbers: Any) -> Row:
    """A row of a solver."""
    family = FAMILIES.get(info.build.__module__.rpartition(".")[2], OTHER)
    return Row(quantity, info.name, family, info.grid, info.strong_order, **numbers)


def keyed(*parts: object) -> int:
    """A seed for each use, the same whatever else is run."""
    return zlib.crc32(repr(parts).encode())


def distance(
    info: ss.SolverInfo, nfe: int, law: Law, sde: ss.SDE, n: int, repeats: int, seed: int
) -> tuple[float, float, float, int]:
    """(W1, W2, the W1 that noise alone would leave, calls) of a solver's law at t_min, means over repeats."""
    exact = quantiles(law.marginal(sde, sde.t_min), centred(n))
    sets, calls = [], 0
    for repeat in range(repeats):
        key = keyed(seed, info.name, nfe, repeat)
        shift = torch.rand(1, generator=torch.Generator().manual_seed(key), dtype=torch.float64) - 0.5
        start = quantiles(law.marginal(sde, sde.t_max), centred(n) + shift / n)[:, None]
        noise = Stratified(key + 1)
        solution = ss.sample(network(law, sde), start=start, solver=info.name, nfe=nfe, noise=noise)
        sets.append(solution.samples.flatten().sort().values)
        calls = solution.nfe
    w1, w2 = (sum(wasserstein(x, exact, power) for x in sets) / repeats for power in (1, 2))
    apart = [wasserstein(a, b) / math.sqrt(2) for a, b in pairwise(sets)]
    return w1, w2, sum(apart) / max(1, len(apart)), calls


def share(info: ss.SolverInfo, nfe: int, law: Law, sde: ss.SDE, n: int, seed: int) -> tuple[float, float, int]:
    """(share of the first mode, its standard error, calls) of independent samples."""
    key = keyed(seed, info.name, nfe, "share")
    start = law.marginal(sde, sde.t_max).sample(n, generator=torch.Generator().manual_seed(key))
    solution = ss.sample(network(law, sde), start=start, solver=info.name, nfe=nfe, seed=key)
    return *mode_share(law.marginal(sde, sde.t_min), solution.samples), solution.nfe


def law_rows(info: ss.SolverInfo, nfe: int, plan: Plan) -> list[Row]:
    """Distance and share at a budget; none if it is below the cost of the solver."""
    law, sde = order_errors.mixture(), ss.VPSDE()
    try:
        w1, w2, noise, calls = distance(info, nfe, law, sde, plan.samples, plan.repeats, plan.seed)
    except ValueError as error:
        if "ask for nfe=" not in str(error):
            raise
        return []
    part, spread, _ = share(info, nfe, law, sde, plan.independent, plan.seed)
    return [
        row(info, "w1", budget=nfe, nfe=calls, value=w1, w2=w2, noise=noise),
        row(info, "share", budget=nfe, nfe=calls, value=part, noise=spread),
    ]


def strong_rows(info: ss.SolverInfo, plan: Plan) -> list[Row]:
    """Strong errors at each number of steps, on the same paths for every solver."""
    fine = info.strong_order is not None and info.strong_order > 1
    steps = (*plan.steps, 2 * plan.steps[-1]) if fine else plan.steps
    paths, finest = (plan.paths // 2, 2 * plan.finest) if fine else (plan.paths, plan.finest)
    errors, _, _ = order_paths.path_errors(info, ss.VPSDE(), steps, paths, finest)
    width = order_errors.LAM[1] - order_errors.LAM[0]
    return [row(info, "strong", steps=n, step=width / n, value=e) for n, e in zip(steps, errors, strict=True)]


def stochastic_solvers() -> list[ss.SolverInfo]:
    """Every registered solver that draws noise and walks a grid."""
    return [info for info in ss.solvers() if info.kind == "sde" and not info.adaptive]


def measure(plan: Plan, progress: bool = True) -> Iterator[Row]:
    """Every number of the three figures, on two threads."""
    last = order_errors.mixture().marginal(ss.VPSDE(), ss.VPSDE.t_min)
    exact = [floor(last, plan.samples, power, seed=plan.seed) for power in (1, 2)]
    yield Row("floor", "exact samples", value=exact[0], w2=exact[1])
    infos = stochastic_solvers()
    jobs: list[tuple[int, Callable[[], list[Row]]]] = []
    for info in infos:
        jobs += [(nfe, partial(law_rows, info, nfe, plan)) for nfe in plan.budgets]
        if info.strong_order is not None:
            jobs.append((info.evaluations * plan.finest // 20, partial(strong_rows, info, plan)))
    # of many small steps one thread each: more would only wait for each other
    with (
        tqdm(total=sum(size for size, _ in jobs), unit="call", disable=not progress) as bar,
        ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for (size, _), rows in zip(jobs, pool.map(lambda job: job[1](), jobs), strict=True):
            bar.update(size)
            bar.set_description(rows[0].solver if rows else "")
            yield from rows


# -- what is written --------------------------------------------------------------------------------------------------


def write(rows: Sequence[Row], path: Path) -> None:
    """The CSV, to six digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(r).items()} for r in rows)


def summary(rows: Sequence[Row]) -> str:
    """For each solver the budgets at which the share of the 0.70 mode is not right to three standard errors."""
    found: dict[str, list[Row]] = {}
    for one in rows:
        if one.quantity == "share":
            found.setdefault(one.solver, []).append(one)
    lines = ["share of the 0.70 mode, outside three standard errors at these network calls:"]
    for solver, own in found.items():
        off = [f"{one.nfe} ({one.value:.3f})" for one in own if not one.within()]
        lines.append(f"  {solver:<20} {', '.join(off) or 'none'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the CSV, draw the figures."""
    from benchmarks import stochastic_plots

    p = argparse.ArgumentParser(prog="benchmarks/stochastic.py", description="Three figures about the SDE solvers.")
    p.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="default: benchmarks/results")
    p.add_argument("--quick", action="store_true", help="within half a minute: fewer samples and budgets")
    p.add_argument("--seed", type=int, default=0)
    options = p.parse_args(arguments)
    plan = Plan(**QUICK if options.quick else {}, seed=options.seed)  # type: ignore[arg-type]
    rows = list(measure(plan))
    options.out.mkdir(parents=True, exist_ok=True)
    write(rows, options.out / "stochastic.csv")
    stochastic_plots.draw(rows, options.out)
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
