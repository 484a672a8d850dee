"""``scoresolve bench``: the error of solvers against network calls, for a network of one's own."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from tqdm.auto import tqdm

from ..comparison import COMPARED, Comparison, compare
from ..durable import write_file
from . import options
from .files import check_name, check_plot
from .network import load
from .output import guarded, print_json, print_table


@guarded
def command(
    network: options.Network,
    shape: options.Shape,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many samples; a few are enough.")] = 16,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver", "-s", callback=lambda names: options.check_solvers(names or ()), help="May be repeated."
        ),
    ] = None,
    nfe: Annotated[str, typer.Option(callback=options.read_numbers, help="Budgets of network calls.")] = "5,10,20,40",
    out: Annotated[
        Path | None, typer.Option("--csv", callback=check_name, help="Write the rows to this file too.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", callback=check_plot, help="Draw them: .png, .svg or .pdf (needs matplotlib)."),
    ] = None,
    seed: options.Seed = 0,
    sde: options.Process = None,
    predicts: options.Predicts = None,
    time: options.Time = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Errors of deterministic solvers from the same noise, against the converged probability flow.

    \b
    Examples:
      scoresolve bench my_networks:ddpm --shape 3,32,32
      scoresolve bench my_networks:ddpm --shape 3,32,32 -s unipc_3 -s heun --csv errors.csv
    """
    model = load(network, sde, predicts, time, device)
    budgets, one = cast(tuple[int, ...], nfe), cast(tuple[int, ...], shape)
    if plot is not None:
        _matplotlib()
    total = 1 + len(budgets) * (len(solver or ()) or len(COMPARED) + 1)
    with tqdm(total=total, unit="run", disable=not progress) as bar:

        def advance(what: str) -> None:
            bar.set_description(what)
            bar.update()

        found = compare(
            model, (count, *one), solvers=solver or (), nfe=budgets, seed=seed, dtype=cast(torch.dtype, dtype),
            device=device, advance=advance,
        )  # fmt: skip
    if out is not None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(asdict(found.rows[0])))
        writer.writeheader()
        writer.writerows(map(asdict, found.rows))
        write_file(out, text.getvalue().encode())
    if plot is not None:
        _draw(found, plot)
    if json:
        print_json(found.as_dict())
    else:
        _show(found, budgets)
    if all(row.failure for row in found.rows):
        raise typer.Exit(1)


def _show(found: Comparison, budgets: tuple[int, ...]) -> None:
    """The errors, a solver a row; the best at each budget is marked."""
    at = {(row.solver, row.asked): row for row in found.rows}
    best = {
        calls: found.best(calls) for calls in budgets if any(r.asked == calls and not r.failure for r in found.rows)
    }
    rows = []
    for name in dict.fromkeys(row.solver for row in found.rows):
        cells = []
        for calls in budgets:
            row = at.get((name, calls))
            failed = row is None or row.failure
            cells.append("" if failed or row is None else f"{row.error:.2e}{' *' if best[calls] is row else ''}")
        rows.append((name, *cells))
    print_table(("solver", *(f"{calls} calls" for calls in budgets)), rows, "error (root mean square), * the smallest")
    reference = found.reference
    typer.echo(f"reference: {reference.method}, good to {reference.consistency:.0e}; {found.nfe} network calls in all")
    for row in found.rows:
        if row.failure:
            typer.echo(f"{row.solver} at {row.asked} calls: {row.failure}")


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib, or take --csv") from error


def _draw(found: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    from ..advice_plot import save

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(row.solver for row in found.rows):
        rows = [row for row in found.rows if row.solver == name and not row.failure]
        axes.loglog([row.nfe for row in rows], [row.error for row in rows], "o-", label=name, markersize=3)
    axes.axhline(found.reference.consistency, color="0.7", linestyle=":", label="of the reference")
    axes.set(xlabel="network calls", ylabel="error (root mean square)")
    axes.legend(fontsize="small")
    save(figure, path)
