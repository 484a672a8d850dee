"""Draws made ahead, a block at a time: of a small state the number of operations costs, not the numbers.

A draw is some forty operations of the device whatever its size. A loop that knows which draws it will ask for has them
made together, as many at once as stay below ``ELEMENTS`` numbers, and is handed views of the block: to the bit what
it would get one by one, within the same memory however many the steps.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from .noise import NoiseSource, goes_with_draw

ELEMENTS = 2**17
"""The most numbers of a block."""


@runtime_checkable
class BlockSource(Protocol):
    """A source that can make several draws at once: ``draws(stream, indices, like)``, (draws, *like.shape).

    A class that draws in a way of its own (``draw``) must have a ``draws`` of its own, or its draws are made singly.
    """

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """One draw."""
        ...

    def draws(self, stream: int, indices: Sequence[int] | Tensor, like: Tensor) -> Tensor:
        """Several draws at once."""
        ...


class Ahead:
    """A source that makes some draws of one stream ahead; all others are those of the source, as they are asked for.

    Args: source; stream; indices, the draws that will be asked for, increasing; like, a state such as they are for.

    >>> import torch, scoresolve as ss
    >>> streams, like = ss.SampleStreams(0, range(3)), torch.empty(3, 5)
    >>> noise = Ahead(streams, 1, range(100), like)
    >>> all(torch.equal(noise.draw(1, k, like), streams.draw(1, k, like)) for k in range(100))
    True
    """

    def __init__(self, source: BlockSource, stream: int, indices: Sequence[int], like: Tensor) -> None:
        self.source, self._stream, self._indices = source, stream, indices
        self._numbers = torch.tensor(indices, dtype=torch.int64, device=like.device)  # copied there once
        self._ready: dict[int, Tensor] = {}

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``; a draw is handed out once, and made anew if asked for again."""
        if stream != self._stream or isinstance(index, Tensor):
            return self.source.draw(stream, index, like)
        ready = self._ready.pop(index, None)
        if ready is not None and (ready.shape, ready.dtype, ready.device) == (like.shape, like.dtype, like.device):
            return ready
        place = bisect.bisect_left(self._indices, index)
        together = self._indices[place : place + ELEMENTS // max(like.numel(), 1)]
        if len(together) < 2 or together[0] != index:
            return self.source.draw(stream, index, like)
        block = self.source.draws(stream, self._numbers[place : place + len(together)], like).unbind()
        self._ready = dict(zip(together, block, strict=True))
        return self._ready.pop(index)

    def draws(self, stream: int, indices: Sequence[int] | Tensor, like: Tensor) -> Tensor:
        """Several draws at once, those of the source."""
        return self.source.draws(stream, indices, like)


def ahead(noise: NoiseSource, stream: int, indices: Sequence[int], like: Tensor) -> NoiseSource:
    """The source with these draws made ahead, if it can make several at once; else the source itself.

    Args: noise; stream; indices, the draws of it that the caller is about to ask for, increasing; like, a state such
    as they are for. A block lives for as long as one of its draws does.
    """
    return Ahead(noise, stream, indices, like) if len(indices) > 1 and _makes_several(noise) else noise


def draws(noise: NoiseSource, stream: int, indices: Tensor, like: Tensor) -> Tensor:
    """Several draws, (draws, *like.shape): together if the source can make them so, else one by one."""
    if _makes_several(noise):
        return noise.draws(stream, indices, like)
    return torch.stack([noise.draw(stream, index, like) for index in indices.tolist()])


def _makes_several(noise: NoiseSource) -> TypeGuard[BlockSource]:
    return isinstance(noise, BlockSource) and goes_with_draw(noise, "draws")
