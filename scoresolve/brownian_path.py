r"""The noise of a table's rows as the increments of one Brownian path a sample, the same on every grid.

The noise of the reverse SDE is white in the clock ``V = e^{2 eta^2 lam}`` (``solvers/srk.py`` derives it). A row that
moves the state from t to s gets ``(B(V_s) - B(V_t)) / (V_s - V_t)^{1/2}``; a row inside a step gets the increment of
its part of the step; those of strong order 1.5, which ask for the integral of the path, get that. All are standard
normal and independent on any one grid, so the law of the samples is that of fresh noise; on a finer grid they are the
increments of the same path, so samples converge, at the solver's strong order.

**The tree.** The path lives on the dyadic tree of ``brownian.py``, its root the noise levels of the run, halved in lam;
numbers and keys of the nodes are the same. A node is halved while two times or more lie inside it: with n steps of
equal length there are about n of these. A node with one time inside is cut there, with the normal of its halves. So
two normals a step are drawn (fresh noise: one). The cut has the exact law, but a finer grid, which halves the node
first, sees another normal there: an error of variance about h/10 at each time, independent from time to time and none
at the ends, which the solution averages. Its effect is of order h, that of the solvers of strong order 1 themselves.
Those of order 1.5 cut nodes of length h^2 only, once there are more than ``_COARSE`` steps.

**The walk** goes from left to right, a level of a few nodes at a time: as many as stay below ``ELEMENTS`` numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .ahead import ELEMENTS, draws
from .brownian import DEPTH, halved, whole
from .noise import PATH, SOLVER, NoiseSource, SampleStreams
from .registry import solvers
from .sde import SDE
from .table import Table

_COARSE = 16
"""Steps of which nodes of a step's length are short enough for strong order 1.5."""
_FAR = 20.0
"""Noise levels beyond e^{-20} and e^{20} are not told apart; an infinite lam has a place."""


@dataclass(frozen=True)
class Part:
    """What a row's normal is of the path between two places of [0, 2^DEPTH]."""

    start: int
    end: int
    kind: Literal["increment", "area", "rest"]


