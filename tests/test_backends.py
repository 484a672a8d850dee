"""Methods of torchdiffeq, torchsde and scipy on the flow and the reverse SDE: against closed forms, calls counted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from oracles import PROCESSES, CountingNet, gaussian, interval, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve.backend_libraries import METHODS, torchdiffeq_is_fixed
from scoresolve.brownian_interval import BrownianIntervals
from scoresolve.coordinates import coordinates
from scoresolve.noise import SampleStreams

FLOWS = [(library, method) for library in ("torchdiffeq", "scipy") for method in METHODS[library]()]
ADAPTIVE = [(lib, method) for lib, method in FLOWS if lib == "scipy" or not torchdiffeq_is_fixed(method)]
FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "explicit_adams": 4, "implicit_adams": 4}
FIXED |= {"fixed_adams": 4}
REVERSE = list(METHODS["torchsde"]())
WEAK = {"euler": 1, "euler_heun": 1, "milstein": 1, "heun": 2, "midpoint": 2, "log_ode": 2, "reversible_heun": 2}
CLOCKS = ["t", "rho", "flow", "log_flow", "log_rho"]


def equal_steps(sde: ss.SDE, clock: str, steps: int) -> np.ndarray:
    """Times at equal steps on a clock, over one interval of noise levels."""
    way, ends = coordinates(sde, clock), np.array(interval(sde))
    inside = torch.linspace(*way.places(ends).tolist(), steps + 1, dtype=torch.float64)[1:-1]
    return np.concatenate([ends[:1], way.time(inside).numpy(), ends[1:]])


def flow_error(sde: ss.SDE, solver: ss.Backend, times: np.ndarray) -> float:
    """Distance to the closed-form flow of a Gaussian, from the exact marginal."""
    law, (t_max, t_min) = gaussian(), interval(sde)
    start = law.marginal(sde, t_max).sample(4, generator=torch.Generator().manual_seed(0))
    found = ss.sample(law.model(sde), start=start, solver=solver, grid=times)
    return (found.samples - law.flow(sde, start, t_max, t_min)).abs().max().item()


def test_the_methods_are_all_covered_here() -> None:
    assert set(REVERSE) == {*WEAK, "srk"}
    assert {method for library, method in FLOWS if library == "torchdiffeq"} - {m for _, m in ADAPTIVE} == set(FIXED)


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize(("library", "method"), ADAPTIVE)
def test_an_adaptive_method_reaches_the_closed_form(library: str, method: str, name: str) -> None:
    errors = []
    for tolerance in (1e-3, 1e-6):
        solver = ss.backend(library, method, clock="log_flow", rtol=tolerance, atol=tolerance)
        errors.append(flow_error(PROCESSES[name], solver, np.array(interval(PROCESSES[name]))))
        assert errors[-1] < 200 * tolerance
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("method", FIXED)
def test_a_method_of_fixed_steps_has_its_order(method: str, name: str) -> None:
    sde, clock = PROCESSES[name], "log_rho"
    options = {"max_order": 5} if method.endswith("adams") else {}  # its default, 12, is not stable here
    solver = ss.backend("torchdiffeq", method, clock=clock, rtol=1e-12, atol=1e-12, options=options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Functional iteration")  # four rounds do not reach that tolerance
        errors = [flow_error(sde, solver, equal_steps(sde, clock, steps)) for steps in (64, 128)]
    order = np.log2(errors[0] / errors[1])
    assert order > FIXED[method] - 0.3
    if not method.endswith("adams"):
        assert order < FIXED[method] + 0.5
        assert solver.info.order == FIXED[method]


@pytest.mark.parametrize("name", PROCESSES)
def test_every_clock_gives_the_same_answer(name: str) -> None:
    sde = PROCESSES[name]
    tolerance = 1e-6 if name == "ddpm_table" else 1e-8
    ends = np.array(interval(sde))
    for clock in CLOCKS:
        assert flow_error(
            sde, ss.backend("torchdiffeq", "dopri5", clock=clock, rtol=tolerance, atol=tolerance), ends
        ) < (100 * tolerance)


@pytest.mark.parametrize("name", ["vp", "edm", "ddpm_table"])
@pytest.mark.parametrize(("library", "method"), [*FLOWS, *(("torchsde", method) for method in REVERSE)])
def test_calls_are_counted_budgets_kept_and_times_inside(library: str, method: str, name: str) -> None:
    """On images in float32, at noise zero where there is such an end."""
    sde, seen = PROCESSES[name], []
    law = ss.exact.Gaussian(torch.zeros(1, 2, 3), 0.25)
    exact = law.model(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return exact.data(x, t)

    model = ss.ScoreModel(net, sde, predicts="data")
    solver = ss.backend(library, method, clock="flow", rtol=1e-2, atol=1e-2)
    budget = 1000 if solver.adaptive else 23
    solution = ss.sample(model, (2, 1, 2, 3), solver=solver, nfe=budget, seed=0)
    assert solution.samples.shape == (2, 1, 2, 3)
    assert solution.samples.dtype == torch.float32
    assert torch.isfinite(solution.samples).all()
    assert solution.nfe == len(seen) == model.nfe <= budget
    assert min(seen) >= sde.t_eps * (1 - 1e-12)
    assert max(seen) <= sde.t_max
    assert solution.stats["solver"] == f"{library}:{method}"
    if not solver.adaptive:
        assert (runner := solver.info.build(sde, solution.times)).nfe is not None
        exactly = not method.endswith("adams") or method == "explicit_adams"
        assert solution.nfe == runner.nfe if exactly else solution.nfe <= runner.nfe


@pytest.mark.parametrize(("library", "method"), [("torchdiffeq", "rk4"), ("torchdiffeq", "bosh3"), ("scipy", "RK23")])
def test_trajectory_callback_and_way_back(library: str, method: str) -> None:
    sde, law = ss.VPSDE(), gaussian()
    start = law.marginal(sde, 0.9).sample(3, generator=torch.Generator().manual_seed(2))
    solver = ss.backend(library, method, clock="log_rho", rtol=1e-7, atol=1e-7)
    times = ss.grids.log_snr(sde, 60, 0.9, 0.05)
    seen: list[int] = []
    there = ss.sample(
        law.model(sde),
        start=start,
        solver=solver,
        grid=times,
        trajectory=True,
        callback=lambda step: seen.append(step.index),
    )
    assert there.trajectory is not None
    assert seen == list(range(1, 61))
    for t, state in zip(times, there.trajectory, strict=True):
        assert torch.allclose(state, law.flow(sde, start, 0.9, float(t)), rtol=1e-4, atol=1e-5)
    back = ss.encode(law.model(sde), there.samples, solver=solver, grid=times)
    assert torch.allclose(back.samples, start, atol=1e-5)
    assert ss.encode(law.model(sde), there.samples, solver=ss.backend("torchsde", "midpoint", eta=0), nfe=40).nfe == 40


@pytest.mark.parametrize("solver", ["torchdiffeq:dopri5", "torchdiffeq:rk4", "torchsde:heun"])
def test_gradients_reach_the_start(solver: str) -> None:
    """A Gaussian's flow is linear: its derivative is the ratio of the standard deviations."""
    sde, law = ss.VPSDE(), ss.exact.Gaussian([0.3], 0.25)
    start = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    chosen = ss.backend(*solver.split(":"), clock="log_rho", rtol=1e-8, atol=1e-8, eta=0.0)
    grid = np.array(interval(sde)) if chosen.adaptive else equal_steps(sde, "log_rho", 100)
    end = ss.sample(law.model(sde), start=start, solver=chosen, grid=grid, grad=True).samples
    (slope,) = torch.autograd.grad(end, start)
    stds = [law.marginal(sde, t).covariance.item() ** 0.5 for t in interval(sde)]
    assert slope.item() == pytest.approx(stds[1] / stds[0], rel=1e-3)


