"""One attempt of Adams' method and of a pair on slopes known exactly: which degree each part of it integrates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import scoresolve as ss
from scoresolve.adams import Adams
from scoresolve.controller import scaled_error
from scoresolve.flow import Flow
from scoresolve.lanes import Lanes
from scoresolve.pairs import ExponentialPair


@dataclass(frozen=True)
class PowerFlow(Flow):
    """dz/du = u^degree, whatever z; keeps the states at which it was asked. Errors are measured in units of one."""

    degree: int = 0
    seen: list[Tensor] = field(default_factory=list)

    def slope(self, z: Tensor, u: Tensor) -> Tensor:
        self.seen.append(z)
        return (u**self.degree)[:, None] * torch.ones_like(z)

    def weight(self, before: Tensor, after: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(after)


def attempted(order: int, degree: int) -> tuple[float, float, Tensor]:
    """Errors of predictor and corrector of one step, and the estimate, from exact slopes at uneven places."""
    method = Adams(order=5)
    model = ss.exact.Gaussian([0.0], 1.0).model(ss.VPSDE())
    one = torch.ones(1, dtype=torch.float64)
    flow = PowerFlow.of(model, "log_flow", one[:, None], (0.0, 1.0), 1.0, 1.0)
    flow = PowerFlow(**{name: getattr(flow, name) for name in Flow.__dataclass_fields__}, degree=degree)
    places = torch.tensor([[1.0, 0.8, 0.5, 0.3, 0.1, -0.3]], dtype=torch.float64)
    count = torch.tensor([order])
    h = 0.25
    free = torch.zeros(1, 1, 1, dtype=torch.float64)  # the slot of the slope at the end
    lanes = Lanes(
        rows=count * 0, z=one[:, None] / (degree + 1), u=one, h=h * one, error=one, nfe=count, bad=count * 0,
        accepted=count, rejected=count, order=count, slopes=torch.cat([(places**degree)[:, :, None], free], dim=1),
        slots=torch.arange(7).roll(1)[None], places=places, filled=count * 0 + 6,
    )  # fmt: skip
    trial = method.attempt(flow, lanes)
    exact = (1 + h) ** (degree + 1) / (degree + 1)
    return abs(flow.seen[0].item() - exact), abs(trial.z.item() - exact), trial.error[0]


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_predictor_corrector_and_estimate_have_their_orders(order: int) -> None:
    """Order q: the predictor is exact up to degree q - 1, the corrector up to q; the estimate is its last term."""
    for degree in range(order):
        predictor, corrector, estimate = attempted(order, degree)
        assert max(predictor, corrector, float(estimate)) < 1e-13
    predictor, corrector, estimate = attempted(order, order)
    assert predictor > 1e-6
    assert corrector < 1e-13
    # the term r = q of Newton's form, int_0^h prod (v - u_i) over the first q nodes: the difference of u^q is one
    nodes = torch.tensor([0.25, 0.0, -0.2, -0.5, -0.7, -0.9], dtype=torch.float64)[:order]
    v = torch.linspace(0, 0.25, 20001, dtype=torch.float64)
    term = torch.trapezoid((v[:, None] - nodes).prod(dim=1), v)
    assert float(estimate) == pytest.approx(float(term.abs()), rel=1e-6)
    assert attempted(order, order + 1)[1] > 1e-7


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("order", [2, 3])
def test_exponential_pairs_integrate_a_straight_line_exactly(order: int, prediction: str) -> None:
    """Outputs linear in lam: the step is exact, the estimate is the rest of the lower order (zero for order 3)."""
    model = ss.exact.Gaussian([0.0], 1.0).model(ss.VPSDE())
    one = torch.ones(1, 1, dtype=torch.float64)
    flow = Flow.of(model, prediction, one, (0.0, 1.0), 1.0, 1.0)

    class Line(Flow):
        def output(self, z: Tensor, u: Tensor) -> Tensor:
            return (2 + 3 * u)[:, None] * torch.ones_like(z)

    flow = Line(**vars(flow))
    u, h, sign = 0.4, 0.7, 1.0 if prediction == "data" else -1.0
    at = torch.tensor([u], dtype=torch.float64)
    pair = ExponentialPair(order, prediction)
    end, error, _ = pair._stages(flow, one, flow.output(one, at), at, at * 0 + h)

    def primitive(lam: float) -> float:  # of sign e^{sign lam} (2 + 3 lam)
        return math.exp(sign * lam) * (2 + 3 * lam - 3 * sign)

    assert end.item() - 1 == pytest.approx(primitive(u + h) - primitive(u), rel=1e-13)
    first = (2 + 3 * u) * (math.exp(sign * (u + h)) - math.exp(sign * u))
    assert error.item() == pytest.approx(end.item() - 1 - first if order == 2 else 0.0, abs=1e-13)


def test_scaled_errors_do_not_grow_with_the_dimension() -> None:
    """A root mean square: of the same error in each of d elements it is that error, for flows and for SDEs."""
    model = ss.exact.Gaussian([0.0], 1.0).model(ss.VPSDE())
    for d in (1, 100):
        ones = torch.ones(2, d)
        flow = Flow.of(model, "log_flow", ones, (0.1, 1.0), 0.5, 0.25)
        assert flow.norm(3 * ones).tolist() == pytest.approx([3.0, 3.0])
        assert scaled_error(3 * ones, ones, 2 * ones, 0.5, 0.25).tolist() == pytest.approx([2.4, 2.4])


def test_tolerances_are_on_x_over_alpha_plus_sigma_on_every_clock() -> None:
    """error * weight is the same number whatever the clock's own size; log p's tolerance is atol for each dimension."""
    sde = ss.SubVPSDE()
    model = ss.exact.Gaussian([0.0], 1.0).model(sde)
    t, x, error = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[1.7]]), torch.tensor([[0.01]])
    total = float(sde.alpha(0.3) + sde.sigma(0.3))
    for clock in ("t", "rho", "flow", "log_flow", "log_rho", "data", "noise"):
        flow = Flow.of(model, clock, x, (0.1, 1.0), 1e-2, 1e-3)
        size, u = flow.coordinates.size(t).float(), flow.coordinates.place(t)
        for before, after in ((x, 0.5 * x), (0.5 * x, x)):
            found = error / size * flow.weight(before / size, after / size, u)
            assert found.item() == pytest.approx(0.01 / total / (1e-3 + 1e-2 * 1.7 / total), rel=1e-5)
    flow = Flow.of(model, "log_flow", torch.ones(1, 4), (0.1, 1.0), 1e-2, 1e-3)
    augmented = Flow(**{**vars(flow), "extra": 1})
    state = torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0]])
    assert augmented.weight(state, state, u)[0, 4].item() == pytest.approx(1 / (1e-2 * 5 + 4 * 1e-3))


def test_a_step_that_overflows_has_no_finite_error() -> None:
    """Beside an infinite state any error would be small."""
    model = ss.exact.Gaussian([0.0], 1.0).model(ss.VPSDE())
    x = torch.ones(1, 1)
    flow = Flow.of(model, "flow", x, (0.1, 1.0), 1e-2, 1e-2)
    assert flow.norm(x * flow.weight(x, x * math.inf, torch.tensor([0.5]))).item() == math.inf
