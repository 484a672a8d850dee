"""Variational bounds against closed forms: on Gaussian data with the exact score every term is Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import CountingNet
from scipy.stats import norm
from torch import Tensor

import scoresolve as ss
from scoresolve import bound as bounds
from scoresolve.bound_levels import Bins, negative_log

LAW = ss.exact.Gaussian([0.4], [0.3])
X0 = 0.4 + 0.3**0.5 * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # a two-point rule, exact for quadratics
TABLES = {"ddpm": ss.DiscreteVPSDE.linear(), "short": ss.DiscreteVPSDE(np.linspace(0.01, 0.5, 20))}


class TwoPoints:
    """Noise of +-1 by bit 1 of a row's number, exact for what is quadratic in it; place u by bit 2, symmetric."""

    def __init__(self, seed: int, indices: range) -> None:
        self.rows = torch.tensor(indices)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        bit = 4 if index == 0 else 2
        return torch.where((self.rows & bit) > 0, 1.0, -1.0).to(like)[:, None].expand_as(like)


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SampleStreams", TwoPoints)


def expected(model: ss.ScoreModel, **asked: object) -> Tensor:
    """The bound of each of X0 in expectation over its noise, under ``TwoPoints``."""
    return ss.variational_bound(model, X0.repeat(4, 1), repeats=1, **asked).nats.reshape(4, 2).mean(dim=0)


