"""Write the tables of solvers, in the documentation and the README, from the registry.

``python docs/generate.py`` rewrites what stands between the markers; with ``--check`` it changes nothing and
fails if a table is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import scoresolve as ss

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- solvers:begin -->", "<!-- solvers:end -->"


Column = tuple[str, Callable[[ss.SolverInfo], str]]


def _kind(info: ss.SolverInfo) -> str:
    return info.kind.upper() + (", adaptive" if info.adaptive else "")


def _options(info: ss.SolverInfo) -> str:
    return ", ".join(f"`{name}={default!r}`" for name, default in info.options.items())


def _source(info: ss.SolverInfo) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", info.reference)


NAME: Column = ("solver", lambda info: f"`{info.name}`")
NAMES: Column = ("solver", lambda info: ", ".join(f"`{name}`" for name in (info.name, *info.aliases)))
FACTS: list[Column] = [
    ("what it is", lambda info: info.summary.rstrip(".")),
    ("kind", _kind),
    ("order", lambda info: str(info.order or "–")),
    ("calls a step", lambda info: str(info.evaluations)),
]
DETAILS: list[Column] = [
    ("default grid", lambda info: f"`{info.grid}`"),
    ("options", _options),
    ("source", _source),
]

PAGES: dict[str, list[Column]] = {
    "README.md": [NAME, *FACTS],
    "docs/choosing.md": [NAMES, *FACTS, *DETAILS],
}


def table(columns: list[Column]) -> str:
    """A Markdown table of every solver: fixed grids first, then ODE before SDE, low order before high."""
    infos = sorted(ss.solvers(), key=lambda info: (info.adaptive, info.kind, info.order, info.name))
    head = [title for title, _ in columns]
    rows = [[cell(info).replace("|", "\\|") for _, cell in columns] for info in infos]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def replace_between_markers(text: str, content: str) -> str:
    """The page with its table replaced. Raises: ValueError unless it has the two markers, once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and then {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check every page; the exit status is 1 if a check finds an old table."""
    parser = argparse.ArgumentParser(description="Write the tables of solvers from the registry.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a table is out of date")
    check = parser.parse_args(arguments).check
    outdated = []
    for name, columns in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        wanted = replace_between_markers(text, table(columns))
        if text != wanted:
            outdated.append(name)
            if not check:
                page.write_text(wanted, encoding="utf-8")
    for name in outdated:
        print(f"{name}: {'out of date, run python docs/generate.py' if check else 'rewritten'}")
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