# -- the reverse SDE ------------------------------------------------------------------------------------------------


class UnitNoise:
    """Normal c of draw k is 1 in row 2 k + c + 1 and 0 elsewhere: what a run answers to each of them, row 0 to none."""

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """Args: like (batch, 2, d): the two numbers of a piece."""
        row = 2 * index + 1 + torch.arange(2)
        return (torch.arange(len(like))[:, None] == row).to(like)[:, :, None].expand_as(like)


def moments_error(sde: ss.SDE, solver: ss.Backend, steps: int) -> float:
    """Distance of mean and variance of the output from those of the reverse SDE, exactly: it is linear in its noise."""
    law, clock = ss.exact.Gaussian([0.4], 0.3), solver.clock
    times = equal_steps(sde, clock, steps)
    first, last = (law.marginal(sde, float(t)) for t in times[[0, -1]])
    rows = 2 * steps + 2
    start = first.mean.expand(rows, 1).clone()
    start[-1] += first.covariance[0].sqrt()  # the last row answers to the start
    out = ss.sample(law.model(sde), start=start, solver=solver, grid=times, noise=UnitNoise()).samples[:, 0]
    return max(abs(out[0] - last.mean[0]).item(), abs((out - out[0]).square().sum() - last.covariance[0, 0]).item())


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("method", WEAK)
def test_mean_and_variance_of_the_reverse_sde_converge_to_the_exact_ones(method: str, name: str) -> None:
    sde = PROCESSES[name]
    errors = [moments_error(sde, ss.backend("torchsde", method, clock="log_rho"), steps) for steps in (48, 96)]
    assert errors[1] < 0.02
    assert np.log2(errors[0] / errors[1]) > WEAK[method] - 0.3


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_marginals_do_not_depend_on_eta_nor_clock(clock: str, eta: float) -> None:
    for name in ("vp", "ve"):
        assert moments_error(PROCESSES[name], ss.backend("torchsde", "heun", clock=clock, eta=eta), 80) < 0.02, name