def squared_error(x0: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """``E (x_0 - D(x_t))^2`` of the exact denoiser of N(m, v): ``D = m + g (x_t - alpha m)``, g = alpha v / P."""
    m, v = 0.4, 0.3
    total = alpha**2 * v + sigma**2
    return ((x0 - m) * sigma**2 / total) ** 2 + (alpha * v * sigma / total) ** 2


def discrete(sde: ss.DiscreteVPSDE, x0: float, variance: np.ndarray) -> float:
    """The expectation of the discrete bound, from betas as Ho et al. write it."""
    betas, bars = sde.betas, np.cumprod(1 - sde.betas)
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    error = squared_error(np.array(x0), alpha, sigma)
    prior = 0.5 * (bars[-1] * x0**2 + 1 - bars[-1] - 1 - math.log(1 - bars[-1]))
    decoder = 0.5 * math.log(2 * math.pi * variance[0]) + error[0] / (2 * variance[0])
    tilde = betas[1:] * (1 - bars[:-1]) / (1 - bars[1:])
    weight = np.sqrt(bars[:-1]) * betas[1:] / (1 - bars[1:])
    ratio = tilde / variance[1:]
    terms = 0.5 * (ratio - 1 - np.log(ratio)) + weight**2 * error[1:] / (2 * variance[1:])
    return float(prior + decoder + terms.sum())


def variances(sde: ss.DiscreteVPSDE, name: str) -> np.ndarray:
    bars = np.cumprod(1 - sde.betas)
    tilde = sde.betas[1:] * (1 - bars[:-1]) / (1 - bars[1:])
    return np.concatenate([tilde[:1], tilde if name == "small" else sde.betas[1:]])


def continuous(sde: ss.SDE, x0: float, t_max: float, t_min: float) -> float:
    """With S = exp(2 lam): ``int S/2 E(x_0 - D)^2 dS/S = 1/2 [log(S v + 1) + (1 - (x_0 - m)^2 / v) / (S v + 1)]``."""
    m, v, std = 0.4, 0.3, sde.prior_std(t_max)
    ends = []
    for t in (t_min, t_max):
        s = math.exp(2 * sde.lam(t)) * v + 1
        ends.append(0.5 * (math.log(s) + (1 - (x0 - m) ** 2 / v) / s))
    alpha, ratio = sde.alpha(t_max), (sde.sigma(t_max) / std) ** 2
    prior = 0.5 * (ratio + (alpha * x0 / std) ** 2 - 1 - math.log(ratio))
    return prior + ends[0] - ends[1] + 0.5 * math.log(2 * math.pi * math.e * sde.rho(t_min) ** 2)


@pytest.mark.parametrize("variance", ["small", "large", "given"])
@pytest.mark.parametrize("name", TABLES)
def test_the_discrete_bound_is_its_closed_form(name: str, variance: str, no_chance: None) -> None:
    sde = TABLES[name]
    given = variances(sde, variance) if variance != "given" else variances(sde, "small") * np.linspace(0.7, 1.6, sde.N)
    asked = variance if variance != "given" else given
    found = expected(LAW.model(sde), kind="discrete", variance=asked)
    for x0, value in zip(X0[:, 0].tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(discrete(sde, x0, given), abs=1e-8)


@pytest.mark.parametrize("importance", [None, 0.3])
@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_the_continuous_bound_is_its_closed_form(name: str, importance: float | None, no_chance: None) -> None:
    """The remaining error is that of equally spread quantiles: it falls as the square of their number."""
    sde, ends = {
        "vp": (ss.VPSDE(), (1.0, 1e-3)),
        "edm": (ss.EDM(), (80.0, 0.01)),
        "flow": (ss.RectifiedFlow(), (0.98, 0.01)),
    }[name]
    for points, bound in ((150, 2e-3), (600, 1.3e-4)):
        asked = {"importance": importance, "t_max": ends[0], "t_min": ends[1], "points": points}
        found = expected(LAW.model(sde), **asked)
        for x0, value in zip(X0[:, 0].tolist(), found.tolist(), strict=True):
            assert value == pytest.approx(continuous(sde, x0, *ends), abs=bound)


SEEDED = [
    {"kind": "discrete"},
    {"kind": "discrete", "points": 12},
    {"kind": "discrete", "points": 7, "importance": 0.5},
    {"points": 12},
    {"points": 12, "importance": 0.8},
]


@pytest.mark.parametrize("asked", SEEDED)
def test_seeded_estimates_are_unbiased_and_their_errors_honest(asked: dict[str, object]) -> None:
    """4000 samples of one point, at some of a table's terms, all terms and drawn lam: mean and spread."""
    n, sde = 4000, TABLES["short"]
    x0 = torch.full((n, 1), 0.9, dtype=torch.float64)
    found = ss.variational_bound(LAW.model(sde), x0, repeats=4, seed=1, **asked)
    exact = discrete(sde, 0.9, variances(sde, "small")) if "kind" in asked else continuous(sde, 0.9, 1.0, sde.t_eps)
    spread = found.nats.std().item()
    assert abs(found.nats.mean().item() - exact) < 4 * spread / n**0.5
    assert found.standard_error.square().mean().sqrt().item() == pytest.approx(spread, rel=0.08)
    assert found.nfe == 4 * (asked.get("points", 19) + ("kind" in asked))
    assert torch.allclose(sum(found.terms.values()), found.nats)
    assert torch.allclose(found.bits_per_dim, found.nats / math.log(2))


def test_the_bounds_lie_above_and_close_as_levels_grow(no_chance: None) -> None:
    """Averaged over the data: the discrete gap falls with T, the continuous one vanishes with t_min, as rho^2."""
    entropy = -LAW.log_prob(X0).mean().item()
    gaps, sde = [], ss.VPSDE()
    lowest, highest = sde.lam(1.0), 3.0
    for steps in (20, 100, 1000):
        share = 1 / (1 + np.exp(2 * np.linspace(highest, lowest, steps)))  # sigma^2, equal steps of lam
        bars = np.concatenate([[1.0], 1 - share])
        table = ss.DiscreteVPSDE(1 - bars[1:] / bars[:-1])
        variance = np.concatenate([[share[0] / (1 - share[0])], variances(table, "small")[1:]])
        gaps.append(expected(LAW.model(table), kind="discrete", variance=variance).mean().item() - entropy)
    limit = np.mean([continuous(sde, x0, 1.0, sde.time(highest)) for x0 in X0[:, 0].tolist()]) - entropy
    excess = np.array(gaps) - limit
    assert (excess > 0).all()
    assert np.log(excess[0] / excess[1]) / np.log(5) == pytest.approx(1, abs=0.2)
    assert np.log(excess[1] / excess[2]) / np.log(10) == pytest.approx(1, abs=0.2)
    rest = []
    for t_min in (0.1, 0.05):
        found = np.mean([continuous(ss.EDM(), x0, 1000.0, t_min) for x0 in X0[:, 0].tolist()])
        model = LAW.model(ss.EDM(sigma_max=1000.0))
        assert expected(model, points=600, t_min=t_min, importance=0.5).mean().item() == pytest.approx(found, abs=1e-3)
        rest.append(found - entropy)
    assert rest[0] > rest[1] > 0
    assert rest[0] / rest[1] == pytest.approx(4, rel=0.05)


def test_importance_lowers_the_error() -> None:
    x0 = torch.full((2000, 1), 0.9, dtype=torch.float64)
    for model, kind, gain in ((LAW.model(ss.VESDE()), "continuous", 0.8), (LAW.model(TABLES["ddpm"]), "discrete", 0.5)):
        asked = {"kind": kind, "points": 8}
        errors = [ss.variational_bound(model, x0, importance=s, **asked).nats.std() for s in (None, 0.55)]
        assert errors[1] < gain * errors[0]


# -- the decoder ----------------------------------------------------------------------------------------------------


def test_the_decoder_of_values_is_a_probability() -> None:
    values = torch.linspace(-1, 1, 9, dtype=torch.float64)
    bins = Bins.of(9, (-1.0, 1.0), values[:, None])
    for mean, std in ((0.1, 0.3), (-1.4, 0.02), (30.0, 1.0)):
        found = negative_log(values[:, None], torch.full((9, 1), mean, dtype=torch.float64), std**2, bins)
        assert torch.isfinite(found).all()
        assert (-found).exp().sum().item() == pytest.approx(1, abs=1e-12)
        edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]).numpy() / 2, [np.inf]])
        mass = np.diff(norm.cdf(edges, mean, std))
        assert (-found).exp().numpy() == pytest.approx(mass, abs=1e-12)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_fine_values_cost_what_their_spacing_says(kind: str) -> None:
    """-log P is -log p minus d log spacing where the decoder is wide compared with the spacing."""
    model, levels = LAW.model(TABLES["short"]), 4001
    k = torch.randint(1000, 3000, (50, 3), generator=torch.Generator().manual_seed(0))
    x0 = 4 * k.double() / (levels - 1) - 2
    model = ss.exact.Gaussian(torch.zeros(3), 0.3).model(TABLES["short"])
    parts = [
        ss.variational_bound(model, x0, kind=kind, points=4, levels=n, data_range=(-2, 2)).terms["decoder"]
        for n in (levels, None)
    ]
    apart = parts[0] - parts[1] + 3 * math.log(4 / (levels - 1))
    if kind == "discrete":
        assert apart.abs().max() < 1e-4
    else:  # a draw against the expectation: |z|^2 / 2 of three numbers, twice averaged
        assert abs(apart.mean().item()) < 4 * (3 / 2 / 2 / 50) ** 0.5


