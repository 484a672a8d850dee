"""Classifier-free guidance: one call on a batch of both halves, conditional first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def has_rows(value: Any, batch: int) -> bool:
    """Whether a value of the conditioning is a tensor with a row for each sample of the batch."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch


def join_conditioning(conditional: dict[str, Any], unconditional: dict[str, Any], batch: int) -> dict[str, Any]:
    """The conditioning of a doubled batch: tensors with a row a sample are stacked, anything else must agree."""
    joined: dict[str, Any] = {}
    for name, value in conditional.items():
        other = unconditional[name]
        if has_rows(value, batch) and isinstance(other, Tensor):
            joined[name] = torch.cat([value, other.to(value).expand(value.shape)])
        elif value is other or (not isinstance(value, Tensor) and value == other):
            joined[name] = value
        else:
            raise ValueError(
                f"guidance cannot stack the conditioning {name!r}: give tensors with one row a sample "
                f"({batch} rows), and an unconditional value of the same shape or of one row"
            )
    return joined
