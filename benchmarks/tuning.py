"""Tables tuned to a network against the best untuned solver: ``python benchmarks/tuning.py``.

For every problem and number of calls: ``ss.tune`` with three seeds, and every deterministic solver of ours on every
grid and of the peers at all their options, each judged by the root mean square error of its ends from the same 256 to
16384 starts, none of which took part in the tuning. The best untuned one is chosen *with* these in view.

Each cell is a file: a run that is killed goes on where it was. Writes ``tuning.csv`` and ``tuning.png``.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter
from tqdm import tqdm

import scoresolve as ss
from benchmarks.checkpoints import write_whole
from benchmarks.measure import Cell, cells, measure
from benchmarks.peers import installed
from benchmarks.peers import rows as peer_rows
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.settings import VARIANTS, setting
from benchmarks.train import RESULTS
from benchmarks.tuning_problems import UNSEEN, Made, make

NFE = (4, 5, 6, 8, 10, 12)
SEEDS = (0, 1, 2)
GRIDS = ("balanced", "quadratic", "karras", "log_snr", "uniform", "optimised", "cosine", "beta", "flow_shift")


def untuned(problem: Problem, calls: int) -> dict[str, Any]:
    """The best deterministic solver of ours or a peer's on the problem, of all that could be run."""
    ours = [setting(info.name) for info in ss.solvers() if info.kind == "ode" and not info.adaptive]
    ours += [setting(label) for label in VARIANTS if setting(label).kind == "ode"]
    found = [measure(problem, cell, 0) for cell in cells(problem, ours, GRIDS, [calls])]
    peers = [peer for peer in installed()[0] if peer.kind == "ode" and not peer.adaptive]
    theirs = [peer_rows.measure(problem, cell, peer, 0) for cell, peer in peer_rows.cells(problem, peers, [calls])]
    good = [row for row in (*found, *theirs) if row.rmse is not None and row.nfe is not None and row.nfe <= calls]
    best, quiet = min(good, key=_rmse), min(good, key=_median)
    return {
        "tried": len(good),
        "best": f"{_label(best.cell)}",
        "rmse": best.rmse,
        "best_by_median": f"{_label(quiet.cell)}",
        "median": _median(quiet),
    }


def _rmse(row: Any) -> float:
    return float(row.rmse)


def _median(row: Any) -> float:
    return float(row.rmse if row.median is None else row.median)  # an exact law's is given by its mean square alone


def _label(cell: Cell) -> str:
    return f"{'' if cell.ours else cell.library + ' '}{cell.solver} on {cell.grid}"


def tuned(made: Made, calls: int, seed: int) -> dict[str, Any]:
    """A table tuned with a seed, its errors on the problem's own starts, and its cost."""
    problem, began = made.problem, time.perf_counter()
    table = ss.tune(
        problem.model, tuple(problem.shape), calls, seed=seed, starts=made.starts, held_out=made.held_out,
        dtype=problem.starts.dtype,
    )  # fmt: skip
    minutes = (time.perf_counter() - began) / 60
    return {**judged(problem, table), "minutes": minutes, "table": json.loads(table.to_json())}


def judged(problem: Problem, table: ss.Table) -> dict[str, float]:
    """The errors of a table on the problem's starts."""
    starts = problem.starts[: len(problem.reference.ends)]
    ends = ss.sample(problem.model, start=starts, solver=table).samples
    each = (ends - problem.reference.ends).flatten(1).square().mean(dim=1)
    return {"rmse": float(each.mean().sqrt()), "median": float(each.sqrt().median())}


def cell(folder: Path, name: str, compute: Callable[..., dict[str, Any]], *arguments: int) -> dict[str, Any]:
    """What a cell's file holds; it is computed and written first where there is none."""
    path = folder / f"{name}.json"
    if not path.exists():
        write_whole(path, json.dumps(compute(*arguments), indent=1).encode())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rows(
    folder: Path, names: Iterable[str], calls: Sequence[int], seeds: Sequence[int], known: bool = False
) -> list[dict[str, Any]]:
    """A line for each problem and number of calls, from the cells; what has no file is measured, or left out."""
    found = []
    for name in names:
        made = cache(partial(make, name))  # no sooner than a cell asks for it
        for count in tqdm(calls, name, leave=False):
            there = [seed for seed in seeds if (folder / f"{name}-{count}-{seed}.json").exists()]
            if known and not (there and (folder / f"{name}-{count}-untuned.json").exists()):
                continue
            bare = cell(folder, f"{name}-{count}-untuned", lambda n: untuned(made().problem, n), count)  # noqa: B023
            runs = [
                cell(folder, f"{name}-{count}-{seed}", lambda *a: tuned(made(), *a), count, seed)  # noqa: B023
                for seed in (there if known else seeds)
            ]
            found.append(_line(name, count, bare, runs))
    return found


def _line(name: str, calls: int, bare: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    options = [run["table"]["options"] for run in runs]
    ratios = [run["rmse"] / bare["rmse"] for run in runs]
    return {
        "problem": name,
        "calls": calls,
        "seeds": len(runs),
        "untuned": bare["best"],
        "of": bare["tried"],
        "untuned_rmse": bare["rmse"],
        "tuned_rmse": statistics.median(run["rmse"] for run in runs),
        "ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
        "median_ratio": statistics.median(run["median"] for run in runs) / bare["median"],
        "starts": options[0]["starts"],
        "million_samples_seen": statistics.median(one["network_rows"] for one in options) / 1e6,
        "minutes": statistics.median(run["minutes"] for run in runs),
    }


def write(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """The lines as CSV, numbers to three digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.3g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines)


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """The ratios against network calls, a line for each problem; a bar from the median to the worst of the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, name in enumerate(dict.fromkeys(line["problem"] for line in lines)):
        own = [line for line in lines if line["problem"] == name]
        calls, ratios = [line["calls"] for line in own], [line["ratio"] for line in own]
        above = [line["worst_ratio"] - line["ratio"] for line in own]
        axes.errorbar(
            calls, ratios, (len(own) * [0], above), color=f"C{index}", marker="o", ms=4, capsize=2, label=name
        )
    axes.axhline(1.0, color="0.4", lw=1)
    axes.axhline(0.5, color="0.4", lw=1, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel="error over that of the best untuned")
    axes.set_xticks(sorted({line["calls"] for line in lines}))
    axes.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", nargs="+", default=[*PROBLEMS, *UNSEEN], choices=[*PROBLEMS, *UNSEEN])
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--known", action="store_true", help="measure nothing, write what there is")
    parser.add_argument("--out", type=Path, default=RESULTS / "tuning")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    lines = rows(options.out / "cells", options.problems, options.nfe, options.seeds, options.known)
    write(lines, options.out / "tuning.csv")
    plot(lines, options.out / "tuning.png")
    print((options.out / "tuning.csv").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