def z_scores(solver: ss.Backend, grid: np.ndarray, gain: float = 1.0) -> tuple[float, float]:
    """Mean and variance of 20000 samples in standard errors from the exact ones, their noise times ``gain``."""
    sde, law, n = ss.VPSDE(), ss.exact.Gaussian([0.4], 0.3), 20_000
    start = law.marginal(sde, grid[0]).sample(n, generator=torch.Generator().manual_seed(4))
    streams = SampleStreams(5, range(n))

    class Scaled:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            return gain * streams.draw(stream, index, like)

    out = ss.sample(law.model(sde), start=start, solver=solver, grid=grid, noise=Scaled()).samples[:, 0]
    exact = law.marginal(sde, grid[-1])
    variance = exact.covariance.item()
    z_mean = (out.mean() - exact.mean[0]) / (variance / n) ** 0.5
    return abs(z_mean.item()), abs((out.var().item() / variance - 1) / (2 / n) ** 0.5)


@pytest.mark.parametrize(
    ("method", "options"), [("srk", {}), ("srk", {"adaptive": True}), ("euler", {"adaptive": True, "dt": 0.05})]
)
def test_samples_of_srk_and_of_adaptive_steps_have_the_law(method: str, options: dict[str, object]) -> None:
    solver = ss.backend("torchsde", method, clock="log_rho", rtol=0.01, atol=0.01, options=options)
    grid = np.array(interval(ss.VPSDE())) if options else equal_steps(ss.VPSDE(), "log_rho", 40)
    assert max(z_scores(solver, grid)) < 4
    assert max(z_scores(solver, grid, gain=1.05)) > 6  # a wrong noise is seen


