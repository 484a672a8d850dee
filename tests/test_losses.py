"""Training objectives: as their papers write them, at their closed form, with the exact score as minimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import PROCESSES, mixture_2d
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

import scoresolve as ss
from scoresolve import losses

MEAN, V = 0.4, 0.3
LAW = ss.exact.Gaussian([MEAN], [V])
TABLE = ss.DiscreteVPSDE(np.linspace(0.01, 0.5, 20))
PREDICTIONS = ["score", "noise", "data", "v", "velocity", "flow"]
ZERO = torch.zeros(2, 1)
NAMES = ["sigma2", "likelihood", "edm", "min_snr", "uniform", "velocity"]


def seen_as(model: ss.ScoreModel, predicts: str) -> ss.ScoreModel:
    """The same model, made of a network of another prediction."""
    return ss.ScoreModel(lambda x, t: model.evaluate(x, t, predicts), model.sde, predicts=predicts)


def data(n: int, law: ss.exact.Law = LAW) -> Tensor:
    return law.sample(n, generator=torch.Generator().manual_seed(0))


def corners(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x0, noise and t: for each time two points by two signs, exact for what is quadratic in x0 and noise."""
    signs = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])).double().repeat(len(t), 1)
    return MEAN + V**0.5 * signs[:, :1], signs[:, 1:], t.repeat_interleave(4)


def residual(alpha: float, sigma: float) -> float:
    """``E|D - x_0|^2`` of the exact denoiser: the posterior variance."""
    return V * sigma**2 / (alpha**2 * V + sigma**2)