# -- use ------------------------------------------------------------------------------------------------------------


def test_samples_do_not_depend_on_chunks_and_seeds_say_what_is_drawn() -> None:
    law, sde = ss.exact.Gaussian(torch.zeros(1, 2, 3), 0.3), TABLES["short"]
    x0 = law.sample(5, generator=torch.Generator().manual_seed(0)).float()
    exact = law.model(sde)
    model = ss.ScoreModel(
        CountingNet(lambda x, t, label: exact.data(x, t) + 0 * label[:, None, None, None]), sde, predicts="data"
    )
    model = model.condition(label=torch.arange(5.0))
    for asked in ({"kind": "discrete"}, {"kind": "continuous", "points": 3}):
        whole = ss.variational_bound(model, x0, **asked, seed=2)
        parts = ss.variational_bound(model, x0, **asked, seed=2, batch_size=2)
        assert torch.allclose(whole.nats, parts.nats, rtol=1e-6)
        assert parts.nfe == 3 * whole.nfe
        assert parts.stats["network_rows"] == whole.stats["network_rows"] == 5 * whole.nfe
        assert not torch.allclose(whole.nats, ss.variational_bound(model, x0, **asked, seed=3).nats, rtol=1e-3)
        assert not whole.nats.requires_grad
    single = ss.variational_bound(model, x0, kind="discrete", repeats=1)
    assert single.nfe == sde.N
    assert single.standard_error.isnan().all()
    assert repr(single).startswith("VariationalBound(5 samples, mean ")


