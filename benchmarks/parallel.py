"""Calls one after the other, parallel in time: ``python benchmarks/parallel.py`` writes ``parallel.csv``.

For each problem, solver, number of calls of the table, tolerance and memory of Anderson's acceleration: ``depth``, the
calls made one after the other, of which the slowest sample decides; ``sweeps``, those of the mean sample;
``evaluations``, how often the mean sample was asked of the network, relative to the table's number of calls; ``error``,
the root mean square distance to the run one call after the other, over the tolerance, of the worst sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks import digits
from benchmarks.problems import gaussian_law, mixture_law
from benchmarks.work_precision import OUT, write

SOLVERS = ("ddim", "dpmpp_2m", "ddpm")
CALLS = (25, 50, 100, 200)
TOLERANCES = (1e-2, 1e-3)
MEMORIES = (0, 1, 3)
SAMPLES = 16


@dataclass(frozen=True)
class Row:
    """One run; see above."""

    problem: str
    solver: str
    calls: int
    tolerance: float
    anderson: int
    depth: int
    sweeps: float
    evaluations: float
    error: float


def models(quick: bool) -> dict[str, tuple[ss.ScoreModel, tuple[int, ...]]]:
    """Two exact laws on VP, and the trained digits network, each with the shape of a sample."""
    gaussian, mixture = gaussian_law(torch.Generator().manual_seed(0)), mixture_law()
    laws = {"gaussian": gaussian, "mixture": mixture}
    found = {name: (law.model(ss.VPSDE()), tuple(law.shape)) for name, law in laws.items()}
    training = digits.QUICK if quick else digits.Training()
    return {**found, "digits": (digits.model(training, torch.device("cpu"), log=tqdm.write), digits.SHAPE)}


def measure(model: ss.ScoreModel, shape: tuple[int, ...], problem: str, solver: str, calls: int) -> list[Row]:
    """Every setting of the iteration against one run of the table."""
    shapes, rows = (SAMPLES, *shape), []
    plain = ss.sample(model, shapes, solver=solver, nfe=calls, seed=0, dtype=torch.float64)
    for tolerance, memory in product(TOLERANCES, MEMORIES):
        picard = ss.Picard(tolerance=tolerance, anderson=memory)
        run = ss.sample(model, shapes, solver=solver, nfe=calls, seed=0, dtype=torch.float64, parallel=picard)
        error = (run.samples - plain.samples).flatten(1).square().mean(1).sqrt().max().item() / tolerance
        sweeps = run.nfe_per_sample.double().mean().item()
        evaluations = run.stats["evaluations"].double().mean().item() / calls
        rows.append(Row(problem, solver, calls, tolerance, memory, run.nfe, sweeps, evaluations, error))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the CSV, print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few calls, a small network")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows: list[Row] = []
    cells = list(product(models(options.quick).items(), SOLVERS, CALLS[:1] if options.quick else CALLS))
    for (problem, (model, shape)), solver, calls in tqdm(cells):
        rows += measure(model, shape, problem, solver, calls)
    write([asdict(row) for row in rows], options.out / "parallel.csv")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
