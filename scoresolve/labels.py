"""How a network is told the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .predictions import Values
from .sde import SDE

TimeLabel = Literal["t", "index", "fractional_index", "sigma", "rho", "lam"]


def label_of(kind: TimeLabel | Callable[[Tensor], Tensor | float], native: SDE, t: Values) -> Values:
    """The label of times of a process, in kind: an array for an array, a tensor for a tensor.

    "index" and "fractional_index" are ``t N - 1`` on a table of N betas, the first rounded; a function is given
    float64 tensors.
    """
    match kind:
        case "t":
            return t
        case "index":
            return _fractional_index(native, t).round()
        case "fractional_index":
            return _fractional_index(native, t)
        case "sigma" | "rho" | "lam":
            clock: Values = getattr(native, kind)(t)
            return clock
    label = kind(torch.as_tensor(t, dtype=torch.float64))
    label = torch.as_tensor(label, dtype=torch.float64).expand(torch.as_tensor(t).shape)
    return label.detach().cpu().numpy() if isinstance(t, np.ndarray) else label


def batch_labels(
    kind: TimeLabel | Callable[[Tensor], Tensor | float], label: float | Tensor, rows: int, like: Tensor
) -> Tensor:
    """The label of each of the rows that the network sees: whole for an index, else at least float32.

    Args: label, a number, a tensor () or (rows,), or (n, 1) for n calls, of which n such labels are made; like, of the
    network's inputs.
    """
    dtype = torch.int64 if kind == "index" else torch.promote_types(like.dtype, torch.float32)
    if isinstance(label, Tensor):
        return label.to(device=like.device, dtype=dtype).expand(*label.shape[:-1], rows)
    return torch.full((rows,), label, dtype=dtype, device=like.device)


def _fractional_index(native: SDE, t: Values) -> Values:
    return t * len(getattr(native, "betas")) - 1  # noqa: B009 (only DiscreteVPSDE gets here)
