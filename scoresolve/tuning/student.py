r"""A student: the most general multistep rule on a path, every number of it free.

Of n network calls, call i is asked at the state x_i and told the time of the place p_i, and

    x_{i+1} = a_i x_i + sum_{j <= i} b_ij m_j + c_i z_i,        m_j = model(x_j, t(p_j)).

Every deterministic table is one (``lifting.py``), and every table whose state is all that a step needs. Nothing says
that x_i must lie on the probability flow, that p_i is where it stands, or that a constant output be integrated
exactly: at few calls such conditions cost more than they bring (Cohen et al. 2025, arXiv:2502.17423), and
what counts is where the last state ends.

A place is that of the clock ``log(sigma / (alpha + sigma))``, see ``coordinates.py``: log rho near the data, linear in
the signal near pure noise, finite at both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..coordinates import coordinates
from ..predictions import Prediction
from ..row import Row
from ..sde import SDE
from ..table import Table


def places_of(sde: SDE, times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Times on the clock of the labels."""
    return coordinates(sde, "log_flow").places(np.asarray(times, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Student:
    """A rule of n calls.

    Attributes:
        sde, predicts: the path, and what the outputs m are.
        start, end: the first and the last time.
        labels: (lowest, highest) time that the network may be told.
        weights: for each call those of (x, m_i, ..., m_0): newest output first, shape (i + 2,).
        places: of the times told, shape (n,).
        noise: weights c of the normals, shape (n,); empty for a deterministic rule.
    """

    sde: SDE
    predicts: Prediction
    start: float
    end: float
    labels: tuple[float, float]
    weights: tuple[np.ndarray, ...]
    places: np.ndarray
    noise: np.ndarray

    @property
    def calls(self) -> int:
        """Network calls of a run."""
        return len(self.weights)

    @cached_property
    def times(self) -> list[float]:
        """The times told to the network, within its range."""
        times = coordinates(self.sde, "log_flow").time(torch.from_numpy(self.places.copy()))
        return [min(max(t, self.labels[0]), self.labels[1]) for t in times.tolist()]

    @property
    def last_place(self) -> float:
        """Of the end, or of the last time with noise before it."""
        return float(places_of(self.sde, [max(self.end, self.labels[0])])[0])

    def vector(self) -> np.ndarray:
        """All the numbers: weights by rows, then places, then the weights of the noise."""
        return np.concatenate([*self.weights, self.places, self.noise])

    def moved(self, change: np.ndarray) -> Student:
        """The student whose :meth:`vector` is this one's plus a change; labels stay in their range and never rise."""
        total = self.vector() + change
        ends = np.cumsum([len(row) for row in self.weights])
        weights = tuple(np.split(total[: ends[-1]], ends[:-1]))
        low, high = places_of(self.sde, self.labels)
        places = np.minimum.accumulate(np.clip(total[ends[-1] : ends[-1] + self.calls], low, high))
        return replace(self, weights=weights, places=places, noise=total[ends[-1] + self.calls :])

    def relabelled(self, call: int, shift: float) -> Student:
        """With the place of one call shifted."""
        places = self.places.copy()
        places[call] += shift
        return replace(self, places=places)

    def grown(self, call: int) -> Student:
        """With one more call after ``call``, told a time halfway to the next one's, whose output has weight zero."""
        ends = [*self.places, self.last_place]
        halfway = 0.5 * (ends[call] + ends[call + 1])
        weights = [
            row if i <= call else np.insert(row, 1 + i - call, 0.0) for i, row in enumerate(self.weights)
        ]  # the output of call `call` is the (i - call)-th newest of row i; the new one stands just before it
        idle = np.zeros(call + 3)
        idle[0] = 1.0
        noise = np.insert(self.noise, call + 1, 0.0) if len(self.noise) else self.noise
        return replace(
            self,
            weights=(*weights[: call + 1], idle, *weights[call + 1 :]),
            places=np.insert(self.places, call + 1, halfway),
            noise=noise,
        )

    def then(self, rest: Student) -> Student:
        """This one, and from where it ends another, which begins there and takes no account of the outputs before."""
        weights = [np.concatenate([row, np.zeros(self.calls)]) for row in rest.weights]
        return replace(
            self,
            end=rest.end,
            labels=(rest.labels[0], self.labels[1]),
            weights=(*self.weights, *weights),
            places=np.concatenate([self.places, rest.places]),
            noise=np.concatenate([self.noise, rest.noise]),
        )

    def table(self, solver: str, options: Mapping[str, Any]) -> Table:
        """The student as a table."""
        times = self.times
        ends = [*times[1:], self.end]
        noise: list[tuple[float, ...]] = [(float(c),) for c in self.noise] or [()] * self.calls
        rows = [Row(t, s, tuple(w.tolist()), z) for t, s, w, z in zip(times, ends, self.weights, noise, strict=True)]
        return Table(tuple(rows), self.predicts, self.start, solver, repr(self.sde), options)
