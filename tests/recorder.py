"""What records and replays on the CPU as a CUDA graph does on its device: operations, without their Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.operations import READS

Result = TypeVar("Result")
HOST = ("tensor", "as_tensor", "from_numpy", "tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__")
"""Functions that copy to the device, or wait for it."""


class Alone(TorchFunctionMode):
    """Raises where the host is needed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in HOST and not (name == "as_tensor" and isinstance(args[0], Tensor)):
            raise RuntimeError(f"{func.__name__} is not permitted when a run is captured")
        return func(*args, **(kwargs or {}))


class On(TorchDispatchMode):
    """Raises where an operation touches a tensor that is on another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        away = {str(one.device) for one in _flat([args, list((kwargs or {}).values()), out])} - {self.device}
        if away:
            raise RuntimeError(f"{func} touches a tensor on {', '.join(away)}, not {self.device}")
        return out


class Record(TorchDispatchMode):
    """Keeps every operation with the tensors that it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(part in str(func) for part in (*READS, "lift_fresh")):
            raise RuntimeError(f"{func} is not permitted when a run is captured")
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out


class Recorder:
    """See ``scoresolve.graphs.Recorder``; it notes what was asked of it."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, device: torch.device) -> None:
        self.record, self.captures, self.replays = Record(), 0, 0
        self.made.append(self)

    def warm_up(self, function: Callable[[], object]) -> None:
        function()

    def capture(self, function: Callable[[], Result]) -> Result:
        self.captures += 1
        with Alone(), self.record:
            return function()

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, before in self.record.steps:
                after = func(*args, **kwargs)
                for old, new in zip(_flat(before), _flat(after), strict=True):
                    if old.data_ptr() != new.data_ptr():  # not a view, nor written in place
                        old.copy_(new)


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [one for each in value for one in _flat(each)] if isinstance(value, (list, tuple)) else []