def test_samples_do_not_depend_on_their_batch() -> None:
    model = mixture_2d().model(ss.VPSDE())
    for method in REVERSE:
        solver = ss.backend("torchsde", method, clock="log_rho")
        both = ss.sample(model, (6, 2), solver=solver, steps=3, seed=3, dtype=torch.float64).samples
        one = ss.sample(model, (2, 2), solver=solver, steps=3, seed=3, indices=[4, 1], dtype=torch.float64).samples
        assert torch.allclose(both[[4, 1]], one, atol=1e-12, rtol=0)
        other = ss.sample(model, (6, 2), solver=solver, steps=3, seed=4, dtype=torch.float64).samples
        assert not torch.allclose(both, other, atol=0.1)


def test_a_cut_brownian_path_has_the_exact_law() -> None:
    """Its coefficients on independent normals give the covariance of (W, U) of any intervals, without sampling."""
    like = torch.empty(32, 1, dtype=torch.float64)
    path = BrownianIntervals(UnitNoise(), like)
    asked = [(0.0, 1.0), (0.0, 0.5), (0.0, 0.15), (0.15, 0.4), (0.05, 0.9), (0.3, 1.7), (1.2, 1.4)]
    path._LOOK_BACK, path._starts = len(asked), type(path._starts)(maxlen=len(asked))
    found = torch.stack([value[:, 0] for a, b in asked for value in path(a, b, return_U=True)])

    def product(one: tuple[float, float, int], two: tuple[float, float, int]) -> float:
        """Of the integrands 1 (W) and b - r (U) over the overlap, where the product of two lines is integrated."""
        low, high = max(one[0], two[0]), min(one[1], two[1])
        nodes, weights = np.polynomial.legendre.leggauss(3)
        r = 0.5 * (low + high) + 0.5 * (high - low) * nodes
        values = np.prod([np.ones(3) if kind == 0 else b - r for _, b, kind in (one, two)], axis=0)
        return float(0.5 * (high - low) * (weights * values).sum()) if high > low else 0.0

    functionals = [(a, b, kind) for a, b in asked for kind in (0, 1)]
    exact = torch.tensor([[product(one, two) for two in functionals] for one in functionals], dtype=torch.float64)
    assert torch.allclose(found @ found.T, exact, atol=1e-12)


def test_a_brownian_path_forgets_what_a_solver_has_left() -> None:
    path = BrownianIntervals(UnitNoise(), torch.empty(8, 1))
    for k in range(10):
        path(k, k + 1)
    assert len(path._pieces) == 3
    with pytest.raises(ValueError, match="that was forgotten"):
        path(2.0, 3.0)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_requests_that_make_no_sense_say_so_before_the_network_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    net = CountingNet(mixture_2d().model(ss.RectifiedFlow()).net)
    model = ss.ScoreModel(net, ss.RectifiedFlow(), predicts="data")

    def missing(name: str) -> None:
        raise ImportError(name)

    def sample(solver: ss.Backend, **more: object) -> ss.Solution:
        return ss.sample(model, (2, 2), solver=solver, **{"steps": 3, **more})

    for asked, message in [
        (lambda: ss.backend("jax", "rk4"), "unknown library 'jax'"),
        (lambda: ss.backend("scipy", "rk45"), "did you mean 'RK45'.*LSODA"),
        (lambda: ss.backend("torchsde", "adjoint_reversible_heun"), "unknown method of torchsde.*srk"),
        (lambda: ss.backend("torchdiffeq", "rk4", clock="lam"), "unknown clock 'lam'"),
        (lambda: ss.backend("torchdiffeq", "rk4", eta=1.0), "use torchsde"),
        (lambda: ss.backend("torchdiffeq", "rk4", rtol=0.0), "rtol > 0"),
        (lambda: ss.backend("torchdiffeq", "rk4", options={"step_size": 0.1}), "steps= or grid="),
        (
            lambda: sample(ss.backend("torchdiffeq", "rk4", clock="rho")),
            "infinite at t = 1 .*clock='t' or 'flow' or 'log_flow'",
        ),
        (lambda: sample(ss.backend("torchsde", "srk")), "a finite g"),
        (lambda: sample(ss.backend("scipy", "RK45"), grad=True), "gradients do not flow through scipy:RK45"),
        (lambda: sample(ss.backend("torchdiffeq", "rk4"), nfe=4, steps=None), "one step .* needs 5 network calls"),
        (lambda: sample(ss.backend("torchdiffeq", "rk4"), corrector="langevin"), "needs a one-step predictor"),
    ]:
        with pytest.raises(ValueError, match=message):
            asked()
    with pytest.raises(ValueError, match="encode follows the probability flow"):
        ss.encode(model, torch.zeros(1, 2), solver=ss.backend("torchsde", "euler"), t_min=0.1, t_max=0.9, steps=2)
    assert not net.rows

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match="pip install torchsde"):
        ss.backend("torchsde", "srk")


