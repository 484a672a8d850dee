"""Adaptive Runge-Kutta of the probability flow: error against tolerance, honest NFE, times that stay inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import PROCESSES, gaussian, interval, mixture_2d
from torch import Tensor

import scoresolve as ss

SOLVERS = ["rk45", "scipy_rk45"]


@pytest.mark.property(35)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_error_follows_the_tolerance(name: str, solver: str) -> None:
    """Against the closed-form flow of a Gaussian, from the exact marginal: below 100 tolerances, and falling."""
    sde, law = PROCESSES[name], gaussian()
    t_max, t_min = interval(sde)
    start = law.marginal(sde, t_max).sample(6, generator=torch.Generator().manual_seed(0))
    exact = law.flow(sde, start, t_max, t_min)
    errors, calls = [], []
    # beta has corners at the 1000 indices of a table, so there the error stops falling near 1e-6
    for tolerance in (1e-3, 1e-4, 1e-5) if name == "ddpm_table" else (1e-3, 1e-5, 1e-7):
        solution = ss.sample(
            law.model(sde), start=start, solver=solver, grid=[t_max, t_min], rtol=tolerance, atol=tolerance
        )
        errors.append((solution.samples - exact).abs().max().item())
        calls.append(solution.nfe)
        assert errors[-1] < 100 * tolerance
    assert errors[2] < errors[1] < errors[0]
    assert calls[0] < calls[1] < calls[2]


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_five(solver: str) -> None:
    """At tight tolerances the error falls as calls^-5 (measured 5.1 to 5.7: the controller's steps are not even)."""
    sde, law = ss.VPSDE(), gaussian()
    start = law.marginal(sde, 0.9).sample(1, generator=torch.Generator().manual_seed(1))
    exact = law.flow(sde, start, 0.9, 0.1)
    errors, calls = [], []
    for tolerance in (1e-11, 1e-13):
        solution = ss.sample(
            law.model(sde), start=start, solver=solver, grid=[0.9, 0.1], rtol=tolerance, atol=tolerance
        )
        errors.append((solution.samples - exact).abs().max().item())
        calls.append(solution.nfe)
    order = np.log(errors[0] / errors[1]) / np.log(calls[1] / calls[0])
    assert order == pytest.approx(5, abs=0.8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_network_is_never_asked_outside_the_interval(name: str, solver: str) -> None:
    sde, seen = PROCESSES[name], []
    exact = mixture_2d().model(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return exact.data(x, t)

    model = ss.ScoreModel(net, sde, predicts="data")
    solution = ss.sample(model, (4, 2), solver=solver, seed=0, dtype=torch.float64)
    assert min(seen) >= max(sde.t_min, sde.t_eps if sde.sigma(sde.t_min) == 0 else 0.0) - 1e-12
    assert max(seen) <= sde.t_max
    assert solution.nfe == model.nfe == len(seen) // 4
    assert torch.isfinite(solution.samples).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_budget_is_never_exceeded(solver: str) -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(ss.BudgetError, match="more than nfe=20 network calls"):
        ss.sample(model, (4, 2), solver=solver, nfe=20, seed=0)
    assert model.nfe == 20
    assert ss.sample(model, (4, 2), solver=solver, nfe=500, seed=0).nfe < 500


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectories_stand_at_the_times_of_the_grid(solver: str) -> None:
    sde, law = ss.VPSDE(), gaussian()
    start = law.marginal(sde, 1.0).sample(3, generator=torch.Generator().manual_seed(2))
    times = [1.0, 0.7, 0.2, 0.01]
    seen: list[tuple[int, float]] = []
    solution = ss.sample(
        law.model(sde),
        start=start,
        solver=solver,
        grid=times,
        rtol=1e-8,
        atol=1e-8,
        trajectory=True,
        callback=lambda step: seen.append((step.index, step.time)),
    )
    assert solution.trajectory is not None
    assert solution.times.tolist() == times
    for t, state in zip(times, solution.trajectory, strict=True):
        assert torch.allclose(state, law.flow(sde, start, 1.0, t), rtol=1e-5, atol=1e-6)
    assert seen == [(1, 0.7), (2, 0.2), (3, 0.01)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_to_noise_zero_closes_with_one_denoising(solver: str) -> None:
    law = ss.exact.Gaussian([0.7, -0.2], 0.0)  # a point
    for sde in (ss.EDM(), ss.RectifiedFlow()):
        solution = ss.sample(
            law.model(sde), (3, 2), solver=solver, seed=0, dtype=torch.float64, trajectory=True, steps=4
        )
        assert torch.allclose(solution.samples, torch.tensor([0.7, -0.2], dtype=torch.float64), atol=1e-9)
        assert solution.trajectory is not None
        assert len(solution.trajectory) == len(solution.times)
        assert torch.equal(solution.trajectory[-1], solution.samples)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_trajectory_to_noise_zero_stands_at_its_times(solver: str) -> None:
    law, sde = gaussian(), ss.RectifiedFlow()
    start = law.marginal(sde, 1.0).sample(3, generator=torch.Generator().manual_seed(4))
    times = [1.0, 0.6, 0.2, 0.0]
    solution = ss.sample(law.model(sde), start=start, solver=solver, grid=times, rtol=1e-8, atol=1e-8, trajectory=True)
    assert solution.trajectory is not None
    for t, state in zip(times[:-1], solution.trajectory, strict=False):
        assert torch.allclose(state, law.flow(sde, start, 1.0, t), rtol=1e-5, atol=1e-6)
    assert torch.equal(solution.trajectory[-1], solution.samples)


def test_a_tolerance_that_cannot_be_met_says_so() -> None:
    def jump(x: Tensor, t: Tensor) -> Tensor:  # a velocity that grows faster than any step can follow
        return -1e4 * x / (t[:, None] - 0.5)

    model = ss.ScoreModel(jump, ss.RectifiedFlow(), predicts="velocity")
    with pytest.raises(ss.ScoreSolveError, match=r"rk45 cannot meet|NaN or infinity|more than nfe"):
        ss.sample(model, start=torch.ones(1, 1), solver="rk45", grid=[1.0, 0.4], nfe=20_000)


def test_both_agree_in_float32_images() -> None:
    law = ss.exact.Empirical(torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(3)), 0.3)
    ends = [ss.sample(law.model(ss.SubVPSDE()), (5, 1, 4, 4), solver=solver, seed=1).samples for solver in SOLVERS]
    assert torch.allclose(ends[0], ends[1], atol=2e-4)
    assert ends[0].dtype == torch.float32
