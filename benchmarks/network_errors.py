"""Which solver suits trained networks: ``python benchmarks/network_errors.py``, after ``benchmarks/systems.py``.

For the networks of ``train.py`` every deterministic solver of a list is run on its own grid, from the same starts as
the flow's converged end points (adaptive, tolerances of 1e-6), for several numbers of calls. ``network_errors.csv`` has
the root mean square error over that of the best solver of the list, for each network: its geometric mean over the
networks, and the largest.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks.classical import SYSTEMS
from benchmarks.metrics import rmse
from benchmarks.train import RESULTS, load

SOLVERS = (
    "ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "deis_tab3", "ipndm_3", "velocity_ab3", "heun",
    "flow_abm_2", "flow_abm_3", "flow_abm_4",
)  # fmt: skip
CALLS = (6, 8, 10, 15, 20, 30, 50)
STARTS = 100


def errors(model: ss.ScoreModel, shape: Sequence[int]) -> dict[tuple[int, str], float]:
    """The RMSE of every solver and number of calls."""
    normal = torch.randn(STARTS, *shape, generator=torch.Generator().manual_seed(0))
    start = normal * model.sde.prior_std(model.t_max)
    truth = ss.sample(model, start=start, rtol=1e-6, atol=1e-6).samples
    found = {}
    for calls in CALLS:
        for solver in SOLVERS:
            found[calls, solver] = rmse(ss.sample(model, start=start, solver=solver, nfe=calls).samples, truth)
    return found


def table(found: dict[str, dict[tuple[int, str], float]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines: for each solver and number of calls the mean and the largest ratio to the best."""
    lines = []
    for solver in SOLVERS:
        line = [f"`{solver}`"]
        for calls in CALLS:
            best = {name: min(one[calls, other] for other in SOLVERS) for name, one in found.items()}
            ratios = [one[calls, solver] / best[name] for name, one in found.items()]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            line.append(f"{mean:.2f} ({max(ratios):.1f})")
        lines.append(line)
    return ["solver", *(f"{calls} calls" for calls in CALLS)], lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns 0, or 2 where a network is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", type=Path, default=RESULTS / "train", help="where train.py leaves networks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    found = {}
    for system in tqdm(SYSTEMS, "networks", leave=False):
        try:
            model = load(options.networks / f"{system}-digits" / "model.safetensors", between=True)
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        found[system] = errors(model, model.net.config.shape)  # type: ignore[attr-defined]
    head, lines = table(found)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "network_errors.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([head, *lines])
    print((options.out / "network_errors.csv").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
