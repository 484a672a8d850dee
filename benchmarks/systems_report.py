"""The classical systems' table: CSV, console, figure and page. What is expected of it is checked and said."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .classical import SYSTEMS
from .data import Images
from .fidelity import Fidelity
from .page import data_uri, document, picture
from .plots import COLOURS, MARKERS

METRICS = {
    "frechet": "Frechet",
    "kernel": "kernel x 1000",
    "precision": "precision",
    "recall": "recall",
    "recognised": "recognised",
    "seconds": "s / 1000",
}
DIGITS = {"frechet": 2, "kernel": 2, "precision": 3, "recall": 3, "recognised": 3, "seconds": 1}
REAL = "real"
TITLES = {name: one.title for name, one in SYSTEMS.items()} | {"guided": "DDPM, guided", REAL: "for scale"}
SHOWN = 100
"""Samples in a picture."""


@dataclass(frozen=True)
class Row:
    """One system, sampler and seed.

    Attributes: nfe, network calls that a sample took part in, on average; seconds for 1000 samples; frechet and kernel
    (times 1000), distances to the training images; precision and recall; recognised, the share of samples in which
    the judge sees the class that was asked for, None where none was.
    """

    system: str
    sampler: str
    title: str
    seed: int
    nfe: float | None
    seconds: float | None
    frechet: float
    kernel: float
    precision: float
    recall: float
    recognised: float | None = None

    @classmethod
    def of(cls, system: str, sampler: str, title: str, seed: int, found: Fidelity, **work: float) -> Row:
        """Of what the samples got."""
        good = found.frechet, 1000 * found.kernel, found.precision, found.recall, found.recognised
        return cls(system, sampler, title, seed, work.get("nfe"), work.get("seconds"), *good)


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of a system and seed: of the probability flow, and the variational bound."""

    system: str
    seed: int
    flow: float
    bound: float


