"""Adaptive SDE solvers: strong error against exact paths, the law, and samples that do not know of each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import PROCESSES, CountingNet, gaussian, interval, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve import brownian
from scoresolve.adaptive_sde import AdaptiveSDE, _roots
from scoresolve.brownian import BrownianWalk, whole
from scoresolve.outcome import Status

SOLVERS = ["adaptive_sde_sra", "adaptive_sde_ggf"]
VP = ss.VPSDE()


def exact_end(runner: AdaptiveSDE, sde: ss.SDE, v: float, x: Tensor, seed: int, level: int) -> Tensor:
    """Where the reverse SDE of N(0, v) data takes x (n, d) on the path of a seed, by the exact solution.

    With ``R = v + rho^2`` a deviation at time t is multiplied by ``(alpha_s/alpha_t) (R_s/R_t)^{(1 + eta^2)/2}``, and
    so is the noise that enters there: ``sigma e^{-eta^2 lam} dB`` on the clock V, or g dB on t. Taken as linear on a
    node, that is a sum of W and I.
    """
    pair = runner.pair
    edges, _ = _roots(pair.place(torch.from_numpy(runner.times)), pair.longest)
    walk = BrownianWalk(ss.SampleStreams(seed, range(len(x))), edges, pair.share, x, pair.integrals)
    last, square = float(runner.times[-1]), pair.eta**2

    def stretch(t: Tensor) -> Tensor:
        ratio = (v + sde.rho(last) ** 2) / (v + sde.rho(t) ** 2)
        return sde.alpha(last) / sde.alpha(t) * ratio ** ((1 + square) / 2)

    def entering(u: Tensor) -> tuple[Tensor, Tensor]:
        """The Brownian clock, and how much noise that enters is felt at the end."""
        t = pair.time(u)
        if not pair.integrals:
            return u, stretch(t) * sde.diffusion(t)
        return (2 * square * u).exp(), stretch(t) * sde.sigma(t) * (-square * u).exp()

    end, rows = x * stretch(pair.time(edges[:1])), torch.arange(len(x))
    while bool(walk.active().all()):
        while int(walk.level[0]) < level:
            walk.split(rows)
        (from_v, first), (to_v, final) = (entering(u[:1]) for u in walk.ends())
        size = to_v - from_v
        W, area = walk.increments[:, 0] * size.sqrt(), walk.increments[:, -1] * size**1.5
        end = end + (first * W + (final - first) * (W - area / size) if pair.integrals else (first + final) / 2 * W)
        walk.advance(rows)
    return end


# -- the path, and the law ------------------------------------------------------------------------------------------


@pytest.mark.property(35)
@pytest.mark.parametrize(
    ("solver", "options", "level", "tolerances", "order"),
    [
        ("adaptive_sde_sra", {}, 5, (1e-2, 3e-3, 1e-3), 1.5),
        ("adaptive_sde_sra", {"eta": 0.5}, 5, (1e-2, 3e-3, 1e-3), 1.5),
        ("adaptive_sde_ggf", {}, 9, (1e-1, 3e-2, 1e-2), 0.8),
    ],
)
def test_the_strong_error_falls_with_the_tolerance(
    solver: str, options: dict[str, float], level: int, tolerances: tuple[float, ...], order: float
) -> None:
    """Against the exact solution on the same path: one path at every tolerance, and an order in calls.

    Measured: 2.8e-3, 5.4e-4, 1.2e-4 at 58, 127, 268 calls (order 2, more than the 1.5 of data that are not Gaussian)
    and 2.2e-2, 8.2e-3, 4.1e-3 at 68, 159, 328.
    """
    v, ends, n = 0.09, np.array([0.9, 0.02]), 20
    law = ss.exact.Gaussian([0.0, 0.0], v)
    start = law.marginal(VP, 0.9).sample(n, generator=torch.Generator().manual_seed(0))
    exact = exact_end(ss.registry.build(solver, VP, ends, **options), VP, v, start, 7, level)
    errors, calls = [], []
    for tolerance in tolerances:
        solution = ss.sample(
            law.model(VP), start=start, solver=solver, grid=ends, seed=7, rtol=tolerance, atol=tolerance, **options
        )
        errors.append((solution.samples - exact).square().mean().sqrt().item())
        calls.append(solution.nfe_per_sample.double().mean().item())
        print(f"{solver} tolerance {tolerance:g}: {calls[-1]:.0f} calls, strong error {errors[-1]:.2e}")
        assert errors[-1] < 3 * tolerance
    assert math.log(errors[0] / errors[2]) / math.log(calls[2] / calls[0]) > order


def two_modes(sde: ss.SDE) -> ss.ScoreModel:
    """0.7 N(-1, 0.05^2) + 0.3 N(1, 0.05^2), exactly, in few operations."""

    def data(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t.double())[:, None], sde.sigma(t.double())[:, None]
        total = (0.05 * alpha) ** 2 + sigma**2
        mean = torch.tanh(alpha * x / total + 0.5 * math.log(0.3 / 0.7))
        return mean + alpha * 0.05**2 / total * (x - alpha * mean)

    return ss.ScoreModel(data, sde, predicts="data")


def share_of_the_left(solver: str, rtol: float, atol: float, n: int = 20_000, seed: int = 1) -> float:
    """Standard errors between the weight of the left mode and its 0.7."""
    solution = ss.sample(two_modes(VP), (n, 1), solver=solver, rtol=rtol, atol=atol, seed=seed, dtype=torch.float64)
    found = (solution.samples < 0).double().mean().item()
    print(f"{solver} {rtol:g} {atol:g}: {found:.4f}, {solution.nfe_per_sample.double().mean():.0f} calls")
    return (found - 0.7) / math.sqrt(0.21 / n)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("rtol", "atol"), [(0.1, 0.0078), (0.05, 0.0078), (0.01, 0.0078)])
def test_the_weight_of_a_mode_comes_back(solver: str, rtol: float, atol: float) -> None:
    """0.7 within 3 standard errors (0.0097), at every tolerance."""
    assert abs(share_of_the_left(solver, rtol, atol)) < 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_that_is_redrawn_on_rejection_biases_the_law(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control, as published: halves that do not know of the whole (measured: +6 and -10 standard errors)."""
    generator = torch.Generator().manual_seed(0)

    def redrawn(share: Tensor, parent: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        return whole(normals), whole(torch.randn(normals.shape, generator=generator, dtype=normals.dtype))

    monkeypatch.setattr(brownian, "halves", redrawn)
    assert abs(share_of_the_left(solver, 0.05, 0.0078)) > 4.5


@pytest.mark.parametrize("name", PROCESSES)
def test_moments_of_a_gaussian(name: str) -> None:
    """On every process, both pairs: mean and variance of each direction within 4.9 standard errors and 2 %."""
    sde, law, n = PROCESSES[name], gaussian(), 500
    t_max, t_min = interval(sde)
    start = law.marginal(sde, t_max).sample(n, generator=torch.Generator().manual_seed(0))
    exact = law.marginal(sde, t_min)
    for solver in SOLVERS:
        rtol = 0.05 if solver.endswith("sra") else 0.1
        x = ss.sample(law.model(sde), start=start, solver=solver, grid=[t_max, t_min], seed=2, rtol=rtol).samples
        y = (x - exact.mean) @ exact.bases[0] / exact.variances[0].sqrt()
        assert (y.mean(dim=0).abs() < 4.9 / math.sqrt(n) + 0.02).all()
        assert ((y.var(dim=0) - 1).abs() < 4.9 * math.sqrt(2 / n) + 0.04).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["edm", "flow", "no_signal"])
