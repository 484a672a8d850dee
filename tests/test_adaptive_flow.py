"""Adaptive solvers with a step per sample: errors against tolerances, independence of batch mates, failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import PROCESSES, gaussian, interval, mixture_2d
from torch import Tensor

import scoresolve as ss
from benchmarks.operations import Operations

SOLVERS = ["adaptive_abm", "adaptive_dp5", "adaptive_tsit5", "adaptive_bs3", "adaptive_dpm_12", "adaptive_dpm_23"]
FAST = ["adaptive_abm", "adaptive_dp5", "adaptive_dpm_23"]


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def starts(law: ss.exact.Law, sde: ss.SDE, t: float, batch: int = 16) -> Tensor:
    return law.marginal(sde, t).sample(batch, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("solver", "order", "evaluations"),
    # order 6 is that of five outputs with their corrector; the seventh stage of a pair is the first of the next step
    [
        ("adaptive_abm", 6, 1),
        ("adaptive_dp5", 5, 6),
        ("adaptive_tsit5", 5, 6),
        ("adaptive_bs3", 3, 3),
        ("adaptive_dpm_12", 2, 2),
        ("adaptive_dpm_23", 3, 3),
    ],
)
def test_the_solvers_declare_what_they_are_and_ask_for_their_own_defaults(
    solver: str, order: int, evaluations: int
) -> None:
    info, times = ss.get_solver(solver), np.array([1.0, 0.1])
    assert (info.kind, info.adaptive, info.order, info.evaluations) == ("ode", True, order, evaluations)
    runner = info.build(PROCESSES["vp"], times)
    assert (runner.rtol, runner.atol, runner.dense) == (1e-3, 1e-3, False)
    defaults = {"clock": "log_flow", "order": 5, "prediction": "data"}
    named = {name: value for name, value in defaults.items() if name in info.options}
    assert info.build(PROCESSES["vp"], times, **named).method == runner.method
    own = info.build(PROCESSES["vp"], times, rtol=0.3, atol=0.2, dense=True)
    assert (own.rtol, own.atol, own.dense, own.times.tolist()) == (0.3, 0.2, True, [1.0, 0.1])


@pytest.mark.property(35)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "ddpm_table"])
def test_the_error_is_that_of_the_tolerance(name: str, solver: str) -> None:
    """Against the closed-form flow of a Gaussian: below 10 tolerances from 1e-2 to 1e-6, and falling."""
    sde, law = PROCESSES[name], gaussian()
    t_max, t_min = interval(sde)
    x = starts(law, sde, t_max)
    exact = law.flow(sde, x, t_max, t_min)
    errors, calls = [], []
    powers = (2, 4) if solver == "adaptive_dpm_12" else (2, 3, 4, 5, 6)  # order 2: 400 calls for 1e-6
    for tolerance in [10.0**-p for p in powers]:
        solution = ss.sample(
            law.model(sde), start=x, solver=solver, grid=[t_max, t_min], rtol=tolerance, atol=tolerance
        )
        errors.append(rms(solution.samples - exact))
        calls.append(solution.nfe)
        assert errors[-1] < 10 * tolerance
    assert all(np.diff(errors) < 0)
    assert all(np.diff(calls) > 0)


@pytest.mark.parametrize(
    ("solver", "tolerances"),
    [
        ("adaptive_abm", (1e-7, 1e-11)), ("adaptive_dp5", (1e-7, 1e-11)), ("adaptive_tsit5", (1e-7, 1e-11)),
        ("adaptive_bs3", (1e-5, 1e-8)), ("adaptive_dpm_12", (1e-3, 1e-5)), ("adaptive_dpm_23", (1e-5, 1e-8)),
    ],
)  # fmt: skip
def test_the_declared_order_is_the_measured_one(solver: str, tolerances: tuple[float, float]) -> None:
    """error ~ steps^-order between two tolerances (measured: 5.5, 4.9, 5.1, 3.0, 2.0, 2.8)."""
    sde, law = ss.VPSDE(), gaussian()
    t_max, t_min = interval(sde)
    x = starts(law, sde, t_max, 4)
    exact = law.flow(sde, x, t_max, t_min)
    errors, steps = [], []
    for tolerance in tolerances:
        solution = ss.sample(
            law.model(sde), start=x, solver=solver, grid=[t_max, t_min], rtol=tolerance, atol=tolerance
        )
        errors.append(rms(solution.samples - exact))
        steps.append(solution.stats["accepted"].double().mean().item())
    order = math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])
    assert order == pytest.approx(ss.get_solver(solver).order, abs=0.6)  # Adams: not all steps are of its highest


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDM()], ids=repr)
def test_tolerances_are_met_on_a_mixture_and_adams_is_the_cheapest(sde: ss.SDE) -> None:
    """A nonlinear flow, 64 samples, against a run at 1e-10: within a factor of 10 of the tolerance on both sides."""
    model = mixture_2d().model(sde)
    x = starts(mixture_2d(), sde, sde.t_max, 64)
    ends = {"grid": [sde.t_max, model.t_eps]}
    exact = ss.sample(model, start=x, solver="adaptive_dp5", rtol=1e-10, atol=1e-10, **ends).samples
    tolerances = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

    def work(solver: str) -> tuple[np.ndarray, np.ndarray]:
        """Errors, and the calls that a sample took part in on average, at the tolerances."""
        runs = [ss.sample(model, start=x, solver=solver, rtol=tol, atol=tol, **ends) for tol in tolerances]
        return np.array([rms(run.samples - exact) for run in runs]), np.array(
            [run.stats["network_rows"] / 64 for run in runs]
        )

    errors, calls = work("adaptive_abm")
    assert all(np.diff(errors) < 0)
    assert all((0.1 * np.array(tolerances) < errors) & (errors < 10 * np.array(tolerances)))
    others, other_calls = work("rk45")
    at_equal_error = np.interp(-np.log(errors), -np.log(others), np.log(other_calls))
    assert all(calls < 0.6 * np.exp(at_equal_error))


@pytest.mark.parametrize("clock", ["t", "rho", "flow", "log_flow", "log_rho"])
def test_every_clock_gives_the_same_flow(clock: str) -> None:
    sde, law = ss.SubVPSDE(), gaussian()
    x = starts(law, sde, 1.0)
    for solver in ("adaptive_abm", "adaptive_dp5"):
        solution = ss.sample(law.model(sde), start=x, solver=solver, clock=clock, rtol=1e-7, atol=1e-7)
        # rho spends its length on pure noise: steps there are long, and Adams' high orders pay for it
        assert rms(solution.samples - law.flow(sde, x, 1.0, sde.t_min)) < (3e-5 if clock == "rho" else 1e-6)


def test_both_exponential_forms_and_both_directions() -> None:
    """Data and noise prediction agree; up and down again comes back."""
    sde, law = ss.VPSDE(), gaussian()
    x0 = starts(law, sde, sde.t_min)
    for options in ({"prediction": "data"}, {"prediction": "noise"}):
        up = ss.encode(law.model(sde), x0, solver="adaptive_dpm_23", rtol=1e-6, atol=1e-6, **options)
        assert rms(up.samples - law.flow(sde, x0, sde.t_min, 1.0)) < 1e-5
    up = ss.encode(law.model(sde), x0, solver="adaptive_abm", rtol=1e-8, atol=1e-8)
    down = ss.sample(law.model(sde), start=up.samples, solver="adaptive_abm", rtol=1e-8, atol=1e-8)
    assert rms(down.samples - x0) < 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch_mates(solver: str) -> None:
    """Alone, in a batch of 64 and in shuffled order: the same to 1e-6 and with the same calls."""
    model, settings = mixture_2d().model(ss.VPSDE()), {"solver": solver, "rtol": 1e-3, "atol": 1e-3}
    x = starts(mixture_2d(), ss.VPSDE(), 1.0, 64)
    together = ss.sample(model, start=x, **settings)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = ss.sample(model, start=x[order], **settings)
    torch.testing.assert_close(shuffled.samples, together.samples[order], rtol=0, atol=1e-6)
    assert torch.equal(shuffled.nfe_per_sample, together.nfe_per_sample[order])
    assert len(set(together.nfe_per_sample.tolist())) > 3  # each has its own steps
    for row in (0, 17, 63):
        alone = ss.sample(model, start=x[row : row + 1], **settings)
        torch.testing.assert_close(alone.samples[0], together.samples[row], rtol=0, atol=1e-6)
        assert alone.nfe == together.nfe_per_sample[row]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDM(), ss.RectifiedFlow()], ids=repr)
def test_the_network_never_works_on_samples_that_have_arrived(sde: ss.SDE, solver: str) -> None:
    """What it sees is what the samples' calls add up to, inside the interval; the denoising at the end counts."""
    exact, seen = mixture_2d().model(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return exact.data(x, t)

    model = ss.ScoreModel(net, sde, predicts="data")
    solution = ss.sample(model, (16, 2), solver=solver, seed=0, dtype=torch.float64)
    assert solution.nfe == model.nfe == solution.nfe_per_sample.max()
    assert len(seen) == solution.nfe_per_sample.sum() == solution.stats["network_rows"]
    assert max(seen) <= sde.t_max
    assert min(seen) >= (sde.t_eps if sde.sigma(sde.t_min) == 0 else sde.t_min)
    assert torch.isfinite(solution.samples).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_at_most_one_read_of_the_device_in_a_step(solver: str) -> None:
    model, x = mixture_2d().model(ss.VPSDE()), starts(mixture_2d(), ss.VPSDE(), 1.0, 8)
    calls = ss.get_solver(solver).evaluations
    found = []
    for tolerance in (1e-2, 1e-4):
        with Operations() as mode:
            solution = ss.sample(model, start=x, solver=solver, rtol=tolerance, atol=tolerance)
        attempts = (solution.nfe - 1) / calls
        found.append((attempts, mode.reads))
    (few, few_reads), (many, many_reads) = found
    assert many_reads - few_reads <= many - few + 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_exploding_sample_never_costs_the_others(solver: str) -> None:
    """63 come back as if it had not been there; the one is named, with its time."""
    exact = mixture_2d().model(ss.VPSDE())
    tag = torch.arange(64.0)

    def net(x: Tensor, t: Tensor, tag: Tensor) -> Tensor:
        return torch.where(((tag == 41) & (t < 0.37))[:, None], 1e30 / x.new_zeros(()), exact.data(x, t))

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="data").condition(tag=tag)
    x = starts(mixture_2d(), ss.VPSDE(), 1.0, 64)
    settings = {"start": x, "solver": solver}
    solution = ss.sample(model, on_error="mask", **settings)
    healthy = ss.sample(exact, **settings)
    others = tag != 41
    torch.testing.assert_close(solution.samples[others], healthy.samples[others], rtol=0, atol=1e-9)
    assert torch.equal(solution.nfe_per_sample[others], healthy.nfe_per_sample[others])
    assert torch.isnan(solution.samples[41]).all()
    (failure,) = solution.failures
    assert (failure.sample, failure.status) == (41, "nonfinite")
    assert failure.time == pytest.approx(0.37, abs=1e-3)
    with pytest.raises(ss.NonFiniteError, match=r"1 of 64 samples did not arrive \(sample 41: nonfinite at t = 0.3"):
        ss.sample(model, **settings)


