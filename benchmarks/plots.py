"""The picture: error against counted network calls, a column for each problem, a row for each kind of solver."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, ScalarFormatter

from .measure import Row
from .report import KINDS, Report, Summary, finite

# Okabe and Ito's colours (without yellow, too light for a line), then the same again with other markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
LINES = {"ode": "-", "sde": "--"}
GREYS = ("0.1", "0.35", "0.55")
DASHES = ((0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
OTHERS = {
    True: {"color": "#9ecae1", "linewidth": 0.5, "zorder": 1, "label": "other solvers of ours"},
    False: {"color": "0.85", "linewidth": 0.5, "zorder": 0.5, "label": "other settings of peers"},
}
CROWD = 12
"""With more lines of ours than this, they are only named if best somewhere or known to everybody."""
LANDMARKS = {"ddim", "heun", "dpmpp_2m", "unipc_3", "ddpm", "euler_maruyama", "dpmpp_2m_sde", "sa_solver"}


def draw(report: Report, path: Path) -> None:
    """Write the PNG."""
    kinds = [kind for kind in KINDS if any(report.of(s.name, kind) for s in report.summaries)]
    columns = max(1, len(report.summaries))
    size = (4.1 * columns + 2.3, 3.6 * len(kinds) + 0.5)
    figure, axes = plt.subplots(len(kinds), columns, figsize=size, squeeze=False, layout="constrained")
    styles = _styles(report)
    for line, kind in enumerate(kinds):
        handles: dict[str, Any] = {}
        for column, summary in enumerate(report.summaries):
            panel = axes[line][column]
            handles |= _panel(panel, report, summary, kind, styles)
            if line == 0:
                panel.set_title(summary.title, fontsize=10, fontweight="bold")
        handles |= {
            name: handles.pop(name) for name in [other["label"] for other in OTHERS.values()] if name in handles
        }
        axes[line][-1].legend(
            handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8, frameon=False,
            title=f"{KINDS[kind]}", title_fontsize=9, handlelength=3.2, alignment="left", borderaxespad=0.0,
            ncols=1 + (len(handles) - 1) // 24,
        )  # fmt: skip
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _styles(report: Report) -> dict[str, dict[str, Any]]:
    """Line, colour and marker for each label, each kind counted for itself: ours in colour, peers grey and hollow."""
    styles: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        rows = [row for summary in report.summaries for row in report.of(summary.name, kind)]
        chosen = named(report, kind, rows)
        for ours in (True, False):
            labels = dict.fromkeys(report.label(row) for row in rows if row.cell.ours == ours)
            for label in labels:
                if label not in chosen:
                    styles[label] = dict(OTHERS[ours])
            for i, label in enumerate(label for label in labels if label in chosen):
                style = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4.5, "linewidth": 1.3, "label": label}
                if ours:
                    style |= {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[kind]}
                else:
                    style |= {"color": GREYS[i % 3], "linestyle": DASHES[i % 3], "markerfacecolor": "white"}
                    style |= {"linewidth": 1.0, "zorder": 1.5}
                styles[label] = style
    return styles


def named(report: Report, kind: str, rows: list[Row]) -> set[str]:
    """The labels with a line of their own: of peers, and of a crowd of ours, those best somewhere."""
    ours = {report.label(row) for row in rows if row.cell.ours}
    found = {label for label in ours if label in LANDMARKS} if len(ours) > CROWD else ours
    for summary in report.summaries:
        here = [row for row in rows if row.cell.problem == summary.name]
        for side in (True, False):
            found = found | report.leaders(here, side, summary.tie(kind))
    return found


def _panel(
    panel: Axes, report: Report, summary: Summary, kind: str, styles: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One problem and kind; returns the lines for the legend."""
    lines: dict[str, list[Row]] = {}
    for row in report.of(summary.name, kind):
        if finite(row) and row.nfe and row.error:
            lines.setdefault(report.label(row), []).append(row)
    handles: dict[str, Any] = {}
    for label, rows in lines.items():
        points = sorted((row.nfe or 0, row.error or 0.0) for row in rows)
        (line,) = panel.plot(*zip(*points, strict=True), **styles[label])
        handles[str(line.get_label())] = line
    panel.set_xscale("log")
    panel.set_yscale("log")
    floor = summary.kind_floor(kind)
    if floor is not None and kind == "sde":
        handles["noise floor"] = panel.axhline(floor, color="0.45", linestyle=":", linewidth=1.2)
    _ticks(panel, [row.nfe or 1 for rows in lines.values() for row in rows])
    panel.set_xlabel("network calls (NFE)", fontsize=9)
    panel.set_ylabel(summary.metric(kind).replace(", in closed form", "\n(closed form)"), fontsize=8)
    panel.grid(True, which="major", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    if not lines:
        panel.text(0.5, 0.5, "nothing measured", ha="center", transform=panel.transAxes, color="0.5")
    return handles


def _ticks(panel: Axes, calls: list[int]) -> None:
    """Plain numbers on the horizontal axis, and no errors shown that are beyond any use."""
    if not calls:
        return
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if min(calls) <= tick <= max(calls)]
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.tick_params(which="both", labelsize=8)
    low, high = panel.get_ylim()
    if high > 1e2 and math.isfinite(high):
        panel.set_ylim(low, 1e2)
    if high / low < 100:  # less than two decades: their names alone would leave the axis bare
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
