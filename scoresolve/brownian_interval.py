r"""A Brownian motion that answers for whatever interval it is asked: what torchsde's methods take as ``bm``.

Over a piece [a, c] of length h it knows the increment W and the space-time area H, where

    int_a^c (B_r - B_a) dr = U = h (W / 2 + H),        W ~ N(0, h) and H ~ N(0, h / 12) independent.

Pieces compose: ``W = W_1 + W_2`` and ``U = U_1 + U_2 + h_2 W_1``. A piece that was given before and is now cut at b,
into lengths h_1 and h_2, keeps W and U: given them the left part is Gaussian. With ``cov(W_1, H) = h_1 h_2 / (2 h)``
and ``cov(H_1, H) = h_1^2 / (12 h)`` (write H by the composition) the rule for conditioning gives

    E[W_1] = (h_1 / h) W + (6 h_1 h_2 / h^2) H         var(W_1)      = h_1 h_2 / h - 3 h_1^2 h_2^2 / h^3
    E[H_1] = (h_1 / h)^2 H                             var(H_1)      = (h_1 / 12) (1 - (h_1 / h)^3)
                                                       cov(W_1, H_1) = -h_1^3 h_2 / (2 h^3)

and the right part is what is left. So a rejected step keeps its path, and every answer is consistent with every other.

Source: Foster, Lyons and Oberhauser 2020, arXiv:1908.05993 (areas of a path); the cut is derived above.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .noise import SOLVER, NoiseSource


@dataclass(frozen=True)
class Piece:
    """The path over [start, end]. Attributes: increment W and area H, matrices (batch, d)."""

    start: float
    end: float
    increment: Tensor
    area: Tensor

    def cut(self, at: float, z: Tensor, w: Tensor) -> tuple[Piece, Piece]:
        """The two parts, with fresh standard normals z and w."""
        left, right = at - self.start, self.end - at
        whole = left + right
        share = left / whole
        variance = left * right / whole * (1 - 3 * share * (1 - share))
        both = -0.5 * share**3 * right
        spread = left / 12 * (1 - share**3) - both**2 / variance
        surprise = math.sqrt(variance) * z
        increment = share * self.increment + 6 * share * (1 - share) * self.area + surprise
        area = share**2 * self.area + both / variance * surprise + math.sqrt(max(spread, 0.0)) * w
        rest = self.increment - increment
        integral = whole * (0.5 * self.increment + self.area) - left * (0.5 * increment + area) - right * increment
        return Piece(self.start, at, increment, area), Piece(at, self.end, rest, integral / right - 0.5 * rest)


class BrownianIntervals:
    """A Brownian motion of matrices (batch, d), with the interface that torchsde asks of ``bm``.

    Its normals are draws 0, 1, ... of the stream SOLVER, two for each piece and each cut in the order in which they
    are asked for: with fixed steps sample i of a seed sees the same path in any batch.

    Args: noise, the source of normals; like, a matrix (batch, d) that says shape, dtype and device.

    A solver may come back to its last three starting points; what ends before them is forgotten.

    >>> import torch
    >>> from scoresolve.noise import SampleStreams
    >>> path = BrownianIntervals(SampleStreams(0, range(4)), torch.empty(4, 2, dtype=torch.float64))
    >>> whole = path(0.0, 1.0)
    >>> torch.allclose(path(0.0, 0.3) + path(0.3, 1.0), whole)
    True
    """

    levy_area_approximation = "foster"  # of diagonal noise no method reads the area between channels
    _LOOK_BACK = 3

    def __init__(self, noise: NoiseSource, like: Tensor) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self._noise, self._like, self._draws = noise, like, 0
        self._pieces: list[Piece] = []
        self._starts: deque[float] = deque(maxlen=self._LOOK_BACK)

    def size(self) -> tuple[int, ...]:
        """The shape of an increment."""
        return tuple(self.shape)

    def __call__(self, ta: Any, tb: Any, return_U: bool = False, return_A: bool = False) -> Any:
        """The increment W over [ta, tb]; with ``return_U`` its integral U, with ``return_A`` None for the area."""
        start, end = float(ta), float(tb)
        self._starts.append(start)
        self._cover(start, start)
        self._cover(start, end)
        first, last = self._cut(start), self._cut(end)
        increment, integral = self._like.new_zeros(self.shape), self._like.new_zeros(self.shape)
        for piece in self._pieces[first:last]:
            length = piece.end - piece.start
            integral = integral + length * (0.5 * piece.increment + piece.area + increment)
            increment = increment + piece.increment
        self._forget(min(self._starts))
        extra = ([integral] if return_U else []) + ([None] if return_A else [])
        return (increment, *extra) if extra else increment

    def _normals(self) -> tuple[Tensor, Tensor]:
        self._draws += 2
        z, w = (self._noise.draw(SOLVER, self._draws - k, self._like) for k in (2, 1))
        return z, w

    def _cover(self, start: float, end: float) -> None:
        """Have pieces up to ``end``; the path begins where it was first asked."""
        reached = self._pieces[-1].end if self._pieces else start
        if end > reached:
            z, w = self._normals()
            length = end - reached
            self._pieces.append(Piece(reached, end, math.sqrt(length) * z, math.sqrt(length / 12) * w))

    def _cut(self, at: float) -> int:
        """The number of the piece that starts at a time, cut there if need be; one past the last for the end."""
        number = bisect.bisect_left(self._pieces, at, key=lambda piece: piece.start)
        if number and at < self._pieces[number - 1].end:
            self._pieces[number - 1 : number] = self._pieces[number - 1].cut(at, *self._normals())
        elif not number and self._pieces and at < self._pieces[0].start:
            raise ValueError(f"expected a time from {self._pieces[0].start:g} on, got {at:g}: that was forgotten")
        return number

    def _forget(self, before: float) -> None:
        while self._pieces and self._pieces[0].end <= before:
            del self._pieces[0]