def test_a_network_that_fails_from_the_start() -> None:
    model = ss.ScoreModel(lambda x, t: x * math.nan, ss.VPSDE())
    with pytest.raises(ss.NonFiniteError, match=r"3 of 3 samples did not arrive .*at t = 1 after 1 calls"):
        ss.sample(model, (3, 2), solver="adaptive_abm", seed=0)


@pytest.mark.parametrize("solver", FAST)
def test_a_step_that_vanishes_has_its_own_status(solver: str) -> None:
    """A network without any limit as steps shrink: it jumps with the bits of t."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        return 100 * torch.frac(t.double() * 1e13)[:, None].to(x) * torch.ones_like(x)

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise")
    solution = ss.sample(model, (2, 3), solver=solver, seed=0, rtol=1e-9, atol=1e-9, dtype=torch.float64,
                         on_error="mask")  # fmt: skip
    assert set(solution.status) == {"step_underflow"}
    with pytest.raises(ss.StepUnderflowError, match="loosen rtol= and atol="):
        ss.sample(model, (2, 3), solver=solver, seed=0, rtol=1e-9, atol=1e-9, dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_budget_is_never_exceeded(solver: str) -> None:
    model = mixture_2d().model(ss.EDM())
    with pytest.raises(ss.BudgetError, match=r"max_nfe at t = .* after \d+ calls\).*raise nfe="):
        ss.sample(model, (4, 2), solver=solver, nfe=12, seed=0, rtol=1e-8, atol=1e-8)
    assert model.nfe <= 12
    masked = ss.sample(model, (4, 2), solver=solver, nfe=12, seed=0, rtol=1e-8, atol=1e-8, on_error="mask")
    assert set(masked.status) == {"max_nfe"}
    assert all(failure.time > model.t_eps for failure in masked.failures)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE()], ids=repr)
def test_dense_output_is_as_accurate_as_the_steps(sde: ss.SDE, solver: str) -> None:
    """At times of its own for each sample, against the closed form; at the ends exactly the run's states."""
    law = gaussian()
    x = starts(law, sde, sde.t_max)
    tolerance = 1e-4 if solver == "adaptive_dpm_12" else 1e-6
    solution = ss.sample(law.model(sde), start=x, solver=solver, rtol=tolerance, atol=tolerance, dense=True)
    uniform = torch.rand(16, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lam = sde.lam(sde.t_max) + uniform * (sde.lam(sde.t_min) - sde.lam(sde.t_max))
    for t in sde.time(lam).clamp(sde.t_min, sde.t_max).T:
        exact = torch.cat([law.flow(sde, x[i : i + 1], sde.t_max, float(t[i])) for i in range(16)])
        size = (sde.alpha(t) + sde.sigma(t))[:, None]
        assert rms((solution.at(t) - exact) / size) < 20 * tolerance
    torch.testing.assert_close(solution.at(sde.t_max), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.at(sde.t_min), solution.samples, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="within those of the run"):
        solution.at(sde.t_max * 1.01)


def test_trajectories_and_callbacks_see_the_times_of_the_grid() -> None:
    sde, law, seen = ss.EDM(), gaussian(), []
    x, times = starts(law, sde, 80.0), [80.0, 20.0, 3.0, 0.7, 0.0]
    solution = ss.sample(
        law.model(sde), start=x, solver="adaptive_abm", grid=times, rtol=1e-7, atol=1e-7, trajectory=True,
        callback=lambda step: seen.append((step.index, step.time)),
    )  # fmt: skip
    assert seen == list(enumerate(times))[1:]
    for t, state in zip(times[:-1], solution.trajectory[:-1], strict=True):
        exact = law.flow(sde, x, 80.0, t)
        assert rms((state - exact) / (1 + t)) < 1e-5
    assert torch.equal(solution.trajectory[-1], solution.samples)
    with pytest.raises(ValueError, match="dense=True"):
        solution.at(3.0)


def test_gradients_flow_to_the_start() -> None:
    """d x(end) / d x(start) of a Gaussian is the ratio of standard deviations."""
    sde, law = ss.VPSDE(), ss.exact.Gaussian(torch.zeros(1), 0.25)
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64, requires_grad=True)
    for solver in FAST:
        end = ss.sample(law.model(sde), start=x, solver=solver, rtol=1e-8, atol=1e-8, grad=True).samples
        (slope,) = torch.autograd.grad(end.sum(), x)
        stretch = law.flow(sde, torch.ones(1, 1, dtype=torch.float64), 1.0, sde.t_min).item()
        torch.testing.assert_close(slope, torch.full_like(slope, stretch), rtol=1e-6, atol=0)


