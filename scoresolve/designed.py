"""Noise by design: averages over the samples vary less, and each sample by itself has the law it always has.

Antithetic noise comes in pairs z, -z: what is odd in the noise cancels from their mean. Quasi-random starts fill the
space evenly: what a smooth function of few coordinates of the start contributes averages out faster than n^{-1/2}.
Both make samples dependent on each other: errors of a mean are those between seeds, not those within a batch.

**Owen's scrambling.** Digit k of a coordinate is flipped by a bit that is a function of (seed, coordinate, the k - 1
digits before): a random tree of flips. Each point is then uniform, and points that were evenly spread remain so. Here
the bits are hashes, the 30 digits are those of Sobol's sequence (direction numbers of Joe and Kuo) and the rest are
uniform: a point is a pure function of (seed, sample, coordinate).

Source: Hammersley and Morton 1956 (antithetic variates); Sobol 1967; Owen 1995, 1997; Joe and Kuo 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from .errors import whole_number
from .noise import START, SampleStreams, hashed, uniforms

_DIGITS = torch.quasirandom.SobolEngine.MAXBIT
_MOST = torch.quasirandom.SobolEngine.MAXDIM


class Antithetic(SampleStreams):
    """Samples 2i and 2i + 1 have opposite noise in every draw, the start among them.

    Args: seed, indices: as of :class:`SampleStreams`; sample 2i is as there sample i. Give ``noise=ss.Antithetic`` to
    ``ss.sample``, with an even number of samples. Cost: none.

    >>> import torch, scoresolve as ss
    >>> z = ss.Antithetic(7, range(4)).draw(1, 0, torch.empty(4, 3))
    >>> torch.equal(z[0], -z[1]), torch.equal(z[2], -z[3]), torch.equal(z[0], z[2])
    (True, True, False)
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        numbers = [whole_number("each index", index, least=0) for index in indices]
        super().__init__(seed, [number // 2 for number in numbers])
        self._signs = torch.tensor([1.0 - 2.0 * (number % 2) for number in numbers], device="cpu")

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``."""
        return super().draw(stream, index, like) * self._signs_of(like)

    def draws(self, stream: int, indices: Sequence[int] | Tensor, like: Tensor) -> Tensor:
        """Several draws at once, (draws, *like.shape)."""
        return super().draws(stream, indices, like) * self._signs_of(like)

    def take(self, rows: Tensor) -> Antithetic:
        """The streams of some samples: ``rows`` (n,) int64, indices into the batch."""
        some = super().take(rows)
        assert isinstance(some, Antithetic)
        some._signs = self._signs[rows.to(self._signs.device)]
        return some

    def still(self, like: Tensor) -> Antithetic:
        """The same streams from memory of their own."""
        own = super().still(like)
        own._signs = self._signs_of(like).flatten().clone()
        return own

    def adopt(self, other: Self, like: Tensor) -> None:
        """Become the streams of as many other samples, in place."""
        super().adopt(other, like)
        self._signs.copy_(other._signs)

    def _signs_of(self, like: Tensor) -> Tensor:
        self._signs = self._signs.to(like)
        return self._signs.view(-1, *[1] * (like.ndim - 1))


class QuasiRandom(SampleStreams):
    """Starts from Sobol's sequence, scrambled by the seed; all other noise as in :class:`SampleStreams`.

    Sample i starts at point i of the sequence, whatever the batch; 2^m consecutive samples from a multiple of 2^m are
    spread best. Each start by itself is standard normal (up to 6.5 in float32 and float64 alike).

    Args: seed, as of :class:`SampleStreams`; indices, below 2^30. Give ``noise=ss.QuasiRandom`` to ``ss.sample``.
    States of at most 21201 numbers (of more than some dozens, little is gained). Cost: one start of 30 hashes a number.

    Raises: ValueError for larger states.

    >>> import torch, scoresolve as ss
    >>> like = torch.empty(1024, 2, dtype=torch.float64)
    >>> mean = ss.QuasiRandom(0, range(1024)).draw(0, 0, like).mean(dim=0)
    >>> bool(mean.abs().max() < 0.05 / 1024**0.5)  # the standard error of independent starts: 1 / 1024**0.5
    True
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        super().__init__(seed, indices)
        self._places = torch.tensor([whole_number("each index", index, least=0) for index in indices], device="cpu")
        if len(self._places) and int(self._places.max()) >= 2**_DIGITS:
            raise ValueError(f"each index of a quasi-random start must be below 2^{_DIGITS}, got {max(indices)}")

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``."""
        if stream != START:
            return super().draw(stream, index, like)
        keys = self._sample_keys(like)
        count = like.shape[1:].numel()
        if count > _MOST:
            raise ValueError(
                f"quasi-random starts are known for states of up to {_MOST} numbers, got {count}: "
                "use noise=ss.Antithetic, or leave noise= away"
            )
        digits = scrambled(sobol(self._places.to(like.device), count), self.seed)
        rest = uniforms(
            hashed(keys, 1), count
        )  # the digits that the sequence does not have; draw 1 of the start is free
        start: Tensor = torch.special.ndtri((digits + rest) * 2.0**-_DIGITS)
        return start.to(like.dtype).reshape(like.shape)

    def draws(self, stream: int, indices: Sequence[int] | Tensor, like: Tensor) -> Tensor:
        """Several draws at once, (draws, *like.shape)."""
        if stream != START:
            return super().draws(stream, indices, like)
        return self.draw(stream, 0, like).expand(len(indices), *like.shape)  # a start has one draw

    def take(self, rows: Tensor) -> QuasiRandom:
        """The streams of some samples: ``rows`` (n,) int64, indices into the batch."""
        some = super().take(rows)
        assert isinstance(some, QuasiRandom)
        some._places = self._places[rows.to(self._places.device)]
        return some

    def still(self, like: Tensor) -> QuasiRandom:
        """The same streams from memory of their own."""
        own = super().still(like)
        own._places = self._places.clone()
        return own

    def adopt(self, other: Self, like: Tensor) -> None:
        """Become the streams of as many other samples, in place."""
        super().adopt(other, like)
        self._places.copy_(other._places)


def sobol(places: Tensor, count: int) -> Tensor:
    """The first ``count`` coordinates of points of Sobol's sequence, as 30 binary digits: (n, count) int64.

    >>> import torch
    >>> sobol(torch.arange(4), 2) * 2.0**-30
    tensor([[0.0000, 0.0000],
            [0.5000, 0.5000],
            [0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    engine = torch.quasirandom.SobolEngine(max(count, 1))  # type: ignore[no-untyped-call]
    directions = engine.sobolstate[:count].to(places.device)
    gray = places ^ (places >> 1)
    point = torch.zeros(len(places), count, dtype=torch.int64, device=places.device)
    for digit in range(_DIGITS):
        point.bitwise_xor_(((gray >> digit) & 1)[:, None] * directions[:, digit])
    return point


def scrambled(points: Tensor, seed: int) -> Tensor:
    """Owen's scrambling of points (n, count) of 30 digits, by the seed and the coordinate.

    A digit's flip is the last bit of a hash of its coordinate, its place and the digits before it.
    """
    coordinates = hashed(torch.arange(points.shape[1], device=points.device), ~seed)  # no seed is negative
    out = points.clone()
    for place in range(_DIGITS):
        before = (points >> (_DIGITS - place)) + (1 << place)  # with a leading one, so that no two prefixes are equal
        keys = hashed(coordinates, before)
        out.bitwise_xor_((keys & 1) << (_DIGITS - 1 - place))
    return out
