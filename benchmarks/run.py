"""Measure solvers: ``python benchmarks/run.py --help``, or ``make bench``.

Deterministic solvers are held against the exact end points of the probability flow from the same starts, stochastic
ones against the exact law. Writes a CSV, a JSON, a PNG and one self-contained HTML page.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

import scoresolve as ss
from benchmarks import options as cli
from benchmarks.digits import QUICK, Training
from benchmarks.measure import QUICK_TOLERANCES, SHOWN, TOLERANCES, Cell, Row, cells, measure
from benchmarks.page import write_page
from benchmarks.peers import rows as peer_rows
from benchmarks.plots import draw
from benchmarks.problems import PROBLEMS, PROCESSES, Problem, Settings, from_model
from benchmarks.report import Report, Summary, print_report, write_csv, write_json
from benchmarks.settings import Setting, setting
from benchmarks.verdict import Verdict, defaults, judge, print_verdict, write_verdict

Maker = Callable[[Settings], Problem]
Run = tuple[Cell, Callable[[], Row]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 if anything was measured, 2 for options that cannot be followed."""
    parser = cli.parser()
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        cli.check(options)
        settings = _settings(options, console)
        makers = _makers(options, settings)
        options.out.mkdir(parents=True, exist_ok=True)
    except (cli.BadOptionError, OSError) as error:
        parser.print_usage(sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    workers = _share_cores(options, settings)
    try:
        report, problems = _measure_all(options, settings, makers, workers)
    except cli.BadOptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_report(report, console)
    verdict = judge(report, defaults(options.default)) if report.with_peers else None
    if verdict is not None:
        print_verdict(verdict, console)
    _write(report, problems, options.out, verdict)
    files = "report.html, nfe.png, results.csv, results.json" + (", verdict.csv, verdict.md" if verdict else "")
    console.print(f"{report.facts['wall_time']:.0f} s in all; wrote {files} to {options.out}")
    return 0 if any(row.status == "ok" for row in report.rows) else 1


def _settings(options: argparse.Namespace, console: Console) -> Settings:
    return Settings(
        sde=PROCESSES[options.process or "vp"](),
        device=cli.chosen_device(options.device),
        seed=options.seed,
        paths=min(options.paths or (64 if options.quick else 256), options.samples or 512),
        samples=options.samples or (512 if options.quick else 1024),
        training=QUICK if options.quick else Training(),
        cache=options.cache,
        log=lambda line: tqdm.write(line, file=console.file),
    )


def _share_cores(options: argparse.Namespace, settings: Settings) -> int:
    """How many cells run side by side, each on one thread; a network of the user's gets all threads to itself.

    The benchmark's own problems are too small for torch's threads: on busy cores these wait for each other at every
    operation, and a run can take ten times as long.
    """
    threads = options.threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(4))
    alone = bool(options.model) or settings.device.type != "cpu"
    torch.set_num_threads(threads if alone else 1)
    return 1 if alone else threads


def _makers(options: argparse.Namespace, settings: Settings) -> dict[str, Maker]:
    """What makes each problem asked for, by name."""
    makers: dict[str, Maker] = dict(PROBLEMS)
    names = options.problems or list(PROBLEMS)
    if options.model:
        model, shape = cli.load_model(options.model, options.shape)
        if isinstance(model.net, torch.nn.Module):
            model.net.to(settings.device).eval()
        model = model.on(settings.sde) if options.process else model
        title = f"{options.model}, shape {'x'.join(map(str, shape))}"
        makers[cli.USER] = lambda settings: from_model(settings, model, shape, cli.USER, title)
        names = options.problems or [cli.USER]
    return {name: makers[name] for name in dict.fromkeys(names)}


