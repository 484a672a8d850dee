"""Small sets of samples for the tests of shards, and what can happen to their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import scoresolve as ss

TINY: dict[str, Any] = {"shape": (5, 2), "batch_size": 3, "solver": "ddpm", "nfe": 2, "seed": 7}


SHIFT = {"by": 0.0}
"""What makes other samples of the same settings, as another machine might."""


def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Treats its samples apart, to the bit."""
    shift = label[:, None] if isinstance(label, torch.Tensor) else label
    return torch.tanh(x) * (1 + t.reshape(-1, *[1] * (x.ndim - 1))) + shift + SHIFT["by"]


def model() -> ss.ScoreModel:
    return ss.ScoreModel(network, ss.VPSDE(), predicts="v")


def draw(folder: Path, **changed: Any) -> ss.SampleSet:
    return ss.sample_to(model(), folder, **{**TINY, **changed})


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder, with what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
