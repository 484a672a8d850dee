"""``scoresolve advise``: which solver, on which grid, at which number of calls, for a network of one's own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, cast

import typer

from ..advice import MOST_TUNED, NFE, advise
from . import options
from .files import check_name
from .network import load
from .output import guarded, print_json, tell


@guarded
def command(
    network: options.Network,
    shape: options.Shape,
    nfe: Annotated[str, typer.Option(callback=options.read_numbers, help="Numbers of network calls.")] = ",".join(
        map(str, NFE)
    ),
    minutes: Annotated[float, typer.Option(min=0.01, help="How long it may take, the converged flow apart.")] = 15.0,
    out: Annotated[Path, typer.Option("--out", help="A folder for the plan, the tuned tables and the plot.")] = Path(
        "advice"
    ),
    tuned: Annotated[
        bool, typer.Option("--tuned/--no-tuned", help=f"Tune a table for each number of calls up to {MOST_TUNED}.")
    ] = True,
    starts: Annotated[int | None, typer.Option(min=16, help="Starts that tables are fitted to.")] = None,
    held_out: Annotated[int | None, typer.Option(min=16, help="Starts that everything is measured on.")] = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    sde: options.Process = None,
    predicts: options.Predicts = None,
    time: options.Time = None,
    device: options.Device = None,
    dtype: Annotated[str | None, typer.Option(help="Of the state: float32 or float64; default: what it takes.")] = None,
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Which solver to use at which number of network calls, measured on the network itself.

    Every published solver on every grid, and a table tuned for each number of calls, from the same noise, against the
    converged probability flow. It ends within its time; stopped, it goes on where it was if it is run again.

    \b
    Examples:
      scoresolve advise my_networks:ddpm --shape 3,32,32 --minutes 30
      scoresolve advise my_networks:ddpm --shape 3,32,32 --nfe 5,8 --out plan

    Then ``scoresolve sample ... -s plan/tuned-8.json`` draws with the table for 8 calls.
    """
    check_name(out / "advice.png")
    found = advise(
        load(network, sde, predicts, time, device), cast(tuple[int, ...], shape), nfe=cast(tuple[int, ...], nfe),
        minutes=minutes, seed=seed, starts=starts, held_out=held_out, tuned=tuned, out=out, batch_size=batch_size,
        dtype=None if dtype is None else options.read_dtype(dtype), device=device, progress=progress,
    )  # fmt: skip
    if find_spec("matplotlib") is not None:
        from ..advice_plot import draw

        draw(found, out / "advice.png")
    else:
        tell("no plot: that needs matplotlib (pip install matplotlib)")
    if json:
        print_json(found.as_dict())
    else:
        typer.echo(
            f"{found}\n\n{out}/plan.json has every number; ss.sample(..., solver=ss.Table.load(path)) runs a table"
        )
