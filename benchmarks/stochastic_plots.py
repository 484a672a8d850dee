"""The figures of ``stochastic.py``: a panel for each family of solvers, all the others behind it in grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from PIL import Image

from . import order_errors
from .plots import COLOURS, MARKERS
from .stochastic import Row

GREY: dict[str, Any] = {"color": "0.85", "linewidth": 0.7, "zorder": 1}
TEXT: dict[str, Any] = {"color": "0.35", "fontsize": 7.5}
WEIGHT = 0.7
CALLS = (5, 10, 20, 50, 100, 200)


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Write the three PNGs."""
    for name, figure in (("error", error_figure), ("strong", strong_figure), ("modes", modes_figure)):
        made, buffer = figure(rows), BytesIO()
        made.savefig(buffer, dpi=110)
        plt.close(made)
        Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
            folder / f"sde_{name}.png", optimize=True
        )


def error_figure(rows: Sequence[Row]) -> Figure:
    """Wasserstein-1 against network calls, with both floors."""
    lines = grouped(rows, "w1")
    floor = next(row.value for row in rows if row.quantity == "floor")
    calls, noise = resolution(rows)
    low = 0.6 * min(noise)

    def around(panel: Axes, first: bool) -> None:
        names = ("as many exact samples", "noise of the measurement") if first else ("", "")
        panel.axhline(floor, color="0.3", linestyle=":", linewidth=1.1, zorder=2, label=names[0])
        panel.fill_between(calls, low, noise, color="0.88", zorder=0, label=names[1])

    figure = panels(lines, lambda row: (row.nfe or 0, row.value), around, str)
    for panel in figure.axes:
        panel.set_ylim(low, 1.5)
        panel.set_yscale("log")
        plain_ticks(panel, CALLS)
    return titled(
        figure, "network calls (NFE)", "Wasserstein-1 distance", "Law of the output: distance to the exact law"
    )


def strong_figure(rows: Sequence[Row]) -> Figure:
    """Strong error against step, with guides of slope 1 and 1.5 and the measured slopes."""
    lines = grouped(rows, "strong")
    slopes = {
        solver: order_errors.slope([row.value for row in own], last=3)
        for family in lines.values()
        for solver, own in family.items()
    }
    steps = np.array([0.012, 0.65])

    def around(panel: Axes, first: bool) -> None:
        for slope, top in ((1.0, 0.9), (1.5, 0.06)):
            panel.plot(steps, top * (steps / steps[-1]) ** slope, color="0.35", linewidth=0.9, linestyle=(0, (5, 3)))
            panel.text(steps[-1] * 1.06, top, f"{slope:g}", va="center", **TEXT)

    def label(solver: str) -> str:
        return f"{solver}  {slopes[solver]:.2f}"

    figure = panels(lines, lambda row: (row.step or 0.0, row.value), around, label)
    for panel in figure.axes:
        panel.set_yscale("log")
        plain_ticks(panel, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
        panel.set_xlim(0.009, 0.95)
    return titled(
        figure,
        "step in lam",
        "mean distance on one path",
        "Strong error on one Brownian path, with measured slopes (dashed: slopes 1 and 1.5)",
    )


def modes_figure(rows: Sequence[Row]) -> Figure:
    """Share of the 0.70 mode against network calls: linear to three standard errors, logarithmic beyond."""
    lines = grouped(rows, "share")
    error = 3 * math.sqrt(np.mean([row.noise**2 for row in rows if row.quantity == "share" and row.noise]))

    def around(panel: Axes, first: bool) -> None:
        panel.axhline(0.0, color="0.2", linewidth=1.0, zorder=2)
        panel.axhspan(-error, error, color="0.88", zorder=0, label="three standard errors" if first else "")

    figure = panels(lines, lambda row: (row.nfe or 0, row.value - WEIGHT), around, str, bars=True)
    shares = [0.0, 0.4, 0.6, 0.67, 0.69, 0.7, 0.71, 0.73, 0.8, 1.0]
    for panel in figure.axes:
        panel.set_yscale("symlog", linthresh=error, linscale=0.7)
        panel.yaxis.set_major_locator(FixedLocator([share - WEIGHT for share in shares]))
        panel.yaxis.set_major_formatter(FixedFormatter([f"{share:.2f}" for share in shares]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_ylim(-0.9, 0.35)
        plain_ticks(panel, CALLS)
    return titled(figure, "network calls (NFE)", "share of the 0.70 mode", "Mode weights of the output")


# -- parts ------------------------------------------------------------------------------------------------------------


def grouped(rows: Sequence[Row], quantity: str) -> dict[str, dict[str, list[Row]]]:
    """family -> solver -> its rows, in the order of registration; numbers that are not finite left out."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.quantity == quantity and math.isfinite(row.value):
            found.setdefault(row.family, {}).setdefault(row.solver, []).append(row)
    return found


def resolution(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """At each budget the median over solvers of what noise alone would leave of the distance."""
    noise: dict[int, list[float]] = {}
    for row in rows:
        if row.quantity == "w1" and row.budget is not None and row.noise is not None:
            noise.setdefault(row.budget, []).append(row.noise)
    return list(noise), [float(np.median(values)) for values in noise.values()]


def panels(
    lines: dict[str, dict[str, list[Row]]],
    place: Callable[[Row], tuple[float, float]],
    around: Callable[[Axes, bool], None],
    label: Callable[[str], str],
    bars: bool = False,
) -> Figure:
    """A panel for each family; ``around`` draws what belongs to every panel."""
    columns = 3
    size = (11.5, 3.7 * math.ceil(len(lines) / columns) + 0.5)
    figure = plt.figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(math.ceil(len(lines) / columns), columns)
    first: Axes | None = None
    for number, (family, own) in enumerate(lines.items()):
        panel = figure.add_subplot(grid[divmod(number, columns)], sharex=first, sharey=first)
        for others in (points for name, group in lines.items() if name != family for points in group.values()):
            panel.plot(*zip(*map(place, others), strict=True), **GREY)
        for i, (solver, points) in enumerate(own.items()):
            x, y = zip(*map(place, points), strict=True)
            noise = [row.noise or 0.0 for row in points] if bars else None
            panel.errorbar(
                x, y, yerr=noise, label=label(solver), color=COLOURS[i % len(COLOURS)], linewidth=1.4,
                marker=MARKERS[i % len(MARKERS)], markersize=5.0 - 0.3 * i, zorder=3 + i,
            )  # fmt: skip
        panel.set_xscale("log")
        panel.xaxis.set_minor_locator(NullLocator())
        around(panel, first is None)
        panel.set_title(family, fontsize=10, fontweight="bold")
        panel.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=8, frameon=False, handlelength=2.0,
            ncols=2, columnspacing=1.2, borderaxespad=0.0,
        )  # fmt: skip
        panel.grid(True, which="major", color="0.93", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.tick_params(which="both", labelsize=8, labelleft=number % columns == 0)
        first = first or panel
    return figure


def plain_ticks(panel: Axes, ticks: Sequence[float]) -> None:
    """Plain numbers on a logarithmic horizontal axis."""
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))


def titled(figure: Figure, x: str, y: str, title: str) -> Figure:
    """With the names of the axes and of the whole."""
    figure.supxlabel(x, fontsize=9.5)
    figure.supylabel(y, fontsize=9.5)
    figure.suptitle(title, fontsize=11.5)
    return figure
