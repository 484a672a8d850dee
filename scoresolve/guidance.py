"""What the network is conditioned on: values with a row for each sample, and classifier-free guidance.

Guidance is one call on a batch of both halves, conditional first.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor


def has_rows(value: Any, batch: int) -> bool:
    """Whether a value of the conditioning is a tensor with a row for each sample of the batch."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch


class Rowwise:
    """Something whose attributes may be tensors with a row for each sample, or hold such tensors."""

    def take(self, rows: Tensor, batch: int) -> Self:
        """The same for some samples of a batch; see :meth:`ScoreModel.take`."""
        some = copy.copy(self)
        vars(some).update(take_rows(vars(self), rows, batch))
        return some


def take_rows(values: dict[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
    """The values for some samples of a batch: those with a row for each sample keep these rows only."""

    def taken(value: Any) -> Any:
        if has_rows(value, batch):
            return value[rows.to(value.device)]
        if isinstance(value, dict):
            return take_rows(value, rows, batch)
        return value.take(rows, batch) if isinstance(value, Rowwise) else value

    return {name: taken(value) for name, value in values.items()}


def differentiable(x: Tensor) -> Tensor:
    """x, or where no gradient flows to it a copy of it to differentiate by."""
    if x.requires_grad:
        return x
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def join_conditioning(conditional: dict[str, Any], unconditional: dict[str, Any], batch: int) -> dict[str, Any]:
    """The conditioning of a doubled batch: tensors with a row a sample are stacked, anything else must agree.

    ``unconditional`` is what differs in the second half; a mapping is joined value by value.
    """
    joined: dict[str, Any] = {}
    for name, value in conditional.items():
        other = unconditional.get(name, value)
        if isinstance(value, dict) and isinstance(other, dict):
            joined[name] = join_conditioning(value, other, batch)
        elif has_rows(value, batch) and isinstance(other, Tensor):
            joined[name] = torch.cat([value, other.to(value).expand(value.shape)])
        elif value is other or (not isinstance(value, Tensor) and value == other):
            joined[name] = value
        else:
            raise ValueError(
                f"guidance cannot stack the conditioning {name!r}: give tensors with one row a sample "
                f"({batch} rows), and an unconditional value of the same shape or of one row"
            )
    return joined