@pytest.mark.parametrize(
    ("library", "method", "options", "kind"),
    [
        ("torchdiffeq", "dopri5", {}, ss.StepUnderflowError),
        ("scipy", "RK45", {}, ss.StepUnderflowError),
        ("torchdiffeq", "bosh3", {"max_num_steps": 3}, ss.BudgetError),
        ("torchsde", "heun", {"adaptive": True, "dt_min": 0.01}, ss.StepUnderflowError),
    ],
)
def test_their_failures_are_ours(library: str, method: str, options: dict[str, object], kind: type[Exception]) -> None:
    def burst(x: Tensor, t: Tensor) -> Tensor:  # dx/ds = x^2 for s = 0.9 - t: infinite at s = 0.1
        return -(x**2)

    model = ss.ScoreModel(burst, ss.RectifiedFlow(), predicts="velocity")
    solver = ss.backend(library, method, rtol=1e-8, atol=1e-8, options=options)
    with pytest.raises(kind, match=rf"{method} cannot meet rtol=1e-08, atol=1e-08 .*: loosen them"):
        ss.sample(model, start=torch.full((1, 1), 10.0, dtype=torch.float64), solver=solver, grid=[0.9, 0.1])


def test_a_backend_says_what_it_is() -> None:
    solver = ss.backend("torchsde", "srk", clock="log_rho", eta=0.5, options={"adaptive": True})
    assert repr(solver).startswith(
        "backend('torchsde', 'srk', clock='log_rho', rtol=1e-05, atol=1e-05, eta=0.5, options="
    )
    assert eval(repr(solver), {"backend": ss.backend}) == solver
    assert (solver.info.kind, solver.adaptive) == ("sde", True)


def test_latents_and_likelihoods_by_a_method_of_another_library() -> None:
    """The way up, the way back and log p, each against the closed form of a Gaussian."""
    sde, law = ss.VPSDE(), gaussian()
    model, solver = law.model(sde), ss.backend("scipy", "DOP853", clock="log_flow", rtol=1e-9, atol=1e-9)
    x0 = law.marginal(sde, sde.t_min).sample(4, generator=torch.Generator().manual_seed(0))
    latent = ss.encode(model, x0, solver=solver).samples
    assert torch.allclose(latent, law.flow(sde, x0, sde.t_min, 1.0), atol=1e-6)
    assert torch.allclose(ss.decode(model, latent, solver=solver).samples, x0, atol=1e-6)
    found = ss.log_likelihood(model, x0, solver=solver, prior=law.marginal(sde, 1.0))
    assert torch.allclose(found.log_prob, law.marginal(sde, sde.t_min).log_prob(x0), atol=1e-5)
    with pytest.raises(TypeError, match=r"has no options, got 'rtol' .* go to ss.backend"):
        ss.sample(model, (2, 3), solver=solver, rtol=1e-3)
    with pytest.raises(ValueError, match="decode follows the probability flow"):
        ss.decode(model, latent, solver=ss.backend("torchsde", "euler"), nfe=10)
