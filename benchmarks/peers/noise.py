"""The random numbers of the peers, without touching torch's global generator.

azula draws with ``torch.randn_like``, diffusers with ``torch.randn``. Inside ``with Drawn(seed):`` both come from one
generator of the run's own; ``Probe`` replaces them by known directions, so that the law of the output on Gaussian data
can be computed instead of sampled. A mode holds for the thread that entered it, so runs can go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Noise(TorchFunctionMode):
    """Intercepts every draw of standard normal numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass everything on but the draws."""
        kwargs = kwargs or {}
        if func is torch.randn_like:
            like = args[0]
            return self.draw(tuple(like.shape), kwargs.get("dtype") or like.dtype, like.device, None)
        if func is torch.randn:
            shape = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            return self.draw(tuple(shape), dtype, torch.device(kwargs.get("device") or "cpu"), kwargs.get("generator"))
        return func(*args, **kwargs)

    def draw(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """What stands for a draw; ``generator`` is the peer's own, if it has one (a Brownian tree does)."""
        raise NotImplementedError


class Drawn(Noise):
    """Draws from a generator on the host, the same on every device."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Standard normal numbers."""
        if generator is not None:
            return torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return torch.randn(shape, dtype=torch.float64, generator=self.generator).to(device, dtype)


class Probe(Noise):
    """The k-th draw is zero but for row ``first + k``, which holds ``direction``: the response to each draw by itself.

    A draw with a generator of the peer's own is known by its seed: a Brownian tree draws the same number twice.
    """

    def __init__(self, direction: Tensor, first: int) -> None:
        super().__init__()
        self.direction, self.first, self.count = direction, first, 0
        self._rows: dict[int, int] = {}

    def draw(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Zeros with one row set. Raises IndexError where there are more draws than rows."""
        seed = None if generator is None else generator.initial_seed()
        if seed is None or seed not in self._rows:
            row, self.count = self.first + self.count, self.count + 1
            if seed is not None:
                self._rows[seed] = row
        else:
            row = self._rows[seed]
        if row >= shape[0]:
            raise IndexError(f"{self.count} draws, {shape[0] - self.first} rows")
        drawn = torch.zeros(shape, dtype=dtype, device=device)
        drawn[row] = self.direction.to(drawn)
        return drawn
