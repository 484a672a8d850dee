"""``scoresolve likelihood``: log p of data under a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor

from ..likelihood import log_likelihood
from . import options
from .files import read_tensor
from .network import load
from .output import guarded, print_json, print_table


def _check_divergence(name: str) -> str:
    if name not in ("exact", "hutchinson"):
        raise typer.BadParameter(f"{name!r} is neither exact nor hutchinson")
    return name


@guarded
def command(
    network: options.Network,
    data: Annotated[
        Path, typer.Option("--data", help="The data: .npy, .npz or .safetensors, (batch, ...), as in training.")
    ],
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Only the first so many.")] = None,
    divergence: Annotated[str, typer.Option(callback=_check_divergence, help="exact, or hutchinson.")] = "exact",
    probes: Annotated[int, typer.Option(min=1, help="Of hutchinson; two or more give a standard error.")] = 1,
    levels: Annotated[int | None, typer.Option(min=2, help="Data were so many whole numbers, such as 256.")] = None,
    low: Annotated[float, typer.Option(help="With --levels: where their range begins now.")] = -1.0,
    high: Annotated[float, typer.Option(help="With --levels: where it ends.")] = 1.0,
    solver: options.SolverName = None,
    nfe: options.Nfe = None,
    steps: options.Steps = None,
    grid: options.GridName = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    option: options.Option = None,
    seed: options.Seed = 0,
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
    """log p of data, in nats and in bits per dimension.

    \b
    Examples:
      scoresolve likelihood my_networks:ddpm --data images.npy --divergence hutchinson --probes 4
      scoresolve likelihood my_networks:ddpm --data images.npy --divergence hutchinson --levels 256 --nfe 50
    """
    model = load(network, sde, predicts, time, device)
    x0 = read_tensor(data, cast(torch.dtype, dtype), device, count)
    found = log_likelihood(
        model, x0, divergence=cast(Any, divergence), probes=probes, solver=solver, nfe=nfe, steps=steps, grid=grid,
        levels=levels, data_range=None if levels is None else (low, high), seed=seed, batch_size=batch_size,
        progress=progress, **options.solver_options(option, rtol, atol),
    )  # fmt: skip
    per_sample = {
        "log_prob": found.log_prob.tolist(),
        "bits_per_dim": found.bits_per_dim.tolist(),
        "standard_error": found.standard_error.tolist(),
    }
    summary = {
        "samples": len(x0),
        "nfe": found.nfe,
        "log_prob": _mean(found.log_prob),
        "bits_per_dim": _mean(found.bits_per_dim),
        "offset_bits": found.offset_bits,
    }
    if json:
        print_json({**summary, "per_sample": per_sample})
        return
    print_table(("sample", "log p (nats)", "bits/dim", "standard error (nats)"), _rows(per_sample))
    more = f" (of {len(x0)}; --json has all)" if len(x0) > SHOWN else f" of {len(x0)}"
    spread = float(found.log_prob.std()) / math.sqrt(len(x0)) if len(x0) > 1 else math.nan
    typer.echo(
        f"mean{more}: {summary['log_prob']:.4f} nats, +- {spread:.2g} over samples; "
        f"{summary['bits_per_dim']:.4f} bits/dim; {found.nfe} network calls"
    )


SHOWN = 8
"""Samples in the table."""


def _rows(per_sample: dict[str, list[float]]) -> list[tuple[object, ...]]:
    columns = [[f"{value:.4f}" if math.isfinite(value) else "" for value in one[:SHOWN]] for one in per_sample.values()]
    return [(str(place), *row) for place, row in enumerate(zip(*columns, strict=True))]


def _mean(values: Tensor) -> float:
    return float(values.mean())
