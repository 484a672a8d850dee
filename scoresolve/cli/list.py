"""``scoresolve list``: solvers, grids and the names that others use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..grids import GRIDS
from ..presets import GRID_WORDS, PRESETS, resolve
from ..registry import SolverInfo, get_solver, solvers
from . import options
from .output import guarded, print_json, print_table


def _check_kind(kind: str | None) -> str | None:
    if kind not in (None, "ode", "sde"):
        raise typer.BadParameter(f"{kind!r} is neither ode nor sde")
    return kind


@guarded
def command(
    solver: Annotated[
        str | None, typer.Argument(callback=options.check_solver_name, help="One solver, with all its facts.")
    ] = None,
    kind: Annotated[str | None, typer.Option(callback=_check_kind, help="ode (deterministic) or sde.")] = None,
    order: Annotated[int | None, typer.Option(min=0, help="Of at least this measured order.")] = None,
    adaptive: Annotated[bool | None, typer.Option("--adaptive/--fixed", help="Choosing its own steps, or not.")] = None,
    search: Annotated[str | None, typer.Option(help="With this word in the name, the summary or the paper.")] = None,
    grids: Annotated[bool, typer.Option("--grids", help="The time grids instead.")] = False,
    aliases: Annotated[bool, typer.Option("--aliases", help="The names of other libraries instead.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List solvers, time grids (--grids) and the names of other libraries (--aliases).

    \b
    Examples:
      scoresolve list --kind ode --order 3
      scoresolve list "DPM++ 2M Karras"
      scoresolve list --search heun
    """
    if solver is not None:
        _one(solver, json)
    elif grids:
        rows = [{"name": name, "summary": (grid.__doc__ or "").strip().split("\n")[0]} for name, grid in GRIDS.items()]
        _print(rows, json)
    elif aliases:
        rows = [
            {"name": name, "solver": one.solver, "grid": one.grid or "", "options": _options(one.options)}
            for name, one in PRESETS.items()
        ]
        _print(rows, json)
        if not json:
            typer.echo(f"Any name may end with that of a grid: {', '.join(GRID_WORDS)}.")
    else:
        chosen = [info for info in solvers() if _wanted(info, kind, order, adaptive, search)]
        _print([_facts(info) for info in chosen], json)


def _wanted(info: SolverInfo, kind: str | None, order: int | None, adaptive: bool | None, search: str | None) -> bool:
    text = f"{info.name} {' '.join(info.aliases)} {info.summary} {info.reference}".lower()
    return (
        (kind is None or info.kind == kind)
        and (order is None or info.order >= order)
        and (adaptive is None or info.adaptive == adaptive)
        and (search is None or search.lower() in text)
    )


def _facts(info: SolverInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "kind": info.kind,
        "order": info.order,
        "calls": "its own" if info.adaptive else str(info.evaluations),
        "grid": info.grid,
        "summary": info.summary,
    }


def _one(name: str, json: bool) -> None:
    """A solver, with the grid and the options that its name stands for."""
    preset = resolve(name)
    info = get_solver(preset.solver)
    facts = {
        **_facts(info),
        "strong order": info.strong_order,
        "aliases": list(info.aliases),
        "grid": preset.grid or info.grid,
        "options": {key: repr(value) for key, value in {**info.options, **preset.options}.items()},
        "reference": info.reference,
    }
    if json:
        print_json(facts)
    else:
        shown = {**facts, "aliases": ", ".join(info.aliases), "options": _options({**info.options, **preset.options})}
        print_table(("", ""), [(key, value) for key, value in shown.items() if value not in (None, "")])


def _options(options: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _print(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        typer.echo("none")
