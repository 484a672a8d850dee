"""A Brownian motion that answers for whatever interval it is asked: what torchsde's methods take as ``bm``.

Over a piece of the path it knows the increment W and the integral ``I = int (B_r - B_a) dr``. Pieces compose: ``W = W_1
+ W_2`` and ``I = I_1 + I_2 + h_2 W_1``. One that was given before and is now cut keeps both: its parts are drawn given
them, by the bridge of ``brownian.py``. So a rejected step keeps its path, and every answer is consistent with every
other.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .brownian import halves, whole
from .draws import drawn
from .noise import SOLVER, NoiseSource


@dataclass(frozen=True)
class Piece:
    """The path over [start, end]. Attributes: W and I (batch, 2, d), in units of its length."""

    start: float
    end: float
    increments: Tensor

    @property
    def moved(self) -> tuple[Tensor, Tensor]:
        """W and I in units of one."""
        length = self.end - self.start
        return length**0.5 * self.increments[:, 0], length**1.5 * self.increments[:, 1]

    def cut(self, at: float, normals: Tensor) -> tuple[Piece, Piece]:
        """The two parts, with fresh standard normals (batch, 2, d)."""
        share = torch.full(
            (len(normals),), (at - self.start) / (self.end - self.start), dtype=torch.float64, device="cpu"
        )
        left, right = halves(share, self.increments, normals)
        return Piece(self.start, at, left), Piece(at, self.end, right)


class BrownianIntervals:
    """A Brownian motion of matrices (batch, d), with the interface that torchsde asks of ``bm``.

    Its normals are draws 0, 1, ... of the stream SOLVER, one for each piece and each cut in the order in which they
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
            w, area = piece.moved
            integral = integral + area + (piece.end - piece.start) * increment
            increment = increment + w
        self._forget(min(self._starts))
        extra = ([integral] if return_U else []) + ([None] if return_A else [])
        return (increment, *extra) if extra else increment

    def _normals(self) -> Tensor:
        self._draws += 1
        like = self._like.new_empty(self.shape[0], 2, *self.shape[1:])
        return drawn(self._noise, SOLVER, self._draws - 1, like)

    def _cover(self, start: float, end: float) -> None:
        """Have pieces up to ``end``; the path begins where it was first asked."""
        reached = self._pieces[-1].end if self._pieces else start
        if end > reached:
            self._pieces.append(Piece(reached, end, whole(self._normals())))

    def _cut(self, at: float) -> int:
        """The number of the piece that starts at a time, cut there if need be; one past the last for the end."""
        number = bisect.bisect_left(self._pieces, at, key=lambda piece: piece.start)
        if number and at < self._pieces[number - 1].end:
            self._pieces[number - 1 : number] = self._pieces[number - 1].cut(at, self._normals())
        elif not number and self._pieces and at < self._pieces[0].start:
            raise ValueError(f"expected a time from {self._pieces[0].start:g} on, got {at:g}: that was forgotten")
        return number

    def _forget(self, before: float) -> None:
        while self._pieces and self._pieces[0].end <= before:
            del self._pieces[0]
