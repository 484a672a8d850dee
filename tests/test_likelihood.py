"""log p of data: against closed forms, its bits, gradients, chunks and priors; whole numbers made continuous."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from oracles import PROCESSES, gaussian, mixture_2d
from torch import Tensor

import scoresolve as ss

LAWS = {"gaussian": gaussian(), "mixture": mixture_2d()}


def points(law: ss.exact.Law, sde: ss.SDE, t_min: float, count: int = 6) -> tuple[Tensor, Tensor]:
    """Samples of the law at t_min, and their exact log-densities there."""
    marginal = law.marginal(sde, t_min)
    x0 = marginal.sample(count, generator=torch.Generator().manual_seed(1))
    return x0, marginal.log_prob(x0)


class Net(torch.nn.Module):
    """A small network on images with a scale for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = torch.nn.Linear(4, 8).double(), torch.nn.Linear(8, 4).double()
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        out = self.outward((self.inward(x.flatten(1)) + t[:, None]).tanh()).reshape(x.shape)
        return out * (scale if isinstance(scale, float) else scale[:, None, None, None])


@pytest.fixture
def net() -> Net:
    state = torch.get_rng_state()
    found = Net()
    torch.set_rng_state(state)
    return found


@pytest.mark.property(30)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["ve", "vp", "subvp", "edm", "user"])
def test_closed_forms_of_log_p(name: str, law: str) -> None:
    """With the exact law of x_T as prior: 1e-7 nats a dimension at 200 calls, 1e-5 at the default."""
    sde, truth = PROCESSES[name], LAWS[law]
    t_min, d = max(sde.t_min, sde.t_eps), math.prod(truth.shape)
    x0, exact = points(truth, sde, t_min)
    prior = truth.marginal(sde, sde.t_max)
    for asked, tolerance in (({"nfe": 200}, 1e-7), ({"rtol": 1e-8, "atol": 1e-8}, 1e-7), ({}, 1e-5)):
        found = ss.log_likelihood(truth.model(sde), x0, prior=prior, **asked)
        assert found.log_prob.shape == (6,)
        assert (found.log_prob - exact).abs().max() < tolerance * d
    assert found.nfe == found.nfe_per_sample.max() < 100


def test_the_mismatch_of_the_prior_is_all_that_is_missing() -> None:
    """log p under N(0, prior_std^2) and under the exact law of x_T differ by these densities at the latent."""
    sde, law = ss.VPSDE(), gaussian()
    x0, exact = points(law, sde, sde.t_min)
    found = ss.log_likelihood(law.model(sde), x0, nfe=200)
    mismatch = sde.prior_log_prob(found.latents) - law.marginal(sde, 1.0).log_prob(found.latents)
    assert mismatch.abs().max() > 1e-3
    assert torch.allclose(found.log_prob, exact + mismatch, atol=1e-7)
    function = ss.log_likelihood(law.model(sde), x0, nfe=200, prior=law.marginal(sde, 1.0).log_prob)
    assert torch.allclose(function.log_prob, exact, atol=1e-7)


def test_the_prior_is_that_of_the_time_where_the_run_ends() -> None:
    """Half of EDM's t_max: the prior at t_max would be off by up to log 2."""
    sde, law = ss.EDM(), ss.exact.Gaussian([0.0], 2.0)
    x0, exact = points(law, sde, 0.01)
    found = ss.log_likelihood(law.model(sde), x0, t_min=0.01, t_max=40.0, nfe=100)
    assert torch.allclose(found.log_prob, exact, atol=1e-2)
    samples = ss.sample(law.model(sde), start=found.latents, t_min=0.01, t_max=40.0, nfe=100, log_prob="exact")
    assert torch.allclose(samples.log_prob, found.log_prob, atol=1e-5)


def test_bits_per_dimension() -> None:
    """+ 7 for 256 levels on (-1, 1), + 8 on (0, 1), where a uniform law has 8 bits; none where no levels are given."""
    model, x0 = gaussian().model(ss.VPSDE()), torch.zeros(2, 3)
    plain = ss.log_likelihood(model, x0, nfe=10)
    assert plain.offset_bits == 0
    assert torch.allclose(plain.bits_per_dim, -plain.log_prob / (3 * math.log(2)))
    for data_range, offset in (((-1, 1), 7.0), ((0, 1), 8.0), ((0.0, 255.0), math.log2(256 / 255))):
        found = ss.log_likelihood(model, x0, nfe=10, levels=256, data_range=data_range)
        assert found.offset_bits == pytest.approx(offset)
        assert torch.allclose(found.bits_per_dim, plain.bits_per_dim + offset)
        assert torch.equal(found.log_prob, plain.log_prob)


