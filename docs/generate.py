"""Write the tables of the documentation and the README: solvers from the registry, results from the benchmark's CSV.

``python docs/generate.py`` rewrites what stands between the markers; with ``--check`` it changes nothing and
fails if a table is out of date. ``docs/assets`` holds the CSV and the picture of one run of ``make bench``, and the
orders that ``benchmarks/orders.py`` measured.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measured import (
    calls_table,
    conformance_table,
    csv_table,
    markdown,
    parallel_table,
    records,
    result_tables,
    sde_table,
    steps_table,
    transcript,
    tuning_table,
    work_table,
)

import scoresolve as ss
from scoresolve.presets import GRID_WORDS, PRESETS, Preset, resolve

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {
    "exponential": "exponential multistep (DDIM, DPM-Solver family)",
    "unipc": "predictor-corrector (UniPC)",
    "dpm_solver_v3": "predictor-corrector in a network's own parameterisation (DPM-Solver-v3)",
    "adams": "Adams-Bashforth (DEIS, LMS, iPNDM, PNDM)",
    "single": "exponential Runge-Kutta (single-step DPM-Solver, RES, SEEDS)",
    "runge_kutta": "Runge-Kutta in rho, log rho or t",
    "ancestral": "ancestral",
    "euler_maruyama": "Euler-Maruyama",
    "sa": "stochastic multistep with a varying noise level (SA-Solver, ER-SDE)",
    "restart": "churn and Restart",
    "srk": "stochastic Runge-Kutta of strong order 1.5",
    "langevin": "Langevin dynamics",
    "adaptive_flow": "adaptive probability flow, a step for each sample",
    "adaptive_sde": "adaptive SDE on a Brownian path that is kept",
    "adaptive": "adaptive, one step for the batch, through torchdiffeq and scipy",
}
"""What the modules of ``scoresolve.solvers`` hold."""
ADAMS = ("deis", "lms", "ipndm", "velocity", "flow")


Column = tuple[str, Callable[[ss.SolverInfo], str]]


def _kind(info: ss.SolverInfo) -> str:
    return info.kind.upper() + (", adaptive" if info.adaptive else "")


def _options(info: ss.SolverInfo) -> str:
    return ", ".join(f"`{name}={default!r}`" for name, default in info.options.items())


def _source(info: ss.SolverInfo) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", info.reference)


def _orders() -> dict[str, dict[str, str]]:
    return {row["solver"]: row for row in records("orders")}


def _order(info: ss.SolverInfo) -> str:
    """Declared, and measured in brackets: on the mixture and on a Gaussian, or the latter alone."""
    row = _orders().get(info.name)
    found = [float(row[key]) for key in ("order", "gaussian")[info.kind == "sde" :]] if row else []
    return f"{info.order or '–'}" + (f" ({', '.join(f'{value:.2f}' for value in found)})" if found else "")


def _start(info: ss.SolverInfo) -> str:
    """What its own start-up leaves of the order, where that is less."""
    row = _orders().get(info.name)
    return f"{float(row['start']):.0f}" if row and row["start"] and float(row["start"]) < info.order - 0.5 else ""


def _strong(info: ss.SolverInfo) -> str:
    row = _orders().get(info.name)
    if not row or not info.strong_order:
        return ""
    return f"{info.strong_order:g} ({float(row['strong']):.2f}, {float(row['path']):.2f})"


COLUMNS: list[Column] = [
    ("solver", lambda info: ", ".join(f"`{name}`" for name in (info.name, *info.aliases))),
    ("what it is", lambda info: info.summary.rstrip(".")),
    ("kind", _kind),
    ("calls a step", lambda info: str(info.evaluations)),
    ("order (measured)", _order),
    ("as it starts", _start),
    ("strong order (measured)", _strong),
    ("default grid", lambda info: f"`{info.grid}`"),
    ("options", _options),
    ("source", _source),
]


def solver_table() -> str:
    """Every solver: fixed grids first, then ODE before SDE, low order before high."""
    infos = sorted(ss.solvers(), key=lambda info: (info.adaptive, info.kind, info.order, info.name))
    return markdown([title for title, _ in COLUMNS], [[cell(info) for _, cell in COLUMNS] for info in infos])


def family_table() -> str:
    """The names of all solvers, a line for each derivation."""
    members: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for info in ss.solvers():
        module = info.build.__module__.rsplit(".", 1)[-1]
        if module == "families":  # one builder makes the multistep methods of two modules
            module = "adams" if info.name.startswith(ADAMS) else "exponential"
        members[module].append(f"`{info.name}`")
    return markdown(
        ["family", "solvers"], [[FAMILIES[name], " ".join(found)] for name, found in members.items() if found]
    )


def preset_tables() -> str:
    """The names of others, and their words for grids."""

    def line(name: str, preset: Preset) -> list[str]:
        options = ", ".join(f"`{option}={value!r}`" for option, value in preset.options.items())
        return [name, f"`{preset.solver}`", f"`{preset.grid}`" if preset.grid else "", options]

    spelled = ["Euler", "Heun", "DDIM", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE", "DPM++ SDE", "DPM fast", "Restart"]
    names = [line(name, resolve(name)) for name in spelled] + [line(name, preset) for name, preset in PRESETS.items()]
    words = [[word, f"`{grid}`"] for word, grid in GRID_WORDS.items()]
    return f"\n{markdown(['name', 'solver', 'grid', 'options'], names)}\n\n{markdown(['word', 'grid'], words)}\n"


PAGES: list[tuple[str, str, Callable[[], str]]] = [
    ("README.md", "solvers", family_table),
    ("docs/solvers.md", "solvers", solver_table),
    ("docs/solvers.md", "names", preset_tables),
    ("docs/benchmarks.md", "results", result_tables),
    ("docs/adaptive.md", "work", work_table),
    ("docs/adaptive.md", "sde", sde_table),
    ("docs/parallel.md", "parallel", parallel_table),
    ("docs/conditioning.md", "inpainting", partial(csv_table, "inpainting")),
    ("docs/conditioning.md", "colourisation", partial(csv_table, "colourisation")),
    ("docs/likelihood.md", "likelihood", partial(csv_table, "likelihood_at_equal_error")),
    ("docs/likelihood.md", "hutchinson", partial(csv_table, "hutchinson")),
    ("docs/likelihood.md", "bits", partial(csv_table, "bits_per_dim")),
    ("docs/comparison.md", "calls", calls_table),
    ("docs/comparison.md", "steps", steps_table),
    ("docs/gallery.md", "gallery", partial(csv_table, "gallery")),
    ("docs/choosing.md", "network-errors", partial(csv_table, "network_errors")),
    ("docs/systems.md", "systems", partial(csv_table, "systems")),
    ("docs/systems.md", "findings", partial(csv_table, "systems_findings")),
    ("docs/systems.md", "systems-bits", partial(csv_table, "systems_bits")),
    ("docs/benchmarks.md", "overhead", partial(csv_table, "overhead")),
    ("docs/diffusers.md", "gaussian", partial(csv_table, "diffusers_gaussian")),
    ("docs/diffusers.md", "parity", partial(csv_table, "diffusers_parity")),
    ("docs/conformance.md", "diffusers", partial(conformance_table, "diffusers")),
    ("docs/conformance.md", "scoresolve", partial(conformance_table, "scoresolve")),
    ("docs/promises.md", "mutation", partial(csv_table, "mutation")),
    ("docs/tuning.md", "tuning", tuning_table),
    ("docs/tuning.md", "advise", partial(transcript, "advise")),
]


def replace_between_markers(text: str, subject: str, content: str) -> str:
    """The page with its table replaced. Raises: ValueError unless it has the two markers, once each."""
    begin, end = f"<!-- {subject}:begin -->", f"<!-- {subject}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected {begin} and then {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check every page; the exit status is 1 if a check finds an old table."""
    parser = argparse.ArgumentParser(description="Write the tables of solvers from the registry.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a table is out of date")
    check = parser.parse_args(arguments).check
    outdated = []
    for name, subject, content in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        wanted = replace_between_markers(text, subject, content())
        if text != wanted:
            outdated.append(name)
            if not check:
                page.write_text(wanted, encoding="utf-8")
    for name in outdated:
        print(f"{name}: {'out of date, run python docs/generate.py' if check else 'rewritten'}")
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
