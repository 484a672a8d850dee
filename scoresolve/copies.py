"""What is kept on the host, where a state is: copied there once, as a copy from the host waits for the accelerator."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .watch import version_of

_Copy = tuple[Tensor, int | None, int | None]
_COPIES: MutableMapping[Tensor, dict[tuple[torch.device, torch.dtype], _Copy]] = WeakTensorKeyDictionary()
"""By the tensor of the host, for as long as that is there: a copy, and the versions of both when it was made."""


def on_device(value: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """``value.to(device, dtype)``; of a tensor of the host one copy is kept, until either of them is written into.

    Not where a graph goes through the copy. Nothing is kept in what the tensor belongs to, so that is pickled and
    copied as before.

    >>> import torch
    >>> mask, away = torch.ones(2), torch.empty(2, device="meta")
    >>> on_device(mask, away.device) is on_device(mask, away.device), on_device(mask, mask.device) is mask
    (True, True)
    """
    there, kind = torch.device(device), dtype or value.dtype
    if value.device.type != "cpu" or there.type == "cpu" or value.requires_grad or value.is_inference():
        return value.to(there, kind)
    copies = _COPIES.setdefault(value, {})
    kept = copies.get((there, kind))
    if kept is None or kept[1:] != (version_of(value), version_of(kept[0])):
        with torch.inference_mode(False):
            copy = value.to(there, kind)
        if type(copy) is not Tensor:  # one without values, of a network that is traced
            return copy
        kept = copies[there, kind] = copy, version_of(value), version_of(copy)
    return kept[0]
