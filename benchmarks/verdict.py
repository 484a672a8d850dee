"""Our solvers against the peers: the best of each side cell by cell, and fixed settings of ours against each of theirs.

Ratios are *their error over ours*: above 1, ours is the smaller. Two numbers below what a problem can tell apart (the
distance of two exact sample sets, the accuracy of its reference) are a tie: both are raised to it before they are
divided. Both sides choose their best with the answer in view, so the first table compares what there is to choose
from; the second one compares settings that are fixed beforehand.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import OURS, Row
from .report import KINDS, Report, finite
from .settings import DEFAULT, setting

EVEN = 1e-3
"""Ratios closer to 1 than this are a draw: the same method, but for the rounding of float32."""


@dataclass(frozen=True)
class Duel:
    """The best of each side on a problem at a budget; ``nfe`` are the calls that were made of it."""

    problem: str
    kind: str
    budget: int
    ours: str
    our_error: float
    our_nfe: int
    theirs: str
    their_error: float
    their_nfe: int
    ratio: float


@dataclass(frozen=True)
class Standing:
    """A fixed setting of a peer against one of ours, over the cells that both have.

    Attributes: ratio (geometric mean of the ratios), cells (how many), ahead (in how many ours has the smaller error),
    failed (cells in which the peer has no finite error though its budget was enough).
    """

    default: str
    theirs: str
    kind: str
    ratio: float
    cells: int
    ahead: int
    failed: int


@dataclass(frozen=True)
class Verdict:
    """Both tables."""

    duels: tuple[Duel, ...]
    standings: tuple[Standing, ...]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"best": [asdict(duel) for duel in self.duels], "fixed": [asdict(s) for s in self.standings]}


def defaults(named: Sequence[str] | None) -> list[tuple[str, str]]:
    """The (solver, grid) of each "solver" or "solver@grid"; without any, what ``ss.sample`` does if none is named."""
    found = []
    for text in named or [DEFAULT]:
        solver, _, grid = text.partition("@")
        one = setting(solver)
        found.append((one.label, grid or one.grid))
    return found


def judge(report: Report, settings: Sequence[tuple[str, str]]) -> Verdict:
    """Compare the rows of fixed budget."""
    rows = [row for row in report.rows if row.cell.budget is not None]
    standings: list[Standing] = []
    for solver, grid in settings:
        own = [row for row in rows if row.cell.ours and (row.cell.solver, row.cell.grid) == (solver, grid)]
        standings += _standings(report, f"{solver} @ {grid}", own, rows)
    return Verdict(tuple(_duels(report, rows)), tuple(standings))


def _duels(report: Report, rows: Iterable[Row]) -> list[Duel]:
    best: dict[tuple[str, str, int], dict[bool, Row]] = {}
    for row in rows:
        if finite(row):
            sides = best.setdefault((row.cell.problem, row.cell.kind, row.cell.budget or 0), {})
            side = sides.get(row.cell.ours)
            if side is None or _error(row) < _error(side):
                sides[row.cell.ours] = row
    floors = _floors(report)
    names = [summary.name for summary in report.summaries]
    found = []
    for (problem, kind, budget), sides in best.items():
        if len(sides) == 2:
            ours, theirs = sides[True], sides[False]
            ratio = _ratio(theirs, ours, floors)
            found.append(
                Duel(
                    problem, kind, budget, f"{ours.cell.solver} @ {ours.cell.grid}", _error(ours), ours.nfe or 0,
                    report.label(theirs), _error(theirs), theirs.nfe or 0, ratio,
                )
            )  # fmt: skip
    return sorted(found, key=lambda duel: (list(KINDS).index(duel.kind), names.index(duel.problem), duel.budget))


def _standings(report: Report, default: str, own: Sequence[Row], rows: Iterable[Row]) -> list[Standing]:
    ours = {(row.cell.problem, row.cell.budget): row for row in own if finite(row)}
    kinds = {row.cell.kind for row in own}
    floors = _floors(report)
    ratios: dict[str, list[float]] = {}
    failed: dict[str, int] = {}
    for row in rows:
        mine = ours.get((row.cell.problem, row.cell.budget))
        if row.cell.ours or mine is None or row.cell.kind not in kinds:
            continue
        label = report.label(row)
        if finite(row):
            ratios.setdefault(label, []).append(_ratio(row, mine, floors))
        elif row.status != "left out":
            failed[label] = failed.get(label, 0) + 1
    found = [
        Standing(
            default, label, next(iter(kinds)), math.exp(sum(map(math.log, values)) / len(values)), len(values),
            sum(value > 1 + EVEN for value in values), failed.get(label, 0),
        )
        for label, values in ratios.items()
    ]  # fmt: skip
    return sorted(found, key=lambda standing: standing.ratio)


def _error(row: Row) -> float:
    return row.error if row.error is not None else math.inf


def _floors(report: Report) -> dict[tuple[str, str], float]:
    return {(s.name, kind): s.kind_floor(kind) or 0.0 for s in report.summaries for kind in KINDS}


def _ratio(theirs: Row, ours: Row, floors: dict[tuple[str, str], float]) -> float:
    floor = max(floors[ours.cell.problem, ours.cell.kind], 1e-12)
    return max(_error(theirs), floor) / max(_error(ours), floor)


# -- showing it ------------------------------------------------------------------------------------------------------

BEST = ("problem", "calls", f"best of {OURS}", "error", "best peer", "error", "theirs / ours")
FIXED = ("peer setting", "their error / ours", "cells", f"{OURS} ahead", "failed")


def tables(verdict: Verdict) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The tables as (title, head, lines), for every way of showing them."""
    found: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    for kind, word in KINDS.items():
        duels = [duel for duel in verdict.duels if duel.kind == kind]
        if duels:
            ahead, behind = sum(d.ratio > 1 + EVEN for d in duels), sum(d.ratio < 1 - EVEN for d in duels)
            mean = math.exp(sum(math.log(d.ratio) for d in duels) / len(duels))
            title = (
                f"Best against best, {word}: {OURS} ahead in {ahead}, behind in {behind} of {len(duels)} cells; "
                f"geometric mean of the ratios {mean:.2f}"
            )
            found.append((title, BEST, [_duel_line(duel) for duel in duels]))
    for default in dict.fromkeys(standing.default for standing in verdict.standings):
        lines: list[tuple[str, ...]] = [
            (s.theirs, f"{s.ratio:.2f}", str(s.cells), str(s.ahead), str(s.failed))
            for s in verdict.standings
            if s.default == default
        ]
        found.append((f"One setting for every cell, {default}: each peer setting against it", FIXED, lines))
    return found


