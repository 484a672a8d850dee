"""sample and encode: budgets, seeds, ends, trajectories, callbacks, and every bad request refused in time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PROCESSES, SMOOTH, TABLES, gaussian, mixture_2d
from strategies import normal
from torch import Tensor

import scoresolve as ss

FIXED = [info for info in ss.solvers() if not info.adaptive]


@given(
    info=st.sampled_from(FIXED),
    nfe=st.integers(1, 40),
    name=st.sampled_from(sorted(PROCESSES)),
    to_zero=st.booleans(),
    corrected=st.booleans(),
    denoise=st.booleans(),
)
def test_a_budget_is_met_where_the_solver_allows_and_never_exceeded(
    info: ss.SolverInfo, nfe: int, name: str, to_zero: bool, corrected: bool, denoise: bool
) -> None:
    sde = PROCESSES[name]
    corrector = "langevin" if corrected and info.name in ("ddim", "ddpm", "heun", "reverse_diffusion") else None
    model = mixture_2d().model(sde)
    options = {"solver": info.name, "nfe": nfe, "corrector": corrector, "denoise": denoise, "seed": 0}
    if to_zero:
        options["t_min"] = 0.0
    try:
        solution = ss.sample(model, (2, 2), **options)  # type: ignore[arg-type]
    except ValueError:
        if nfe > 2 + info.evaluations:
            raise
        return  # below the cost of one step, of its correction and of the denoising
    assert model.nfe == solution.nfe <= nfe
    family = info.evaluations + (corrector is not None)
    assert nfe - solution.nfe < family + (1 if corrector else 0)
    if family == 1:
        assert solution.nfe == nfe


def test_heun_meets_odd_budgets_with_a_last_step_of_euler() -> None:
    model = mixture_2d().model(ss.VPSDE())
    for nfe in range(1, 12):
        assert ss.sample(model, (1, 2), solver="heun", nfe=nfe, seed=0).nfe == nfe
    assert ss.sample(mixture_2d().model(ss.EDM()), (1, 2), solver="heun", steps=18, seed=0).nfe == 35


@settings(max_examples=30)
@given(
    info=st.sampled_from(FIXED),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
    picked=st.lists(st.integers(0, 8), min_size=1, max_size=9),
)
def test_sample_i_of_a_seed_is_the_same_in_any_batch(
    info: ss.SolverInfo, batch: int, seed: int, picked: list[int]
) -> None:
    """To the bit, for a network that treats samples apart, in any order and with any neighbours."""
    model = ss.ScoreModel(lambda x, t: torch.tanh(x) * (1 + t[:, None]), ss.VPSDE(), predicts="v")
    whole = ss.sample(model, (9, 2), solver=info.name, nfe=6, seed=seed).samples
    some = ss.sample(model, (len(picked), 2), solver=info.name, nfe=6, seed=seed, indices=picked).samples
    assert torch.equal(some, whole[picked])
    first = ss.sample(model, (batch, 2), solver=info.name, nfe=6, seed=seed).samples
    assert torch.equal(first, whole[:batch])


@pytest.mark.property(22)
def test_seeds_differ_and_repeat_and_a_missing_one_is_reported() -> None:
    model = mixture_2d().model(ss.VPSDE())
    run = lambda **options: ss.sample(model, (4, 2), solver="ddpm", nfe=5, **options)  # noqa: E731
    assert torch.equal(run(seed=3).samples, run(seed=3).samples)
    assert not torch.equal(run(seed=3).samples, run(seed=4).samples)
    unseeded = run()
    assert torch.equal(unseeded.samples, run(seed=unseeded.stats["seed"]).samples)
    by_generator = [run(generator=torch.Generator().manual_seed(5)).samples for _ in range(2)]
    assert torch.equal(*by_generator)


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_trajectory_times_and_callback_agree(info: ss.SolverInfo) -> None:
    model = mixture_2d().model(ss.VPSDE())
    steps: list[ss.Step] = []
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    kept = start.clone()
    solution = ss.sample(model, start=start, solver=info.name, steps=5, seed=0, trajectory=True, callback=steps.append)
    assert solution.trajectory is not None
    count = len(solution.times)
    assert count == 6 or info.name == "restart"
    assert solution.trajectory.shape == (count, 3, 2)
    assert torch.equal(solution.trajectory[0], kept)
    assert torch.equal(start, kept)
    assert torch.equal(solution.trajectory[-1], solution.samples)
    assert [step.time for step in steps] == solution.times[1:].tolist()
    assert [step.index for step in steps] == list(range(1, count))
    assert steps[-1].nfe == solution.nfe
    for step, state in zip(steps, solution.trajectory[1:], strict=True):
        assert torch.equal(step.x, state)  # later steps wrote into none of them
    assert torch.equal(solution.samples, ss.sample(model, start=start, solver=info.name, steps=5, seed=0).samples)


def test_a_run_can_be_split_at_any_step_of_a_one_step_solver() -> None:
    model, start = mixture_2d().model(ss.VPSDE()), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    times = ss.grids.log_snr(ss.VPSDE(), 6, 1.0, 1e-3)
    whole = ss.sample(model, start=start, solver="heun", grid=times).samples
    half = ss.sample(model, start=start, solver="heun", grid=times[:4]).samples
    assert torch.equal(ss.sample(model, start=half, solver="heun", grid=times[3:]).samples, whole)


@pytest.mark.parametrize("solver", ["DDIMScheduler", "PNDMScheduler", "ddim trailing", "ddim"])
def test_a_state_said_to_stand_at_t_max_is_taken_to_stand_there_or_refused(solver: str) -> None:
    """diffusers' "leading" begins below it: as an array of times it is meant, as is a start where no time is said."""
    law, sde = gaussian(), ss.DiscreteVPSDE.linear()
    model, asked = law.model(sde), {"solver": solver, "nfe": 20}
    x = law.marginal(sde, 0.3).sample(4, generator=torch.Generator().manual_seed(0))
    if "Scheduler" not in solver:
        found = ss.sample(model, start=x, t_max=0.3, **asked)
        assert found.times[0] == 0.3
        assert (found.samples - law.flow(sde, x, 0.3, 0.0)).abs().max() < 0.1
        return
    first = float(ss.sample(model, (4, 3), t_max=0.3, seed=0, **asked).times[0])  # a start of ours is scaled to it
    assert first < 0.29
    with pytest.raises(ValueError, match=rf'begins at t_max=0.3, .* begins at {first:.9g}: .* grid="trailing"'):
        ss.sample(model, start=x, t_max=0.3, **asked)
    with pytest.raises(ValueError, match=r"begins at t_max=0.3, where the state stands"):
        ss.decode(model, x, t_max=0.3, **asked)
    with pytest.raises(ValueError, match=r"begins at t_max=0.3, where the state stands"):
        ss.encode(model, x, t_max=0.3, solver="ddim", grid="leading", nfe=20)
    times = ss.grids.leading(sde, 20, 0.3, 0.0)
    assert ss.sample(model, start=x, t_max=0.3, solver="ddim", grid=times).times[0] == times[0]
    assert ss.sample(model, start=x, **asked).times[0] < 1.0
    assert ss.sample(model, start=x, t_max=0.3, opening=law, **asked).times[0] == first


