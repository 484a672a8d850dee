"""The results: tables on the console, CSV and JSON. The plot is in ``plots.py``, the page in ``page.py``."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .measure import Row

KINDS = {"ode": "deterministic", "sde": "stochastic"}


@dataclass(frozen=True)
class Summary:
    """What a problem's results are seen against.

    Attributes: floor (distances of two exact sample sets, by metric), reference (how the truth was made), consistency
    (RMSE between its two most accurate integrations; 0 for a closed form).
    """

    name: str
    title: str
    floor: Mapping[str, float]
    reference: str
    consistency: float

    @property
    def exact(self) -> bool:
        """Whether errors are computed in closed form."""
        return self.reference == "closed form"

    def metric(self, kind: str, adaptive: bool = False) -> str:
        """What the main number of a kind of solver is."""
        if kind == "ode":
            closed = self.exact and not adaptive
            return "RMSE to the exact flow's end points" + (", in closed form" if closed else "")
        return "Wasserstein-2 to the exact law" if self.exact else "sliced Wasserstein-2 to exact samples"

    def kind_floor(self, kind: str) -> float | None:
        """The smallest number that means anything: for sample sets, the distance of two exact ones."""
        if kind == "ode":
            return self.consistency or None
        return None if self.exact else self.floor["sliced_w2"]

    def tie(self, kind: str) -> float:
        """Numbers below this cannot be told apart."""
        return (self.kind_floor(kind) or 0.0) if kind == "sde" else 0.0


@dataclass(frozen=True)
class Report:
    """Everything that was found. ``facts`` holds versions, seed, device and times."""

    facts: Mapping[str, Any]
    summaries: tuple[Summary, ...]
    rows: tuple[Row, ...]

    def of(self, problem: str, kind: str) -> list[Row]:
        """The rows of a problem and kind, in the order they were run."""
        return [row for row in self.rows if row.cell.problem == problem and row.cell.kind == kind]

    @property
    def several_grids(self) -> bool:
        """Whether a solver was run on more than one grid."""
        pairs = {(row.cell.solver, row.cell.grid) for row in self.rows if row.cell.ours}
        return len(pairs) > len({solver for solver, _ in pairs})

    def label(self, row: Row) -> str:
        """How a row's solver is called in tables and legends."""
        if not row.cell.ours:
            grid = "" if row.cell.budget is None else f", {row.cell.grid}"
            return f"{row.cell.library}: {row.cell.solver}{grid}"
        several = self.several_grids and row.cell.tolerance is None
        return f"{row.cell.solver} @ {row.cell.grid}" if several else row.cell.solver

    @property
    def with_peers(self) -> bool:
        """Whether solvers of other libraries are among the rows."""
        return any(not row.cell.ours for row in self.rows)

    def leaders(self, rows: Iterable[Row], ours: bool, floor: float = 0.0) -> set[str]:
        """The labels of ours, or of the peers, that are the best of their side at some budget, above the floor."""
        best: dict[int | None, Row] = {}
        for row in rows:
            if row.cell.ours == ours and row.cell.budget is not None and finite(row):
                side = best.get(row.cell.budget)
                if side is None or (row.error or 0.0) < (side.error or 0.0):
                    best[row.cell.budget] = row
        return {self.label(row) for row in best.values() if (row.error or 0.0) > floor}


@dataclass(frozen=True)
class Grid:
    """Rows of fixed budget, arranged: ``cells[label][budget]``; the best of each budget.

    Sample sets that are no further from the truth than two exact ones are from each other are all the best.
    """

    budgets: tuple[int, ...]
    cells: Mapping[str, Mapping[int, Row]]
    best: Mapping[int, frozenset[str]]


def arrange(report: Report, rows: Iterable[Row], floor: float = 0.0) -> Grid:
    """The rows of fixed budget as a table of solvers x budgets."""
    cells: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.cell.budget is not None:
            cells.setdefault(report.label(row), {})[row.cell.budget] = row
    budgets = tuple(sorted({budget for line in cells.values() for budget in line}))
    best = {}
    for budget in budgets:
        column = {label: line[budget] for label, line in cells.items() if budget in line and finite(line[budget])}
        errors = {label: row.error or 0.0 for label, row in column.items()}
        bound = max(min(errors.values(), default=0.0), floor)
        best[budget] = frozenset(label for label, error in errors.items() if error <= bound)
    return Grid(budgets, cells, best)


def finite(row: Row) -> bool:
    """Whether the row has a number to show."""
    return row.error is not None and math.isfinite(row.error)


def text_of(row: Row | None) -> str:
    """A cell's text: the error (~ if sampled where others are exact), and the calls where they are not the budget."""
    if row is None:
        return ""
    if row.status != "ok":
        return "failed" if row.status == "failed" else "-"
    if row.error is None:
        return ""
    number = f"{'~' if row.sampled and row.w2 is not None else ''}{row.error:.2e}"
    return number if row.cell.budget in (None, row.nfe) else f"{number} ({row.nfe})"


