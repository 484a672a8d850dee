r"""DPM-Solver-v3: the exponential integrator in whatever parameterisation leaves the network least to say.

With the statistics l and s (``empirical.py``), L and S their integrals in lam, and ``y = x / alpha``, the flow is
``d(e^L y)/dlam = -e^L f`` with ``f = (sigma eps - l x) / alpha``. A step integrates ``g = e^{S_t - S} f``, which is
constant where f grows at the rate s, as the polynomial through past outputs:

    y_s = e^{L_t - L_s} y_t - sum_j w_j e^{S_t - S_j} f_j,    w_j = int_t^s e^{(L - L_s) + (S - S_t)} L_j(lam) dlam

(L_j the Lagrange basis of the nodes; the paper's derivatives of g are those of the same polynomial). The corrector
makes the step again with the output at its end as one more node, and f stays what it was at the predicted point.

f belongs to the state where the network was asked, which a table does not keep: a past state is the present one minus
what was added since, so a row has a weight for every output, but where l = 1. There f = -D needs no state: without
statistics it is the data prediction, and the method exact UniPC.

Source: Zheng et al. 2023, arXiv:2310.13268, alg. 1, with exact integrals, and without the statistic b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..empirical import ModelStatistics
from ..errors import require, whole_number
from ..quadrature import lagrange_weights
from ..registry import solver
from ..row import Row
from ..sde import SDE, Point
from ..table import Table

PLAIN = ModelStatistics((-1.0, 1.0), (1.0, 1.0), (0.0, 0.0))
"""l = 1 and s = 0: the data prediction."""


@solver("dpm_solver_v3", order=3, reference="Zheng et al. 2023, arXiv:2310.13268, alg. 1")
def dpm_solver_v3(
    sde: SDE,
    times: np.ndarray,
    *,
    statistics: ModelStatistics | None = None,
    outputs: int = 2,
    unic: bool = True,
) -> Table:
    """DPM-Solver-v3: multistep in the parameterisation of a network's own statistics.

    statistics: those of ``ss.model_statistics(model, data)``; None: the data prediction. outputs: how many predict.
    unic: make each step again with the output at its end, one order more.
    """
    whole_number("outputs", outputs)
    require(
        statistics is None or isinstance(statistics, ModelStatistics),
        f"statistics=ss.model_statistics(model, data), got {type(statistics).__name__}",
    )
    run = _Run(statistics or PLAIN, outputs, unic)
    points = sde.points(times)
    for here, there in pairwise(points):
        run.step(here, there)
    said = None if statistics is None else statistics.summary
    options = {"statistics": said, "outputs": outputs, "unic": unic}
    return Table.of(run.rows, times, sde, "dpm_solver_v3", options=options)


@dataclass
class _Node:
    """An output that a step may use: where it was made, and f as a combination of (x now, m_0, m_1, ...), m_0 first."""

    point: Point
    f: np.ndarray


@dataclass
class _Run:
    """The rows so far. Combinations are arrays: the weight of the present state, then of the outputs as they came."""

    statistics: ModelStatistics
    outputs: int
    unic: bool
    rows: list[Row] = field(default_factory=list)
    nodes: list[_Node] = field(default_factory=list)  # newest first
    last: tuple[Point, np.ndarray] | None = None  # where the step that may be corrected began

    def step(self, here: Point, there: Point) -> None:
        """One more row."""
        call = len(self.rows)
        state = _unit(0, call)
        if not math.isfinite(here.lam) or not math.isfinite(there.lam):
            ratio = there.sigma / here.sigma  # first order: the data prediction constant
            end = ratio * state + (there.alpha - ratio * here.alpha) * _unit(1 + call, call)
            self.nodes, self.last = [], None
        else:
            linear = float(self.statistics.l(np.array(here.lam)))
            f = (1 - linear) / here.alpha * state - _unit(1 + call, call)
            self.nodes = [_Node(here, f), *(_Node(node.point, np.append(node.f, 0.0)) for node in self.nodes)]
            if self.unic and self.last is not None:
                start, begun = self.last
                state = self._moved(start, np.append(begun, 0.0), here, self.nodes[: self.outputs + 1])
            end = self._moved(here, state, there, self.nodes[: self.outputs])
            self.last = here, state
        gain = float(end[0])
        self.rows.append(Row(here.t, there.t, (gain, *_trimmed(end[:0:-1]))))
        # from now on x is the new state: x before was (x - weights . outputs) / gain
        for node in self.nodes:
            node.f = _seen_from(node.f, end)
        if self.last is not None:
            self.last = self.last[0], _seen_from(self.last[1], end)
        self.nodes = self.nodes[: self.outputs]

    def _moved(self, here: Point, state: np.ndarray, there: Point, nodes: list[_Node]) -> np.ndarray:
        """The state at ``there``, from the outputs at the nodes."""
        (from_l, to_l), (from_s, _) = self.statistics.integrals(np.array([here.lam, there.lam]))

        def kernel(lam: np.ndarray) -> np.ndarray:
            linear, growth = self.statistics.integrals(lam)
            return np.asarray(np.exp(linear - to_l + growth - from_s))

        places = np.array([node.point.lam for node in nodes])
        weights = lagrange_weights(places, here.lam, there.lam, kernel, panel=0.5)
        end = math.exp(from_l - to_l) / here.alpha * state
        growths = self.statistics.integrals(places)[1]
        for node, weight, growth in zip(nodes, weights, growths, strict=True):
            end = end - weight * math.exp(from_s - growth) * node.f
        return np.asarray(there.alpha * end)


def _unit(place: int, call: int) -> np.ndarray:
    unit = np.zeros(2 + call)
    unit[place] = 1.0
    return unit


def _seen_from(combination: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The same combination with the state at the end in place of the one before."""
    share = combination[0]
    if share == 0:
        return combination
    require(abs(end[0]) > 1e-6, "steps whose end depends on where they start: use more of them, or other statistics")
    seen = combination - share / end[0] * end
    seen[0] = share / end[0]
    return np.asarray(seen)


def _trimmed(weights: np.ndarray) -> list[float]:
    """Without the outputs that are not used, but for what rounding leaves of weights that cancel."""
    used = np.flatnonzero(np.abs(weights) > 1e-14 * np.abs(weights).max())
    return [float(weight) for weight in weights[: used[-1] + 1]] if len(used) else []