def _duel_line(duel: Duel) -> tuple[str, ...]:
    def calls(nfe: int) -> str:
        return "" if nfe == duel.budget else f" ({nfe})"

    return (
        duel.problem,
        str(duel.budget),
        duel.ours,
        f"{duel.our_error:.2e}{calls(duel.our_nfe)}",
        duel.theirs,
        f"{duel.their_error:.2e}{calls(duel.their_nfe)}",
        f"{duel.ratio:.2f}",
    )


def print_verdict(verdict: Verdict, console: Console, most: int = 15) -> None:
    """The tables on the console, the fixed settings only as far as the best of them."""
    for title, head, lines in tables(verdict):
        table = Table(title=title, title_justify="left")
        for name in head:
            table.add_column(name, justify="right" if name in ("calls", "error", "cells") else "left", no_wrap=True)
        for line in lines if head == BEST else lines[:most]:
            table.add_row(*line)
        console.print(table)


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """verdict.csv, the best of each side in every cell, and verdict.md, everything."""
    with (folder / "verdict.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Duel.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(duel) for duel in verdict.duels)
    parts = ["Ratios are their error over ours: above 1, ours is the smaller."]
    for title, head, lines in tables(verdict):
        rule = ["---"] * len(head)
        body = "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
        parts.append(f"**{title}**\n\n{body}")
    (folder / "verdict.md").write_text("\n\n".join(parts) + "\n")
