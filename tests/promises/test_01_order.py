"""Promise 1: the documented order is the measured one, for every solver, its start and its last steps included.

Without sampling on a Gaussian, to 0.1, with the constant C of ``error = C n^-p`` to 2 %; on a nonlinear mixture to 0.2.
What is documented is ``info.order``, ``info.strong_order`` and the table that ``benchmarks/orders.py`` wrote, of which
``docs/solvers.md`` is made. Too high an order fails as one too low does: it comes of a wrong reference.
"""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from oracles import TABLES

import scoresolve as ss
from benchmarks import order_errors as measured
from benchmarks import order_paths as paths
from benchmarks import orders

VP = ss.VPSDE()
ODE = [info for info in TABLES if info.kind == "ode"]
SDE = [info for info in TABLES if info.kind == "sde"]
STRONG = [info for info in SDE if info.strong_order]
STARTED = [info for info in TABLES if "start" in info.options]
BETTER = {
    "midpoint": 3,  # on every Gaussian in the clocks flow and rho; 2 in log_rho and t
    "ipndm_v_4": 3,  # where steps grow evenly; 2 where they do not (tests/test_orders.py)
}
"""Measured orders on these problems of solvers that have a lower one elsewhere, which is what they declare."""
START = {
    **dict.fromkeys(("pndm", "flow_abm_3", "flow_abm_4", "unipc_2", "unipc_3", "unipc_4", "sa_solver"), 3),
    "exponential_3": 3,
    "exponential_4": 4,
    "flow_abm_2": 3,
}
"""The order that a method's own start-up allows it, where that is more than 2, as a first step of order 1 does."""
ELSEWHERE = {
    **dict.fromkeys(("rk45", "scipy_rk45"), "test_adaptive"),
    **dict.fromkeys(("adaptive_abm", "adaptive_dp5", "adaptive_tsit5", "adaptive_bs3"), "test_adaptive_flow"),
    **dict.fromkeys(("adaptive_dpm_12", "adaptive_dpm_23"), "test_adaptive_flow"),
    **dict.fromkeys(("adaptive_sde_sra", "adaptive_sde_ggf"), "test_adaptive_sde"),
    "annealed_langevin": "test_correctors",
}
"""Solvers without a fixed grid, and the module that holds their order in steps or tolerances, or their law."""


def _recorded() -> dict[str, dict[str, str]]:
    with orders.OUT.open(newline="") as file:
        return {row["solver"]: row for row in csv.DictReader(file)}


def _of(info: ss.SolverInfo) -> str:
    return info.name


def _has_order(info: ss.SolverInfo) -> bool:
    """Whether the order on the Gaussian is the declared one."""
    slope = measured.slope(measured.exact_errors(info, VP))
    return bool(abs(slope - BETTER.get(info.name, info.order)) < 0.1)


@pytest.mark.property(16)
@pytest.mark.parametrize("info", TABLES, ids=_of)
def test_order_and_constant_on_a_gaussian(info: ss.SolverInfo) -> None:
    """ODE: the affine map against that of the flow. SDE: mean and covariance, the weak order. History seeded."""
    errors = measured.exact_errors(info, VP)
    assert measured.slope(errors) == pytest.approx(BETTER.get(info.name, info.order), abs=0.1), errors
    assert measured.constant(info, errors) == pytest.approx(float(_recorded()[info.name]["constant"]), rel=0.02)


@pytest.mark.parametrize("info", STRONG, ids=_of)
def test_strong_order_and_constant_on_a_gaussian(info: ss.SolverInfo) -> None:
    """Against the exact solution on the same path, in closed form. What limits SRA to 1.5 needs a nonlinear drift."""
    assert info.strong_order is not None
    errors = paths.strong_errors(info, VP, paths.CLOSED_STEPS)
    assert measured.slope(errors) == pytest.approx({1.5: 2}.get(info.strong_order, 1), abs=0.1), errors
    constant = errors[-1] * paths.CLOSED_STEPS[-1] ** info.strong_order
    assert constant == pytest.approx(float(_recorded()[info.name]["path_constant"]), rel=0.02)


@pytest.mark.parametrize("info", STARTED, ids=_of)
def test_what_its_own_start_leaves_of_the_order(info: ss.SolverInfo) -> None:
    """First steps of order q err by h^{q + 1} once: six steps show the lower of that and of the method's p + 1."""
    slope = measured.slope(measured.start_errors(info, VP))
    allowed = START.get(info.name, 2)
    assert slope == pytest.approx(allowed, abs=0.1)
    assert float(_recorded()[info.name]["start"]) == pytest.approx(min(info.order, allowed), abs=0.1)


@pytest.mark.parametrize("info", TABLES, ids=_of)
def test_the_last_steps_err_by_the_square_of_the_noise_level_they_begin_at(info: ss.SolverInfo) -> None:
    """The step to noise zero is of order 1 for every solver (lam is infinite there): its one error is O(rho^2)."""
    assert measured.slope(measured.end_errors(info, VP)) == pytest.approx(2, abs=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("info", ODE, ids=_of)
def test_order_on_a_nonlinear_mixture(info: ss.SolverInfo) -> None:
    """Against the exact flow, which in one dimension takes quantiles to quantiles; history seeded."""
    errors = measured.flow_errors(info, VP)
    expected = {**BETTER, "midpoint": 2}.get(info.name, info.order)
    assert measured.slope(errors) == pytest.approx(expected, abs=0.2), np.array(errors)
    assert errors[-1] < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("info", STRONG, ids=_of)
def test_strong_order_on_a_nonlinear_mixture(info: ss.SolverInfo) -> None:
    """On one Brownian path a sample against the solver's finest grid; the full measurement is in the records."""
    assert info.strong_order is not None
    steps, finest = ((64, 256), 1024) if info.strong_order > 1 else ((32, 128), 512)
    strong, weak, spread = paths.path_errors(info, VP, steps, batch=256, reference=finest)
    slope = 0.5 * measured.slope(strong)
    if info.strong_order > 1:  # terms of order 2 are not negligible on these grids
        assert 1.35 < slope < 2.0, strong
    else:
        assert slope == pytest.approx(1, abs=0.2), strong
    assert weak[-1] < 0.2 * 0.01 * 128 / steps[-1] * 10 + 4 * spread[-1]


def test_the_records_agree_with_what_is_declared() -> None:
    """On the mixture strong orders are known to 0.15: they are slopes of means over 4096 paths."""
    recorded = _recorded()
    for info in TABLES:
        assert info.build(VP, np.array([0.9, 0.5])).solver == info.name
        row = recorded[info.name]
        expected = info.order if info.name != "ipndm_v_4" else 3
        assert float(row["order"]) == pytest.approx(expected, abs=0.2), info.name
        if info.strong_order:
            assert float(row["strong"]) == pytest.approx(info.strong_order, abs=0.15), info.name


def test_every_registered_solver_has_an_entry() -> None:
    """A solver that is added without a measurement fails here, and its documentation cannot be made."""
    assert {info.name for info in TABLES} == set(_recorded())
    assert {info.name for info in ss.solvers()} == {info.name for info in TABLES} | set(ELSEWHERE)


@pytest.mark.parametrize(("name", "claimed"), [("dpmpp_3m", 3), ("ddim", 2), ("heun", 1), ("euler_maruyama", 2)])
def test_a_wrong_claim_is_found(name: str, claimed: int) -> None:
    """The control: published 3M, which is sold as order 3, and three more."""
    info = ss.get_solver(name)
    assert _has_order(info)
    assert not _has_order(replace(info, order=claimed))