def test_runs_from_no_signal_and_to_no_noise(name: str, solver: str) -> None:
    """A point of data is reached exactly; two modes keep their weights; the network is asked only where it knows."""
    quarter = 0.5 * math.pi
    own = ss.GaussianPath(alpha=lambda t: torch.cos(quarter * t), sigma=lambda t: torch.sin(quarter * t))
    sde = own if name == "no_signal" else PROCESSES[name]
    point = ss.exact.Gaussian([0.7, -0.2], 0.0).model(sde)
    found = ss.sample(point, (3, 2), solver=solver, seed=0, t_min=0.0, dtype=torch.float64)
    assert torch.allclose(found.samples, torch.tensor([0.7, -0.2], dtype=torch.float64), atol=1e-9)
    seen: list[Tensor] = []
    exact = two_modes(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return exact.data(x, t)

    model = ss.ScoreModel(net, sde, predicts="data")
    found = ss.sample(model, (1000, 1), solver=solver, seed=0, t_min=0.0, rtol=0.1, dtype=torch.float64)
    assert abs((found.samples < 0).double().mean().item() - 0.7) < 3 * math.sqrt(0.21 / 1000)
    assert torch.cat(seen).min() >= sde.t_eps
    assert torch.cat(seen).max() <= sde.t_max
    ends = 1 + (name != "edm")  # the calls at noise zero, and without signal
    assert torch.equal(found.nfe_per_sample, 2 * found.stats["accepted"] + found.stats["rejected"] + ends)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
@pytest.mark.parametrize("eta", [0.5, 1.0, 1.3])
def test_the_numbers_of_the_pair_are_those_of_sra1(eta: float, name: str) -> None:
    """The weights that the table of SRA1 has on the same step; the estimate is that plus a step of first order."""
    sde = PROCESSES[name]
    t, s = float(sde.time(-0.3)), float(sde.time(0.1))
    stage, end = ss.build_table("sra1", sde, np.array([t, s]), eta=eta).rows
    pair = ss.registry.build("adaptive_sde_sra", sde, np.array([t, s]), eta=eta).pair
    assert pair.longest == pytest.approx(min(1.2 / (1 + eta**2), 0.8 / eta**2))
    assert (pair.eta, pair.order, pair.first, pair.controller.grow) == (eta, 1.5, math.inf, 2.0)
    a, b = (pair.place(torch.tensor([u], dtype=torch.float64)) for u in (t, s))
    assert (a.item(), pair.time(b).item()) == (pytest.approx(-0.3), pytest.approx(s))
    clock = np.exp(2 * eta**2 * np.array([-0.3, -0.1, 0.1]))
    assert pair.share(a, b).item() == pytest.approx((clock[1] - clock[0]) / (clock[2] - clock[0]))
    found = pair.weights(a, b)
    of = lambda weights: [0.0 if w is None else w.item() for w in weights]  # noqa: E731
    assert found.stage.item() == pytest.approx(end.t)
    # I is z_0 / sqrt(3), and W is sqrt(3)/2 z_0 + z_1 / 2
    assert of(found.propose) == pytest.approx([*stage.propose, 0, 0, stage.propose_noise[0] * math.sqrt(3)])
    assert of(found.commit) == pytest.approx([end.commit[0], end.commit[2], end.commit[1], math.hypot(*end.noise), 0])
    assert of(found.error) == pytest.approx([0, -end.commit[1], end.commit[1], 0, 0])


def test_the_numbers_of_gotta_go_fast_are_those_of_its_formula() -> None:
    """Jolicoeur-Martineau et al. 2021, alg. 1, in plain numbers."""
    t, s = 0.6, 0.45
    pair = ss.registry.build("adaptive_sde_ggf", VP, np.array([t, s])).pair
    x, first, second, z = 0.8, -0.4, 0.3, 1.1

    def added(x: float, data: float, t: float) -> float:
        score, square = (VP.alpha(t) * data - x) / VP.sigma(t) ** 2, VP.squared_diffusion(t)
        return (t - s) * (square * score - VP.drift_rate(t) * x) + math.sqrt(square * (t - s)) * z

    def added_there(y: float) -> float:
        score, square = (VP.alpha(s) * second - y) / VP.sigma(s) ** 2, VP.squared_diffusion(s)
        return 0.15 * (square * score - VP.drift_rate(s) * y) + math.sqrt(square * 0.15) * z

    low = x + added(x, first, t)
    high = 0.5 * (low + x + added_there(low))
    a, b = (pair.place(torch.tensor([u], dtype=torch.float64)) for u in (t, s))
    found = pair.weights(a, b)
    registers = (x, first, second, z, 0.0)
    of = lambda weights: sum(w.item() * r for w, r in zip(weights, registers, strict=True) if w is not None)  # noqa: E731
    assert found.stage.item() == s
    assert of(found.propose) == pytest.approx(low)
    assert of(found.commit) == pytest.approx(high)
    assert of(found.error) == pytest.approx(high - low)
    assert (pair.eta, pair.order, pair.first, pair.longest) == (1.0, 1.0, 0.01, math.inf)
    assert (pair.controller.integral, pair.integrals, pair.share(a, b).item()) == (0.9, False, 0.5)
    error, end, before = (torch.tensor([row], dtype=torch.float64) for row in ([0.1, 0.2], [1.0, -3.0], [2.0, 0.5]))
    scaled = pair.scaled(error, before, end, before, 0.1, 0.25).item()
    assert scaled == pytest.approx(math.sqrt(0.5 * ((0.1 / 0.25) ** 2 + (0.2 / 0.32) ** 2)))
    assert pair.scaled(error * math.nan, before, end, before, 0.1, 0.25).item() == math.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solvers_ask_for_their_own_defaults(solver: str) -> None:
    info, times = ss.get_solver(solver), np.array([1.0, 0.1])
    runner = info.build(VP, times)
    assert (info.kind, info.adaptive, info.evaluations) == ("sde", True, 2)
    assert (info.order, info.strong_order) == ((2, 1.5) if solver.endswith("sra") else (1, 1.0))
    assert (runner.rtol, runner.atol, runner.pair.eta, runner.nodes) == (0.05, 0.0078, 1.0, False)
    own = info.build(VP, times, rtol=0.3, atol=0.2, nodes=True)
    assert (own.rtol, own.atol, own.nodes, own.times.tolist()) == (0.3, 0.2, True, [1.0, 0.1])


# -- each sample for itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch(solver: str) -> None:
    """Alone, among 64 and shuffled: the same result, calls and steps."""
    model = mixture_2d().model(VP)

    def run(indices: list[int]) -> ss.Solution:
        settings = {"solver": solver, "seed": 4, "dtype": torch.float64, "nodes": True}
        return ss.sample(model, (len(indices), 2), indices=indices, **settings)

    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    together, shuffled = run(list(range(64))), run(order.tolist())
    assert torch.allclose(shuffled.samples, together.samples[order], rtol=0, atol=1e-6)
    assert torch.equal(shuffled.nfe_per_sample, together.nfe_per_sample[order])
    for i in (0, 17, 63):
        alone = run([i])
        assert torch.allclose(alone.samples[0], together.samples[i], rtol=0, atol=1e-6)
        assert alone.nfe == alone.nfe_per_sample == together.nfe_per_sample[i]
        nodes = together.stats["nodes"]
        assert torch.equal(nodes[nodes[:, 0] == i, 1:], alone.stats["nodes"][:, 1:])


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_network_sees_only_samples_on_the_way(solver: str) -> None:
    """Rows seen are calls taken part in; two calls an accepted step, one a rejected one; labels stay with samples."""
    exact, labels = mixture_2d().model(VP), torch.arange(12.0)

    def labelled(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return exact.data(x, t) + 0.1 * label[:, None]

    net = CountingNet(labelled)
    model = ss.ScoreModel(net, VP, predicts="data").condition(label=labels)
    solution = ss.sample(model, (12, 2), solver=solver, seed=4, dtype=torch.float64)
    each = solution.nfe_per_sample
    assert sum(net.rows) == int(each.sum()) == solution.stats["network_rows"]
    assert len(net.rows) == solution.nfe == int(each.max())
    assert len(set(net.rows)) > 3
    assert torch.equal(each, 2 * solution.stats["accepted"] + solution.stats["rejected"])
    assert int(solution.stats["rejected"].sum()) > 0
    alone = ss.sample(
        ss.ScoreModel(labelled, VP, predicts="data").condition(label=labels[7:8]),
        (1, 2), solver=solver, seed=4, indices=[7], dtype=torch.float64,
    )  # fmt: skip
    assert torch.allclose(alone.samples[0], solution.samples[7], rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_sample_that_fails_does_not_cost_the_others(solver: str) -> None:
    """Sample 2 meets NaN, sample 5 a network that jumps without end: each with its status and time."""
    exact = mixture_2d().model(VP)
    generator = torch.Generator().manual_seed(0)

    def net(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        data = exact.data(x, t)
        data = torch.where(((which == 2) & (t < 0.5))[:, None], math.nan, data)
        rough = 1e15 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return torch.where(((which == 5) & (t < 0.7))[:, None], rough, data)

    which = torch.arange(8)
    model = ss.ScoreModel(net, VP, predicts="data").condition(which=which)
    options = {"solver": solver, "seed": 1, "dtype": torch.float64}
    found = ss.sample(model, (8, 2), on_error="mask", **options)
    assert [found.status[i] for i in (2, 5)] == [Status.NONFINITE, Status.STEP_UNDERFLOW]
    assert found.ok.tolist() == [True, True, False, True, True, False, True, True]
    assert [round(failure.time, 1) for failure in found.failures] == [0.5, 0.7]
    clean = ss.sample(exact, (8, 2), **options)
    assert torch.allclose(found.samples[found.ok], clean.samples[found.ok], rtol=0, atol=1e-6)
    assert torch.isnan(found.samples[~found.ok]).all()
    with pytest.raises(ss.NonFiniteError, match=r"2 of 8 samples did not arrive \(sample 2: nonfinite at t = 0\.[45]"):
        ss.sample(model, (8, 2), **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_budget_is_of_each_sample_and_never_exceeded(solver: str) -> None:
    model = mixture_2d().model(ss.EDM())
    options = {"solver": solver, "seed": 1, "rtol": 0.1}
    free = ss.sample(model, (16, 2), **options)
    budget = int(free.nfe_per_sample.median())
    found = ss.sample(model, (16, 2), nfe=budget, on_error="mask", **options)
    assert found.nfe <= budget
    assert torch.equal(found.ok, free.nfe_per_sample <= budget)
    assert {failure.status for failure in found.failures} == {Status.MAX_NFE}
    assert all(0 < failure.time < 80 and failure.nfe >= budget - 2 for failure in found.failures)
    assert torch.allclose(found.samples[found.ok], free.samples[found.ok], atol=1e-5)
    with pytest.raises(ss.BudgetError, match="raise nfe="):
        ss.sample(model, (16, 2), nfe=budget, **options)


# -- what a run shows, and what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[1.0, 0.7, 0.2, 0.0], [1.0, 0.9995, 0.4, 5e-4, 0.0], [1.0, 0.9995]])
@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectories_stand_at_the_times_asked_for(solver: str, times: list[float]) -> None:
    """In order, of the law at each time, next to the ends too; the last is the result."""
    law, sde, n = ss.exact.Gaussian([0.5], 0.04), ss.RectifiedFlow(), 800
    seen: list[tuple[int, float]] = []
    solution = ss.sample(
        law.model(sde), (n, 1), solver=solver, grid=times, seed=0, rtol=0.05, trajectory=True,
        callback=lambda step: seen.append((step.index, step.time)),
    )  # fmt: skip
    assert seen == list(enumerate(times))[1:]
    assert solution.trajectory is not None
    assert torch.equal(solution.trajectory[-1], solution.samples)
    for t, state in zip(times[:-1], solution.trajectory, strict=False):
        exact = law.marginal(sde, t)
        std = exact.variances[0].sqrt().item()
        assert abs(state.mean().item() - exact.mean.item()) < 4.9 * std / math.sqrt(n) + 0.01
        assert abs(state.std().item() / std - 1) < 4.9 / math.sqrt(2 * n) + 0.02


def test_the_accepted_nodes_make_up_the_interval() -> None:
    solution = ss.sample(mixture_2d().model(VP), (3, 2), solver="adaptive_sde_ggf", seed=0, nodes=True)
    for sample in range(3):
        nodes = solution.stats["nodes"]
        levels = nodes[nodes[:, 0] == sample, 2].double()
        assert (0.5**levels).sum().item() == 1.0
        assert len(levels) == solution.stats["accepted"][sample]


def test_gradients_flow_and_nothing_of_the_caller_s_is_changed() -> None:
    mean = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    before = start.detach().clone()

    def run() -> Tensor:
        model = ss.ScoreModel(lambda x, t: mean + 0.2 * torch.tanh(x), VP, predicts="data")
        return ss.sample(model, start=start, solver="adaptive_sde_sra", seed=0, grad=True).samples.sum()

    run().backward()
    assert torch.equal(start, before)
    assert mean.grad is not None
    assert start.grad is not None
    step = 1e-6
    with torch.no_grad():
        mean[0] += step
        up = run().item()
        mean[0] -= 2 * step
        down = run().item()
    assert mean.grad[0].item() == pytest.approx((up - down) / (2 * step), rel=1e-4)


def test_requests_that_make_no_sense_are_refused_before_the_network_is_called() -> None:
    model = mixture_2d().model(VP)

    class Plain:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            return torch.zeros_like(like)

    for solver in SOLVERS:
        with pytest.raises(TypeError, match="noise=Plain cannot: expected draw"):
            ss.sample(model, (2, 2), solver=solver, noise=Plain())
        with pytest.raises(ValueError, match="rtol > 0, got rtol=0"):
            ss.sample(model, (2, 2), solver=solver, rtol=0)
    with pytest.raises(ValueError, match="eta > 0 for an adaptive SDE solver, got 0"):
        ss.sample(model, (2, 2), solver="adaptive_sde_sra", eta=0)
    with pytest.raises(ValueError, match="adds noise"):
        ss.encode(model, torch.zeros(2, 2), solver="adaptive_sde_sra")
    assert model.nfe == 0


def test_images_in_float32_and_states_without_further_dimensions() -> None:
    law = ss.exact.Empirical(torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(3)), 0.3)
    for solver in SOLVERS:
        model = law.model(ss.SubVPSDE())
        single = ss.sample(model, (5, 1, 4, 4), solver=solver, seed=1, rtol=0.1).samples
        double = ss.sample(model, (5, 1, 4, 4), solver=solver, seed=1, rtol=0.1, dtype=torch.float64).samples
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, atol=2e-3)
        flat = ss.sample(ss.ScoreModel(lambda x, t: -x, VP), (6,), solver=solver, seed=1)
        assert flat.samples.shape == (6,)