def test_a_callback_may_replace_the_state() -> None:
    model = mixture_2d().model(ss.VPSDE())
    clamped = ss.sample(model, (50, 2), nfe=8, seed=0, callback=lambda step: step.x.clamp(-1, 1))
    assert clamped.samples.abs().max().item() <= 1
    with pytest.raises(
        ValueError, match=r"callback returned \(1,\) torch.float32 on cpu; expected None, or a state of \(50, 2\)"
    ):
        ss.sample(model, (50, 2), nfe=8, seed=0, callback=lambda step: torch.zeros(1))


def test_the_start_is_the_prior_at_the_first_time() -> None:
    x = torch.zeros(1)
    for sde, scale in ((ss.VESDE(), 50.0), (ss.VPSDE(), 1.0), (ss.EDM(), 80.0), (ss.RectifiedFlow(), 1.0)):
        model = ss.ScoreModel(lambda x, t: torch.zeros_like(x), sde, predicts="noise")
        path = ss.sample(model, (2000, 1), solver="ddim", steps=1, t_min=0.5 * sde.t_max, t_max=0.99 * sde.t_max,
                         seed=0, trajectory=True).trajectory  # fmt: skip
        assert path is not None
        x = path[0]
        # standard error of a standard deviation: 1 / sqrt(4000) = 1.6 %; 5 of them
        assert x.std().item() / (scale if sde.prior_std(0.5) == 1 else sde.sigma(0.99 * sde.t_max)) == pytest.approx(
            1, abs=0.08
        )
    assert x.shape == (2000, 1)


