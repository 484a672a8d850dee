"""The declared order of every registered solver is the measured one, on exact Gaussians and a nonlinear mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    PROCESSES,
    SMOOTH,
    TABLES,
    gaussian,
    gaussian_error,
    interval,
    mixture_1d,
    quantile_flow,
    slopes,
)

import scoresolve as ss

ODE_TABLES = [info for info in TABLES if info.kind == "ode"]
SDE_TABLES = [info for info in TABLES if info.kind == "sde"]


def _eta(info: ss.SolverInfo) -> float:
    return 1.0 if info.kind == "sde" else 0.0


@pytest.mark.parametrize("grid", ["log_snr", "quadratic"])
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_order_on_a_gaussian(info: ss.SolverInfo, name: str, grid: str) -> None:
    """Mean, gain and noise of the output, exact, against those of the dynamics; last slope within 0.1 of the order."""
    sde, law = PROCESSES[name], gaussian()
    t_max, t_min = interval(sde)
    errors = []
    for steps in (128, 256, 512):
        table = ss.build_table(info.name, sde, ss.grids.GRIDS[grid](sde, steps, t_max, t_min))
        errors.append(gaussian_error(table, law, sde, _eta(info)))
    assert slopes(errors)[-1] == pytest.approx(info.order, abs=0.1), slopes(errors)
    assert errors[-1] < 0.1


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_mean_and_covariance_converge_to_the_closed_form(info: ss.SolverInfo) -> None:
    """The law of the output itself, pushed through the table, for the processes of the field."""
    law = gaussian(seed=3, d=4)
    for name in ("ve", "vp", "subvp"):
        sde = PROCESSES[name]
        t_max, t_min = interval(sde)
        exact = law.marginal(sde, t_min)
        errors = []
        for steps in (200, 400, 800):
            out = ss.exact.push(ss.build_table(info.name, sde, ss.grids.uniform(sde, steps, t_max, t_min)), law, sde)
            errors.append(float((out.covariance - exact.covariance).norm() + (out.mean - exact.mean).norm()))
        # a total may cross its target, where its error falls faster than the order for a while: only a floor here
        assert slopes(errors).mean() > info.order - 0.2, (name, slopes(errors))
        assert errors[-1] < 0.05 * float(exact.covariance.norm())


laws = st.tuples(
    st.lists(st.floats(-3, 1), min_size=1, max_size=3),  # log10 of variances
    st.floats(-2, 2),
    st.integers(0, 1000),
)


@settings(max_examples=40)
@given(
    drawn=laws, name=st.sampled_from(SMOOTH), info=st.sampled_from(TABLES), grid=st.sampled_from(["log_snr", "karras"])
)
def test_order_on_any_gaussian(
    drawn: tuple[list[float], float, int], name: str, info: ss.SolverInfo, grid: str
) -> None:
    """Hypothesis draws the Gaussian, the path and the grid; errors fall at least at the declared order, less 0.2.

    (Accidental cancellation may make one error smaller than it should be, so faster is not refused here.)
    """
    logs, mean, _ = drawn
    variances = torch.tensor(logs, dtype=torch.float64).mul(np.log(10)).exp()
    law = ss.exact.Gaussian(torch.full((len(logs),), mean, dtype=torch.float64), variances)
    sde = PROCESSES[name]
    t_max, t_min = interval(sde, -2.5, 2.0)
    errors = [
        gaussian_error(
            ss.build_table(info.name, sde, ss.grids.GRIDS[grid](sde, steps, t_max, t_min)), law, sde, _eta(info)
        )
        for steps in (64, 1024)
    ]
    assert np.log2(errors[0] / errors[1]) / 4 > info.order - 0.2 or errors[1] < 1e-9


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("info", ODE_TABLES, ids=lambda info: info.name)
def test_order_on_a_nonlinear_mixture(info: ss.SolverInfo, name: str) -> None:
    """Against the exact flow of a two-mode mixture (quantiles to quantiles); last slope within 0.2 of the order."""
    sde, law = PROCESSES[name], mixture_1d()
    t_max, t_min = interval(sde)
    scale = float(np.hypot(sde.alpha(t_max), sde.sigma(t_max)))
    start = scale * torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = quantile_flow(law, start, sde, t_max, t_min)
    errors = []
    for steps in (128, 256, 512, 1024):
        grid = ss.grids.log_snr(sde, steps, t_max, t_min)
        out = ss.sample(law.model(sde), start=start[:, None], solver=info.name, grid=grid).samples[:, 0]
        errors.append(float((out - exact).square().mean().sqrt()))
    assert slopes(errors)[-1] == pytest.approx(info.order, abs=0.2), slopes(errors)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("weights", ["published", "exact"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_the_two_step_rule_has_order_two_at_every_eta(eta: float, weights: str) -> None:
    sde, law = ss.VPSDE(), gaussian()
    t_max, t_min = interval(sde)
    errors = []
    for steps in (128, 256, 512):
        times = ss.grids.log_snr(sde, steps, t_max, t_min)
        errors.append(
            gaussian_error(ss.build_table("dpmpp_2m_sde", sde, times, eta=eta, weights=weights), law, sde, eta)
        )
    assert slopes(errors)[-1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion"])
def test_the_discretised_sdes_have_order_one_at_every_eta(solver: str, eta: float) -> None:
    sde, law = ss.VPSDE(), gaussian()
    t_max, t_min = interval(sde)
    errors = [
        gaussian_error(ss.build_table(solver, sde, ss.grids.log_snr(sde, steps, t_max, t_min), eta=eta), law, sde, eta)
        for steps in (256, 512, 1024)
    ]
    assert slopes(errors)[-1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddims_eta_agrees_with_the_sde_as_steps_shrink(eta: float) -> None:
    sde, law = ss.VPSDE(), gaussian()
    t_max, t_min = interval(sde)
    errors = [
        gaussian_error(ss.build_table("ddim", sde, ss.grids.log_snr(sde, n, t_max, t_min), eta=eta), law, sde, eta)
        for n in (128, 256, 512)
    ]
    assert slopes(errors)[-1] == pytest.approx(1, abs=0.1)


def test_the_forward_variance_of_ddpm_converges_at_order_one() -> None:
    sde, law = ss.VPSDE(), gaussian()
    t_max, t_min = interval(sde)
    errors = []
    for steps in (128, 256, 512):
        times = ss.grids.log_snr(sde, steps, t_max, t_min)
        errors.append(gaussian_error(ss.build_table("ddpm", sde, times, variance="forward"), law, sde, 1.0))
    assert slopes(errors)[-1] == pytest.approx(1, abs=0.1)


def test_every_registered_solver_is_covered_here() -> None:
    """A solver is either a table, whose order is measured above, or named here with the test that holds it."""
    elsewhere = {
        "rk45": "test_adaptive",
        "scipy_rk45": "test_adaptive",
        "annealed_langevin": "test_correctors",
    }
    covered = {info.name for info in ODE_TABLES + SDE_TABLES} | set(elsewhere)
    assert {info.name for info in ss.solvers()} == covered
