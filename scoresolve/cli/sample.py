"""``scoresolve sample``: samples into a file, or into a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from ..sampling import sample
from . import options
from .files import KNOWN, check_folder, write_tensor
from .network import load
from .output import guarded, print_json, tell


def _check_format(name: str) -> str:
    if name not in ("safetensors", "npz", "png"):
        raise typer.BadParameter(f"{name!r} is none of safetensors, npz, png")
    return name


@guarded
def command(
    network: options.Network,
    shape: options.Shape,
    out: Annotated[
        Path,
        typer.Option("--out", callback=check_folder, help=f"A file ({', '.join(KNOWN)}), or a folder for shards."),
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many samples.")] = 16,
    solver: options.Solver = None,
    nfe: options.Nfe = None,
    steps: options.Steps = None,
    grid: options.GridName = None,
    t_max: options.TMax = None,
    t_min: options.TMin = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    option: options.Option = None,
    seed: options.Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples that the network sees at once.")] = 64,
    denoise: Annotated[bool, typer.Option("--denoise", help="End with the data prediction, one more call.")] = False,
    format: Annotated[str, typer.Option(callback=_check_format, help="Of shards: safetensors, npz or png.")] = "npz",
    shard_size: Annotated[int | None, typer.Option(min=1, help="Samples in a shard; default: a batch.")] = None,
    first: Annotated[int, typer.Option(min=0, help="Of shards: the index of the first sample.")] = 0,
    low: Annotated[float, typer.Option(help="Of PNG: the value that is black.")] = -1.0,
    high: Annotated[float, typer.Option(help="Of PNG: the value that is white.")] = 1.0,
    verify: Annotated[bool, typer.Option("--verify", help="Read finished shards again, repair damage.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Which process this is; default: as torchrun says.")] = None,
    world_size: Annotated[int | None, typer.Option(min=1, help="Of how many processes.")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="Keep the samples that are well if others fail.")] = False,
    sde: options.Process = None,
    predicts: options.Predicts = None,
    time: options.Time = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Draw samples into one file, or into a folder of shards that can be killed and run again.

    \b
    Examples:
      scoresolve sample my_networks:ddpm --shape 3,32,32 --nfe 12 --out samples.npy
      scoresolve sample my_networks:ddpm --shape 3,32,32 --count 50000 --out samples/ --format png
      scoresolve sample my_networks:ddpm --shape 3,32,32 -s euler_ancestral --steps 20 -o eta=0.5 --out samples.npz
    """
    model = load(network, sde, predicts, time, device)
    one = cast(tuple[int, ...], shape)
    run: dict[str, Any] = {
        "solver": solver, "nfe": nfe, "steps": steps, "grid": grid, "t_max": t_max, "t_min": t_min,
        "denoise": denoise, "device": device, "dtype": cast(torch.dtype, dtype),
        "on_error": "mask" if mask else "raise",
        **({"solver_options": own} if (own := options.solver_options(option, rtol, atol)) else {}),
    }  # fmt: skip
    if out.suffix in KNOWN:
        found = sample(model, (count, *one), seed=seed, batch_size=batch_size, progress=progress, **run)
        write_tensor(out, found.samples)
        report = {
            "out": str(out), "count": count, "shape": list(one), "nfe": found.nfe, "seed": seed,
            "solver": found.stats["solver"], "failed": {failure.sample: str(failure) for failure in found.failures},
        }  # fmt: skip
    else:
        from ..shards import sample_to

        made = sample_to(
            model, out, (count, *one), format=cast(Any, format), batch_size=batch_size, shard_size=shard_size,
            seed=seed, first=first, value_range=(low, high), verify=verify, rank=rank, world_size=world_size,
            progress=progress, **{name: value for name, value in run.items() if value is not None},
        )  # fmt: skip
        report = {
            "out": str(out), "count": made.count, "shape": list(one), "nfe": made.nfe, "seed": seed,
            "shards": made.shards, "made": list(made.made), "repaired": list(made.repaired),
            "missing": list(made.missing), "failed": dict(made.failed),
        }  # fmt: skip
    if json:
        print_json(report)
    else:
        failed = f", {len(report['failed'])} failed" if report["failed"] else ""
        shards = f" ({len(report['made'])} shards made, {len(report['missing'])} missing)" if "made" in report else ""
        typer.echo(f"{report['count']} samples in {out}{shards}, {report['nfe']} network calls, seed {seed}{failed}")
    if report["failed"]:
        tell("error: some samples failed; --json says which, and why")
        raise typer.Exit(1)
