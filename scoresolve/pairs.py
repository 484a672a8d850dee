r"""Embedded pairs: a step and an estimate of its error from the same stages, each sample with a step of its own.

Classical pairs on ``dz/du = f``: stages ``z_i = z + h sum_j a_ij f_j``, the step ``z + h sum_j b_j f_j`` and its error
``h sum_j e_j f_j`` (e = b - b^, the difference of the two orders). In all of them the last stage stands at the end of
the step, so that its slope is the first of the next one.

Exponential pairs on the forms of data and noise prediction (``coordinates.py``), in L = lam - lam_t:

    dz/dlam = e^{lam} D:         z_i = z + e^{lam} [J_1(c_i h) D_1 + (J_2(c_i h) / (c_j h)) (D_j - D_1)]
    dz/dlam = -e^{-lam} eps:     the same with -e^{-lam} and kernel e^{-L}
    J_1(a) = int_0^a e^{+-L} dL,      J_2(a) = int_0^a e^{+-L} L dL

where j is the stage before: the straight line through D_1 and D_j is integrated exactly. DPM-Solver-12 goes over the
middle (c = 1/2) and compares with the first-order step; DPM-Solver-23 over c = 1/3 and 2/3 and compares with the
second-order step from 1/3. Their last stage, too, is taken at the end of the step.

Sources: Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3; Bogacki and Shampine 1989,
doi:10.1016/0893-9659(89)90079-7; Tsitouras 2011, doi:10.1016/j.camwa.2011.06.002; Lu et al. 2022, arXiv:2206.00927,
app. C and D.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .controller import Controller
from .coordinates import Clock
from .copies import on_device
from .errors import require
from .flow import Flow
from .lanes import Lanes, Method, Trial
from .sde import over_batch


@dataclass(frozen=True)
class Tableau:
    """order; places c_i; rows a_i of all stages but the first, the last of them the step b; error weights e."""

    order: int
    places: Sequence[float]
    stages: Sequence[Sequence[float]]
    error: Sequence[float]


DORMAND_PRINCE = Tableau(
    5,
    (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
BOGACKI_SHAMPINE = Tableau(
    3,
    (1 / 2, 3 / 4, 1.0),
    ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (-5 / 72, 1 / 12, 1 / 9, -1 / 8),
)
TSITOURAS = Tableau(
    5,
    (0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    (
        -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
        0.5823571654525552, -0.45808210592918697, 1 / 66,
    ),
)  # fmt: skip

_EXPONENTIAL_PLACES = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}
"""Where the stages between the ends of an exponential step stand."""
_GAUSS = tuple(
    torch.from_numpy(values) for values in 0.5 * (np.polynomial.legendre.leggauss(8) + np.array([[1.0], [0.0]]))
)
"""Nodes and weights of Gauss and Legendre on (0, 1): they take J_1 and J_2 to rounding for steps up to h = 3."""

CONTROLLER = Controller()


class _Pair(Method):
    """What pairs have in common: one slope is kept, the order stays."""

    order: int  # of the step; that of the error's estimate plus one
    controller: Controller
    history = 0

    @property
    def first_order(self) -> int:  # type: ignore[override]
        """The order of every step."""
        return self.order

    def attempt(self, flow: Flow, lanes: Lanes) -> Trial:
        """One step of every sample."""
        end, error, slope = self._stages(flow, lanes.z, lanes.slopes[:, 0], lanes.u, lanes.h)
        found = flow.norm(error * flow.weight(lanes.z, end, lanes.u + lanes.h))
        # a slope at the end that is not finite would be the first of the next step
        found = torch.where(torch.isfinite(slope).all(dim=1), found, torch.inf)
        return Trial(end, slope, found, self.controller.factor(found, lanes.error, self.order), lanes.order)

    def remember(self, lanes: Lanes, slope: Tensor, accept: Tensor) -> None:
        """In place of the last one."""
        lanes.slopes = torch.where(accept[:, None, None], slope[:, None], lanes.slopes)

    @abstractmethod
    def _stages(self, flow: Flow, z: Tensor, first: Tensor, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """End, error and what is kept there, from states z, what was kept there, places u and steps h."""


@dataclass(frozen=True)
class ClassicalPair(_Pair):
    """An embedded Runge-Kutta pair. Cost: as many calls an attempt as the tableau has places."""

    tableau: Tableau
    clock: Clock
    controller: Controller = CONTROLLER

    @property
    def order(self) -> int:  # type: ignore[override]
        """Order of the step."""
        return self.tableau.order

    @property
    def calls(self) -> int:  # type: ignore[override]
        """Network calls of an attempt."""
        return len(self.tableau.places)

    def _stages(self, flow: Flow, z: Tensor, first: Tensor, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step, slopes, end = over_batch(h, z), [first], z
        for place, row in zip(self.tableau.places, self.tableau.stages, strict=True):
            end = z + step * _combination(row, slopes)
            slopes.append(flow.slope(end, u + place * h))
        return end, step * _combination(self.tableau.error, slopes), slopes[-1]


@dataclass(frozen=True)
class ExponentialPair(_Pair):
    """DPM-Solver-12 (order 2) or -23 (order 3); kept is the network's output. Cost: ``order`` calls an attempt."""

    order: int
    clock: Clock = "data"
    controller: Controller = CONTROLLER

    keeps_slope = False  # the factor of the output is integrated exactly

    def __post_init__(self) -> None:
        require(self.order in _EXPONENTIAL_PLACES, f"order 2 or 3, got {self.order}")
        require(self.clock in ("data", "noise"), f'the prediction "data" or "noise", got {self.clock!r}')

    @property
    def calls(self) -> int:  # type: ignore[override]
        """Network calls of an attempt."""
        return self.order

    def _stages(self, flow: Flow, z: Tensor, first: Tensor, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sign = 1.0 if self.clock == "data" else -1.0
        head = sign * (sign * u).exp()
        line, lower = (first, 0.0), (first, 0.0)  # an output and its place: with the first it makes the straight line
        for place in _EXPONENTIAL_PLACES[self.order]:
            output = flow.output(_moved(z, first, line, place, head, h, sign), u + place * h)
            lower, line = line, (output, place)
        end = _moved(z, first, line, 1.0, head, h, sign)
        return end, end - _moved(z, first, lower, 1.0, head, h, sign), flow.output(end, u + h)


def _moved(
    z: Tensor, first: Tensor, line: tuple[Tensor, float], place: float, head: Tensor, h: Tensor, sign: float
) -> Tensor:
    """``z + head (J_1 m_1 + J_2 / (c h) (m - m_1))`` up to a share of the step, m at c; the first order if c = 0."""
    nodes, weights = (on_device(values, h.device) for values in _GAUSS)
    kernel = weights * torch.exp(sign * place * h[:, None] * nodes)
    moved = z + over_batch(head * place * h * kernel.sum(1), z) * first
    other, other_place = line
    if other_place == 0.0:
        return moved
    linear = head * place**2 * h * (kernel * nodes).sum(1) / other_place  # a product with @ depends on the batch
    return moved + over_batch(linear, z) * (other - first)


def _combination(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``sum_j weights_j slopes_j``, without the products by zero."""
    terms = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = terms[0][0] * terms[0][1]
    for weight, slope in terms[1:]:
        total = torch.add(total, slope, alpha=weight)
    return total