@dataclass(frozen=True)
class Mean:
    """Over seeds: the mean and the spread (standard deviation of one seed, NaN of a single one)."""

    value: float
    spread: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of the seeds' values."""
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), spread, len(values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.spread / math.sqrt(self.count)

    def text(self, digits: int) -> str:
        """For people."""
        spread = "" if math.isnan(self.spread) else f" ± {self.spread:.{digits}f}"
        return f"{self.value:.{digits}f}{spread}"


@dataclass
class Results:
    """All that was found. ``shown``: some samples of each system and sampler."""

    images: Images
    count: int
    rows: list[Row] = field(default_factory=list)
    bits: list[Bits] = field(default_factory=list)
    shown: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def add(self, row: Row, samples: Tensor) -> None:
        """A row, and the samples that it is of; those of the first seed are shown."""
        self.rows.append(row)
        self.shown.setdefault((row.system, row.sampler), samples[:SHOWN])

    def pairs(self) -> list[tuple[str, str, str]]:
        """Systems, samplers and their titles, in order."""
        found = dict.fromkeys((row.system, row.sampler, row.title) for row in self.rows)
        order = [*SYSTEMS, "guided", REAL]
        return sorted(found, key=lambda pair: order.index(pair[0]))

    def mean(self, system: str, sampler: str, metric: str) -> Mean | None:
        """Of a metric over the seeds; None if it was not measured."""
        own = [getattr(row, metric) for row in self.rows if (row.system, row.sampler) == (system, sampler)]
        values = [value for value in own if value is not None]
        return Mean.of(values) if values else None

    def mean_bits(self, system: str, kind: str) -> Mean | None:
        """Of bits per dimension, "flow" or "bound"."""
        values = [getattr(one, kind) for one in self.bits if one.system == system]
        return Mean.of(values) if values else None


# -- what is expected ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something that the papers let one expect, and whether it is so here."""

    statement: str
    figures: str
    holds: bool


def findings(results: Results) -> list[Finding]:
    """Those of which both sides were measured."""
    return [found for check in CHECKS for found in check(results)]


def _ddim(results: Results) -> Iterator[Finding]:
    few, many = (results.mean("ddpm", name, "kernel") for name in ("ddim-50-0", "ancestral-1000"))
    if few and many:
        noise = 2 * math.hypot(few.error, many.error)
        figures = f"kernel distance {few.text(2)} and {many.text(2)}, noise of the difference {noise:.2f}"
        holds = not few.value - many.value > noise
        yield Finding("DDIM with 50 steps is as good as DDPM with 1000, within the noise", figures, holds)


def _likelihood(results: Results) -> Iterator[Finding]:
    for kind in ("flow", "bound"):
        sub, vp = (results.mean_bits(system, kind) for system in ("subvp", "vp"))
        if sub and vp:
            noise = 2 * math.hypot(sub.error, vp.error)
            name = "likelihood" if kind == "flow" else "variational bound"
            figures = f"bits/dim {sub.text(4)} and {vp.text(4)}"
            holds = not sub.value - vp.value > noise
            yield Finding(f"sub-VP's {name} is at least as good as VP's", figures, holds)


def _bound(results: Results) -> Iterator[Finding]:
    for system in SYSTEMS:
        flow, bound = (results.mean_bits(system, kind) for kind in ("flow", "bound"))
        if flow and bound:
            figures = f"bits/dim {bound.text(4)} above {flow.text(4)}"
            yield Finding(
                f"{TITLES[system]}: the variational bound is above the flow's bits", figures, bound.value > flow.value
            )


def _pairs(results: Results) -> Iterator[Finding]:
    for calls in (200, 1000):
        pair, predictor = (results.mean("ve", f"{name}-{calls}", "kernel") for name in ("pair", "predictor"))
        if pair and predictor:
            figures = f"kernel distance {pair.text(2)} and {predictor.text(2)}"
            statement = f"VE, {calls} calls: predictor and corrector in turn are better than the predictor alone"
            yield Finding(statement, figures, pair.value < predictor.value)


def _guidance(results: Results) -> Iterator[Finding]:
    for kind, how in (("free", "without a classifier"), ("class", "by a classifier")):
        for metric, rises in (("precision", True), ("recall", False)):
            low, high = (results.mean("guided", f"{kind}-{scale}", metric) for scale in (1, 4))
            if low and high:
                figures = f"{low.text(3)} at scale 1, {high.text(3)} at 4"
                holds = (high.value > low.value) is rises
                yield Finding(f"guidance {how} {'raises' if rises else 'lowers'} {metric}", figures, holds)


def _recognised(results: Results) -> Iterator[Finding]:
    for kind, how in (("free", "without a classifier"), ("class", "by a classifier")):
        for scale in (1, 2, 4):
            if found := results.mean("guided", f"{kind}-{scale}", "recognised"):
                statement = f"guided {how}, scale {scale}: at least 95 % are seen as the class asked for"
                yield Finding(statement, found.text(3), found.value >= 0.95)


CHECKS: tuple[Callable[[Results], Iterator[Finding]], ...] = (
    _ddim, _likelihood, _bound, _pairs, _guidance, _recognised,
)  # fmt: skip


# -- what is written -------------------------------------------------------------------------------------------------


def write(results: Results, folder: Path) -> None:
    """All files, and the tables on the console."""
    folder.mkdir(parents=True, exist_ok=True)
    head, lines = table(results)
    _csv(folder / "systems.csv", head, lines)
    _csv(folder / "bits.csv", *bits_table(results))
    checks = [["yes" if one.holds else "NO", one.statement, one.figures] for one in findings(results)]
    _csv(folder / "findings.csv", ["holds", "expected", "found"], checks)
    draw(results, folder / "systems.png")
    (folder / "samples").mkdir(exist_ok=True)
    for (system, sampler), samples in results.shown.items():
        (folder / "samples" / f"{system}-{sampler}.png").write_bytes(picture(samples, columns=20))
    (folder / "systems.html").write_text(_page(results, folder))
    for title, names, rows in (
        (f"{results.count} samples a seed", head, lines),
        ("bits per dimension", *bits_table(results)),
        ("expected", ["holds", "expected", "found"], checks),
    ):
        shown = Table(*names, title=title)
        for row in rows:
            shown.add_row(*row)
        Console(width=None if Console().is_terminal else 160).print(shown)
    print(f"wrote systems.csv, bits.csv, findings.csv, systems.png, systems.html and samples/ to {folder}")


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table, means with spreads."""
    lines = []
    for system, sampler, title in results.pairs():
        calls = results.mean(system, sampler, "nfe")
        line = [TITLES[system], title, f"{calls.value:.0f}" if calls else ""]
        for metric in METRICS:
            found = results.mean(system, sampler, metric)
            line.append(found.text(DIGITS[metric]) if found else "")
        lines.append(line)
    return ["system", "sampler", "NFE", *METRICS.values()], lines


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


def draw(results: Results, path: Path) -> None:
    """Kernel distance against network calls: a colour for each system; the floor is that of held-out digits."""
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for number, system in enumerate(SYSTEMS):
        points: list[tuple[float, float, float]] = []
        for _, sampler, _ in (pair for pair in results.pairs() if pair[0] == system):
            calls, found = (results.mean(system, sampler, metric) for metric in ("nfe", "kernel"))
            if calls and found:
                points.append((calls.value, found.value, found.error))
        if points:
            x, y, error = zip(*points, strict=True)
            style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5, "linestyle": "none"}
            axes.errorbar(x, y, yerr=error, **style, label=TITLES[system], alpha=0.8)
    if floor := results.mean(REAL, "test", "kernel"):
        axes.axhline(floor.value, color="0.45", linestyle=":", label="digits held out")
    axes.set(xscale="log", xlabel="network calls (NFE)", ylabel="kernel distance x 1000")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _page(results: Results, folder: Path) -> str:
    checks = [["yes" if one.holds else "no", one.statement, one.figures] for one in findings(results)]
    parts = [
        "<h1>The classical systems</h1>",
        f'<p class="small">{escape(results.images.name)}: {len(results.images.train)} training images; '
        f"{results.count} samples of each sampler and seed; mean ± standard deviation over seeds.</p>",
        f'<img class="plot" alt="kernel distance against calls" src="{data_uri((folder / "systems.png").read_bytes())}">',
        "<h2>Samplers</h2>", _html(*table(results)),
        "<h2>Bits per dimension</h2>", _html(*bits_table(results)),
        "<h2>Expected</h2>", _html(["holds", "expected", "found"], checks),
        "<h2>Samples</h2>",
    ]  # fmt: skip
    for system, sampler, title in results.pairs():
        if (samples := results.shown.get((system, sampler))) is not None:
            uri = data_uri(picture(samples[:20]))
            parts.append(f'<h3>{escape(TITLES[system])}: {escape(title)}</h3><img class="samples" alt="" src="{uri}">')
    return document("The classical systems", parts)


def _html(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{names}</tr>{rows}</table></div>'
