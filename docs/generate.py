"""Write the tables of the documentation and the README: solvers from the registry, results from the benchmark's CSV.

``python docs/generate.py`` rewrites what stands between the markers; with ``--check`` it changes nothing and
fails if a table is out of date. ``docs/assets`` holds the CSV and the picture of one run of ``make bench``.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import scoresolve as ss

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "assets" / "results.csv"
BUDGETS = ("5", "10", "20", "50", "100")


Column = tuple[str, Callable[[ss.SolverInfo], str]]


def _kind(info: ss.SolverInfo) -> str:
    return info.kind.upper() + (", adaptive" if info.adaptive else "")


def _options(info: ss.SolverInfo) -> str:
    return ", ".join(f"`{name}={default!r}`" for name, default in info.options.items())


def _source(info: ss.SolverInfo) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", info.reference)


NAME: Column = ("solver", lambda info: f"`{info.name}`")
NAMES: Column = ("solver", lambda info: ", ".join(f"`{name}`" for name in (info.name, *info.aliases)))
FACTS: list[Column] = [
    ("what it is", lambda info: info.summary.rstrip(".")),
    ("kind", _kind),
    ("order", lambda info: str(info.order or "–")),
    ("calls a step", lambda info: str(info.evaluations)),
]
DETAILS: list[Column] = [
    ("default grid", lambda info: f"`{info.grid}`"),
    ("options", _options),
    ("source", _source),
]


def solver_table(columns: list[Column]) -> str:
    """Every solver: fixed grids first, then ODE before SDE, low order before high."""
    infos = sorted(ss.solvers(), key=lambda info: (info.adaptive, info.kind, info.order, info.name))
    return markdown([title for title, _ in columns], [[cell(info) for _, cell in columns] for info in infos])


def result_tables() -> str:
    """The errors of the fixed-grid solvers at some budgets, a table for each problem and kind; the best in bold."""
    with RESULTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok" and row["budget"] in BUDGETS]
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
                for name, found in errors.items()
            ]
            parts.append(f"**`{problem}`**, {meaning}\n\n{markdown(['calls', *budgets], lines)}")
    return "\n\n".join(["", *parts, ""])


def _error(value: float | None, best: float) -> str:
    if value is None:
        return "–"
    return f"**{value:.2e}**" if value == best else f"{value:.2e}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("solvers", lambda: solver_table([NAME, *FACTS])),
    "docs/choosing.md": ("solvers", lambda: solver_table([NAMES, *FACTS, *DETAILS])),
    "docs/benchmarks.md": ("results", result_tables),
}


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
    for name, (subject, content) in PAGES.items():
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
