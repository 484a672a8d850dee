"""What a run is beside its map: where it can be cut, what it asks and draws, and what it leaves as it was."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ONE_STEP, PROCESSES, TABLES, gaussian
from strategies import FIXED, SOLVERS, beyond, mixing, named, normal, pointwise, problems, work
from torch import Tensor

import scoresolve as ss
from benchmarks.order_errors import seeded
from scoresolve.integrations.stepping import Mailbox, Stepper
from scoresolve.noise import SOLVER

SDE = ss.VPSDE()
ADAPTIVES = [info for info in SOLVERS if info.adaptive]
few = settings(max_examples=1)
PICKLED = tuple(sde for name, sde in PROCESSES.items() if name != "user")  # whose functions have no name


def model(net: Any = mixing) -> ss.ScoreModel:
    return ss.ScoreModel(net, SDE, predicts="v")


@pytest.mark.property(
    17, beyond=beyond("has no state between two calls that is handed out", "annealed_langevin", *ADAPTIVES)
)
@pytest.mark.parametrize("info", TABLES, ids=named)
@few
@given(data=st.data(), share=st.sampled_from([0.5, 0.2, 0.9]))
def test_a_run_goes_on_from_its_saved_state(info: ss.SolverInfo, data: st.DataObject, share: float) -> None:
    """Pickled between any two network calls: to the bit the run that was not, and ss.sample's to rounding."""
    problem = data.draw(problems(info, sdes=PICKLED))
    table = ss.build_table(info.name, problem.sde, problem.times)
    streams = ss.SampleStreams(problem.seed, range(len(problem.start)))
    ends, cut = [], int(share * table.nfe)
    for saved in (None, cut):
        box = Mailbox()
        stepper = Stepper(table, ss.ScoreModel(box, problem.sde, predicts="data"), box, problem.start)
        for number, row in enumerate(table.rows):
            stepper = pickle.loads(pickle.dumps(stepper)) if number == saved else stepper
            label = torch.full((len(problem.start),), row.t, dtype=torch.float64)
            stepper.answer(pointwise(stepper.y, label), lambda k, like: streams.draw(SOLVER, k, like))
        ends.append(stepper.x)
    assert torch.equal(*ends)
    assert torch.allclose(ends[0], problem.run(info, pointwise), rtol=1e-9, atol=1e-9)


class Later:
    """The draws of a source from number ``first`` on."""

    def __init__(self, source: ss.SampleStreams, first: int) -> None:
        self.source, self.first = source, first

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        return self.source.draw(stream, index + self.first, like)


@pytest.mark.property(18, beyond=beyond("keeps outputs, or is no table", "annealed_langevin", *ADAPTIVES))
@pytest.mark.parametrize("info", TABLES, ids=named)
@few
@given(data=st.data(), share=st.sampled_from([0.5, 0.2, 0.9]))
def test_a_one_step_solver_keeps_nothing(info: ss.SolverInfo, data: st.DataObject, share: float) -> None:
    """From the state at any of its times alone, with the noise from there on; others keep outputs, and say so."""
    problem = data.draw(problems(info))
    table = ss.build_table(info.name, problem.sde, problem.times)
    if not table.one_step or "start" in info.options or info.name in ("dpm_fast", "edm_euler", "edm_heun", "restart"):
        return  # rows of a part of the grid are not a part of the rows
    cut = 1 + int(share * (len(problem.times) - 2)) if len(problem.times) > 2 else 0
    streams = ss.SampleStreams(problem.seed, range(len(problem.start)))
    half = problem.run(info, pointwise, grid=problem.times[: cut + 1], noise=streams) if cut else problem.start
    done = [row.s for row in table.rows].index(problem.times[cut]) + 1 if cut else 0
    found = problem.run(info, pointwise, half, grid=problem.times[cut:], noise=Later(streams, done))
    assert torch.allclose(found, problem.run(info, pointwise, noise=streams), rtol=1e-11, atol=1e-12)


@pytest.mark.property(19)
@pytest.mark.parametrize("info", [info for info in TABLES if info.kind == "ode"], ids=named)
def test_up_and_down_again(info: ss.SolverInfo) -> None:
    """encode and sample: back to the data, to the solver's order; adaptive ones: test_adaptive_flow.py."""
    law = gaussian()
    x0, errors = law.marginal(SDE, 0.05).mean + 0.3 * normal(2, 3), []
    exact = law.model(SDE)
    for steps in (16, 32):
        how = {"solver": info.name, "steps": steps, "grid": "log_snr", "t_min": 0.05, "t_max": 0.9}
        latent = ss.encode(exact, x0, **how, **{k: v for k, v in seeded(info).items() if k != "start"}).samples
        errors.append(float((ss.sample(exact, start=latent, **how).samples - x0).abs().max()))
    assert errors[1] < 2 ** (0.6 - min(info.order, 2)) * errors[0] or errors[1] < 1e-6
    assert errors[1] < 0.2


