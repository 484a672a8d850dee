"""Operations on tensors, counted as they are dispatched: speed that no noisy machine can hide."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "aten.item.")
"""Parts of the names of operations whose result the host waits for."""


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation while it is entered; found, how often each was dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    @property
    def reads(self) -> int:
        """How often the host waited."""
        return sum(count for name, count in self.found.items() if any(part in name for part in READS))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))
