r"""Any deterministic table as a student: the same map from start to end, written by the outputs of one prediction.

Every point y_k at which a table asks is a combination ``A_k x_0 + sum_j C_kj q_j`` of its start and of the outputs q so
far in *any* prediction, since an output m_j is one of q_j and y_j: ``m_j = r_j y_j + s_j q_j`` (``predictions.py``).
Pushing such combinations through the rows gives those of all points and of the end. A student's state is the next
point itself, ``x_{k+1} = a_k x_k + ...``, so ``a_k = A_{k+1} / A_k``, and the outputs' weights are what is left over.

Outputs are the flow prediction eps - D: with it A_k is about ``(alpha_k + sigma_k) / (alpha_0 + sigma_0)`` for every
consistent table, never near zero.
"""

from __future__ import annotations

import numpy as np

from ..errors import require
from ..predictions import Prediction, conversion
from ..sde import SDE
from ..table import Table
from .student import Student, places_of


def lift(table: Table, sde: SDE, labels: tuple[float, float]) -> Student:
    """The student of a table. Raises: ValueError if a point does not depend on the start.

    >>> import scoresolve as ss
    >>> from scoresolve.tuning.lifting import lift
    >>> sde = ss.VPSDE()
    >>> table = ss.build_table("heun", sde, ss.grids.karras(sde, 3, 1.0, 0.01))
    >>> student = lift(table, sde, (0.01, 1.0))
    >>> student.calls, [len(row) for row in student.weights]
    (6, [2, 3, 4, 5, 6, 7])
    """
    if table.stochastic:
        return _kept(table, sde, labels)
    count = table.nfe
    base, point = np.eye(1 + count)[0], np.eye(1 + count)[0]  # coefficients of (x_0, q_0, q_1, ...)
    outputs: list[np.ndarray] = []
    points = []
    for number, (row, asked) in enumerate(zip(table.rows, table.asked, strict=True)):
        points.append(point)
        outputs.insert(0, _output(asked, sde, row.t, point, number))
        base = _combined(row.commit, base, outputs)
        point = _combined(row.propose, base, outputs)
    return Student(
        sde,
        "flow",
        table.start,
        float(table.times[-1]),
        labels,
        tuple(_step(here, there, k) for k, (here, there) in enumerate(zip(points, [*points[1:], base], strict=True))),
        places_of(sde, [row.t for row in table.rows]),
        np.empty(0),
    )


def liftable(table: Table) -> bool:
    """Whether it is deterministic, or of one call and one normal a step."""
    plain = all(row.s is not None and len(row.noise) <= 1 and not row.propose_noise for row in table.rows)
    return not table.stochastic or (plain and not any(row.asks for row in table.rows))


def _output(asked: Prediction, sde: SDE, t: float, point: np.ndarray, number: int) -> np.ndarray:
    a, b, _ = conversion("flow", asked, sde, np.array(t), sde, np.array(t))
    output = float(a) * point
    output[1 + number] += float(b)
    return output


def _combined(weights: tuple[float, ...], x: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
    total = weights[0] * x
    for weight, output in zip(weights[1:], outputs, strict=False):
        total = total + weight * output
    return total


def _step(here: np.ndarray, there: np.ndarray, k: int) -> np.ndarray:
    """Weights of (x_k, q_k, ..., q_0) that take one point to the next."""
    require(abs(here[0]) > 1e-3 * np.abs(here).max(), "a table whose points depend on its start")
    gain = there[0] / here[0]
    rest = there - gain * here
    return np.array([gain, *rest[k + 1 : 0 : -1]])


def _kept(table: Table, sde: SDE, labels: tuple[float, float]) -> Student:
    """A stochastic table with a call a step: its own numbers, as a state that has noise is no sum of outputs."""
    require(liftable(table), "a stochastic table of one call and one normal a step")
    weights = [np.pad(np.array(row.commit), (0, k + 2 - len(row.commit))) for k, row in enumerate(table.rows)]
    noise = np.array([row.noise[0] if row.noise else 0.0 for row in table.rows])
    places = places_of(sde, [row.t for row in table.rows])
    return Student(sde, table.predicts, table.start, float(table.times[-1]), labels, tuple(weights), places, noise)
