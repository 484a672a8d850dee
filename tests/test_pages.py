"""Pages of results: whole without another file, with tables and charts as the script expects them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from benchmarks.document import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Series, cell, chart, document, table


class Page(HTMLParser):
    """Counts elements, and the cells of every row of a table; raises if the elements do not nest."""

    VOID = ("meta", "img", "path", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


LINES = [
    Series("a <b>", [(5.0, 1e-1), (50.0, 1e-3)], "#123456"),
    Series("crowd", [(10.0, 1e-2), (20.0, 1e7)]),
]


def test_a_page_is_whole() -> None:
    shown = table(["solver & kind", "5"], [[cell("dd<im>"), cell("1e-2", "best", 'w2 "x"')], [cell("x"), cell("")]])
    text = document("a & b", [shown, chart(LINES, "calls", "error", floor=2e-3)])
    page = Page(text)
    assert page.rows == [["solver & kind", "5"], ["dd<im>", "1e-2"], ["x", ""]]
    assert page.seen.count("thead") == page.seen.count("tbody") == page.seen.count("svg") == 1
    assert "://" not in text
    assert re.findall(r'class="([^"]*sortable[^"]*)"', text) == ["sortable"]


def test_the_script_finds_what_it_looks_for() -> None:
    """Every class and element that the script asks for is in a page that has a table and a chart."""
    text = document("", [table(["a"], [[cell("1")]]), chart(LINES, "calls", "error")])
    for needed in ('class="sortable"', 'figure class="chart"', 'ul class="legend"', 'class="series"', "data-label=",
                   'aria-pressed="false"', "<title>", "aria-sort"):  # fmt: skip
        assert needed in text, needed


def test_a_chart_is_to_scale() -> None:
    """Equal ratios are equal lengths; what is beyond any use is left out; the crowd has no line in the legend."""
    text = chart([Series("s", [(5.0, 1.0), (10.0, 0.1), (20.0, 0.01)], "red"), *LINES[1:]], "calls", "error")
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="2.6"', text)
    x, y = ([float(place[axis]) for place in places] for axis in (0, 1))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.11)
    assert y[0] < y[1]
    assert all(LEFT <= one <= WIDTH - RIGHT for one in x)
    assert all(0 < one <= HEIGHT - BOTTOM for one in y)
    assert "s: 0.1 at 10 calls" in text
    assert "1e+07" not in text
    assert re.findall(r"<button[^>]*>([^<]*)", text) == ["s"]


def test_nothing_measured_is_no_chart() -> None:
    assert chart([], "calls", "error") == ""
    assert chart([Series("s", [(5.0, 1e9)], "red")], "calls", "error") == ""
    assert "<circle" in chart([Series("s", [(5.0, 1e-3)], "red")], "calls", "error")