def test_denoise_returns_the_expected_data_for_one_more_call() -> None:
    model = mixture_2d().model(ss.VESDE())
    plain = ss.sample(model, (4, 2), solver="ddim", steps=9, seed=0)
    denoised = ss.sample(model, (4, 2), solver="ddim", nfe=10, seed=0, denoise=True)
    assert denoised.nfe == 10
    assert torch.allclose(denoised.samples, model.data(plain.samples, float(plain.times[-1])), atol=1e-6)
    at_zero = ss.sample(mixture_2d().model(ss.EDM()), (4, 2), solver="ddim", steps=5, seed=0, denoise=True)
    assert at_zero.nfe == 5  # there is nothing left to remove


@pytest.mark.parametrize(("end", "calls"), [(0.0, 3), (0.5, 4)])
def test_the_budget_of_a_table_has_the_denoising_call_in_it_where_there_is_one(end: float, calls: int) -> None:
    model = mixture_2d().model(ss.EDM())
    table = ss.build_table("ddim", ss.EDM(), np.array([80.0, 5.0, 1.0, end]))
    asked = {"solver": table, "seed": 0, "denoise": True}
    for nfe in (None, calls):
        assert ss.sample(model, (2, 2), nfe=nfe, **asked).nfe == calls
    for wrong in {3, 4, 5} - {calls}:
        with pytest.raises(ValueError, match=rf"expected nfe={calls} or none .*; got {wrong}$"):
            ss.sample(model, (2, 2), nfe=wrong, **asked)
    assert ss.sample(model, (2, 2), nfe=3, solver=table, seed=0).nfe == 3


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "dpmpp_2m", "rk45"])
def test_encode_follows_the_flow_upwards_and_sample_brings_it_back(solver: str, name: str) -> None:
    sde, law = PROCESSES[name], gaussian()
    model = law.model(sde)
    t_min, t_max = sde.time(2.0), sde.time(-2.0)
    x0 = law.marginal(sde, t_min).sample(4, generator=torch.Generator().manual_seed(0))
    exact = law.flow(sde, x0, t_min, t_max)
    options = {"rtol": 1e-8, "atol": 1e-8} if solver == "rk45" else {"steps": 400, "grid": "log_snr"}
    solution = ss.encode(model, x0, solver=solver, t_min=t_min, t_max=t_max, **options)  # type: ignore[arg-type]
    scale = exact.abs().max().item()
    bound = {"rk45": 1e-6, "heun": 2e-3, "dpmpp_2m": 2e-3}.get(solver, 0.06)
    assert (solution.samples - exact).abs().max().item() < bound * scale
    assert solution.times[0] == t_min
    assert solution.times[-1] == t_max
    back = ss.sample(model, start=solution.samples, solver=solver, t_min=t_min, t_max=t_max, **options)  # type: ignore[arg-type]
    assert (back.samples - x0).abs().max().item() < 2 * bound * scale


def test_encode_walks_an_array_upwards() -> None:
    law = gaussian()
    x0 = law.marginal(ss.VPSDE(), 5e-4).sample(2, generator=torch.Generator().manual_seed(0))
    solution = ss.encode(law.model(ss.VPSDE()), x0, solver="heun", grid=[0.9, 0.5, 5e-4])
    assert solution.times.tolist() == [5e-4, 0.5, 0.9]


def test_encode_starts_above_noise_zero_and_reaches_alpha_zero() -> None:
    law, sde = gaussian(), ss.RectifiedFlow()
    x0 = law.sample(3, generator=torch.Generator().manual_seed(0))
    solution = ss.encode(law.model(sde), x0, solver="dpmpp_2m", steps=300)
    assert solution.times[0] == sde.t_eps
    assert solution.times[-1] == 1.0
    exact = law.flow(sde, x0, sde.t_eps, 1.0)
    assert torch.allclose(solution.samples, exact, atol=0.02)