def print_report(report: Report, console: Console) -> None:
    """Tables for people: a problem's deterministic solvers, its stochastic ones, the adaptive ones, what went wrong."""
    for summary in report.summaries:
        console.rule(summary.title, align="left")
        for kind in KINDS:
            rows = report.of(summary.name, kind)
            leaders = report.leaders(rows, ours=False, floor=summary.tie(kind))  # the other peers are in the files
            rows = [row for row in rows if row.cell.ours or row.cell.budget is None or report.label(row) in leaders]
            if any(row.cell.budget is not None for row in rows):
                console.print(_fixed_table(report, summary, kind, rows))
                console.print(Text(f"{caption(summary, kind, rows)}\n", style="italic"))
            if adaptive := [row for row in rows if row.cell.budget is None]:
                console.print(_adaptive_table(report, kind, adaptive))
                console.print(Text(f"{summary.metric(kind, adaptive=True)}\n", style="italic"))
    for line in notes(report):
        console.print(Text(line, style="yellow"))


def _fixed_table(report: Report, summary: Summary, kind: str, rows: list[Row]) -> Table:
    grid = arrange(report, rows, summary.tie(kind))
    table = Table()
    table.add_column(KINDS[kind])
    for budget in grid.budgets:
        table.add_column(str(budget), justify="right", no_wrap=True)
    for label, line in grid.cells.items():
        texts = []
        for budget in grid.budgets:
            best = label in grid.best[budget]
            texts.append(Text(text_of(line.get(budget)) + ("*" if best else " "), style="bold green" if best else ""))
        table.add_row(label, *texts)
    return table


def _adaptive_table(report: Report, kind: str, rows: list[Row]) -> Table:
    table = Table()
    table.add_column(f"adaptive, {KINDS[kind]}")
    for name in ("tolerance", "calls", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        tolerance = "" if row.cell.tolerance is None else f"{row.cell.tolerance:g}"
        table.add_row(report.label(row), tolerance, str(row.nfe or ""), text_of(row))
    return table


def caption(summary: Summary, kind: str, rows: list[Row]) -> str:
    """What a table's numbers are, and below what they mean nothing."""
    parts = [f"{summary.metric(kind)}, by network calls; the best of each column marked"]
    floor = summary.kind_floor(kind)
    if floor is not None:
        named = "the reference agrees with itself to" if kind == "ode" else "noise floor (two exact sets):"
        parts.append(f"{named} {floor:.2e}")
    if kind == "sde" and summary.exact and any(row.sampled and row.status == "ok" for row in rows):
        parts.append(f"~ sampled, floor {summary.floor['w2']:.2e}")
    return "; ".join(parts)


def notes(report: Report) -> list[str]:
    """One line for each failure, and one for each solver and problem with budgets below its cost."""
    lines, below = [], dict[tuple[str, str], list[int]]()
    broken: dict[tuple[str, str, str], list[str]] = {}
    for row in report.rows:
        if row.status == "failed" and not row.cell.ours:
            broken.setdefault((row.cell.problem, report.label(row), row.message), []).append(row.cell.size)
        elif row.status == "failed":
            lines.append(f"failed: {row.cell.label}: {row.message}")
        elif row.status == "left out" and row.cell.budget is not None:
            below.setdefault((row.cell.problem, report.label(row)), []).append(row.cell.budget)
    for (problem, label, message), sizes in broken.items():
        lines.append(f"failed: {problem}: {label} at {', '.join(sizes)}: {message}")
    for (problem, solver), budgets in below.items():
        listed = ", ".join(map(str, sorted(set(budgets))))
        lines.append(f"left out: {problem}: {solver} at {listed} calls, below its cost")
    lines += [f"left out: {line}" for line in report.facts.get("trimmed", ())]
    return lines + [f"not installed: {line}" for line in report.facts.get("missing", ())]


def write_csv(report: Report, path: Path) -> None:
    """One line a row."""
    records = [row.record() for row in report.rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else ["problem"])
        writer.writeheader()
        writer.writerows(records)


def write_json(report: Report, path: Path, verdict: Mapping[str, Any] | None = None) -> None:
    """Facts, problems, rows, and the verdict on peers if there is one. Numbers that are not finite become null."""
    content = {
        **report.facts,
        "problems": [
            {
                "name": s.name,
                "title": s.title,
                "reference": s.reference,
                "consistency": s.consistency,
                "floor": dict(s.floor),
            }
            for s in report.summaries
        ],
        "rows": [row.record() for row in report.rows],
        **({} if verdict is None else {"verdict": verdict}),
    }
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
