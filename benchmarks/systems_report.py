"""The classical systems' table: CSV, console, figure and page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from .classical import SYSTEMS
from .document import Series, cell, chart, data_uri, document
from .document import table as html_table
from .findings import findings
from .page import HUES, picture
from .plots import COLOURS, MARKERS
from .systems_results import GUIDED, REAL, TITLES, Results

METRICS = {
    "frechet": "Frechet",
    "kernel": "kernel x 1000",
    "precision": "precision",
    "recall": "recall",
    "recognised": "recognised",
}
DIGITS = {"frechet": 3, "kernel": 1, "precision": 3, "recall": 3, "recognised": 3}
CHECKED = ["holds", "expected", "found"]


def write(results: Results, folder: Path) -> None:
    """All files, and the tables on the console."""
    folder.mkdir(parents=True, exist_ok=True)
    head, lines = table(results)
    _csv(folder / "systems.csv", head, lines)
    _csv(folder / "bits.csv", *bits_table(results))
    checks = _checks(results)
    _csv(folder / "findings.csv", CHECKED, checks)
    draw(results, folder / "systems.png")
    draw_samples(results, folder / "systems_samples.png")
    (folder / "samples").mkdir(exist_ok=True)
    for (system, sampler), samples in results.shown.items():
        (folder / "samples" / f"{system}-{sampler}.png").write_bytes(picture(samples, columns=20))
    (folder / "systems.html").write_text(_page(results))
    for title, names, rows in (
        (f"{results.count} samples a seed", head, lines),
        ("bits per dimension", *bits_table(results)),
        ("expected", CHECKED, checks),
    ):
        shown = Table(*names, title=title)
        for row in rows:
            shown.add_row(*row)
        Console(width=None if Console().is_terminal else 160).print(shown)
    print(f"wrote systems.html and what it is made of (CSV, PNG) to {folder}")


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table, means with spreads."""
    lines = []
    for system, sampler, title in results.pairs():
        calls = results.mean(system, sampler, "nfe")
        line = [TITLES[system], title, f"{calls.value:.0f}" if calls else ""]
        for metric in METRICS:
            found = results.mean(system, sampler, metric)
            line.append(found.text(DIGITS[metric]) if found else "")
        times = results.values(system, sampler, "seconds")
        lines.append([*line, f"{min(times):.1f}" if times else ""])  # the fastest seed: others may have been disturbed
    return ["system", "sampler", "NFE", *METRICS.values(), "s / 1000"], lines


def bits_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of bits per dimension."""
    lines = []
    for system in SYSTEMS:
        flow, bound = (results.mean_bits(system, kind) for kind in ("flow", "bound"))
        if flow and bound:
            lines.append([TITLES[system], flow.text(4), bound.text(4)])
    return ["system", "flow", "variational bound"], lines


def _csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)


@dataclass(frozen=True)
class Point:
    """A sampler in the figure: its name, calls, Frechet distance and the spread of that over seeds."""

    title: str
    calls: float
    distance: float
    spread: float


def points(results: Results) -> dict[str, list[Point]]:
    """The samplers of every system that were measured."""
    found: dict[str, list[Point]] = {system: [] for system in SYSTEMS}
    for system, sampler, title in results.pairs():
        calls, distance = (results.mean(system, sampler, metric) for metric in ("nfe", "frechet"))
        if system in found and calls and distance:
            found[system].append(Point(title, calls.value, distance.value, distance.error))
    return {system: samplers for system, samplers in found.items() if samplers}


def draw(results: Results, path: Path) -> None:
    """Frechet distance against network calls: a colour for each system; the floor is that of the images themselves."""
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for system, found in points(results).items():
        x, y, error = zip(*((point.calls, point.distance, point.spread) for point in found), strict=True)
        number = list(SYSTEMS).index(system)
        look = MARKERS[number], COLOURS[number]
        axes.errorbar(x, y, yerr=error, fmt=look[0], color=look[1], markersize=5, label=TITLES[system], alpha=0.8)
    if floor := results.mean(REAL, "again", "frechet"):
        axes.axhline(floor.value, color="0.45", linestyle=":", label="training images drawn again")
    axes.set(xscale="log", yscale="log", xlabel="network calls (NFE)", ylabel="Frechet distance")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


OVERVIEW = (
    (REAL, "test"), (REAL, "gaussian"), ("ncsn", "langevin-40"), ("ddpm", "ancestral-1000"), ("ddpm", "ddim-50-0"),
    ("ddpm", "ddim-10-0"), ("ddpm", "ours-10"), ("ve", "pair-500"), ("ve", "ours-20"), ("vp", "flow-rk45"),
    ("subvp", "ours-20"), (GUIDED, "free-1"), (GUIDED, "free-4"), (GUIDED, "class-4"),
)  # fmt: skip
"""Whose samples are shown side by side."""


def draw_samples(results: Results, path: Path, columns: int = 20) -> None:
    """A row of samples for each of ``OVERVIEW`` that was run; guided ones are asked for 0, 1, 2, ..., 9, 0, ..."""
    titles = {(system, sampler): title for system, sampler, title in results.pairs()}
    chosen = [pair for pair in OVERVIEW if pair in results.shown]
    if not chosen:
        return
    figure, axes = plt.subplots(len(chosen), figsize=(11, 0.62 * len(chosen)), squeeze=False, layout="constrained")
    for panel, pair in zip(axes[:, 0], chosen, strict=True):
        panel.imshow(plt.imread(BytesIO(picture(results.shown[pair][:columns]))), interpolation="nearest")
        panel.set_ylabel(f"{TITLES[pair[0]]}\n{titles[pair]}", rotation=0, ha="right", va="center", fontsize=8)
        panel.set(xticks=[], yticks=[], frame_on=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _page(results: Results) -> str:
    floor = results.mean(REAL, "again", "frechet")
    series = [
        Series(TITLES[system], [(one.calls, one.distance) for one in found], HUES[number], joined=False,
               names=[one.title for one in found])
        for number, (system, found) in enumerate(points(results).items())
    ]  # fmt: skip
    parts = [
        "<h1>The classical systems</h1>",
        f'<p class="small">{escape(results.images.name)}: {len(results.images.train)} training images; '
        f"{results.count} samples of each sampler and seed; mean ± standard deviation over seeds.</p>",
        chart(series, "network calls (NFE)", "Frechet distance", floor.value if floor else None),
        "<h2>Samplers</h2>", _html(*table(results), "sortable"),
        "<h2>Bits per dimension</h2>", _html(*bits_table(results), "sortable"),
        "<h2>Expected</h2>", _html(CHECKED, _checks(results), "sortable words"),
        "<h2>Samples</h2>",
    ]  # fmt: skip
    for system, sampler, title in results.pairs():
        if (samples := results.shown.get((system, sampler))) is not None:
            uri = data_uri(picture(samples[:20]))
            image = f'<div class="wide"><img class="samples" alt="samples" src="{uri}"></div>'
            parts.append(f"<h3>{escape(TITLES[system])}: {escape(title)}</h3>{image}")
    return document("The classical systems", parts)


def _html(head: Sequence[str], lines: Sequence[Sequence[str]], kind: str) -> str:
    return html_table(head, [[cell(text) for text in line] for line in lines], kind)


def _checks(results: Results) -> list[list[str]]:
    return [["yes" if one.holds else "no", one.statement, one.figures] for one in findings(results)]
