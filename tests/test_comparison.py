"""Comparisons and their reference, against the closed flow of a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import PROCESSES, gaussian

import scoresolve as ss
from scoresolve.comparison import COMPARED
from scoresolve.reference import converge


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_errors_are_those_against_the_closed_flow(name: str) -> None:
    sde, law = PROCESSES[name], gaussian()
    model, last = law.model(sde), max(sde.t_min, sde.t_eps)
    found = ss.compare(model, (16, 3), solvers=["ddim", "dpmpp_2m"], nfe=[10, 20], dtype=torch.float64, seed=3)
    start = ss.sample(model, (16, 3), solver="ddim", nfe=1, dtype=torch.float64, seed=3, trajectory=True).trajectory[0]
    ends = law.flow(sde, start, sde.t_max, last)
    if sde.sigma(sde.t_min) == 0:  # a jump to the data prediction
        ends = model.data(ends, last)
    assert found.reference.consistency < 1e-6
    assert (found.reference.ends - ends).abs().max() < 1e-5
    for row in found.rows:
        samples = ss.sample(model, start=start, solver=row.solver, nfe=row.asked).samples
        assert row.error == pytest.approx((samples - ends).square().mean().sqrt().item(), rel=1e-2)
        assert row.relative == pytest.approx(row.error / ends.std().item(), rel=1e-3)
        assert row.nfe == row.asked
    assert found.best(20).solver == "dpmpp_2m"
    assert found.nfe == model.nfe - sum(row.asked for row in found.rows) - 1 - (sde.sigma(sde.t_min) == 0)


def test_the_default_solvers_are_compared_once_each() -> None:
    found = ss.compare(gaussian().model(ss.VPSDE()), (4, 3), nfe=[4, 30], dtype=torch.float64)
    runs = [(row.solver, row.asked) for row in found.rows]
    assert len(set(runs)) == len(runs)
    assert {name for name, _ in runs} == {*COMPARED, ss.default_solver(4), ss.default_solver(30)}


def test_what_cannot_be_compared_is_refused_and_what_fails_is_a_row() -> None:
    model = gaussian().model(ss.VPSDE())
    for noisy in ("ddpm", "Euler a"):
        with pytest.raises(ValueError, match=f"{noisy}' draws noise"):
            ss.compare(model, (2, 3), solvers=[noisy])
    with pytest.raises(ValueError, match="at least one number of calls"):
        ss.compare(model, (2, 3), nfe=[])
    assert model.nfe == 0
    failed = ss.compare(model, (2, 3), solvers=["adaptive_dp5"], nfe=[2])
    assert math.isnan(failed.rows[0].error)
    assert "did not arrive" in failed.rows[0].failure
    with pytest.raises(ValueError, match="a budget that was run, got 2"):
        failed.best(2)


def test_a_network_whose_answers_jump_with_time_has_a_reference_too() -> None:
    """A whole index has no flow to integrate adaptively; the law's own flow is within what the rounding does."""
    sde, law = ss.DiscreteVPSDE.linear(), gaussian()
    net = law.model(sde).noise
    model = ss.ScoreModel(lambda x, index: net(x, (index + 1) / 1000), sde, predicts="noise", time="index")
    start = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = converge(model, start)
    assert found.method == "dpmpp_2m, 500 steps"
    assert (found.ends - law.flow(sde, start, 1.0, 1e-3)).abs().max() < 0.02
