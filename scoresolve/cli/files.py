"""Tensors in files: .npy, .npz and .safetensors; nothing is unpickled."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import typer
from torch import Tensor

from ..durable import check_target, write_file
from ..reading import parse_arrays, read_file

KNOWN = (".npy", ".npz", ".safetensors")
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl")


def read_tensor(path: Path, dtype: torch.dtype, device: str | None = None, count: int | None = None) -> Tensor:
    """The first ``count`` rows of the only array in a file, of real numbers."""
    _check_suffix(path)
    if not path.is_file():
        raise typer.BadParameter(f"{path} is not there")
    try:
        arrays = parse_arrays(read_file(path), path.suffix[1:])
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    if len(arrays) != 1:
        raise typer.BadParameter(f"{path} holds {', '.join(arrays) or 'nothing'}: one array a file")
    (value,) = arrays.values()
    if value.ndim < 1 or len(value) < 1:
        raise typer.BadParameter(f"{path} holds no tensor (batch, ...), got shape {tuple(value.shape)}")
    return value[:count].to(device=device, dtype=dtype)


def write_tensor(path: Path, value: Tensor) -> None:
    """Write a tensor in the format of the name: the file is whole, or as it was."""
    found, file = value.detach().cpu().contiguous(), io.BytesIO()
    if path.suffix == ".safetensors":
        file.write(safetensors.torch.save({"samples": found}))
    elif path.suffix == ".npz":
        np.savez(file, samples=found.numpy())
    else:
        np.save(file, found.numpy())
    write_file(path, file.getvalue())


def check_out(path: Path | None) -> Path | None:
    """A name that can be written to, looked at before the work is done."""
    if path is not None:
        _check_suffix(path)
    return check_name(path)


def check_name(path: Path | None) -> Path | None:
    """The name of a file that can be written, of any format."""
    try:
        if path is not None:
            check_target(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return path


def check_plot(path: Path | None) -> Path | None:
    """The name of a picture."""
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{path} is none of .png, .svg, .pdf")
    return check_name(path)


def check_folder(path: Path) -> Path:
    """The name of a file to write, by its suffix, or of a folder."""
    if path.suffix in (*KNOWN, *_PICKLES):
        check_out(path)
    elif not path.is_dir():
        check_name(path / "manifest.json")
    return path


def _check_suffix(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise typer.BadParameter(f"{path}: such files are pickles, which can run code; write .safetensors or .npy")
    if path.suffix not in KNOWN:
        raise typer.BadParameter(f"{path} is none of {', '.join(KNOWN)}")
