"""The law of the adaptive SDE solvers: ``python benchmarks/adaptive_sde.py`` writes ``adaptive_sde.csv``.

Two modes of weights 0.70 and 0.30 at -1 and 1, of standard deviation 0.05, in one dimension, on VPSDE from the exact
marginal at t_max: at loose tolerances many steps are rejected, and which increments are rejected depends on the mode.
For each solver and tolerance the share of the first mode among independent samples with its standard error, the
Wasserstein-1 distance to the exact law, and the calls a sample took part in. "redrawn" is the same run with new noise
after each rejection, as published: its halves do not know of the whole that was rejected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor
from tqdm import tqdm

import scoresolve as ss
from benchmarks.one_dimension import centred, mode_share, quantiles, wasserstein
from benchmarks.work_precision import OUT, write
from scoresolve import brownian

SOLVERS = ("adaptive_sde_sra", "adaptive_sde_ggf")
TOLERANCES = (0.1, 0.05, 0.01)
ATOL = 0.0078
CHUNK = 20_000


@dataclass(frozen=True)
class Row:
    """One run. Attributes: path ("kept" or "redrawn"), share of the 0.70 mode, its standard error, w1, calls."""

    solver: str
    path: str
    rtol: float
    share: float
    standard_error: float
    deviations: float
    w1: float
    calls: float


@contextmanager
def redrawn(seed: int) -> Iterator[None]:
    """New noise for both halves of a step that is tried again."""
    kept, generator = brownian.halves, torch.Generator().manual_seed(seed)

    def fresh(share: Tensor, parent: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        more = torch.randn(normals.shape, generator=generator, dtype=normals.dtype)
        return brownian.whole(normals), brownian.whole(more)

    brownian.halves = fresh
    try:
        yield
    finally:
        brownian.halves = kept


def measure(solver: str, rtol: float, samples: int, path: str) -> Row:
    """The law of a solver at a tolerance."""
    law, sde = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.0]], [[0.0025], [0.0025]]), ss.VPSDE()
    model, found, calls = law.model(sde), [], 0
    for chunk in range(0, samples, CHUNK):
        indices = range(chunk, min(chunk + CHUNK, samples))
        generator = torch.Generator().manual_seed(1000 + chunk)
        start = law.marginal(sde, sde.t_max).sample(len(indices), generator=generator)
        run = ss.sample(model, start=start, solver=solver, rtol=rtol, atol=ATOL, seed=0, indices=indices)
        found.append(run.samples)
        calls += int(run.nfe_per_sample.sum())
    x, end = torch.cat(found), law.marginal(sde, sde.t_min)
    share, error = mode_share(end, x)
    w1 = wasserstein(x, quantiles(end, centred(len(x))))
    return Row(solver, path, rtol, share, error, (share - 0.7) / error, w1, calls / samples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the CSV, print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for solver in tqdm(SOLVERS):
        rows += [measure(solver, rtol, options.samples, "kept") for rtol in TOLERANCES]
        with redrawn(0):
            rows += [measure(solver, rtol, options.samples, "redrawn") for rtol in TOLERANCES]
    write([asdict(row) for row in rows], options.out / "adaptive_sde.csv")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
