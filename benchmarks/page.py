"""One self-contained HTML page: a chart and a table for each problem and kind, and samples side by side."""

from __future__ import annotations

import io
from html import escape
from itertools import cycle
from pathlib import Path

import torch
from matplotlib.image import imsave
from torch import Tensor

from .document import Series, cell, chart, data_uri, document, table
from .measure import Row
from .plots import named
from .report import KINDS, Report, Summary, arrange, caption, finite, notes, text_of
from .verdict import Verdict, tables

SHOWN_CALLS = (5, 10, 20)
HUES = ("#2f7fd0", "#d5620d", "#0a9b72", "#c15fa0", "#c79400", "#8d6fd1", "#c9403f", "#5f8f1f", "#1da3b8", "#8a6d55")
"""Of lines, to be told apart on white and on black."""


def write_page(report: Report, path: Path, truths: dict[str, Tensor], verdict: Verdict | None = None) -> None:
    """Write the page. ``truths``: for problems of images, the first converged end points."""
    facts = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    links = [f'<a href="#{escape(one.name)}">{escape(one.title)}</a>' for one in report.summaries]
    parts = [
        "<h1>Solvers against network calls</h1>",
        f'<p class="small">{escape(versions)}; seed {facts["seed"]}, {escape(facts["device"])}, '
        f"process {escape(facts['process'])}, t from {facts['t_max']:g} to {facts['t_min']:g}, "
        f"{facts['wall_time']:.0f} s, {escape(facts['started'])}.</p>",
        f"<nav>{' '.join(links)}</nav>",
    ]
    for summary in report.summaries:
        parts.append(f'<h2 id="{escape(summary.name)}">{escape(summary.title)}</h2>')
        parts.append(f'<p class="small">Truth: {escape(_truth(summary))}.</p>')
        for kind in KINDS:
            parts += _tables(report, summary, kind)
        if summary.name in truths:
            parts += _samples(report, summary, truths[summary.name])
    if verdict is not None:
        parts += _verdict(verdict)
    if lines := notes(report):
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<h2>Left out and failed</h2><ul>{items}</ul>")
    path.write_text(document("scoresolve benchmark", parts))


def _verdict(verdict: Verdict) -> list[str]:
    parts = ["<h2>Against the peers</h2>"]
    for title, head, lines in tables(verdict):
        parts.append(f"<h3>{escape(title)}</h3>{table(head, [[cell(text) for text in line] for line in lines])}")
    return parts


def _truth(summary: Summary) -> str:
    if summary.exact:
        return "in closed form"
    return f"{summary.reference}, which agrees with itself to {summary.consistency:.1e}"


def _tables(report: Report, summary: Summary, kind: str) -> list[str]:
    rows = report.of(summary.name, kind)
    grid = arrange(report, rows, summary.tie(kind))
    parts = []
    if rows:
        parts.append(_chart(report, summary, kind))
    if grid.cells:
        lines = [
            [cell(label), *(_cell(line.get(budget), label in grid.best[budget]) for budget in grid.budgets)]
            for label, line in grid.cells.items()
        ]
        parts.append(f'<p class="small">{escape(caption(summary, kind, rows))}</p>')
        parts.append(table([KINDS[kind], *map(str, grid.budgets)], lines))
    if adaptive := [row for row in rows if row.cell.budget is None]:
        lines = [
            [
                cell(report.label(row)),
                cell("" if row.cell.tolerance is None else f"{row.cell.tolerance:g}"),
                cell(str(row.nfe or "")),
                _cell(row, False),
            ]
            for row in adaptive
        ]
        parts.append(table(["adaptive", "tolerance", "calls", "error"], lines))
    return [f"<h3>{KINDS[kind].capitalize()}</h3>", *parts] if parts else []


def _chart(report: Report, summary: Summary, kind: str) -> str:
    """A line for each solver: in colour those that the picture names too, peers dashed, the others in the crowd."""
    rows = report.of(summary.name, kind)
    chosen = named(report, kind, [row for one in report.summaries for row in report.of(one.name, kind)])
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if finite(row) and row.nfe and row.error:
            lines.setdefault(report.label(row), []).append(row)
    series, colours = [], cycle(HUES)
    for label, found in lines.items():
        points = sorted((float(row.nfe or 0), row.error or 0.0) for row in found)
        series.append(Series(label, points, next(colours) if label in chosen else "", not found[0].cell.ours))
    floor = summary.kind_floor(kind) if kind == "sde" else None
    return chart(series, "network calls (NFE)", summary.metric(kind).replace(", in closed form", ""), floor)


def _cell(row: Row | None, best: bool) -> str:
    if row is not None and row.status != "ok":
        return cell(text_of(row), row.status.replace(" ", "-"), row.message)
    return cell(text_of(row), "best" if best else "", "" if row is None else _facts(row))


def _facts(row: Row) -> str:
    """Every number of a row, shown when the pointer rests on it."""
    names = ("nfe", "rmse", "median", "w2", "std_error", "sliced_w2", "energy", "seconds")
    found = ((name, getattr(row, name)) for name in names)
    return "  ".join(f"{name} {value:.3g}" for name, value in found if value is not None)


def _samples(report: Report, summary: Summary, truth: Tensor) -> list[str]:
    """A row of pictures for each solver of ours, and for the best peers: the same starts in every cell."""
    rows = []
    for kind in KINDS:
        found = report.of(summary.name, kind)
        leaders = report.leaders(found, ours=False)
        rows += [row for row in found if row.cell.ours or report.label(row) in leaders]
    grid = arrange(report, [row for row in rows if row.shown is not None])
    calls = [calls for calls in SHOWN_CALLS if calls in grid.budgets] or list(grid.budgets[:3])
    if not calls:
        return []
    lines = [[cell("exact"), *[_strip(truth)] * len(calls)]]
    for label, line in grid.cells.items():
        lines.append([cell(label), *(_strip(row.shown if (row := line.get(n)) else None) for n in calls)])
    return [
        "<h3>Samples from the same starts (a stochastic solver leaves them)</h3>",
        table(["", *(f"{n} calls" for n in calls)], lines, "words"),
    ]


def _strip(images: Tensor | None) -> str:
    if images is None:
        return cell("")
    return cell("", html=f'<img class="samples" alt="samples" src="{data_uri(picture(images))}">')


def picture(images: Tensor, columns: int | None = None) -> bytes:
    """Images (n, 1 or 3, height, width), values in [-1, 1], in rows of so many (all), in blue-grey frames: a PNG."""
    colours = (images.float().cpu().clamp(-1, 1) / 2 + 0.5).expand(-1, 3, -1, -1)
    frame = torch.tensor([0.55, 0.65, 0.8])[None, :, None, None]
    framed = torch.nn.functional.pad(colours - frame, (1, 1, 1, 1)) + frame
    lines = torch.split(framed, columns or len(framed))
    short = (columns or len(framed)) - len(lines[-1])
    lines = (*lines[:-1], torch.cat([lines[-1], frame.expand(short, 3, *framed.shape[2:])]))
    strips = [line.permute(2, 0, 3, 1).flatten(1, 2) for line in lines]
    pixels = torch.cat(strips).clamp(0, 1).contiguous().numpy()
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return buffer.getvalue()
