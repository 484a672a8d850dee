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
            return _fractional_index(native, t).round().clip(0)  # no index stands for t = 0, the first is nearest
        case "fractional_index":
            return _fractional_index(native, t)
        case "sigma" | "rho" | "lam":
            clock: Values = getattr(native, kind)(t)
            return clock
    times = t if isinstance(t, Tensor) else torch.as_tensor(t, device="cpu")
    label = torch.as_tensor(kind(times), dtype=torch.float64, device=times.device).expand(times.shape)
    return label.detach().cpu().numpy() if isinstance(t, np.ndarray) else label


def are_whole(kind: TimeLabel | Callable[[Tensor], Tensor | float], sde: SDE) -> bool:
    """Whether labels are whole numbers, to be looked up: indices, or what a function answers as an integer tensor.

    Raises: TypeError for a function that does not give each time a number.
    """
    if not callable(kind):
        return kind == "index"
    times = torch.tensor([sde.t_max, sde.t_eps], dtype=torch.float64, device="cpu")
    found = kind(times)
    try:
        label = torch.as_tensor(found, device="cpu").expand(times.shape)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise TypeError(f"time= must make of a float64 tensor of times (n,) labels (n,), got {got} for n = 2") from None
    return isinstance(found, Tensor) and not label.is_floating_point()


def batch_labels(whole: bool, label: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """The label of each of the rows that the network sees: int64 if labels are whole, else at least float32.

    Args: whole, see :func:`are_whole`; label, a number, a tensor () or (rows,), or (n, 1) for n calls, of which n such
    labels are made; like, of the network's inputs.
    """
    dtype = torch.int64 if whole else torch.promote_types(like.dtype, torch.float32)
    if isinstance(label, Tensor):
        return label.to(device=like.device, dtype=dtype).expand(*label.shape[:-1], rows)
    return torch.full((rows,), label, dtype=dtype, device=like.device)


def _fractional_index(native: SDE, t: Values) -> Values:
    return t * len(getattr(native, "betas")) - 1  # noqa: B009 (only DiscreteVPSDE gets here)