def test_nothing_global_is_read_or_moved() -> None:
    """The same samples whatever the global generators and grad mode are, and these stay as they were."""
    model = mixture_2d().model(ss.VPSDE())
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = ss.sample(model, (3, 2), solver="ddpm", nfe=5, seed=0).samples
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(ss.sample(model, (3, 2), solver="ddpm", nfe=5, seed=0).samples, first)
    with torch.inference_mode():
        assert torch.equal(ss.sample(model, (3, 2), solver="ddpm", nfe=5, seed=0).samples, first)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert not first.requires_grad

    def failing(x: Tensor, t: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ss.sample(ss.ScoreModel(failing, ss.VPSDE()), (3, 2), nfe=5)
    assert torch.is_grad_enabled()


ASKED = {
    "table": {"solver": "dpmpp_2m", "nfe": 4, "trajectory": True},
    "chunks": {"solver": "heun", "nfe": 4, "trajectory": True, "batch_size": 2},
    "noise": {"solver": "sra1", "nfe": 4, "trajectory": True, "denoise": True},
    "each": {"solver": "adaptive_abm", "rtol": 0.1, "trajectory": True, "dense": True},
    "sde": {"solver": "adaptive_sde_sra", "rtol": 0.3, "atol": 0.3, "t_min": 0.3, "trajectory": True},
    "opening": {"solver": "ddim", "nfe": 3, "t_max": 0.9, "opening": gaussian(d=2), "trajectory": True},
    "density": {"solver": "heun", "nfe": 4, "log_prob": "exact", "trajectory": True},
    "latents": {"solver": "heun", "nfe": 4, "trajectory": True},
}


@pytest.mark.parametrize("name", ASKED)
def test_a_graph_is_kept_where_it_is_asked_for_whatever_the_callers_mode(name: str) -> None:
    """Of the start, by all that is returned."""
    start = normal(3, 2).requires_grad_()
    model = mixture_2d().model(ss.VPSDE())

    def found(grad: bool) -> list[Tensor]:
        asked = {**ASKED[name], "grad": grad}
        latents = name == "latents"
        out = ss.encode(model, start, **asked) if latents else ss.sample(model, start=start, seed=0, **asked)
        density = [] if out.density is None else [out.log_prob, out.log_det]
        between = [] if out.dense is None else [torch.enable_grad()(out.at)(0.5)]
        return [out.samples, out.trajectory, *density, *between]

    with torch.enable_grad():
        assert not any(each.requires_grad for each in found(grad=False))
    slopes = []
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            kept = found(grad=True)
        slopes.append([torch.autograd.grad(each.square().sum(), start, retain_graph=True)[0] for each in kept])
    assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))


def test_dtypes_follow_the_start_the_request_or_torchs_default() -> None:
    model = mixture_2d().model(ss.VPSDE())
    assert ss.sample(model, (2, 2), nfe=2, seed=0).samples.dtype == torch.float32
    assert ss.sample(model, (2, 2), nfe=2, seed=0, dtype=torch.float64).samples.dtype == torch.float64
    start = torch.zeros(2, 2, dtype=torch.float64)
    assert ss.sample(model, start=start, nfe=2, seed=0).samples.dtype == torch.float64
    single = ss.sample(model, (64, 2), nfe=20, seed=0).samples
    double = ss.sample(model, (64, 2), nfe=20, seed=0, dtype=torch.float64).samples
    assert (single - double).abs().max().item() < 1e-4  # the same noise, to rounding


def test_numpys_whole_numbers_are_whole_numbers() -> None:
    model = mixture_2d().model(ss.VPSDE())
    shape = tuple(np.array([2, 2]))
    one = ss.sample(model, shape, nfe=np.int64(5), seed=np.int32(3), indices=np.arange(2)).samples  # type: ignore[arg-type]
    assert torch.equal(one, ss.sample(model, (2, 2), nfe=5, seed=3).samples)