def test_gradients_are_those_of_finite_differences(net: Net) -> None:
    """Of log p by x0 and by a parameter, exact and estimated; the network's own .grad stays as it was."""
    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise")
    x0 = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight = net.inward.weight
    for asked in ({"divergence": "exact"}, {"divergence": "hutchinson", "probes": 3}):

        def log_p(x: Tensor, grad: bool = False, asked: dict[str, object] = asked) -> Tensor:
            return ss.log_likelihood(model, x, nfe=12, grad=grad, **asked).log_prob

        leaf = x0.clone().requires_grad_()
        by_x, by_weight = torch.autograd.grad(log_p(leaf, grad=True)[1], (leaf, weight))
        assert by_x[0].abs().max() == 0  # samples do not touch each other
        step = torch.zeros_like(x0)
        step[1, 0, 1, 0] = 1e-5
        difference = (log_p(x0 + step) - log_p(x0 - step))[1] / 2e-5
        assert torch.allclose(by_x[1, 0, 1, 0], difference, rtol=1e-6)
        ends = []
        for change in (1e-5, -1e-5):
            weight.data[2, 1] += change
            ends.append(log_p(x0)[1])
            weight.data[2, 1] -= change
        assert torch.allclose(by_weight[2, 1], (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    assert not log_p(x0).requires_grad
    mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for grad in (False, True):  # by what a prior is made of
        prior = lambda z: -0.5 * (z - mean).square().flatten(1).sum(1)  # noqa: E731
        found = ss.log_likelihood(model, x0, nfe=4, prior=prior, grad=grad)
        assert found.log_prob.requires_grad is found.bits_per_dim.requires_grad is grad
    (by_mean,) = torch.autograd.grad(found.log_prob.sum(), mean)
    assert torch.allclose(by_mean, found.latents.sum())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_chunks_and_indices_change_nothing(net: Net) -> None:
    """Each chunk keeps its rows of the conditioning, its probes and its place; calls are counted as they are made."""
    scale = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise").condition(scale=scale)
    x0 = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    asked = {"nfe": 12, "divergence": "hutchinson", "probes": 4, "seed": 3}
    whole = ss.log_likelihood(model, x0, **asked)
    assert len(whole.log_prob.unique()) == 5
    before = model.nfe
    parts = ss.log_likelihood(model, x0, batch_size=2, **asked)
    assert parts.nfe == model.nfe - before == 36
    assert parts.nfe_per_sample.tolist() == [12] * 5
    assert parts.stats["backward_passes"] == 3 * 12 * 4
    for name in ("log_prob", "standard_error", "bits_per_dim", "latents"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    order = torch.tensor([4, 2])
    some = ss.log_likelihood(model.take(order, 5), x0[order], indices=[4, 2], **asked)
    assert torch.allclose(some.log_prob, whole.log_prob[order], rtol=1e-12)
    assert torch.isnan(ss.log_likelihood(model, x0, nfe=12, divergence="hutchinson").standard_error).all()
    object_given = ss.log_likelihood(model, x0, nfe=12, divergence=ss.Divergence("hutchinson", 4), seed=3)
    assert torch.equal(object_given.log_prob, whole.log_prob)


def test_failures_are_masked_over_chunks() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x > 5, torch.nan, x)

    x0 = torch.tensor([[1.0], [2.0], [9.0]])
    found = ss.log_likelihood(ss.ScoreModel(net, ss.VPSDE()), x0, nfe=5, batch_size=2, on_error="mask")
    assert found.ok.tolist() == [True, True, False]
    assert [failure.sample for failure in found.failures] == [2]
    assert torch.isnan(found.log_prob).tolist() == [False, False, True]
    assert repr(found).startswith("LogLikelihood(3 samples, mean ")


def test_bits_of_data_out_of_their_range_are_refused() -> None:
    """Images that nobody scaled; but not data with the noise of t_min in them, or values at the edge of the range."""
    model = gaussian().model(ss.VPSDE())
    scaled, asked = torch.tensor([[-1.0, 0.0, 1.0]]), {"levels": 256, "data_range": (-1.0, 1.0), "nfe": 3}
    for x0, said in ((127.5 * (scaled + 1), "from 0 to 255"), (0.5 * scaled - 2, "from -2.5 to -1.5")):
        with pytest.raises(ValueError, match=rf"data_range=\(-1, 1\), got values {said}: .*ss.dequantise"):
            ss.log_likelihood(model, x0, **asked)
    assert model.nfe == 0
    for t_min in (1e-3, 0.2):
        noise = 3 * scaled
        noisy = ss.VPSDE().perturb(scaled, t_min, noise=noise)
        assert ss.log_likelihood(model, noisy, t_min=t_min, **asked).offset_bits == 7


def test_progress_shows_a_bar_of_calls(capsys: pytest.CaptureFixture[str]) -> None:
    model, x0 = gaussian().model(ss.VPSDE()), torch.zeros(1, 3)
    found = ss.log_likelihood(model, x0, nfe=3)
    assert capsys.readouterr().err == ""
    ss.log_likelihood(model, x0, nfe=3, progress=True)
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(FrozenInstanceError):
        found.nfe = 0  # type: ignore[misc]


def test_errors_come_before_the_network_is_called() -> None:
    model, x0 = gaussian().model(ss.VPSDE()), torch.zeros(2, 3)
    for wrong, match in (
        ({"levels": 256}, "levels= and data_range= go together"),
        ({"levels": 256, "data_range": (1, -1)}, r"data_range=\(low, high\), got \(1, -1\)"),
        ({"levels": 1, "data_range": (0, 1)}, "levels must be a whole number of at least 2, got 1"),
        ({"prior": mixture_2d()}, r"a prior of samples of shape \(3,\), got \(2,\)"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"indices": [1]}, "names 1 samples for a batch of 2"),
        ({"divergence": ss.Divergence(), "probes": 2}, "in the Divergence, or beside its name, not both"),
        ({"solver": "ddpm", "nfe": 10}, "use a solver of kind 'ode'"),
        ({"t_min": 0.0}, "there is none at t = 0: use t_min=0.001"),
        ({"rtol": -1.0}, "rtol > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            ss.log_likelihood(model, x0, **wrong)
    with pytest.raises(TypeError, match="prior must be an exact law or a function of states, got int"):
        ss.log_likelihood(model, x0, prior=3)
    assert model.nfe == 0
    with pytest.raises(ValueError, match=r"prior to return one log-density a sample, \(2,\); got \(2, 3\)"):
        ss.log_likelihood(model, x0, prior=lambda x: x)
    with pytest.raises(ValueError, match=r"prior to return one log-density a sample, \(2,\); got float"):
        ss.log_likelihood(model, x0, prior=lambda x: 1.0, nfe=2)


def test_dequantisation_is_uniform_within_each_cell() -> None:
    """Kolmogorov-Smirnov of 40000 draws, moments, and cells that are kept even at the upper edge in float32."""
    images = torch.arange(256).repeat(40, 4).reshape(40, 4, 256).to(torch.uint8)
    x0 = ss.dequantise(images, seed=5, dtype=torch.float64)
    inside = (x0 + 1) * 128 - images
    assert x0.min() >= -1
    assert x0.max() < 1
    ranked = inside.flatten().sort().values
    steps = torch.arange(1, ranked.numel() + 1, dtype=torch.float64) / ranked.numel()
    assert (ranked - steps).abs().max() * ranked.numel() ** 0.5 < 1.95  # 0.1 per cent
    assert abs(torch.corrcoef(inside[:, :2].transpose(0, 1).flatten(1))[0, 1]) < 4 / 10240**0.5
    single = ss.dequantise(images[3:4], seed=5, indices=[3], dtype=torch.float64)
    assert torch.equal(single, x0[3:4])
    coarse = ss.dequantise(torch.full((4, 100), 1), levels=2, data_range=(2.0**24 - 2, 2.0**24))  # floats one apart
    assert coarse.dtype == torch.float32
    assert coarse.unique().tolist() == [2.0**24 - 1]
    with pytest.raises(TypeError, match=r"whole numbers such as torch.uint8, got torch.float32"):
        ss.dequantise(torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"whole numbers such as torch.uint8, got list"):
        ss.dequantise([[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"with values in 0 ... 15"):
        ss.dequantise(images, levels=16)
