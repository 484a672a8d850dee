"""What commands print: results to stdout, as tables or as JSON; errors to stderr, as one message."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

import click
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..checks import Report, finite

P = ParamSpec("P")
WIDTH = 120
"""Of tables that do not go to a terminal."""


def console(stderr: bool = False) -> Console:
    """A console on what stdout or stderr is now."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=stderr)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=stderr, width=WIDTH)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; columns of numbers are aligned to the right."""
    cells = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for place, name in enumerate(columns):
        counts = all(set(row[place]) <= set("0123456789.e+-") for row in cells)
        table.add_column(name, justify="right" if counts else "left", overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    if title:
        typer.echo(title)
    console().print(table)


def number(value: object) -> str:
    """A cell: three or four digits of a number, nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(value: object) -> None:
    """JSON on stdout; NaN and infinity, which JSON has not, are null."""
    typer.echo(json.dumps(finite(value), indent=1))


COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def print_report(found: Report, as_json: bool) -> None:
    """Checks on stdout, their first words in colour; exit code 1 if one of them failed."""
    if as_json:
        print_json(found.as_dict())
    else:
        for line in str(found).split("\n"):
            word, rest = line[:4].strip(), escape(line[4:])
            colour = COLOURS.get(word)
            console().print(f"[{colour}]{word:4}[/]{rest}" if colour else escape(line))
    if not found.ok:
        raise typer.Exit(1)


def tell(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    console(stderr=True).print(escape(text))


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command with its errors shown as one message, exit code 1; with --debug they are raised."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort, typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            if kwargs.get("debug"):
                raise
            kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
            notes = "".join(f"\n       {note}" for note in getattr(error, "__notes__", ()))
            typer.echo(f"error: {kind}{error}{notes}\n       (--debug shows where)", err=True)
            raise typer.Exit(1) from error

    return run
