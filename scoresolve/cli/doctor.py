"""``scoresolve doctor``: is a network wired as it was trained?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import torch
import typer

from ..diagnosis import doctor
from . import options
from .files import read_tensor
from .network import load
from .output import guarded, print_report


@guarded
def command(
    network: options.Network,
    shape: options.Shape,
    batch: Annotated[int, typer.Option("--batch", "-n", min=2, help="How many samples to look at.")] = 64,
    data: Annotated[
        Path | None, typer.Option("--data", help="Some training data, scaled as then: .npy, .npz or .safetensors.")
    ] = None,
    sde: options.Process = None,
    predicts: options.Predicts = None,
    time: options.Time = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check what a network predicts, how it is told the time, the scale of its data, and that it is a function.

    Exit code 1 if something is wrong; it then says what to write instead.

    \b
    Examples:
      scoresolve doctor my_networks:ddpm --shape 3,32,32
      scoresolve doctor my_networks:ddpm --shape 3,32,32 --data images.npy --predicts v --time "1000*t"
    """
    model = load(network, sde, predicts, time, device)
    state = cast(torch.dtype, dtype)
    x0 = None if data is None else read_tensor(data, state, device)
    one = cast(tuple[int, ...], shape)
    found = doctor(model, (batch, *one), data=x0, dtype=state, device=device, progress=progress)
    print_report(found, json)