def _measure_all(
    options: argparse.Namespace, settings: Settings, makers: dict[str, Maker], workers: int
) -> tuple[Report, list[Problem]]:
    """Prepare and measure one problem after another."""
    begin, started = time.perf_counter(), time.strftime("%Y-%m-%d %H:%M:%S %Z")
    solvers = cli.chosen_solvers(options)
    peers, versions, missing = cli.chosen_peers(options)
    problems: list[Problem] = []
    rows: list[Row] = []
    trimmed: list[str] = []
    seconds: dict[str, float] = {}
    for name, make in makers.items():
        since = time.perf_counter()
        problem = _prepare(name, make, settings)
        prepared = time.perf_counter()
        budgets, dropped = _budgets(options, problem)
        trimmed += [f"{name}: {n} calls, to keep the default run short (ask for them with --nfe)" for n in dropped]
        tolerances = QUICK_TOLERANCES if options.quick else TOLERANCES
        todo: list[Run] = [
            (cell, partial(measure, problem, cell, settings.seed))
            for cell in _own_cells(options, problem, solvers, budgets, tolerances)
        ]
        todo += [
            (cell, partial(peer_rows.measure, problem, cell, peer, settings.seed))
            for cell, peer in peer_rows.cells(problem, peers, budgets, tolerances)
        ]
        rows += _measure(problem, todo, workers)
        problems.append(problem)
        seconds |= {f"{name} prepared": prepared - since, f"{name} measured": time.perf_counter() - prepared}
    first = problems[0].model
    facts = {
        "versions": _versions() | versions,
        "seed": settings.seed,
        "device": _device_name(settings.device, workers),
        "process": repr(first.sde),
        "t_max": first.t_max,
        "t_min": first.t_min,
        "paths": settings.paths,
        "samples": settings.samples,
        "quick": options.quick,
        "started": started,
        "wall_time": time.perf_counter() - begin,
        "seconds": seconds,
        "trimmed": trimmed,
        "missing": missing,
    }
    return Report(facts, tuple(_summary(problem) for problem in problems), tuple(rows)), problems


def _prepare(name: str, make: Maker, settings: Settings) -> Problem:
    """Make a problem; what goes wrong in a network of the user's is said without our part of the traceback."""
    if name != cli.USER:
        return make(settings)
    try:
        return make(settings)
    except Exception as error:
        raise cli.BadOptionError(f"--model: the network cannot be run: {type(error).__name__}: {error}") from error


def _budgets(options: argparse.Namespace, problem: Problem) -> tuple[list[int], list[int]]:
    """The budgets to run, and those of the default list that the problem is too costly for."""
    if options.nfe:
        return sorted(set(options.nfe)), []
    asked = cli.QUICK_NFE if options.quick else cli.PEERS_NFE if options.peers else cli.NFE
    return [n for n in asked if n <= problem.most_calls], [n for n in asked if n > problem.most_calls]


def _own_cells(
    options: argparse.Namespace,
    problem: Problem,
    solvers: Sequence[Setting],
    budgets: Sequence[int],
    tolerances: Sequence[float],
) -> list[Cell]:
    """The cells of our solvers; with peers those of the settings that they are held against, too."""
    found = list(cells(problem, solvers, options.grids, budgets, tolerances))
    for solver, grid in defaults(options.default) if options.peers else ():
        found += cells(problem, [setting(solver)], [grid], budgets)
    return list(dict.fromkeys(found))


def _measure(problem: Problem, todo: list[Run], workers: int) -> list[Row]:
    rows = []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(todo), desc=problem.name, unit="cell", leave=False, disable=None) as bar,
    ):
        for row in pool.map(lambda run: run[1](), todo):
            bar.set_postfix_str(row.cell.label.partition(": ")[2], refresh=False)
            bar.update()
            rows.append(row)
    return rows


def _summary(problem: Problem) -> Summary:
    reference = problem.reference
    return Summary(problem.name, problem.title, problem.floor(), reference.method, reference.consistency)


def _write(report: Report, problems: list[Problem], folder: Path, verdict: Verdict | None) -> None:
    write_csv(report, folder / "results.csv")
    write_json(report, folder / "results.json", verdict.record() if verdict else None)
    if verdict is not None:
        write_verdict(verdict, folder)
    draw(report, folder / "nfe.png")
    truths = {p.name: p.reference.ends[:SHOWN].float().cpu() for p in problems if p.images}
    write_page(report, folder / "report.html", truths, verdict)


def _versions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "scoresolve": ss.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _device_name(device: torch.device, workers: int) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = workers * torch.get_num_threads()
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})"


if __name__ == "__main__":
    sys.exit(main())