def test_progress_shows_a_bar_of_calls(capsys: pytest.CaptureFixture[str]) -> None:
    model = mixture_2d().model(ss.VPSDE())
    ss.sample(model, (2, 2), nfe=7, seed=0)
    assert capsys.readouterr().err == ""
    ss.sample(model, (2, 2), nfe=7, seed=0, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_the_solution_prints_in_a_line() -> None:
    solution = ss.sample(mixture_2d().model(ss.VPSDE()), (2, 2), nfe=7, seed=0)
    assert repr(solution) == "Solution(samples (2, 2) torch.float32, nfe=7, flow_abm_2, t 1 -> 0.001)"


GOOD = {"shape": (2, 2), "nfe": 6}
X = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"solver": "dpmp_2m"}, ValueError, "unknown solver 'dpmp_2m'; did you mean 'dpmpp_2m'"),
        ({"solver": "zzz"}, ValueError, "unknown solver 'zzz'; "),
        ({"nfe": None, "steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"nfe": None, "steps": 2.5}, ValueError, "steps must be a whole number"),
        ({"nfe": -3}, ValueError, "nfe must be a whole number of at least 1, got -3"),
        ({"nfe": None, "solver": "ddim"}, ValueError, "steps= or nfe= for 'ddim'"),
        ({"nfe": None, "grid": "karras"}, ValueError, "steps= or nfe= for 'flow_abm_2'"),
        ({"steps": 3}, ValueError, "give steps= or nfe=, not both"),
        ({"nfe": 1, "solver": "ddpm", "corrector": "langevin"}, ValueError, "needs 2 network calls"),
        ({"nfe": 1, "denoise": True}, ValueError, "nfe must be at least 2 with denoise=True"),
        ({"nfe": 3, "grid": [1.0, 0.7, 0.5, 0.3, 0.1]}, ValueError, "needs 4 network calls on this grid"),
        ({"grid": "karas"}, ValueError, "did you mean 'karras'"),
        ({"nfe": None, "grid": [0.1, 0.5, 1.0]}, ValueError, "grid increases at 0"),
        ({"nfe": None, "grid": [1.0, 0.5, 0.5]}, ValueError, "grid repeats at 1"),
        ({"nfe": None, "grid": [1.2, 0.5, 0.1]}, ValueError, "leaves"),
        ({"nfe": None, "grid": [1.0, 0.5, -0.1]}, ValueError, "leaves"),
        ({"nfe": None, "grid": [1.0, 0.5, 0.01], "t_min": 0.1}, ValueError, r"leaves \[t_min, t_max\] = \[0.1, 1\]"),
        ({"nfe": None, "grid": [1.0, 0.5, 0.2], "t_max": 0.9}, ValueError, "leaves"),
        ({"t_min": 0.9, "t_max": 0.5}, ValueError, "t_min < t_max"),
        ({"t_max": 1.5}, ValueError, "t_max <= 1"),
        ({"shape": None}, ValueError, "give shape="),
        ({"shape": (0, 2)}, ValueError, "each size of shape must be a whole number of at least 1, got 0"),
        ({"shape": ()}, ValueError, r"shape=\(batch, ...\), got"),
        ({"shape": (2, 2.0)}, ValueError, "must be a whole number of at least 1, got 2.0"),
        ({"model": lambda x, t: x}, TypeError, r"model must be a ScoreModel.*ss.ScoreModel\(net"),
        ({"shape": 4}, TypeError, "shape must be a tuple"),
        ({"dtype": torch.float16}, TypeError, "dtype is torch.float16; the state must be torch.float32"),
        ({"dtype": torch.int64}, TypeError, "torch.int64"),
        ({"shape": None, "start": X.half()}, TypeError, "start is torch.float16"),
        ({"shape": None, "start": X.bfloat16()}, TypeError, "start is torch.bfloat16"),
        ({"shape": None, "start": X.long()}, TypeError, "start is torch.int64"),
        ({"shape": None, "start": X[:0]}, ValueError, "at least one sample"),
        ({"shape": None, "start": torch.tensor(1.0)}, ValueError, "at least one sample"),
        ({"shape": None, "start": X / 0}, ValueError, "start holds NaN or infinity in 2 of 2 samples"),
        ({"shape": None, "start": [[0.0]]}, TypeError, "start must be a tensor"),
        ({"shape": (3, 2), "start": X}, ValueError, r"start has shape \(2, 2\), but shape=\(3, 2\)"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"indices": [0]}, ValueError, "names 1 samples for a batch of 2"),
        ({"eta": 1.0}, TypeError, "unknown option 'eta'"),
        ({"eta": 1.0, "solver": "dpmpp_2m"}, TypeError, "unknown option 'eta'; .*'dpmpp_2m_sde'.* have it"),
        ({"rtol": 0.1, "solver": "dpmpp_2m"}, TypeError, "unknown option 'rtol'; 'adaptive_.* have it"),
        ({"s_churn": 9.0, "solver": "dpmpp_2m"}, TypeError, "unknown option 's_churn'; 'edm_.* ha(s|ve) it"),
        ({"num_inference_steps": 9}, TypeError, "here that is steps=, or nfe="),
        ({"guidance_scale": 7.5}, TypeError, r"here that is model.guide\(scale"),
        ({"solvr": "ddim"}, TypeError, "unknown option 'solvr'; did you mean 'solver'?"),
        ({"grids": "karras"}, TypeError, "unknown option 'grids'; did you mean 'grid'?"),
    ],
)
def test_bad_requests_are_refused_before_the_network_is_called(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(error, match=message):
        ss.sample(**{"model": model, **GOOD, **changes})  # type: ignore[arg-type]
    assert model.nfe == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "ddpm"}, "encode follows the probability flow, 'ddpm' adds noise"),
        ({"solver": "ddim", "eta": 1.0}, "adds noise"),
        ({"t_min": 0.0}, "use t_min=0.001"),
        ({"steps": None, "grid": [1.0, 0.5, 0.0]}, "use t_min=0.001"),
        ({"steps": None, "grid": [1.0, 0.5, 0.01], "t_min": 0.1}, "leaves"),
        ({"x0": torch.zeros(2, 2).half()}, "float16"),
        ({"steps": None, "solver": "ddim"}, "steps= or nfe="),
    ],
)
def test_bad_encodings_are_refused(changes: dict[str, object], message: str) -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises((ValueError, TypeError), match=message):
        ss.encode(model, **{"x0": X, "steps": 4, **changes})  # type: ignore[arg-type]
    assert model.nfe == 0