def test_gradients_flow_through_the_states_between() -> None:
    sde, law = ss.VPSDE(), ss.exact.Gaussian(torch.zeros(1), 0.25)
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    run = {"start": x, "solver": "adaptive_abm", "rtol": 1e-8, "atol": 1e-8, "grad": True}
    solution = ss.sample(law.model(sde), grid=[1.0, 0.4, 0.1], trajectory=True, **run)
    (slope,) = torch.autograd.grad(solution.trajectory[1].sum(), x)
    stretch = law.flow(sde, torch.ones(1, 1, dtype=torch.float64), 1.0, 0.4)
    torch.testing.assert_close(slope, stretch, rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", FAST)
def test_float32_images_with_guidance(solver: str) -> None:
    """Conditioning with a row for each sample follows the samples that are left."""

    def net(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        return shift[:, None, None, None] * torch.ones_like(x)  # the data, whatever x

    shift = torch.linspace(-1, 1, 6)
    model = ss.ScoreModel(net, ss.RectifiedFlow(), predicts="data").condition(shift=shift)
    solution = ss.sample(model.guide(2.0, shift=torch.zeros(1)), (6, 1, 4, 4), solver=solver, seed=0)
    torch.testing.assert_close(solution.samples, 2 * net(solution.samples, shift, shift), rtol=1e-5, atol=1e-5)
    assert solution.samples.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol > 0"),
        ({"atol": -1.0}, "atol > 0"),
        ({"clock": "lambda"}, "unknown clock 'lambda'"),
        ({"order": 0}, "an order from 1 to 8"),
    ],
)
def test_bad_requests_are_refused_before_the_network_is_called(options: dict[str, Any], message: str) -> None:
    model = mixture_2d().model(ss.RectifiedFlow())
    with pytest.raises(ValueError, match=message):
        ss.sample(model, (2, 2), solver="adaptive_abm", seed=0, **options)
    assert model.nfe == 0


