r"""Gauss and Newton's method with Levenberg and Marquardt's damping, for the numbers of a student.

The change d of a step solves ``(S + mu I) D d = -D^{-1} J^T r`` with ``S = D^{-1} J^T J D^{-1}`` and D the norms of the
columns of J: units of the numbers do not matter. mu falls by 3 after a step that made the residual smaller and grows
by 4 until one does. Of all the students on the way the best on *held-out* starts is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .shooting import Normal, Shooting
from .student import Student

TRIALS = 8
"""How often mu grows in one step."""


@dataclass(frozen=True)
class Fit:
    """A student on its way: the best so far on held-out starts, and where the descent stands.

    Attributes: best, held_out (its error there), student (where the descent goes on), train (its error on the starts
    it is fitted to), damping (mu), done (whether nothing is to be gained from going on).
    """

    best: Student
    held_out: float
    student: Student
    train: float
    damping: float = 1e-3
    done: bool = False


def begin(train: Shooting, held_out: Shooting, student: Student) -> Fit:
    """A fit that has not moved yet."""
    return Fit(student, held_out.errors(student)[0], student, train.errors(student)[0])


def descend(
    train: Shooting, held_out: Shooting, fit: Fit, steps: int, go_on: Callable[[], bool], rest: float = 0.01
) -> Fit:
    """Up to ``steps`` steps further; fewer where two in a row gain less than a share ``rest`` each.

    ``go_on`` is asked before each step.
    """
    idle = 0
    for _ in range(steps):
        if fit.done or not go_on():
            break
        moved = _step(train, held_out, fit)
        idle = 0 if moved.train < (1 - rest) * fit.train else idle + 1
        fit = moved
        if idle == 2:
            return Fit(fit.best, fit.held_out, fit.student, fit.train, fit.damping, done=True)
    return fit


def _step(train: Shooting, held_out: Shooting, fit: Fit) -> Fit:
    normal = train.normal(fit.student)
    for mu, change in _changes(normal, fit.damping):
        student = fit.student.moved(change)
        error = train.errors(student)[0]
        if error < fit.train:
            held = held_out.errors(student)[0]
            better = held < fit.held_out
            best, lowest = (student, held) if better else (fit.best, fit.held_out)
            return Fit(best, lowest, student, error, max(mu / 3, 1e-12))
    return Fit(fit.best, fit.held_out, fit.student, fit.train, fit.damping, done=True)


def _changes(normal: Normal, damping: float) -> Iterator[tuple[float, np.ndarray]]:
    """Changes of ever heavier damping."""
    scale = np.sqrt(np.diag(normal.gram))
    scale[~(scale > 1e-14 * scale.max(initial=1e-300))] = math.inf  # a number without effect stays as it is
    gram = normal.gram / np.outer(scale, scale)
    for trial in range(TRIALS):
        mu = damping * 4.0**trial
        yield mu, -np.linalg.solve(gram + mu * np.eye(len(scale)), normal.gradient / scale) / scale
