"""One self-contained HTML page: the plot, a table for each problem and kind, and samples side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

import torch
from matplotlib.image import imsave
from torch import Tensor

from .measure import Row
from .report import KINDS, Report, Summary, arrange, caption, notes, text_of
from .verdict import Verdict, tables

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #8886; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0 1.2rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; background: #00a06a33; }
td.failed { color: #c33; } .small { color: #888; font-size: .87rem; }
.wide { overflow-x: auto; } img.plot { max-width: 100%; background: white; }
img.samples { image-rendering: pixelated; height: 36px; display: block; }
"""
SHOWN_CALLS = (5, 10, 20)


def write_page(
    report: Report, plot: Path, path: Path, truths: dict[str, Tensor], verdict: Verdict | None = None
) -> None:
    """Write the page. ``truths``: for problems of images, the first converged end points."""
    facts = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        "<h1>Solvers against network calls</h1>",
        f'<p class="small">{escape(versions)}; seed {facts["seed"]}, {escape(facts["device"])}, '
        f"process {escape(facts['process'])}, t from {facts['t_max']:g} to {facts['t_min']:g}, "
        f"{facts['wall_time']:.0f} s, {escape(facts['started'])}.</p>",
        f'<img class="plot" alt="error against network calls" src="{data_uri(plot.read_bytes())}">',
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


def document(title: str, parts: Iterable[str]) -> str:
    """A page that needs no other file."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _verdict(verdict: Verdict) -> list[str]:
    parts = ["<h2>Against the peers</h2>"]
    for title, head, lines in tables(verdict):
        rows = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
        names = "".join(f"<th>{escape(name)}</th>" for name in head)
        parts.append(f'<h3>{escape(title)}</h3><div class="wide"><table><tr>{names}</tr>{rows}</table></div>')
    return parts


def _truth(summary: Summary) -> str:
    if summary.exact:
        return "in closed form"
    return f"{summary.reference}, which agrees with itself to {summary.consistency:.1e}"


def _tables(report: Report, summary: Summary, kind: str) -> list[str]:
    rows = report.of(summary.name, kind)
    grid = arrange(report, rows, summary.tie(kind))
    parts = []
    if grid.cells:
        head = "".join(f"<th>{budget}</th>" for budget in grid.budgets)
        lines = [f"<tr><th>{KINDS[kind]}</th>{head}</tr>"]
        for label, line in grid.cells.items():
            cells = "".join(_cell(line.get(b), label in grid.best[b]) for b in grid.budgets)
            lines.append(f"<tr><td>{escape(label)}</td>{cells}</tr>")
        parts.append(f"<h3>{escape(caption(summary, kind, rows))}</h3>")
        parts.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')
    if adaptive := [row for row in rows if row.cell.budget is None]:
        lines = ["<tr><th>adaptive</th><th>tolerance</th><th>calls</th><th>error</th></tr>"]
        for row in adaptive:
            tolerance = "" if row.cell.tolerance is None else f"{row.cell.tolerance:g}"
            lines.append(
                f"<tr><td>{escape(report.label(row))}</td><td>{tolerance}</td><td>{row.nfe or ''}</td>"
                f"{_cell(row, False)}</tr>"
            )
        parts.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')
    return parts


def _cell(row: Row | None, best: bool) -> str:
    if row is not None and row.status != "ok":
        return f'<td class="{row.status.replace(" ", "-")}" title="{escape(row.message)}">{escape(text_of(row))}</td>'
    facts = "" if row is None else f' title="{escape(_facts(row))}"'
    mark = ' class="best"' if best else ""
    return f"<td{mark}{facts}>{escape(text_of(row))}</td>"


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
    lines = [f"<tr><th></th>{''.join(f'<th>{n} calls</th>' for n in calls)}</tr>"]
    lines.append(f"<tr><td>exact</td>{_strip(truth) * len(calls)}</tr>")
    for label, line in grid.cells.items():
        strips = "".join(_strip(row.shown) if (row := line.get(n)) else "<td></td>" for n in calls)
        lines.append(f"<tr><td>{escape(label)}</td>{strips}</tr>")
    return [
        "<h3>Samples from the same starts (a stochastic solver leaves them)</h3>",
        f'<div class="wide"><table>{"".join(lines)}</table></div>',
    ]


def _strip(images: Tensor | None) -> str:
    if images is None:
        return "<td></td>"
    return f'<td><img class="samples" alt="samples" src="{data_uri(picture(images))}"></td>'


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


def data_uri(png: bytes) -> str:
    """A picture inside a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
