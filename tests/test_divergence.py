"""Traces of Jacobians: exact and estimated, the estimate's own variance, and the Gaussian control variate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from oracles import gaussian, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve import divergence
from scoresolve.divergence import control_variate, traces


def warped(x: Tensor) -> Tensor:
    """A smooth map of images that mixes all elements of a sample, with a Jacobian that is not symmetric."""
    flat = x.flatten(1)
    mix = torch.linspace(-1.0, 1.0, flat.shape[1] ** 2, dtype=x.dtype).reshape(flat.shape[1], -1).sin()
    return (flat @ mix + (flat @ mix.T @ mix).tanh()).reshape(x.shape)


class DataDependent(torch.autograd.Function):
    """A sine whose backward pass looks at values, which a batched one cannot."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        assert float(grad.sum()) < 1e9
        return grad * ctx.saved_tensors[0].cos()


def images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.property(27)
def test_traces_are_those_of_the_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images()
    probes = torch.randn(5, 4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobians = torch.stack([torch.func.jacrev(lambda y: warped(y[None])[0])(row).reshape(12, 12) for row in x])
    forms = torch.einsum("kni,nij,knj->nk", probes, jacobians, probes)
    for block in (2**20, 48, 1):  # all at once, one vector at a time, and as little as there is
        monkeypatch.setattr(divergence, "_BLOCK", block)
        exact = traces(warped(x), x, None)
        assert exact.shape == (4, 1)
        assert torch.allclose(exact[:, 0], jacobians.diagonal(dim1=1, dim2=2).sum(1))
        assert torch.allclose(traces(warped(x), x, probes), forms)


def test_a_network_that_cannot_be_batched_is_looped_over() -> None:
    x = images()
    assert torch.allclose(traces(DataDependent.apply(x), x, None)[:, 0], x.cos().flatten(1).sum(1))


def test_a_probe_has_the_variance_of_the_off_diagonal_part() -> None:
    """2 sum_{i != j} S_ij^2, by enumeration of all signs; its mean is the trace."""
    x = images(1)[:, :1, :1]
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)[:, None]
    found = traces(warped(x), x, signs)[0]
    jacobian = torch.func.jacrev(lambda y: warped(y[None])[0])(x[0]).reshape(3, 3)
    symmetric = (jacobian + jacobian.T) / 2
    off_diagonal = symmetric - symmetric.diagonal().diag()
    assert torch.allclose(found.mean(), jacobian.trace())
    assert torch.allclose(found.var(correction=0), 2 * off_diagonal.square().sum())


def test_probes_are_signs_of_their_own_for_each_sample_of_a_seed() -> None:
    like, method = torch.empty(4, 3, 50, dtype=torch.float64), ss.Divergence("hutchinson", probes=3)
    probes = method.draw(ss.SampleStreams(7, range(4)), like)
    alone = method.draw(ss.SampleStreams(7, [2]), like[:1])
    assert probes is not None
    assert alone is not None
    assert probes.shape == (3, 4, 150)
    assert torch.equal(probes.abs(), torch.ones_like(probes))
    assert torch.equal(probes[:, 2:3], alone)
    flat = probes.reshape(12, 150)
    assert (flat @ flat.T / 150 - torch.eye(12)).abs().max() < 0.35  # twelve different ones: 4 standard errors
    assert ss.Divergence("exact").draw(ss.SampleStreams(7, range(4)), like) is None


def test_the_control_variate_has_mean_zero() -> None:
    """Over all signs, to rounding; and it is the integral of eps^T J_G eps - tr J_G, here by quadrature."""
    law, sde = gaussian(), ss.SubVPSDE()
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)[:, None]
    found = control_variate(law, sde, signs, 0.1, 0.8)
    assert found.shape == (1, 8)
    assert found.mean().abs() < 1e-14
    field, integral = sde.probability_flow(law.model(sde)), torch.zeros(8, dtype=torch.float64)
    for node, weight in zip(*np.polynomial.legendre.leggauss(60), strict=True):
        x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        estimates = traces(field(0.45 + 0.35 * float(node), x), x, signs)[0]
        integral += 0.35 * weight * (estimates - estimates.mean())
    assert torch.allclose(found[0], integral, atol=1e-9)


def test_a_gaussian_control_leaves_nothing_of_gaussian_data() -> None:
    """Power-law spectrum, 64-D: variance of a probe down from 11 nats^2 to the solver's error, 1e-7."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64))
    covariance = basis @ torch.diag(torch.arange(1.0, 65.0, dtype=torch.float64) ** -1.5) @ basis.T
    law, sde = ss.exact.Gaussian(torch.zeros(64), (covariance + covariance.T) / 2), ss.VPSDE()
    fitted = ss.exact.Gaussian.fit(law.sample(4000, generator=generator))
    x0 = law.marginal(sde, 1e-3).sample(6, generator=generator)
    variance = {}
    for name, control in {"none": None, "fitted": fitted, "true": law}.items():
        found = ss.log_likelihood(law.model(sde), x0, divergence="hutchinson", probes=16, control=control)
        variance[name] = 16 * found.standard_error.square().mean().item()
    assert variance["none"] > 5
    assert variance["fitted"] < variance["none"] / 20
    assert variance["true"] < 1e-6


@pytest.mark.parametrize("controlled", [False, True])
def test_hutchinson_is_unbiased_and_knows_its_error(controlled: bool) -> None:
    """z-scores over 200 samples of a mixture, against the exact trace on the same steps: mean 0, deviation 1."""
    law, sde = mixture_2d(), ss.VPSDE()
    x0 = law.marginal(sde, 1e-3).sample(200, generator=torch.Generator().manual_seed(2))
    control = ss.exact.Gaussian(torch.zeros(2), [[0.5, 0.3], [0.3, 0.8]]) if controlled else None
    exact = ss.log_likelihood(law.model(sde), x0, nfe=30)
    found = ss.log_likelihood(law.model(sde), x0, nfe=30, divergence="hutchinson", probes=64, control=control)
    z = (found.log_prob - exact.log_prob) / found.standard_error
    assert z.abs().max() < 4.5
    assert z.mean().abs() < 4 / 200**0.5
    assert 0.85 < z.std() < 1.15


def test_errors_of_a_request() -> None:
    with pytest.raises(ValueError, match="did you mean 'hutchinson'"):
        ss.Divergence("hutchinsen")
    with pytest.raises(ValueError, match="divergence='hutchinson' with probes="):
        ss.Divergence("exact", probes=2)
    with pytest.raises(ValueError, match="probes must be a whole number of at least 1, got 0"):
        ss.Divergence("hutchinson", probes=0)
    with pytest.raises(TypeError, match=r"ss.exact.Gaussian.fit\(data\); got GaussianMixture"):
        ss.Divergence("hutchinson", control=mixture_2d())
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(ValueError, match=r"a control of samples of shape \(2,\), got \(3,\)"):
        ss.log_likelihood(model, torch.zeros(1, 2), divergence="hutchinson", control=gaussian())
    assert model.nfe == 0


def test_a_divergence_is_exact_by_default() -> None:
    assert ss.Divergence() == ss.Divergence.of("exact") == ss.Divergence("exact", probes=1, control=None)
    assert len({ss.Divergence(), ss.Divergence.of("exact")}) == 1  # a value: it has a hash, and does not change