def test_the_bound_can_be_trained() -> None:
    """Its gradient with respect to a scale of the denoiser vanishes where the denoiser is the best one."""
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    sde = ss.VPSDE()
    exact = LAW.model(sde)
    model = ss.ScoreModel(lambda x, t: scale * exact.data(x, t), sde, predicts="data")
    x0 = LAW.sample(4000, generator=torch.Generator().manual_seed(0))
    slopes = []
    for value in (0.99, 1.0, 1.01):
        scale.data.fill_(value)
        bound = ss.variational_bound(model, x0, points=8, repeats=1, importance=0.5, t_min=0.05, grad=True)
        slopes.append(torch.autograd.grad(bound.nats.mean(), scale)[0].item())
    assert slopes[0] < 0 < slopes[2]
    assert abs(slopes[1]) < 0.1 * (slopes[2] - slopes[0])


def test_requests_that_make_no_sense_say_so_before_the_network_is_called() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("called")

    def ask(sde: ss.SDE, x0: Tensor = X0, time: str = "t", **asked: object) -> None:
        ss.variational_bound(ss.ScoreModel(net, sde, predicts="data", time=time), x0, **asked)

    table = TABLES["short"]
    for asked, message in [
        (lambda: ask(ss.VPSDE(), kind="discrete"), "that of a table of betas"),
        (lambda: ask(table, kind="continous"), "did you mean 'continuous'"),
        (lambda: ask(table, kind="discrete", t_min=0.1), "no t_min="),
        (lambda: ask(table, kind="discrete", points=20), "at most 19"),
        (lambda: ask(table, kind="discrete", variance="middle"), "'small' or 'large'"),
        (lambda: ask(table, kind="discrete", variance=[0.1, 0.2]), "20 positive variances"),
        (lambda: ask(table, variance="large"), "variance='small'"),
        (lambda: ask(table, time="index"), "kind='discrete'"),
        (lambda: ask(ss.EDM(), t_min=0.0), "noise at t_min"),
        (lambda: ask(ss.RectifiedFlow()), "lam is infinite at t = 1"),
        (
            lambda: ss.variational_bound(LAW.model(ss.EDM()).on(TABLES["ddpm"]), X0, kind="discrete"),
            "knows the table's",
        ),
        (lambda: ask(ss.VPSDE(), importance=-1.0), "importance > 0"),
        (lambda: ask(ss.VPSDE(), levels=256), "x0 on 256 values from -1 to 1"),
        (lambda: ask(ss.VPSDE(), repeats=0), "repeats must be"),
        (lambda: ask(ss.VPSDE(), batch_size=0), "batch_size must be"),
        (lambda: ask(ss.VPSDE(), torch.tensor([[math.nan]])), "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            asked()


def test_a_flow_that_starts_without_signal_can_be_bounded(no_chance: None) -> None:
    found = expected(LAW.model(ss.RectifiedFlow()), importance=0.5, points=400, t_min=0.01)
    for x0, value in zip(X0[:, 0].tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(continuous(ss.RectifiedFlow(), x0, 1 - 1e-9, 0.01), abs=1e-3)
