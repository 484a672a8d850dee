r"""What a table's loop keeps between network calls, in the form in which the next state costs least.

Of the answer o at the point y the output is ``m = a y + b o``. What is kept of it is a register, ``r = o + (a/b) y``
or, where a is the larger, ``r = y + (b/a) o``: one operation. The factor, b or a, goes into the table's weights on m,
and the new state is ``w x + sum_j w_j r_j``. There are three ways to take this sum:

    folded   a step that uses its own answer only, at its own base state (y = x), is ``(w + w_0 a) x + w_0 b o``:
             nothing is kept
    ring     the registers are rows of one matrix, each new one in the place of the oldest: the sum is one product of a
             matrix and a vector
    graph    one tensor after another, out of place, where gradients are to flow

All are sums of the same terms for each element by itself, so that a sample does not depend on its batch mates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .row import IDENTITY, Row, combine


class Registers:
    """The registers of a run, and the weights of its rows on them.

    Args: rows of a table; a and b of each, ``m = a y + b answer``; x (batch, ...), a state like those of the run.
    """

    def __init__(self, rows: Sequence[Row], a: Sequence[float], b: Sequence[float], x: Tensor) -> None:
        size = max(1, *(row.outputs for row in rows))
        straight = all(row.propose == IDENTITY and not row.propose_noise for row in rows)
        self.folded = size == 1 and straight
        self.ring = not (self.folded or torch.is_grad_enabled())
        self.quotients, factors = zip(*map(_split, a, b), strict=True)
        if self.folded:
            pairs = zip(rows, a, b, strict=True)
            self._commit = [_folded(row.commit, a_n, b_n) for row, a_n, b_n in pairs]
        else:
            self._commit = [_scaled(row.commit, factors, number) for number, row in enumerate(rows)]
        self._propose = [_scaled(row.propose, factors, number) for number, row in enumerate(rows)]
        if self.ring:
            buffer = x.new_empty(size, *x.shape)
            self._slots, self._matrix = buffer.unbind(0), buffer.reshape(size, -1).t()
            both = [_placed(self._commit, size), _placed(self._propose, size)]
            weights = torch.tensor(both, dtype=x.dtype, device=x.device)
            self._columns = [part.unbind(0) for part in weights.unbind(0)]
        self._size = size

    def begin(self, x: Tensor) -> None:
        """Stand at the start of a run, with nothing kept."""
        self._kept: list[Tensor] = []
        if self.ring:
            self._matrix.zero_()  # a weight of zero does not silence a NaN that was there before
            self._base = x.reshape(-1), x

    def keep(self, number: int, answer: Tensor, y: Tensor) -> None:
        """Keep the output of a call at the point y, in place of the oldest: the network may write over its answer."""
        on_y, weight = self.quotients[number]
        if self.ring:
            slot = self._slots[number % self._size]
            if on_y:
                torch.add(y, answer, alpha=weight, out=slot)
            elif weight:
                torch.add(answer, y, alpha=weight, out=slot)
            else:
                slot.copy_(answer)
            return
        if self.folded:
            self._kept = [answer]
            return
        register = torch.add(y, answer, alpha=weight) if on_y else torch.add(answer, y, alpha=weight)
        self._kept = [register, *self._kept[: self._size - 1]]

    def commit(self, number: int, x: Tensor) -> Tensor:
        """The base state after call ``number``; x itself where it stays."""
        if self.ring and self._commit[number] != IDENTITY:
            self._base = self._product(0, self._commit[number], number, x)
            return self._base[1]
        return combine(self._commit[number], x, self._kept)

    def propose(self, number: int, x: Tensor) -> Tensor:
        """The point to ask at after call ``number``; x itself where it is that."""
        if self.ring and self._propose[number] != IDENTITY:
            return self._product(1, self._propose[number], number, x)[1]
        return combine(self._propose[number], x, self._kept)

    def _product(self, which: int, weights: tuple[float, ...], number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, flat and in the shape of x: of the base state both are at hand."""
        flat = self._base[0] if self._base[1] is x else x.reshape(-1)
        flat = torch.addmv(flat, self._matrix, self._columns[which][number], beta=weights[0])
        return flat, flat.view(x.shape)


def _split(a: float, b: float) -> tuple[tuple[bool, float], float]:
    """Of ``m = a y + b answer``: whether the register is ``y + q answer``, else ``answer + q y``; q; and the factor."""
    if abs(a) > abs(b):
        return (True, b / a), a
    return (False, a / b if b else 0.0), b


def _scaled(weights: Sequence[float], factors: Sequence[float], number: int) -> tuple[float, ...]:
    """The weights on (x, m_0, m_1, ...) after call ``number`` as weights on (x, r_0, r_1, ...)."""
    return weights[0], *(weight * factors[number - j] for j, weight in enumerate(weights[1:]))


def _folded(weights: Sequence[float], a: float, b: float) -> tuple[float, ...]:
    """The weights on (x, m_0), where the call was asked at x, as weights on (x, answer)."""
    return (weights[0] + weights[1] * a, weights[1] * b) if len(weights) > 1 else tuple(weights)


def _placed(weights: Sequence[tuple[float, ...]], size: int) -> list[list[float]]:
    """The weights on the registers of each row by their place in the ring."""
    placed = [[0.0] * size for _ in weights]
    for number, row in enumerate(weights):
        for age, weight in enumerate(row[1:]):
            placed[number][(number - age) % size] = weight
    return placed