@dataclass(frozen=True)
class Clock:
    """Lengths in ``V = e^{rate lam}``, where lam goes from ``low`` to ``high`` as places do from 0 to 2^DEPTH."""

    low: float
    high: float
    rate: float

    def place(self, lam: float) -> int:
        """The place of a noise level."""
        share: float = (lam - self.low) / (self.high - self.low)
        return round(share * float(2**DEPTH))

    def share(self, part: tuple[np.ndarray, np.ndarray], of: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """The share of intervals that a part of each is, float64: (V_q - V_p) / (V_b - V_a) without overflow."""
        scale = self.rate * (self.high - self.low) / 2**DEPTH
        (p, q), (a, b) = part, of
        ratio = np.expm1(-scale * (q - p)) / np.expm1(-scale * (b - a))
        return torch.from_numpy(np.exp(-scale * (b - q)) * ratio)


class BrownianPath:
    """Noise that is one Brownian path a sample, however many the steps: the samples of an SDE solver converge.

    For solvers whose rows are steps along one path, that is those with a ``strong_order``; ``ss.sample(...,
    noise=ss.BrownianPath)`` binds it to the solver's table, :meth:`along` does by hand. Starts and all that is not the
    solver's noise are those of the streams. Cost: about two normals a step, for strong order 1.5 up to
    ``log2(steps) - 2`` pairs. Runs between the same two times see the same path.

    Args: seed, indices: as of :class:`SampleStreams`; streams: what the normals come from, such as ``ss.Antithetic``.

    Source: Levy 1948 (the bridge), in the clock of the Ito isometry.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2, dtype=torch.float64), 0.25).model(ss.VPSDE())
    >>> def ends(steps, **noise):
    ...     return ss.sample(model, (64, 2), solver="sra1", steps=steps, seed=0, **noise).samples
    >>> fine, coarse = (ends(steps, noise=ss.BrownianPath) for steps in (40, 20))
    >>> bool((fine - coarse).abs().mean() < 0.1 * (ends(40) - ends(20)).abs().mean())
    True
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        streams: Callable[[int, Sequence[int]], NoiseSource] = SampleStreams,
    ) -> None:
        self._source = streams(seed, indices)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """Noise of any stream but the solver's. Raises: ValueError for that, before :meth:`along`."""
        if stream == SOLVER:
            raise ValueError(
                "a Brownian path has no draw of that number before it is told the steps: give noise=ss.BrownianPath to "
                "ss.sample, or path.along(table, sde) to table.run"
            )
        return self._source.draw(stream, index, like)

    def along(self, runner: object, sde: SDE) -> NoiseSource:
        """The normals of a table's rows. Raises: ValueError if its noise is not that of steps along one path."""
        if not isinstance(runner, Table):
            raise ValueError(
                "noise=ss.BrownianPath is for fixed tables without a corrector: adaptive_sde_sra and adaptive_sde_ggf "
                f"keep a path of their own, got {type(runner).__name__}; leave noise= away"
            )
        info = next((info for info in solvers() if info.name == runner.solver), None)
        if info is not None and info.kind == "sde" and info.strong_order is None:
            raise ValueError(
                f"the noise of {runner.solver!r} is not that of steps along one path, which ss.BrownianPath needs: "
                "use a solver with a strong_order (ss.solvers() says which), or leave noise= away"
            )
        return TablePath(self._source, runner, sde, areas=bool(info and info.strong_order and info.strong_order > 1))


def parts_of(table: Table, sde: SDE, clock: Clock, areas: bool) -> dict[int, Part]:
    """Which part of the path each row's normal is. Raises: ValueError if the noise grows on the way.

    A row's part goes from where the last one of its step ended to the time asked at next, or to the end of the step;
    with ``areas`` the first normal of a step of several rows is the integral over all of it, the last what else the
    increment is made of.
    """
    found: dict[int, Part] = {}
    lam = {t: level(sde, t) for t in {row.t for row in table.rows} | set(table.times.tolist())}
    begin = first = 0
    reached, open_area = 0, False
    for number, row in enumerate(table.rows):
        if number == 0 or table.rows[number - 1].s is not None:
            begin = first = clock.place(lam[row.t])
            open_area = False
        end = clock.place(lam[table.rows[number + 1].t if row.s is None else row.s])
        if not row.draws:
            continue
        if areas and (row.s is None or open_area):
            stop = next(later.s for later in table.rows[number:] if later.s is not None)
            found[number] = Part(first, clock.place(lam[stop]), "rest" if open_area else "area")
            open_area = True
        else:
            found[number] = Part(begin, end, "increment")
        part = found[number]
        if part.end < part.start or (part.kind != "rest" and part.start < reached):
            raise ValueError(f"expected noise that falls from row to row, it grows in row {number} of {table.solver!r}")
        begin, reached = end, part.end
    return found


def level(sde: SDE, t: float) -> float:
    """lam at a time, within the range that is told apart."""
    sigma, alpha = float(sde.sigma(t)), float(sde.alpha(t))
    if sigma == 0 or alpha == 0:
        return _FAR if sigma == 0 else -_FAR
    return min(max(math.log(alpha / sigma), -_FAR), _FAR)


@dataclass
class _Nodes:
    """Nodes of one level that times lie inside of, from left to right, and their increments (nodes, c, d)."""

    numbers: np.ndarray
    level: int
    increments: Tensor

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Their places."""
        span = 1 << (DEPTH - self.level)
        low = (self.numbers - (1 << self.level)) * span
        return low, low + span


class TablePath:
    """The normals of one table's rows, draws ``number of the row`` of the stream SOLVER, asked for in their order."""

    def __init__(self, source: NoiseSource, table: Table, sde: SDE, areas: bool) -> None:
        ends = [level(sde, float(t)) for t in (table.times[0], table.times[-1])]
        eta = table.options.get("eta", table.options.get("tau", 1.0))
        rate = 2 * eta**2 if isinstance(eta, (int, float)) and eta > 0 else 2.0
        self._source, self._clock, self._areas = source, Clock(ends[0], ends[1], rate), areas
        self._parts = parts_of(table, sde, self._clock, areas)
        places = {place for part in self._parts.values() for place in (part.start, part.end)}
        self._places = np.array(sorted(places | {0, 2**DEPTH}), dtype=np.int64)
        gaps = np.diff(self._places)
        longest = np.minimum(gaps[:-1], gaps[1:]) * _COARSE / len(gaps) if areas else np.full(len(gaps) - 1, 2.0**DEPTH)
        self._longest = np.concatenate([[0.0], longest, [0.0]])  # of a node that is cut at the time inside it
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the path."""
        self._reached = 2**DEPTH
        self._open: list[_Nodes] = []
        self._pieces: dict[int, tuple[int, Tensor]] = {}
        self._rest: Tensor | None = None

    def take(self, rows: Tensor) -> TablePath:
        """The normals of some samples: ``rows`` (n,) int64, indices into the batch. Raises: TypeError."""
        if not isinstance(self._source, SampleStreams):
            source = type(self._source).__name__
            raise TypeError(f"a path made of {source} cannot be asked for some of the samples: leave batch_size= out")
        some = copy.copy(self)
        some._source = self._source.take(rows)
        some._forget()
        return some

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The normal of a row; other streams as the source has them."""
        if stream != SOLVER:
            return self._source.draw(stream, index, like)
        part = self._parts[index]
        if part.start == part.end:  # too short a step for the tree, which keeps its law all the same
            return self._source.draw(SOLVER, index, like)
        if part.kind == "rest" and self._rest is not None:
            rest, self._rest = self._rest, None
            return rest
        if part.start < self._reached:
            self._begin(like)
        w, area = self._over(part.start, part.end, like)
        self._reached = part.end
        if part.kind == "increment":
            return w.view(like.shape)
        z = math.sqrt(3) * area
        self._rest = (2 * w - math.sqrt(3) * z).view(like.shape)
        return z.view(like.shape)

    def _begin(self, like: Tensor) -> None:
        """Stand at the first time again."""
        root = whole(self._normals(np.array([1]), like))
        self._pieces, self._open = {}, [_Nodes(np.array([1]), 0, root)]
        if len(self._places) == 2:
            self._pieces, self._open = {0: (2**DEPTH, root[0])}, []

    def _over(self, start: int, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """W, and I if it is kept, of an interval between two places, in units of its length."""
        while self._open and self._open[-1].ends()[0][0] < end:
            self._refine(like)
        for passed in [place for place in self._pieces if place < start]:
            del self._pieces[passed]
        pieces, place = list[tuple[int, int, Tensor]](), start
        while place < end:
            stop, increments = self._pieces.pop(place)
            pieces.append((place, stop, increments))
            place = stop
        if len(pieces) == 1:
            return pieces[0][2][0], pieces[0][2][-1]
        edges = np.array([start, *(stop for _, stop, _ in pieces)])
        shares = self._clock.share((edges[:-1], edges[1:]), (edges[:1], edges[-1:])).tolist()
        first = pieces[0][2]
        w, area = first[0] * shares[0] ** 0.5, first[-1] * shares[0] ** 1.5 if self._areas else first[-1]
        for share, (_, _, increments) in zip(shares[1:], pieces[1:], strict=True):
            if self._areas:
                area.add_(increments[-1], alpha=share**1.5).add_(w, alpha=share)
            w.add_(increments[0], alpha=share**0.5)
        return w, area

    def _refine(self, like: Tensor) -> None:
        """Split the next nodes, as many as a block holds."""
        nodes, most = self._open.pop(), max(ELEMENTS // (2 * like.numel()), 1)
        if len(nodes.numbers) > most:
            self._open.append(_Nodes(nodes.numbers[most:], nodes.level, nodes.increments[most:]))
            nodes = _Nodes(nodes.numbers[:most], nodes.level, nodes.increments[:most])
        low, high = nodes.ends()
        at, inside = (low + high) // 2, self._first_inside(low)
        alone = self._places[inside + 1] >= high
        cut = alone & (high - low <= self._longest[inside])
        at = np.where(cut, self._places[inside], at)
        share = self._clock.share((low, at), (low, high))
        children = halved(share, nodes.increments, self._normals(2 * nodes.numbers, like)).flatten(0, 1)
        starts, ends = np.stack([low, at], 1).ravel(), np.stack([at, high], 1).ravel()
        numbers = np.stack([2 * nodes.numbers, 2 * nodes.numbers + 1], 1).ravel()
        more = self._places[self._first_inside(starts)] < ends
        for start, end, increments, split in zip(starts.tolist(), ends.tolist(), children, more.tolist(), strict=True):
            if not split:
                self._pieces[start] = (end, increments)
        found = np.flatnonzero(more)
        if len(found):
            side_by_side = found[-1] - found[0] + 1 == len(found)
            rows = slice(found[0], found[-1] + 1) if side_by_side else torch.from_numpy(found).to(like.device)
            self._open.append(_Nodes(numbers[found], nodes.level + 1, children[rows]))

    def _first_inside(self, places: np.ndarray) -> np.ndarray:
        """The number of the first time after each place."""
        return np.searchsorted(self._places, places, side="right").clip(max=len(self._places) - 1)

    def _normals(self, numbers: np.ndarray, like: Tensor) -> Tensor:
        """The normals of nodes: (nodes, c, d)."""
        channels = 1 + self._areas
        one = like.new_empty(len(like), channels, like[0].numel())
        drawn = draws(self._source, PATH, torch.from_numpy(numbers), one)
        return drawn.transpose(1, 2).reshape(len(numbers), channels, -1)
