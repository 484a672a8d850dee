"""Tensors in files: .npy, .npz and .pt; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

KNOWN = (".npy", ".npz", ".pt")


def read_tensor(path: Path, dtype: torch.dtype, device: str | None = None, count: int | None = None) -> Tensor:
    """The first ``count`` rows of the tensor in a file: of .npz the only array, of .pt a tensor by itself."""
    if path.suffix not in KNOWN:
        raise typer.BadParameter(f"{path} is none of {', '.join(KNOWN)}")
    if not path.is_file():
        raise typer.BadParameter(f"{path} is not there")
    if path.suffix == ".pt":
        value = torch.load(path, weights_only=True, map_location="cpu")
    elif path.suffix == ".npy":
        value = torch.from_numpy(np.load(path, allow_pickle=False))
    else:
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays)
            if len(names) != 1:
                raise typer.BadParameter(f"{path} holds {', '.join(names)}: one array a file")
            value = torch.from_numpy(arrays[names[0]])
    if not isinstance(value, Tensor) or value.ndim < 1:
        raise typer.BadParameter(f"{path} holds no tensor (batch, ...)")
    return value[:count].to(device=device, dtype=dtype)


def write_tensor(path: Path, value: Tensor) -> None:
    """Write a tensor in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = value.detach().cpu()
    if path.suffix == ".pt":
        torch.save(found.clone(), path)
    elif path.suffix == ".npz":
        np.savez(path, samples=found.numpy())
    else:
        np.save(path, found.numpy())


def check_out(path: Path | None) -> Path | None:
    """A name that can be written to, looked at before the work is done."""
    if path is not None and path.suffix not in KNOWN:
        raise typer.BadParameter(f"{path} is none of {', '.join(KNOWN)}")
    return path