@pytest.mark.parametrize("solver", FAST)
def test_a_budget_of_just_enough_calls_is_enough(solver: str) -> None:
    model, settings = mixture_2d().model(ss.EDM()), {"solver": solver, "seed": 0}
    free = ss.sample(model, (1, 2), **settings)
    assert torch.equal(ss.sample(model, (1, 2), nfe=free.nfe, **settings).samples, free.samples)
    with pytest.raises(ss.BudgetError):
        ss.sample(model, (1, 2), nfe=free.nfe - 1, **settings)


def test_at_the_last_time_stands_the_sample_also_after_a_jump_to_noise_zero() -> None:
    for sde in (ss.EDM(), ss.VPSDE()):
        solution = ss.sample(gaussian().model(sde), (2, 3), solver="adaptive_abm", seed=0, dense=True)
        assert torch.equal(solution.at(float(solution.times[-1])), solution.samples)


@pytest.mark.parametrize("clock", ["log_rho", "rho", "log_flow"])
def test_the_first_step_from_pure_noise_is_as_accurate_as_the_others(clock: str) -> None:
    """On clocks that are infinite there it is of order one, and short enough."""
    sde, law = ss.RectifiedFlow(), gaussian()
    x = starts(law, sde, 1.0)
    for tolerance in (1e-3, 1e-5):
        run = {"solver": "adaptive_dp5", "clock": clock, "rtol": tolerance, "atol": tolerance}
        end = ss.sample(law.model(sde), start=x, t_min=0.05, **run).samples
        assert rms(end - law.flow(sde, x, 1.0, 0.05)) < 5 * tolerance
