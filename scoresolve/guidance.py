"""What the network is conditioned on: values with a row for each sample, and classifier-free guidance.

Guidance is one call on a batch of both halves, conditional first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from .errors import require


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
        return value.take(rows, batch) if isinstance(value, Rowwise) else value

    some: dict[str, Any] = each(values, taken)
    return some


def each(value: Any, change: Callable[..., Any], *others: Any) -> Any:
    """What ``change`` makes of a value, or of all that it holds in mappings, lists and tuples, within each other too.

    ``others`` are values of the same structure, of which ``change`` gets what stands in the same place.
    """
    if isinstance(value, dict):
        return {name: each(one, change, *(other[name] for other in others)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return _as(value, [each(one, change, *rest) for one, *rest in zip(value, *others, strict=True)])
    return change(value, *others)


def _as(sequence: Any, values: list[Any]) -> Any:
    """The values as a list or a tuple, of whatever kind the sequence is."""
    return type(sequence)(*values) if hasattr(sequence, "_fields") else type(sequence)(values)


def differentiable(x: Tensor) -> Tensor:
    """x, or where no gradient flows to it a copy of it to differentiate by."""
    if x.requires_grad:
        return x
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def join_conditioning(conditional: dict[str, Any], unconditional: dict[str, Any], batch: int) -> dict[str, Any]:
    """The conditioning of a doubled batch: tensors with a row a sample are stacked, anything else must agree.

    ``unconditional`` is what differs in the second half; mappings, lists and tuples are joined value by value.
    """
    return {name: _joined(name, value, unconditional.get(name, value), batch) for name, value in conditional.items()}


def _joined(name: str, value: Any, other: Any, batch: int) -> Any:
    if isinstance(value, dict) and isinstance(other, dict):
        return join_conditioning(value, other, batch)
    if isinstance(value, list | tuple) and isinstance(other, list | tuple) and len(value) == len(other):
        return _as(value, [_joined(name, one, its, batch) for one, its in zip(value, other, strict=True)])
    if has_rows(value, batch) and isinstance(other, Tensor):
        return torch.cat([value, other.to(value).expand(value.shape)])
    if value is other or (value == other) is True:
        return value
    raise ValueError(
        f"guidance cannot stack the conditioning {name!r}: give tensors with one row a sample "
        f"({batch} rows), and an unconditional value of the same shape or of one row"
    )


def check_unconditional(conditional: dict[str, Any], unconditional: dict[str, Any], inside: str = "") -> None:
    """Raise ValueError unless the unconditional half has something of its own, under names of the conditioning."""
    missing = sorted(set(unconditional) - set(conditional))
    require(not missing, f"unconditional values for {sorted(conditional)}{inside}, got {missing} as well")
    require(
        bool(unconditional),
        f"what the unconditional half is given{inside}, such as model.guide(7.5, label=torch.tensor([0])), got nothing",
    )
    for name, value in unconditional.items():
        if isinstance(value, dict) and isinstance(conditional[name], dict):
            check_unconditional(conditional[name], value, f"{inside} in {name!r}")
