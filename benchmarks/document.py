"""What every page of results is made of: one template without any other file, its tables, its charts.

The script and the style stand in ``page.js`` and ``page.css``. Without the script everything is still there to be read;
with it tables sort, and charts say what is under the pointer.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 76, 10, 10, 46
"""A chart, and what is around its panel, in its own unit."""
WORST = 1e2
"""Errors beyond this are not shown: they are of no use to anybody."""


def document(title: str, parts: Iterable[str]) -> str:
    """A page that needs no other file."""
    body = "\n".join(parts)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n{body}\n<script>\n{script}</script>\n</body></html>\n"
    )


def cell(text: str, kind: str = "", title: str = "", html: str = "") -> str:
    """One cell of a table; ``html`` stands in place of a text."""
    attributes = (f' class="{kind}"' if kind else "") + (f' title="{escape(title)}"' if title else "")
    return f"<td{attributes}>{html or escape(text)}</td>"


def table(head: Sequence[str], lines: Iterable[Iterable[str]], kind: str = "sortable") -> str:
    """A table that scrolls by itself where it is too wide; ``lines`` hold what ``cell`` makes.

    Args: kind, classes of the table: "sortable" (by a click on a head) and "words" (text, not figures).
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(line)}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{names}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def data_uri(png: bytes) -> str:
    """A picture inside a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes: label, points (calls, error), both positive; colour (any of CSS; empty: one of the crowd, not in the
    legend), dashed, joined (or points alone), names (of the points, if they have their own).
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str = ""
    dashed: bool = False
    joined: bool = True
    names: Sequence[str] = ()


def chart(series: Sequence[Series], x_title: str, y_title: str, floor: float | None = None) -> str:
    """Errors against network calls on logarithmic axes: SVG with a legend, or nothing if there are no points."""
    points = [point for one in series for point in one.points if point[1] <= WORST]
    if not points:
        return ""
    x = _Axis.around([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y = _Axis.around([y for _, y in points] + ([floor] if floor else []), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_title)} against {escape(x_title)}">'
    ]
    for value in x.ticks():
        at = x(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for value in y.ticks():
        at = y(value)
        parts.append(f'<path class="axis" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'x="14" y="{middle}" transform="rotate(-90 14 {middle})"'
    parts.append(f'<text class="y" {turned} text-anchor="middle">{escape(y_title)}</text>')
    if floor:
        parts.append(f'<path class="floor" d="M{LEFT} {y(floor):.1f}H{WIDTH - RIGHT}"/>')
    parts += [_line(one, x, y) for one in sorted(series, key=lambda one: bool(one.colour))]
    pressed = '<button type="button" aria-pressed="false"'
    named = [one for one in series if one.colour]
    buttons = "".join(
        f'<li>{pressed} style="--colour: {one.colour}">{escape(one.label)}</button></li>' for one in named
    )
    return f'<figure class="chart">{"".join(parts)}</svg><ul class="legend">{buttons}</ul></figure>'


def _line(one: Series, x: _Axis, y: _Axis) -> str:
    """A path, and a circle for each point with what it is in words."""
    names = [f"{one.label}, {name}" for name in one.names] or [one.label] * len(one.points)
    shown = [(a, b, name) for (a, b), name in zip(one.points, names, strict=True) if b <= WORST]
    places = [f"{x(a):.1f} {y(b):.1f}" for a, b, _ in shown]
    dashes = ' stroke-dasharray="5 3"' if one.dashed else ""
    path = f'<path d="M{"L".join(places)}"{dashes}/>' if one.joined and len(places) > 1 else ""
    circles = "".join(
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{2.6 if one.colour else 1.5}">'
        f"<title>{escape(name)}: {b:.3g} at {a:g} calls</title></circle>"
        for a, b, name in shown
    )
    style = f' style="--colour: {one.colour}"' if one.colour else ""
    kind = "series" if one.colour else "series crowd"
    return f'<g class="{kind}" data-label="{escape(one.label)}"{style}>{path}{circles}</g>'


@dataclass(frozen=True)
class _Axis:
    """Logarithmic, from the value ``low`` at the place ``begin`` to ``high`` at ``end``."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        margin = max((high / low) ** 0.03, 1.05)
        return cls(low / margin, high * margin, begin, end)

    def __call__(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of every decade; over three decades and more the decades, at most eight."""
        decades = math.log10(self.high / self.low)
        every = max(1, math.ceil(decades / 8))
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if decades < 3 else (1,)
        found = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
        return [value for value in found if self.low <= value <= self.high]