# -- what they are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_objectives_are_what_their_papers_write(name: str) -> None:
    """From the data error of a network that is wrong, at given times and noise; whatever the network predicts."""
    sde, exact = PROCESSES[name], mixture_2d().model(PROCESSES[name])
    model = ss.ScoreModel(lambda x, t: exact.data(x, t) + x.sin(), sde, predicts="data")
    x0, noise = data(7, mixture_2d()), torch.randn(7, 2, generator=torch.Generator().manual_seed(1)).double()
    low, high = sde.time(3.0), sde.time(-3.0)
    t = torch.linspace(low, high, 7, dtype=torch.float64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    x = alpha[:, None] * x0 + sigma[:, None] * noise
    snr = alpha**2 / sigma**2

    def error(prediction: str, true: Tensor) -> Tensor:
        return (model.evaluate(x, t, prediction) - true).square().sum(dim=1)

    score, eps = error("score", -noise / sigma[:, None]), error("noise", noise)
    slopes = [rate(t)[:, None] for rate in (sde.alpha_rate, sde.sigma_rate)]
    rho, sd = sigma / alpha, 0.5
    written = {
        "sigma2": sigma**2 * score,
        "likelihood": 0.5 * sde.squared_diffusion(t) * score * (high - low),
        "edm": (rho**2 + sd**2) / (rho * sd) ** 2 * error("data", x0),
        "min_snr": torch.minimum(snr, torch.full_like(t, 5.0)) / snr * eps,
        "uniform": error("data", x0),
        "velocity": error("velocity", slopes[0] * x0 + slopes[1] * noise),
        "v": error("v", alpha[:, None] * noise - sigma[:, None] * x0),
    }
    law = losses.uniform().on(sde, low, high)
    drawn = losses.Draw(t, noise, law, law)
    for weighting, expected in written.items():
        for predicts in PREDICTIONS:
            found = losses.denoising_score_matching(seen_as(model, predicts), x0, weighting=weighting, drawn=drawn)
            assert torch.allclose(found, expected, rtol=1e-9), (weighting, predicts)
    by_hand = losses.denoising_score_matching(model, x0, weighting=lambda lam: lam.exp(), drawn=drawn)
    assert torch.allclose(by_hand, snr.sqrt() * written["uniform"])
    if name == "vp":  # seen along another process: equal lam, equal noise, equal error of the data
        other = ss.EDM()
        drawn = losses.Draw(other.time(sde.lam(t)), noise)
        for predicts in PREDICTIONS:
            view = seen_as(model, predicts).on(other)
            assert torch.allclose(losses.denoising_score_matching(view, x0, drawn=drawn), written["sigma2"])


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("weighting", [*NAMES, "bound"])
def test_the_minimiser_is_the_exact_score(weighting: str, predicts: str) -> None:
    """An affine network at each of three times: the loss is quadratic, one Newton step from anywhere ends at it."""
    sde = TABLE if weighting == "bound" else ss.VPSDE()
    x0, noise, t = corners(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    which = torch.arange(3).repeat_interleave(4)
    law = (losses.levels() if weighting == "bound" else losses.uniform()).on(sde, 0.05, 1.0)

    def loss(theta: Tensor) -> Tensor:
        net = ss.ScoreModel(
            lambda x, t, which: theta[which, :1] * x + theta[which, 1:], sde, predicts=predicts
        ).condition(which=which)
        drawn = losses.Draw(t, noise, law, law)
        if weighting == "bound":
            return losses.ddpm_bound(net, x0, drawn=drawn).mean()
        return losses.denoising_score_matching(net, x0, weighting=weighting, drawn=drawn).mean()

    start = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(loss(start), start)[0].reshape(-1)
    hessian = torch.autograd.functional.hessian(loss, start).reshape(6, 6)
    best = -torch.linalg.solve(hessian, gradient).reshape(3, 2)
    exact = LAW.model(sde)
    at = [exact.evaluate(torch.full((3, 1), x, dtype=torch.float64), t[::4], predicts) for x in (0.0, 1.0)]
    assert torch.allclose(best, torch.cat([at[1] - at[0], at[0]], dim=1), rtol=1e-8, atol=1e-10)


def expected(name: str, sde: ss.SDE, low: float, high: float) -> float:
    """The objective of the exact denoiser, by quadrature of its closed form."""
    if name == "likelihood":
        return float(np.subtract(*[0.5 * math.log1p(V * math.exp(2 * sde.lam(t))) for t in (low, high)]))
    if name == "edm":
        law = norm(-1.2, 1.2)
        ends = [math.log(sde.rho(t)) for t in (low, high)]
        value = quad(lambda u: law.pdf(u) * (math.exp(-2 * u) + 4) * residual(1.0, math.exp(u)), *ends)[0]
        return value / (law.cdf(ends[1]) - law.cdf(ends[0]))

    def integrand(t: float) -> float:
        a, s = sde.alpha(t), sde.sigma(t)
        weight = {
            "sigma2": a**2 / s**2,
            "min_snr": min(a**2 / s**2, 5.0),
            "uniform": 1.0,
            "velocity": (sde.alpha_rate(t) - sde.sigma_rate(t) * a / s) ** 2,
        }
        return weight[name] * residual(a, s)

    return quad(integrand, low, high, limit=200)[0] / (high - low)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
@pytest.mark.parametrize("weighting", NAMES)
def test_expectations_are_their_closed_form(weighting: str, name: str) -> None:
    sde, x0 = PROCESSES[name], data(20_000)
    low, high = (0.02, 0.98) if name != "edm" else (0.02, 5.0)
    asked = {"weighting": weighting, "seed": 3, "t_min": low, "t_max": high, "spread": False}
    found = losses.denoising_score_matching(LAW.model(sde), x0, **asked)
    off = found.mean().item() - expected(weighting, sde, low, high)
    assert abs(off) < 4 * found.std().item() / len(x0) ** 0.5


def test_the_likelihood_and_ddpms_bound_are_those_of_variational_bound() -> None:
    """In the mean over noise and times, less the constants: for a network that is not the best."""
    x0 = data(20_000)
    for sde in (ss.VPSDE(), TABLE):
        exact = LAW.model(sde)
        model = ss.ScoreModel(lambda x, t, exact=exact: 0.9 * exact.noise(x, t), sde, predicts="noise")
        if sde is TABLE:
            found = losses.ddpm_bound(model, x0, seed=1)
            terms = ss.variational_bound(model, x0, kind="discrete", repeats=1, seed=2).terms
            variance = TABLE.betas[1] * TABLE.betas[0] / (1 - (1 - TABLE.betas[0]) * (1 - TABLE.betas[1]))
            bound = terms["diffusion"] + terms["decoder"] - 0.5 * math.log(2 * math.pi * variance)
        else:
            found = losses.denoising_score_matching(model, x0, weighting="likelihood", seed=1)
            bound = ss.variational_bound(model, x0, points=16, repeats=1, seed=2).terms["diffusion"]
        error = math.hypot(found.std().item(), bound.std().item()) / len(x0) ** 0.5
        assert abs(found.mean().item() - bound.mean().item()) < 4 * error
        assert error < 0.03 * bound.mean().item()


@pytest.mark.parametrize("variance", ["small", "large"])
def test_terms_of_ddpms_bound_are_those_of_its_paper(variance: str) -> None:
    """``beta^2 / (2 v (1 - beta) (1 - bar)) |noise error|^2`` (Ho et al. 2020, eq. 12), each over its chance 1 / N."""
    betas, bars = TABLE.betas, np.cumprod(1 - TABLE.betas)
    tilde = betas[1:] * (1 - bars[:-1]) / (1 - bars[1:])
    v = tilde if variance == "small" else betas[1:]
    terms = betas[1:] ** 2 / (2 * v * (1 - betas[1:]) * (1 - bars[1:]))
    decoder = (1 - bars[0]) / bars[0] / (2 * tilde[0])
    exact = LAW.model(TABLE)
    model = ss.ScoreModel(lambda x, t: 0.9 * exact.noise(x, t), TABLE, predicts="noise")
    t = torch.arange(1, 21, dtype=torch.float64) / 20
    noise, law = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None], losses.levels().on(TABLE, 0.05, 1.0)
    drawn, x0 = losses.Draw(t, noise, law, law), data(20)
    wrong = (model.noise(TABLE.perturb(x0, t, noise=noise), t) - noise).square()[:, 0]
    wanted = 20 * torch.from_numpy(np.concatenate([[decoder], terms])) * wrong
    assert torch.allclose(losses.ddpm_bound(model, x0, variance=variance, drawn=drawn), wanted)


def test_simple_losses_are_their_names() -> None:
    x0, model = data(6), LAW.model(TABLE)
    found = losses.ddpm_simple(model, x0, seed=4)
    drawn = losses.draw(model, x0, times=losses.levels(), seed=4)
    number = drawn.t * TABLE.N
    assert torch.allclose(number, number.round())
    x = TABLE.perturb(x0, drawn.t, noise=drawn.noise)
    assert torch.allclose(found, (model.noise(x, drawn.t) - drawn.noise).square().sum(1))
    flow = LAW.model(ss.RectifiedFlow())
    drawn = losses.draw(flow, x0, seed=4)
    x = (1 - drawn.t)[:, None] * x0 + drawn.t[:, None] * drawn.noise
    expected = (flow.velocity(x, drawn.t) - (drawn.noise - x0)).square().sum(1)
    assert torch.allclose(losses.flow_matching(flow, x0, seed=4), expected)


# -- times ------------------------------------------------------------------------------------------------------------

LAWS = [losses.uniform(), losses.uniform_lam(), losses.log_normal(), losses.logit_normal(0.3), losses.matched(0.5)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", ["vp", "edm", "flow", "cosine"])
def test_densities_are_those_of_the_quantiles(law: losses.TimeLaw, name: str) -> None:
    """``|du / dlam|`` by differences; ends at the ends; and the rectified flow's logit-normal t."""
    sde = PROCESSES[name]
    low, high = sde.time(4.0), sde.time(-3.0)
    times, step = law.on(sde, low, high), 1e-5
    u = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)
    slope = (sde.lam(times.at(u + step)) - sde.lam(times.at(u - step))).abs() / (2 * step)
    assert torch.allclose(times.density(times.at(u)) * slope, torch.ones_like(u), rtol=1e-3)
    ends = sorted(times.at(torch.tensor([1e-13, 1 - 1e-13], dtype=torch.float64)).tolist())
    assert ends == pytest.approx([low, high], rel=1e-6)
    if law.name == "log_normal(0.3, 1)" and name == "flow":
        whole = law.on(sde, 0.0, 1.0).at(u)  # place 0 is pure noise
        assert torch.allclose(torch.logit(whole), 0.3 - torch.special.ndtri(u))


PROPOSALS = [losses.uniform(), losses.log_normal(0.0, 2.5), losses.matched(V**0.5)]


def test_proposals_do_not_move_the_mean_and_the_right_one_lowers_the_variance() -> None:
    """The likelihood's own density for the data's Gaussian leaves the spread of one squared normal, sqrt(2) of it."""
    x0, model, spreads = data(20_000), LAW.model(ss.VESDE()), []
    exact = expected("likelihood", model.sde, 1e-5, 1.0)
    for law in PROPOSALS:
        found = losses.denoising_score_matching(model, x0, weighting="likelihood", proposal=law, seed=5, spread=False)
        assert abs(found.mean().item() - exact) < 4 * found.std().item() / len(x0) ** 0.5
        spreads.append(found.std().item())
    assert spreads[2] == pytest.approx(2**0.5 * exact, rel=0.05)
    assert spreads[2] < 0.7 * min(spreads[:2])
    asked = {"weighting": "edm", "seed": 6, "spread": False, "t_min": 0.02, "t_max": 5.0}
    for law in PROPOSALS:
        found = losses.denoising_score_matching(LAW.model(ss.EDM()), x0, proposal=law, **asked)
        error = found.std().item() / len(x0) ** 0.5
        assert abs(found.mean().item() - expected("edm", ss.EDM(), 0.02, 5.0)) < 4 * error


def test_spread_times_are_of_the_law_and_make_batches_agree() -> None:
    """Any run of a seed's samples is spread; a place is uniform over the seeds; batch means vary less."""
    x0, model = torch.zeros(64, 1, dtype=torch.float64), LAW.model(ss.VPSDE())
    draws = [losses.draw(model, x0, seed=seed).t for seed in range(200)]
    first = torch.stack(draws)[:, 7].sort().values
    low = model.sde.t_min
    uniform = low + (1 - low) * (torch.arange(200) + 0.5) / 200
    assert (first - uniform).abs().max() < 1.63 / 200**0.5  # Kolmogorov and Smirnov, 1%
    for some, most in ((range(64), 1), (range(6400, 6464), 1), (range(2**62 - 1000, 2**62 - 936), 2)):
        place = (losses.draw(model, x0, seed=3, indices=some).t - low) / (1 - low)
        assert place.sort().values.diff().max() < (most + 1e-9) / 64
    means = {spread: [] for spread in (True, False)}
    for spread, values in means.items():
        for seed in range(100):
            drawn = losses.draw(model, x0, seed=seed, spread=spread)
            values.append(model.data(model.sde.sigma(drawn.t)[:, None], 0.5).mean().item())
    assert np.std(means[True]) < 0.2 * np.std(means[False])


def test_a_sample_of_a_seed_is_the_same_in_any_batch() -> None:
    model, x0 = LAW.model(ss.VPSDE()), data(5)
    for spread in (True, False):
        whole = losses.denoising_score_matching(model, x0, seed=2, spread=spread)
        part = losses.denoising_score_matching(model, x0[3:], seed=2, spread=spread, indices=[3, 4])
        assert torch.equal(whole[3:], part)
        assert not torch.allclose(whole, losses.denoising_score_matching(model, x0, seed=3, spread=spread))
    made = [losses.flow_matching(model, x0, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*made)


def test_adaptive_times_keep_the_mean_and_learn_the_least_variance() -> None:
    """The noise's error where nearly all noise levels are large. Chances follow the root mean square of each bin."""
    model, x0, adaptive = LAW.model(ss.EDM()), data(20_000), losses.Adaptive()
    ends = {"t_min": 0.02, "t_max": 20.0}
    plain = losses.denoising_score_matching(model, x0, seed=50, spread=False, **ends)
    assert torch.equal(adaptive.chances, torch.full((32,), 1 / 32, dtype=torch.float64))
    for seed in range(20):
        drawn = losses.draw(model, x0[:2000], adaptive=adaptive, seed=seed, **ends)
        drawn.teach(adaptive, losses.denoising_score_matching(model, x0[:2000], drawn=drawn))
    again = losses.Adaptive()
    again.load_state_dict(adaptive.state_dict())
    found = losses.denoising_score_matching(model, x0, seed=51, spread=False, adaptive=again, **ends)
    for loss in (plain, found):
        off = loss.mean().item() - expected("sigma2", model.sde, 0.02, 20.0)
        assert abs(off) < 4 * loss.std().item() / len(x0) ** 0.5
    assert found.std() < 0.5 * plain.std()
    edges = np.linspace(0.02, 20.0, 33)
    size = [3 * quad(lambda t: (V / (V + t**2)) ** 2, *pair)[0] for pair in pairwise(edges)]
    wanted = 0.95 * np.sqrt(size) / np.sqrt(size).sum() + 0.05 / 32
    assert adaptive.chances.numpy() == pytest.approx(wanted, rel=0.2)
    before = adaptive.chances
    adaptive.learn(torch.tensor([0.5]).double(), torch.tensor([math.nan]))
    assert torch.equal(adaptive.chances, before)


# -- without clean data -----------------------------------------------------------------------------------------------


def test_implicit_objectives_are_the_explicit_one_less_a_constant() -> None:
    """s = A x + c against the score of a Gaussian in three dimensions, in closed form; exact trace and sliced."""
    generator = torch.Generator().manual_seed(2)
    A, root = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    c, mean = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    covariance = root @ root.T + torch.eye(3)
    law = ss.exact.Gaussian(mean, covariance)
    x = law.sample(20_000, generator=generator)
    inverse = torch.linalg.inv(covariance)
    shift = A + inverse  # s - s* = (A + C) x + c - C mean, C the inverse covariance
    explicit = 0.5 * ((shift @ covariance @ shift.T).trace() + (A @ mean + c).square().sum())
    exact = (explicit - 0.5 * inverse.trace()).item()
    model = ss.ScoreModel(lambda x, t: x @ A.T + c, ss.VESDE())
    spreads = []
    for found in (
        losses.implicit_score_matching(model, x, 0.5),
        losses.sliced_score_matching(model, x, 0.5, probes=4, seed=0),
        losses.sliced_score_matching(model, x, 0.5, seed=0),
    ):
        assert abs(found.mean().item() - exact) < 4 * found.std().item() / len(x) ** 0.5
        spreads.append(found.var().item())
    off = (A + A.T) / 2 - A.diagonal().diag()
    extra = 2 * off.square().sum().item()  # the variance of a probe of signs
    assert spreads[1] - spreads[0] == pytest.approx(extra / 4, rel=0.35)
    assert spreads[2] - spreads[0] == pytest.approx(extra, rel=0.25)


def test_implicit_objectives_train() -> None:
    """The gradient in the parameters of ``s = -(x - a) / b`` is that of its closed form, and is zero at the law's."""
    x = MEAN + V**0.5 * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # E x, E x^2 exactly

    def gradient(a: float, b: float, loss: Callable[..., Tensor]) -> Tensor:
        theta = torch.tensor([a, b], dtype=torch.float64, requires_grad=True)
        model = ss.ScoreModel(lambda x, t: -(x - theta[0]) / theta[1], ss.VESDE())
        return torch.autograd.grad(loss(model, x, 0.5).mean(), theta)[0]

    for loss in (losses.implicit_score_matching, losses.sliced_score_matching):
        assert torch.allclose(gradient(MEAN, V, loss), torch.zeros(2, dtype=torch.float64), atol=1e-12)
        a, b = 0.1, 0.5
        second = V + (MEAN - a) ** 2
        wanted = torch.tensor([-(MEAN - a) / b**2, 1 / b**2 - second / b**3], dtype=torch.float64)
        assert torch.allclose(gradient(a, b, loss), wanted)
    with torch.no_grad():
        assert not losses.implicit_score_matching(LAW.model(ss.VPSDE()), x, 0.5).requires_grad


# -- use --------------------------------------------------------------------------------------------------------------


def test_half_precision_networks_and_conditioning() -> None:
    with torch.random.fork_rng():
        net = torch.nn.Conv2d(3, 3, 3, padding=1, dtype=torch.bfloat16)
    model = ss.ScoreModel(lambda x, t, label: net(x.bfloat16()) + label[:, None, None, None], ss.VPSDE())
    x0 = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = losses.denoising_score_matching(model.condition(label=torch.arange(4.0)), x0, seed=0)
    assert loss.shape == (4,)
    assert loss.dtype == torch.float32
    loss.mean().backward()
    assert torch.isfinite(net.weight.grad).all()
    assert model.nfe == 1


def test_requests_that_make_no_sense_say_so_before_the_network_is_called() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("called")

    def ask(sde: ss.SDE, x0: Tensor = ZERO, time: str = "t", **asked: object) -> None:
        losses.denoising_score_matching(ss.ScoreModel(net, sde, predicts="data", time=time), x0, **asked)

    vp = ss.ScoreModel(net, ss.VPSDE(), predicts="data")
    drawn = losses.draw(vp, ZERO, seed=0)
    for asked, message in [
        (lambda: ask(ss.VPSDE(), weighting="sigma"), "did you mean 'sigma2'"),
        (lambda: ask(ss.VPSDE(), weighting=3), "weighting must be a name"),
        (lambda: ask(ss.VPSDE(), times=losses.levels()), "those of a table of betas"),
        (lambda: ask(ss.RectifiedFlow(), weighting="likelihood", t_max=1.0), "lam goes from -inf"),
        (lambda: ask(TABLE, time="index", times=losses.uniform()), "asks between them"),
        (lambda: ask(TABLE, time="index", weighting="edm"), "asks between them"),
        (lambda: ask(TABLE, times=losses.levels(), weighting="likelihood"), "an integral over lam"),
        (lambda: ask(TABLE, times=losses.levels(), proposal=losses.uniform()), "both of levels or both not"),
        (lambda: losses.ddpm_bound(vp, ZERO), "bound is that of a table"),
        (lambda: losses.ddpm_bound(vp.on(TABLE), ZERO, times=losses.uniform()), "a sum over the levels"),
        (lambda: ask(ss.VPSDE(), drawn=drawn, seed=1), "not both; got seed"),
        (lambda: ask(ss.VPSDE(), x0=torch.zeros(3, 1), drawn=drawn), "one time for each of 3"),
        (lambda: ask(ss.VPSDE(), drawn=replace(drawn, proposal=None), weighting="likelihood"), "made by hand"),
        (lambda: drawn.teach(losses.Adaptive(), torch.zeros(2)), "not made with an Adaptive"),
        (lambda: ask(ss.VPSDE(), indices=[1]), "one of indices="),
        (lambda: ask(ss.VPSDE(), x0=torch.zeros(2, 1, dtype=torch.int64)), "float32 or torch.float64"),
        (lambda: losses.denoising_score_matching(net, ZERO), "must be a ScoreModel"),
        (lambda: losses.log_normal(std=0.0), "std > 0"),
        (lambda: losses.matched(-1.0), "std > 0"),
        (lambda: losses.edm(0.0), "sd > 0"),
        (lambda: losses.min_snr(0.0), "gamma > 0"),
        (lambda: losses.Adaptive(floor=0.0), "floor"),
        (lambda: losses.Adaptive(bins=0), "bins must be"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            asked()
    with pytest.raises(ValueError, match="carries no gradient"):
        losses.implicit_score_matching(ss.ScoreModel(lambda x, t: -x.detach(), ss.VPSDE()), ZERO, 0.5)
