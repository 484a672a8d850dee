"""What a solver costs beside the network: ``python benchmarks/overhead.py``; see ``--help``.

The network is one that costs nothing: it returns a tensor that is there already. Ours and each peer that is installed
(diffusers' schedulers, azula, torchdiffeq, torchsde) take the same number of steps of the same method with states from
(4, 2) to (64, 3, 64, 64). Of two runs of different length the difference is taken, so that what is done once (grids,
tables) is not in it; runs are interleaved and the median of their repetitions is taken. Beside the microseconds of a
network call stand the operations on tensors in it, counted, and the time of one fused pass over the state
(``torch.add(x, m, alpha=c)``), the least that any step can take.

Written are ``overhead.csv``, ``overhead.json`` and ``overhead.png``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.operations import Operations
from benchmarks.options import chosen_device
from benchmarks.overhead_runs import METHODS, OURS, Run
from benchmarks.plots import COLOURS, MARKERS
from scoresolve.errors import whole_number

OUT = Path(__file__).resolve().parent / "results"
SHAPES = ((4, 2), (64, 3, 8, 8), (64, 3, 32, 32), (64, 3, 64, 64))
SHORT, LONG = 20, 60
FLOOR = "one fused pass"


@dataclass(frozen=True)
class Line:
    """Attributes: method, the name that ours and the peers share; who; shape; us, microseconds of a network call;
    operations, on tensors; floor, us over those of one fused pass; ours, us over ours."""

    method: str
    who: str
    shape: str
    us: float
    operations: float
    floor: float
    ours: float


# -- measuring -------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def counted(run: Run) -> float:
    """Operations of a network call: of a long run's, less a short one's, each."""
    found: list[int] = []
    for calls in (SHORT, LONG):
        with Operations() as mode:
            run(calls)
        found.append(mode.found.total())
    return (found[1] - found[0]) / (LONG - SHORT)


def measure(shape: tuple[int, ...], device: torch.device, repeats: int) -> Iterator[Line]:
    """Every method on states of a shape, all of them in turn."""
    runs = {
        (method, who): make(shape, device)
        for method, makers in METHODS.items()
        for who, make in makers.items()
        if importlib.util.find_spec(who) is not None
    }
    operations = {key: counted(run) for key, run in runs.items()}  # which warms them up, too
    x, m = torch.randn(shape, device=device), torch.randn(shape, device=device)

    def passes() -> None:
        for _ in range(LONG - SHORT):
            torch.add(x, m, alpha=0.5)

    spent: dict[Any, list[float]] = {key: [] for key in (*runs, FLOOR)}
    for _ in range(repeats):
        for key, run in runs.items():
            long, short = (seconds(partial(run, calls), device) for calls in (LONG, SHORT))
            spent[key].append((long - short) / (LONG - SHORT) * 1e6)
        spent[FLOOR].append(seconds(passes, device) / (LONG - SHORT) * 1e6)
    middle = {key: statistics.median(values) for key, values in spent.items()}
    for method, who in runs:
        us = middle[method, who]
        ratios = us / middle[FLOOR], us / middle[method, OURS]
        yield Line(method, who, "x".join(map(str, shape)), us, operations[method, who], *ratios)


# -- what is written -------------------------------------------------------------------------------------------------


def write(lines: Sequence[Line], folder: Path, facts: dict[str, Any]) -> None:
    """CSV, JSON and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    head = ["method", "who", "state", "us a call", "operations", "over one pass", "over ours"]
    with (folder / "overhead.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for line in lines:
            ratio = "" if line.who == OURS else f"{line.ours:.1f}"
            writer.writerow([line.method, line.who, line.shape, f"{line.us:.1f}", f"{line.operations:.1f}",
                             f"{line.floor:.2f}", ratio])  # fmt: skip
    content = {"facts": facts, "lines": [asdict(line) for line in lines]}
    (folder / "overhead.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(lines, folder / "overhead.png")


def draw(lines: Sequence[Line], path: Path) -> None:
    """Microseconds of a call against the size of the state: a panel for each method."""
    methods = list(dict.fromkeys(line.method for line in lines))
    figure, axes = plt.subplots(
        2, -(-len(methods) // 2), figsize=(11, 6), sharex=True, sharey=True, layout="constrained"
    )
    everyone = list(dict.fromkeys(line.who for line in lines))
    for panel, method in zip(axes.flat, methods, strict=False):
        own = [line for line in lines if line.method == method]
        sizes = {line.shape: float(np.prod([int(n) for n in line.shape.split("x")])) for line in own}
        for number, who in enumerate(everyone):
            points = [(sizes[line.shape], line.us) for line in own if line.who == who]
            if points:
                look = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
                panel.plot(*zip(*points, strict=True), **look, label=who)
        floor = sorted({(sizes[line.shape], line.us / line.floor) for line in own if line.who == OURS})
        panel.plot(*zip(*floor, strict=True), color="0.5", linestyle=":", label=FLOOR)
        panel.set(xscale="log", yscale="log", title=method)
        panel.grid(alpha=0.25)
    for panel in axes[-1]:
        panel.set_xlabel("elements of the state")
    for panel in axes[:, 0]:
        panel.set_ylabel("microseconds a network call")
    found: dict[str, Any] = {}
    for panel in axes.flat:
        handles, names = panel.get_legend_handles_labels()
        found |= dict(zip(names, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=len(found), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns 0, 2 for options that cannot be followed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="of every run (default: 15)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="small states only, few repetitions")
    options = parser.parse_args(arguments)
    try:
        device = chosen_device(options.device)
        torch.set_num_threads(whole_number("--threads", options.threads))
        repeats = 3 if options.quick else whole_number("--repeats", options.repeats)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shapes = SHAPES[:2] if options.quick else SHAPES
    lines = [line for shape in tqdm(shapes, "overhead", leave=False) for line in measure(shape, device, repeats)]
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    facts = {"device": str(device), "hardware": hardware, "torch": torch.__version__, "threads": options.threads}
    write(lines, options.out, facts)
    print((options.out / "overhead.csv").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
