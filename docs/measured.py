"""The tables of measurements, as Markdown, from the CSV files of ``docs/assets``."""

from __future__ import annotations

import csv
import math
from pathlib import Path

ASSETS = Path(__file__).resolve().parent / "assets"
BUDGETS = ("5", "10", "20", "50", "100")
SHOWN = 12
"""How many solvers a table of results shows."""
OTHERS = {
    "rk45": "torchdiffeq, dopri5",
    "torchdiffeq dopri5": "torchdiffeq, dopri5",
    "scipy_rk45": "scipy, RK45",
    "scipy RK45": "scipy, RK45",
    "dpm_adaptive, published": "k-diffusion's `dpm_adaptive`",
}
"""Columns of the two tables of calls at equal error, and whose solver each is."""


def work_table() -> str:
    """Calls at equal error of the adaptive solvers; ours over the better of dopri5 and RK45 in the last column."""
    head, *rows = _read("work_at_equal_error")
    return markdown([title.replace("rk45", "dopri5").replace("scipy_dopri5", "RK45") for title in head], rows)


def csv_table(name: str) -> str:
    """A CSV of ``docs/assets`` as it stands."""
    head, *rows = _read(name)
    return markdown(head, rows)


def _read(name: str) -> list[list[str]]:
    with (ASSETS / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))


def records(name: str) -> list[dict[str, str]]:
    """The lines of a CSV of ``docs/assets``, by the names of their columns."""
    head, *rows = _read(name)
    return [dict(zip(head, row, strict=True)) for row in rows]


def calls_table() -> str:
    """Calls of others at equal error over those of ``adaptive_abm``: geometric mean and range."""
    found: dict[str, dict[str, list[float]]] = {}
    for subject, name in (("samples", "work_at_equal_error"), ("log-likelihood", "likelihood_at_equal_error")):
        for row in records(name):
            for column, others in OTHERS.items():
                if row.get(column, "").isdigit():
                    ratio = float(row[column]) / float(row["adaptive_abm"])
                    found.setdefault(others, {}).setdefault(subject, []).append(ratio)
    subjects = ("samples", "log-likelihood")
    lines = [[others, *(_spread(ratios.get(subject)) for subject in subjects)] for others, ratios in found.items()]
    return markdown(["calls over ours", *subjects], lines)


def _spread(ratios: list[float] | None) -> str:
    if not ratios:
        return "–"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{mean:.1f} ({min(ratios):.1f} to {max(ratios):.1f}, {len(ratios)} cells)"


def steps_table() -> str:
    """Time of a step without the network, theirs over ours, a column for each size of the state."""
    rows = [row for row in records("overhead") if row["over ours"]]
    states = list(dict.fromkeys(row["state"] for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["who"]), {})[row["state"]] = row["over ours"]
    lines = [[*names, *(line.get(state, "") for state in states)] for names, line in cells.items()]
    return markdown(["method", "library", *states], lines)


def sde_table() -> str:
    """The weight of a mode by the adaptive SDE solvers, on a kept path and on one that is redrawn."""
    rows = records("adaptive_sde")
    titles = ["solver", "rtol", "noise of a rejected step", "weight (0.70)", "off by", "calls"]
    lines = [
        [
            f"`{row['solver']}`", row["rtol"], row["path"],
            f"{float(row['share']):.3f} ± {float(row['standard_error']):.4f}",
            f"{float(row['deviations']):+.1f} s.e.", f"{float(row['calls']):.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(titles, lines)


def parallel_table() -> str:
    """Calls one after the other of tables solved in parallel, without and with Anderson's acceleration."""
    rows = [row for row in records("parallel") if row["tolerance"] == "0.001" and row["anderson"] in "01"]
    calls = list(dict.fromkeys(row["calls"] for row in rows))
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        found = cells.setdefault((row["problem"], row["solver"]), {})
        found.setdefault(row["calls"], []).append(f"{row['depth']} ({float(row['evaluations']):.1f})")
    lines = [
        [problem, f"`{solver}`", *(", ".join(found[count]) for count in calls)]
        for (problem, solver), found in cells.items()
    ]
    return markdown(["problem", "solver", *(f"{count} calls" for count in calls)], lines)


def result_tables() -> str:
    """The errors of the best fixed-grid solvers at some budgets, for each problem and kind; the best of all in bold."""
    rows = [row for row in records("results") if row["status"] == "ok" and row["budget"] in BUDGETS]
    rows = [row for row in rows if row.get("library", "scoresolve") == "scoresolve"]
    names = {"ode": "deterministic: RMSE of end points", "sde": "stochastic: Wasserstein-2 of laws"}
    parts = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for kind, meaning in names.items():
            errors: dict[str, dict[str, float]] = {}
            for row in rows:
                if row["problem"] == problem and row["kind"] == kind:
                    error = row["rmse"] if kind == "ode" else row["w2"] or row["sliced_w2"]
                    errors.setdefault(row["solver"], {})[row["budget"]] = float(error)
            budgets = [budget for budget in BUDGETS if any(budget in found for found in errors.values())]
            best = {budget: min(found[budget] for found in errors.values() if budget in found) for budget in budgets}
            lines = [
                [f"`{name}`", *(_error(found.get(budget), best[budget]) for budget in budgets)]
                for name, found in sorted(errors.items(), key=lambda item: _mean(item[1], budgets))[:SHOWN]
            ]
            parts.append(f"**`{problem}`**, {meaning}\n\n{markdown(['calls', *budgets], lines)}")
    return "\n\n".join(["", *parts, ""])


def _mean(found: dict[str, float], budgets: list[str]) -> float:
    """Geometric mean over all budgets; infinite if one is missing."""
    errors = [found.get(budget, math.inf) for budget in budgets]
    return math.exp(sum(math.log(error) for error in errors) / len(errors))


def _error(value: float | None, best: float) -> str:
    if value is None:
        return "–"
    return f"**{value:.2e}**" if value == best else f"{value:.2e}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def tuning_table() -> str:
    """Tuned tables beside the best untuned solver, a problem and a number of calls a line."""
    columns = {
        "problem": "problem", "calls": "calls", "seeds": "seeds", "untuned": "best untuned", "of": "of",
        "untuned_rmse": "error", "tuned_rmse": "tuned", "ratio": "ratio", "worst_ratio": "worst",
        "median_ratio": "median ratio", "million_samples_seen": "10⁶ samples", "minutes": "min",
    }  # fmt: skip
    lines = []
    for row in records("tuning"):
        solver, _, grid = row["untuned"].rpartition(" on ")
        shown = {**row, "problem": f"`{row['problem']}`", "untuned": f"`{solver}`, {grid}"}
        lines.append([shown[name] for name in columns])
    return markdown([*columns.values()], lines)


def conformance_table(library: str) -> str:
    """What ``ss.conform`` found in the samplers of a library: failures in words, warnings by name."""
    lines = []
    for row in records("conformance"):
        if row["library"].split()[0] == library:
            options = ", ".join(f"`{one}`" for one in row["options"].split(", ") if one)
            warned = ", ".join(dict.fromkeys(one.split(":")[0] for one in row["warns"].split("; ") if ":" in one))
            name = f"`{row['sampler'].removesuffix('Scheduler')}`"
            lines.append([name, options, row["claimed"], row["order"], row["eta"], row["fails"] or "–", warned])
    titles = ["sampler", "options", "claimed", "order", "eta", "fails", "warnings of"]
    return markdown(titles, lines)


def transcript(name: str) -> str:
    """A command and what it printed, kept as text in ``docs/assets``."""
    return f"```console\n{(ASSETS / f'{name}.txt').read_text().rstrip()}\n```"
