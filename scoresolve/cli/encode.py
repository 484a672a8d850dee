"""``scoresolve encode``: data to latents, or latents back to data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import torch
import typer

from ..latents import decode
from ..sampling import encode
from . import options
from .files import check_out, read_tensor, write_tensor
from .network import load
from .output import guarded, print_json


@guarded
def command(
    network: options.Network,
    data: Annotated[Path, typer.Option("--data", help="What to encode: .npy, .npz or .safetensors, (batch, ...).")],
    out: Annotated[
        Path, typer.Option("--out", callback=check_out, help="Where to write it: .npy, .npz or .safetensors.")
    ],
    back: Annotated[bool, typer.Option("--decode", help="From latents back to data.")] = False,
    solver: options.SolverName = None,
    nfe: options.Nfe = None,
    steps: options.Steps = None,
    grid: options.GridName = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    option: options.Option = None,
    batch_size: options.BatchSize = None,
    sde: options.Process = None,
    predicts: options.Predicts = None,
    time: options.Time = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Take data to latents along the probability flow; with --decode and the same options, back.

    \b
    Examples:
      scoresolve encode my_networks:ddpm --data images.npy --out latents.npy
      scoresolve encode my_networks:ddpm --data latents.npy --decode --out again.npy
    """
    model = load(network, sde, predicts, time, device)
    x = read_tensor(data, cast(torch.dtype, dtype), device)
    found = (decode if back else encode)(
        model, x, solver=solver, nfe=nfe, steps=steps, grid=grid, batch_size=batch_size, progress=progress,
        **options.solver_options(option, rtol, atol),
    )  # fmt: skip
    write_tensor(out, found.samples)
    ends = f"t {found.times[0]:g} -> {found.times[-1]:g}"
    if json:
        print_json({"out": str(out), "shape": list(x.shape), "nfe": found.nfe, "times": found.times[[0, -1]].tolist()})
    else:
        typer.echo(f"{len(x)} {'samples' if back else 'latents'} in {out}, {ends}, {found.nfe} network calls")
