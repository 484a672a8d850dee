r"""Where a student ends, against where it should; and how that changes with each of its numbers.

The residual of a start is ``phi(student's end) - phi(target)``, phi the features in which errors are measured (the
identity by default). Its derivatives are taken by finite differences, so nothing is asked of the network but calls: the
state after call i is moved along each direction that a weight of that call multiplies (x_i, m_i, ..., m_0, z_i) and
the calls after it are made again; the time told to call i is moved likewise, from that call on. For n calls that is
about n^3/6 + n^2 network calls, fewer than a hundred for n = 5.

For laws (stochastic students) the residual is that of means: ``mean phi(end) - mean phi(target)``. With random Fourier
features phi the sum of squares is then the maximum mean discrepancy of the two laws.

Only the products J^T J and J^T r are kept, summed over chunks of starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model import ScoreModel
from ..noise import SOLVER, PathSource
from ..row import accumulate, combine
from ..watch import Watch
from .student import Student

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Normal:
    """A linear least-squares problem: J^T J and J^T r, divided by the number of residuals."""

    gram: np.ndarray
    gradient: np.ndarray


@dataclass(frozen=True)
class Starts:
    """Where students start, and where they should end.

    Attributes: x (count, ...), targets (count, ...), noise (of the starts; None for deterministic students).
    """

    x: Tensor
    targets: Tensor
    noise: PathSource | None = None

    def take(self, rows: Tensor) -> Starts:
        """Some of them."""
        return Starts(self.x[rows], self.targets[rows], self.noise and self.noise.take(rows))


def themselves(x: Tensor) -> Tensor:
    """The features that errors are measured in by default: samples as they are."""
    return x


def squares_of(found: Tensor, wanted: Tensor, laws: bool) -> np.ndarray:
    """The mean squared difference of each sample, (count,) float64; of laws the one of the means, (1,)."""
    found, wanted = found.double(), wanted.double()
    if laws:
        found, wanted = found.mean(dim=0, keepdim=True), wanted.mean(dim=0, keepdim=True)
    return (found - wanted).flatten(1).square().mean(dim=1).cpu().numpy()


def root_mean(squares: np.ndarray) -> float:
    """The root of the mean; inf where a solution ran away."""
    found = math.sqrt(mean) if (mean := float(np.mean(squares))) >= 0 else math.inf
    return found if math.isfinite(found) else math.inf


def root_median(squares: np.ndarray) -> float:
    """The root of the median."""
    return math.sqrt(float(np.median(squares)))


class Shooting:
    """Students shot from given starts.

    Args:
        model: the network; its conditioning may have a row for each start.
        starts: and targets.
        features: what errors are measured in: (batch, ...) -> (batch, ...).
        laws: compare means of features, not start by start.
        step: of the finite differences, relative.
        size: how many starts the network sees at once.
    """

    def __init__(
        self, model: ScoreModel, starts: Starts, features: Features, *, laws: bool, step: float, size: int
    ) -> None:
        self._watch = Watch()
        self._model = model.session(self._watch)
        self._starts, self._features, self._laws, self._step, self._size = starts, features, laws, step, size

    @property
    def spent(self) -> int:
        """Samples the network has seen."""
        return self._watch.rows

    @torch.no_grad()
    def ends(self, student: Student) -> Tensor:
        """Where the student ends from each start."""
        return torch.cat([_Flight(self, student, rows).end for rows in self._chunks()])

    def squares(self, student: Student) -> np.ndarray:
        """The squared error of each start: see :func:`squares_of`."""
        return squares_of(self._features(self.ends(student)), self._features(self._starts.targets), self._laws)

    @torch.no_grad()
    def normal(self, student: Student, width: float) -> Normal:
        """The least-squares problem of the student's numbers around where they are; width: Cauchy's c, or inf."""
        parts = [self._linear(student, rows) for rows in self._chunks()]
        if self._laws:  # of the means, which are over all chunks
            parts = [torch.stack(parts).sum(dim=0) / len(self._starts.x)]
        products = torch.stack([_products(part, width) for part in parts]).sum(dim=0).cpu().numpy()
        products /= sum(part[..., 0].numel() for part in parts)
        return Normal(products[:-1, :-1], products[:-1, -1])

    def _linear(self, student: Student, rows: Tensor) -> Tensor:
        """[J, r] of some starts, (rows, ..., numbers + 1) float64; for laws their sum over the rows."""
        flight = _Flight(self, student, rows)
        found = self._seen(flight.end)
        columns = [(self._seen(end) - found) / h for end, h in flight.moved()]
        return torch.stack([*columns, found - self._seen(self._starts.targets[rows])], dim=-1)

    def _seen(self, ends: Tensor) -> Tensor:
        """The features of some ends; for laws their sum, as there may be many and all but the sum is not needed."""
        features = self._features(ends).double()
        return features.sum(dim=0, keepdim=True) if self._laws else features

    def _chunks(self) -> Iterator[Tensor]:
        x = self._starts.x
        return iter(torch.split(torch.arange(len(x), device=x.device), self._size))


def _products(part: Tensor, width: float) -> Tensor:
    """[J, r]^T W [J, r] of some starts."""
    part = part.flatten(1, -2)
    error = part[..., -1].square().mean(dim=1)
    return torch.einsum("bip,biq,b->pq", part, part, 1 / (1 + error / width**2))


class _Flight:
    """One chunk of starts, carried to the end by a student; and again, with one of its numbers moved."""

    def __init__(self, shooting: Shooting, student: Student, rows: Tensor) -> None:
        starts = shooting._starts
        self._student, self._step = student, shooting._step
        self._model = shooting._model.take(rows, len(starts.x))
        x = starts.x[rows]
        noise = None if starts.noise is None or not len(student.noise) else starts.noise.take(rows)
        self._normals = [None if noise is None else noise.draw(SOLVER, i, x) for i in range(student.calls)]
        self._states, self._outputs = [x], list[Tensor]()
        for call in range(student.calls):
            self._states.append(self._call(student, call, self._states[-1], self._outputs))
        self.end = self._states[-1]

    def _call(self, student: Student, call: int, x: Tensor, outputs: list[Tensor]) -> Tensor:
        """The next state; the new output goes to the front of ``outputs``."""
        outputs.insert(0, self._model.evaluate(x, student.times[call], student.predicts).clone())
        moved = combine(tuple(student.weights[call].tolist()), x, outputs)
        c = student.noise[call] if len(student.noise) else 0.0
        return accumulate(moved, [float(c)], [self._normals[call]], fresh=False)

    def _from(self, student: Student, call: int, x: Tensor) -> Tensor:
        """The end, from state x before ``call``, whose earlier outputs stand as they were."""
        outputs = self._outputs[len(self._outputs) - call :]
        for later in range(call, student.calls):
            x = self._call(student, later, x, outputs)
        return x

    def moved(self) -> Iterator[tuple[Tensor, float]]:
        """(end, how far the number was moved) for each number, in the order of ``Student.vector``."""
        student = self._student
        for call in range(student.calls):
            after = self._states[call + 1]
            for direction in (self._states[call], *self._outputs[student.calls - 1 - call :]):
                yield self._along(call, after, direction)
        for call in range(student.calls):
            h = self._step if student.times[call] <= student.labels[0] else -self._step  # within the labels
            yield self._from(student.relabelled(call, h), call, self._states[call]), h
        for call in range(len(student.noise)):
            normal = self._normals[call]
            assert normal is not None
            yield self._along(call, self._states[call + 1], normal)

    def _along(self, call: int, after: Tensor, direction: Tensor) -> tuple[Tensor, float]:
        h = self._step * float(after.square().mean().sqrt() / direction.square().mean().sqrt().clamp_min(1e-30))
        h = min(max(h, 1e-12), 1e6)
        return self._from(self._student, call + 1, after + h * direction), h
