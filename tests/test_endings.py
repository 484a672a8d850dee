"""The ends of adaptive runs: the last call of the network, times next to the ends, tiny budgets, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracles import gaussian
from torch import Tensor

import scoresolve as ss

SOLVERS = ["adaptive_abm", "adaptive_dp5", "adaptive_dpm_23", "adaptive_sde_sra"]
PROCESSES = [ss.VPSDE(), ss.EDM(), ss.RectifiedFlow()]


class LastAnswer:
    """A network whose answer at one call is NaN for the first sample."""

    def __init__(self, model: ss.ScoreModel, call: int) -> None:
        self.model, self.call = model, call

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.call -= 1
        answer = self.model.data(x, t)
        return answer.index_fill(0, torch.tensor([0]), math.nan) if self.call == 0 else answer


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_a_last_answer_that_is_not_finite_is_never_silent(sde: ss.SDE, solver: str) -> None:
    """The denoising at the end is beyond all steps, and is looked at too: an error, or a mask."""
    model, asked = gaussian().model(sde), {"shape": (2, 3), "solver": solver, "seed": 0, "denoise": True}
    calls = ss.sample(model, **asked).nfe
    fragile = [ss.ScoreModel(LastAnswer(model, calls), sde, predicts="data") for _ in range(2)]
    with pytest.raises(ss.NonFiniteError, match="1 of 2 samples did not arrive"):
        ss.sample(fragile[0], **asked)
    solution = ss.sample(fragile[1], on_error="mask", **asked)
    assert solution.status == ("nonfinite", "ok")
    assert torch.isnan(solution.samples[0]).all()
    assert torch.isfinite(solution.samples[1]).all()


@pytest.mark.parametrize("options", [{}, {"clock": "log_rho"}, {"solver": "adaptive_dpm_23"}], ids=str)
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_states_at_every_time_asked_for_next_to_the_ends_too(sde: ss.SDE, options: dict[str, Any]) -> None:
    """Next to pure noise, where a clock is infinite, and below the time at which a run to noise zero would stop."""
    law = gaussian()
    times = [sde.t_max * share for share in (1.0, 0.999, 0.99, 0.5)] + [sde.t_eps, 0.5 * sde.t_eps, 0.0]
    x = law.marginal(sde, sde.t_max).sample(4, generator=torch.Generator().manual_seed(0))
    asked = {"solver": "adaptive_abm", "rtol": 1e-6, "atol": 1e-6, "trajectory": True, "grid": times, **options}
    solution = ss.sample(law.model(sde), start=x, **asked)
    for t, state in zip(times[:-1], solution.trajectory[:-1], strict=True):
        exact = law.flow(sde, x, sde.t_max, t)
        assert float((state - exact).abs().max()) < 1e-4 * (sde.alpha(t) + sde.sigma(t))


@pytest.mark.parametrize("solver", ["adaptive_abm", "adaptive_dpm_23"])
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_the_smallest_budgets(sde: ss.SDE, solver: str) -> None:
    """Refused before the network is called, or spent and not exceeded."""
    closes, jumps = sde.sigma(sde.t_min) == 0, solver == "adaptive_dpm_23" and isinstance(sde, ss.RectifiedFlow)
    least = 1 + closes + jumps
    for nfe in range(1, 5):
        model = gaussian().model(sde)
        asked = {"shape": (2, 3), "solver": solver, "nfe": nfe, "seed": 0, "on_error": "mask"}
        if nfe < least:
            with pytest.raises(ValueError, match=f"nfe of at least {least}"):
                ss.sample(model, **asked)
            assert model.nfe == 0
        else:
            solution = ss.sample(model, **asked)
            assert solution.nfe == model.nfe <= nfe
            assert set(solution.status) == {"max_nfe"}


def test_dense_output_has_its_range() -> None:
    """Times outside it are refused, and a sample that never moved is NaN beyond its start."""
    sde, law = ss.VPSDE(), gaussian()
    asked = {"shape": (2, 3), "solver": "adaptive_abm", "seed": 0, "dense": True, "on_error": "mask"}
    solution = ss.sample(law.model(sde), **asked)
    for t in (1.01, 1e-4, 0.0, math.nan):
        with pytest.raises(ValueError, match=r"times within those of the run, from 1 to 0\.001"):
            solution.at(t)
    with pytest.raises(ValueError, match=r"one time, or 2, one for each sample; got shape \(3,\)"):
        solution.at(torch.rand(3, generator=torch.Generator().manual_seed(0)))
    stuck = ss.sample(law.model(sde), nfe=1, **asked)
    assert torch.isfinite(stuck.at(1.0)).all()
    assert torch.isnan(stuck.at(0.5)).all()


@pytest.mark.parametrize("solver", [*SOLVERS, "rk45"])
def test_what_cannot_be_done_is_refused(solver: str) -> None:
    model = gaussian().model(ss.VPSDE())
    asked = {"shape": (2, 3), "solver": solver, "seed": 0}
    with pytest.raises(ValueError, match="a callback cannot change the state of"):
        ss.sample(model, callback=lambda step: 0 * step.x, **asked)
    with pytest.raises(ValueError, match="this solver chooses its own steps"):
        ss.sample(model, corrector="langevin", **asked)
    if solver != "rk45":
        with pytest.raises(ValueError, match="a finite atol > 0, got atol=inf"):
            ss.sample(model, atol=math.inf, **asked)


@pytest.mark.parametrize("options", [{"clock": "rho"}, {"clock": "log_rho"}], ids=str)
def test_log_p_on_a_clock_that_is_infinite_is_refused_before_the_network_is_called(options: dict[str, Any]) -> None:
    model = gaussian().model(ss.RectifiedFlow())
    with pytest.raises(ValueError, match=r"clock='.*' is infinite at t = 1 of .*use clock='t' or 'flow'"):
        ss.log_likelihood(model, torch.zeros(2, 3), solver="adaptive_abm", **options)
    assert model.nfe == 0


def test_samples_that_are_single_numbers() -> None:
    """Shape (batch,) is as good as (batch, 1), for samples, log p and paths between latents."""
    sde = ss.VPSDE()
    net = ss.exact.Gaussian([0.3], 0.5).model(sde)
    model = ss.ScoreModel(lambda x, t: net.data(x[:, None], t)[:, 0], sde, predicts="data")
    x = torch.tensor([0.1, -0.7, 1.3], dtype=torch.float64)
    for options in ({}, {"divergence": "hutchinson", "probes": 2}):
        found = ss.log_likelihood(model, x, **options)
        torch.testing.assert_close(found.log_prob, ss.log_likelihood(net, x[:, None], **options).log_prob)
        assert found.latents.shape == (3,)
    path = ss.interpolate(x, 2 * x, [0.0, 0.5, 1.0])
    torch.testing.assert_close(path, torch.stack([x, 1.5 * x, 2 * x]))


def test_a_network_that_writes_over_its_answers() -> None:
    """Multistep methods keep what they need of them, and a denoised end stays as it is."""
    exact = gaussian().model(ss.VPSDE())
    kept = torch.empty(2, 3, dtype=torch.float64)
    model = ss.ScoreModel(lambda x, t: kept.copy_(exact.data(x, t)), ss.VPSDE(), predicts="data")
    asked = {"shape": (2, 3), "dtype": torch.float64, "seed": 0}
    for solver in ("dpmpp_2m", "unipc_3", "rk4"):
        for grad in (False, True):
            found = ss.sample(model, solver=solver, nfe=8, grad=grad, **asked).samples
            torch.testing.assert_close(found, ss.sample(exact, solver=solver, nfe=8, **asked).samples)
    found = ss.sample(model, solver="ddim", nfe=4, denoise=True, **asked).samples
    kept.fill_(math.nan)
    torch.testing.assert_close(found, ss.sample(exact, solver="ddim", nfe=4, denoise=True, **asked).samples)
