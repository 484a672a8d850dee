"""The random numbers of somebody else's code, replaced by what the checks want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .subject import Draw

NORMAL = ("randn", "randn_like", "normal_")


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the draws of normal numbers for the states, and puts others in their place.

    Draws of other shapes than that of the states are let through. A draw with a generator of the sampler's own is known
    by that generator's state: a Brownian tree, which makes a number again from its seed, gets the same one again.

    Attributes: count, of draws; others, the names of random operations that are not normal.
    """

    def __init__(self, draw: Draw, like: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draw, self.shape, self.count, self.others = draw, like.shape, 0, set[str]()
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
        state = kwargs.get("generator") and bytes(kwargs["generator"].get_state().numpy())
        drawn: Tensor = func(*args, **kwargs)  # moves its generator on
        if drawn.shape != self.shape:
            return drawn
        number = self._number(state)
        mean, std = [*args[1:], 0.0, 1.0][:2] if name == "normal_" and len(args) > 1 else (0.0, 1.0)
        return drawn.copy_(self.draw(number, drawn).mul(kwargs.get("std", std)).add(kwargs.get("mean", mean)))

    def _number(self, state: bytes | None) -> int:
        number = self._known.get(state, self.count) if state else self.count
        self.count += number == self.count
        if state:
            self._known[state] = number
        return number


class OfSamples:
    """Noise that belongs to samples: row i of each draw is that of sample ``ids[i]``, ids below 64."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    def __call__(self, number: int, like: Tensor) -> Tensor:
        """The k-th draw."""
        generator = torch.Generator().manual_seed(7919 * number)
        every = torch.randn(64, *like.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
        return every[self.ids].to(like)


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


class NotNormalError(Exception):
    """The sampler draws random numbers that are not normal; their names."""


def watched(run: Callable[[], Tensor], draw: Draw, like: Tensor) -> tuple[Tensor, int]:
    """What a run returns with other noise in place of its own, and the number of draws. Raises: NotNormalError."""
    with torch.random.fork_rng(devices=[]), Draws(draw, like) as draws:
        out = run()
    if draws.others:
        raise NotNormalError(", ".join(sorted(draws.others)))
    return out, draws.count