def test_without_any_amount_of_work_steps_are_adaptive() -> None:
    model = mixture_2d().model(ss.VPSDE())
    plain = ss.sample(model, (4, 2), seed=0)
    assert plain.stats["solver"] == "adaptive_abm"
    assert torch.equal(plain.samples, ss.sample(model, (4, 2), solver="adaptive_abm", seed=0).samples)
    assert ss.sample(model, (4, 2), seed=0, rtol=1e-6, atol=1e-6).nfe > plain.nfe
    latent = ss.encode(model, plain.samples).samples
    assert torch.allclose(ss.decode(model, latent).samples, plain.samples, atol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "flow_abm_3", "euler_maruyama"])
def test_one_exploding_sample_does_not_cost_the_others(solver: str) -> None:
    """The network fails for one sample from some time on: the others are those of a run without it."""
    exact = mixture_2d().model(ss.VPSDE())

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = exact.data(x, t)
        bad = (torch.arange(len(x)) == 5) & (t < 0.5) & torch.tensor(len(x) == 8)
        return torch.where(bad[:, None], math.nan, out)

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="data")
    settings = {"solver": solver, "nfe": 10, "seed": 3}
    solution = ss.sample(model, (8, 2), on_error="mask", **settings)
    healthy = ss.sample(exact, (8, 2), **settings)
    others = [0, 1, 2, 3, 4, 6, 7]
    assert torch.equal(solution.samples[others], healthy.samples[others])
    assert torch.isnan(solution.samples[5]).all()
    assert solution.ok.tolist() == [row != 5 for row in range(8)]
    assert solution.status[5] == "nonfinite"
    assert solution.status[0] == "ok"
    (failure,) = solution.failures
    assert failure.sample == 5
    assert failure.time < 0.5
    assert failure.time == max(t for t in solution.times if t < 0.5)
    assert solution.nfe_per_sample.tolist() == [10] * 8
    with pytest.raises(ss.NonFiniteError, match=r"1 of 8 samples \(5\)"):
        ss.sample(model, (8, 2), **settings)
    with pytest.raises(ValueError, match="did you mean 'mask'"):
        ss.sample(model, (8, 2), on_error="masked", **settings)


def test_a_state_that_overflows_is_masked_too() -> None:
    """Finite answers, infinite state: the end is where it shows."""
    model = ss.ScoreModel(lambda x, t: torch.where(torch.arange(3)[:, None] == 1, 3e38, 0.0).expand(3, 2), ss.VPSDE())
    solution = ss.sample(model, (3, 2), solver="euler_maruyama", nfe=4, seed=0, on_error="mask")
    assert solution.ok.tolist() == [True, False, True]


class Varying(torch.nn.Module):
    """A network with a layer that is another function in training mode."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(-x)


RUNS: dict[str, Callable[[ss.ScoreModel], object]] = {
    "sample": lambda model: ss.sample(model, (2, 2), nfe=2),
    "encode": lambda model: ss.encode(model, torch.zeros(2, 2), steps=2),
    "log_likelihood": lambda model: ss.log_likelihood(model, torch.zeros(2, 2), steps=2),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_network_in_training_mode_is_warned_about_where_that_matters(run: str) -> None:
    def model(layer: torch.nn.Module) -> ss.ScoreModel:
        return ss.ScoreModel(Varying(layer), ss.VPSDE(), predicts="v")

    with pytest.warns(UserWarning, match=r"in training mode, and has BatchNorm1d: .* call net.eval\(\)") as caught:
        RUNS[run](model(torch.nn.BatchNorm1d(2)))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layer in (torch.nn.BatchNorm1d(2).eval(), torch.nn.Dropout(0.0), torch.nn.Identity()):
            RUNS[run](model(layer))
