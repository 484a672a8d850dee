"""The random numbers of somebody else's code, replaced by what the checks want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .subject import Draw

NORMAL = ("randn", "randn_like", "normal_")


class Draws(TorchDispatchMode):
    """Counts the draws of normal numbers, and puts others in their place where ``draw`` is given.

    A draw with a generator of the sampler's own is known by that generator's state: a Brownian tree, which makes a
    number again from its seed, gets the same one again.

    Attributes: count, of draws; others, the names of random operations that are not normal.
    """

    def __init__(self, draw: Draw | None) -> None:
        super().__init__()
        self.draw, self.count, self.others = draw, 0, set[str]()
        self._known: dict[bytes, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass everything on but the draws."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name not in NORMAL:
            if name != "randint":  # seeds
                self.others.add(name)
            return func(*args, **kwargs)
        number = self._number(kwargs.get("generator"))
        drawn: Tensor = func(*args, **kwargs)  # moves its generator on
        if self.draw is None:
            return drawn
        mean, std = [*args[1:], 0.0, 1.0][:2] if name == "normal_" and len(args) > 1 else (0.0, 1.0)
        return drawn.copy_(self.draw(number, drawn).mul(kwargs.get("std", std)).add(kwargs.get("mean", mean)))

    def _number(self, generator: torch.Generator | None) -> int:
        number, self.count = self.count, self.count + 1
        if generator is None:
            return number
        state = bytes(generator.get_state().numpy())
        if state in self._known:
            self.count -= 1
        return self._known.setdefault(state, number)


def drawn_for(ids: Sequence[int], seed: int = 0) -> Draw:
    """Noise that belongs to samples: row i of each draw is that of sample ``ids[i]``."""

    def draw(number: int, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed + 7919 * number)
        every = torch.randn(64, *like.shape[1:], generator=generator, dtype=torch.float64)
        return every[list(ids)].to(like)

    return draw


def basis(first: int) -> Draw:
    """Zeros but for row ``first + k`` of the k-th draw, which is one everywhere: the response to each by itself."""

    def draw(number: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like)
        if first + number < len(noise):
            noise[first + number] = 1.0
        return noise

    return draw


def silent(number: int, like: Tensor) -> Tensor:
    """No noise at all."""
    return torch.zeros_like(like)


def alone(run: Callable[[], Any]) -> Any:
    """What a function returns, torch's global generators left as they were."""
    with torch.random.fork_rng():
        return run()