@pytest.mark.property(32)
@pytest.mark.parametrize("predictor", ONE_STEP)
def test_a_corrector_that_does_nothing_leaves_the_predictor(predictor: str) -> None:
    """No steps are refused; steps of no size change nothing."""
    asked: dict[str, Any] = {"shape": (4, 3), "solver": predictor, "steps": 5, "seed": 1, "dtype": torch.float64}
    plain = ss.sample(model(), **asked).samples
    for corrector in (ss.Langevin(snr=1e-9), ss.AnnealedLangevin(snr=1e-9)):
        assert torch.allclose(ss.sample(model(), corrector=corrector, **asked).samples, plain, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        ss.Langevin(steps=0)


class Silent:
    """Noise that nobody may ask for."""

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        raise AssertionError(f"draw {index} of stream {stream} was asked for")


WITHOUT = {
    "dpmpp_2m_sde": "dpmpp_2m",
    "euler_ancestral": "ddim",
    "seeds_1": "dpm_solver_1",
    "dpmpp_2s_ancestral": "dpmpp_2s",
}
"""Stochastic solvers, and what they are at eta = 0."""


@pytest.mark.property(33)
@pytest.mark.parametrize("info", [info for info in FIXED if "eta" in info.options or info.kind == "ode"], ids=named)
def test_without_noise_nothing_is_drawn(info: ss.SolverInfo) -> None:
    if info.name in ("sra1", "sosra"):
        pytest.skip("their noise level is above 0: refused in test_solvers.py")
    how = {"start": normal(3, 2), "grid": ss.grids.log_snr(SDE, 6, 0.9, 0.1), "noise": Silent()}
    options = {"eta": 0.0} if "eta" in info.options else {}
    found = ss.sample(model(), solver=info.name, **how, **options).samples
    if info.name in WITHOUT:
        assert torch.allclose(found, ss.sample(model(), solver=WITHOUT[info.name], **how).samples, rtol=0, atol=1e-12)


@pytest.mark.property(34)
@pytest.mark.parametrize("info", FIXED, ids=named)
@few
@given(data=st.data())
def test_the_network_is_asked_at_the_times_of_the_rows(info: ss.SolverInfo, data: st.DataObject) -> None:
    """As often as there are rows, at their times, none beyond the ends; and with every sample."""
    problem = data.draw(problems(info))
    seen: list[Tensor] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return pointwise(x, t)

    asked = ss.ScoreModel(net, problem.sde, predicts="data")
    solution = ss.sample(asked, start=problem.start, solver=info.name, grid=problem.times, seed=0)
    assert solution.nfe == len(seen)
    times = torch.stack(seen)
    assert times.shape == (solution.nfe, len(problem.start))
    assert bool((times == times[:, :1]).all())
    if solution.table is not None:
        assert np.allclose(times[:, 0], [row.t for row in solution.table.rows], rtol=1e-12)
    low, high = problem.times[-1], problem.times[0]
    churned = info.name.startswith("edm_")  # goes up before each step, from the first on
    assert float(times.min()) >= low * (1 - 1e-9)
    assert churned or float(times.max()) <= high * (1 + 1e-9)


class Module(torch.nn.Module):
    """A network in training mode, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * pointwise(x, t)


@pytest.mark.property(36, 37, 38, beyond=beyond("hands its state to scipy: grad=True is refused", "scipy_rk45"))
@pytest.mark.parametrize("info", SOLVERS, ids=named)
def test_what_is_the_callers_stays_and_a_graph_comes_when_asked_for(info: ss.SolverInfo) -> None:
    net, start = Module(), normal(3, 2)
    kept, version = start.clone(), start._version
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    asked = {"start": start, "seed": 0, **work(info)}
    found = ss.sample(model(net), **asked).samples
    assert not found.requires_grad
    if info.name != "scipy_rk45":
        drawn = ss.sample(model(net), **asked, grad=True).samples
        assert drawn.requires_grad
        assert torch.allclose(drawn, found, rtol=1e-9, atol=1e-9)
    assert net.training
    assert net.scale.grad is None
    assert start._version == version
    assert torch.equal(start, kept)
    assert not start.requires_grad
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert torch.is_grad_enabled()


@pytest.mark.property(42)
@pytest.mark.parametrize("info", SOLVERS, ids=named)
def test_modes_of_torch_change_no_bit(info: ss.SolverInfo) -> None:
    """no_grad, inference_mode, and a network written for one sample under vmap. Compiled: test_same_runs.py."""
    start = normal(3, 4)
    asked = {"seed": 0, **work(info)}
    plain = ss.sample(model(pointwise), start=start, **asked).samples
    with torch.no_grad():
        assert torch.equal(ss.sample(model(pointwise), start=start, **asked).samples, plain)
    with torch.inference_mode():
        assert torch.equal(ss.sample(model(pointwise), start=start.clone(), **asked).samples, plain)
    single = torch.func.vmap(lambda x, t: pointwise(x[None], t[None])[0])
    assert torch.equal(ss.sample(model(single), start=start, **asked).samples, plain)
