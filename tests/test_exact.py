"""Exact laws: densities, denoisers, samples and flows against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, SMOOTH, TABLES, gaussian, mixture_1d, mixture_2d
from scipy.integrate import quad, solve_ivp
from scipy.stats import multivariate_normal
from torch import Tensor

import scoresolve as ss


def test_the_density_of_a_mixture_is_scipys() -> None:
    law, x = mixture_2d(), torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariances = torch.einsum("kij,kj,klj->kil", law.bases, law.variances, law.bases)
    density = sum(
        float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy())
        for w, m, c in zip(law.weights, law.means, covariances, strict=True)
    )
    assert law.log_prob(x).numpy() == pytest.approx(np.log(density), rel=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_denoiser_is_the_posterior_mean_by_quadrature(name: str) -> None:
    """E[x_0 | x_t = x] in one dimension, by numerical integration of x_0 p(x_0) N(x; alpha x_0, sigma^2)."""
    sde, law, t = PROCESSES[name], mixture_1d(), 0.4 * PROCESSES[name].t_max
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    for x in (-1.3, 0.2, 2.0):

        def weight(x0: float, x: float = x) -> float:
            prior = math.exp(law.log_prob(torch.tensor([[x0]], dtype=torch.float64)).item())
            return prior * math.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2)

        options = {"points": [-1.0, 1.2, x / alpha], "epsabs": 1e-13, "epsrel": 1e-11, "limit": 200}
        total = quad(weight, -6, 6, **options)[0]
        first = quad(lambda x0, w=weight: x0 * w(x0), -6, 6, **options)[0]
        found = law.model(sde).data(torch.tensor([[x]], dtype=torch.float64), t).item()
        assert found == pytest.approx(first / total, rel=1e-8, abs=1e-9)


@given(seed=st.integers(0, 10**6), name=st.sampled_from(SMOOTH), fraction=st.floats(0.01, 1.0))
def test_an_empirical_law_is_the_mixture_of_its_points(seed: int, name: str, fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    empirical = ss.exact.Empirical(points, 0.2)
    mixture = ss.exact.GaussianMixture([1.0] * 6, points, [0.04] * 6)
    sde = PROCESSES[name]
    t = fraction * sde.t_max
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(empirical.log_prob(x), mixture.log_prob(x), rtol=1e-9)
    assert torch.allclose(empirical.model(sde).data(x, t), mixture.model(sde).data(x, t), rtol=1e-7, atol=1e-8)
    assert torch.allclose(empirical.marginal(sde, t).log_prob(x), mixture.marginal(sde, t).log_prob(x), rtol=1e-7)


def test_samples_have_the_moments_of_the_law() -> None:
    """20000 samples; each mean and covariance entry within 5 standard errors (p < 1e-6)."""
    n = 20_000
    images = ss.exact.Empirical(torch.randn(7, 1, 2, 2, generator=torch.Generator().manual_seed(1)), 0.5)
    flat = images.points
    laws = [
        (mixture_2d(), mixture_2d().mean, mixture_2d().covariance),
        (gaussian(), gaussian().mean, gaussian().covariance),
        (images, flat.mean(0), torch.cov(flat.T, correction=0) + 0.25 * torch.eye(4)),
    ]
    for law, mean, covariance in laws:
        x = law.sample(n, generator=torch.Generator().manual_seed(2)).flatten(1)
        error = (x.mean(0) - mean.flatten()).abs() / (covariance.diagonal() / n).sqrt()
        assert error.max().item() < 5
        spread = (covariance.diagonal()[:, None] * covariance.diagonal()[None] * 3 / n).sqrt()
        assert ((torch.cov(x.T) - covariance).abs() / spread).max().item() < 5
    assert images.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 1, 2, 2)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_flow_of_a_gaussian_solves_the_probability_flow(name: str) -> None:
    sde, law = PROCESSES[name], gaussian()
    t, s = 0.9 * sde.t_max, 0.2 * sde.t_max
    x = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = law.model(sde)
    found = solve_ivp(
        lambda u, y: model.velocity(torch.from_numpy(y)[None], u)[0].numpy(), (t, s), x[0].numpy(), "DOP853",
        rtol=1e-11, atol=1e-12,
    )  # fmt: skip
    assert law.flow(sde, x, t, s)[0].numpy() == pytest.approx(found.y[:, -1], rel=1e-8, abs=1e-9)
    assert torch.allclose(law.flow(sde, law.flow(sde, x, t, s), s, t), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_push_is_the_law_that_sampling_draws_from(info: ss.SolverInfo) -> None:
    """Mean and covariance of 20000 samples through the public interface within 5 standard errors of push's."""
    sde, law, n = ss.SubVPSDE(), gaussian(d=2), 20_000
    times = ss.grids.log_snr(sde, 6, 1.0, 0.01)
    exact = ss.exact.push(ss.build_table(info.name, sde, times), law, sde)
    start = law.marginal(sde, 1.0).sample(n, generator=torch.Generator().manual_seed(0))
    x = ss.sample(law.model(sde), start=start, solver=info.name, grid=times, seed=1).samples
    variance = exact.covariance.diagonal()
    assert ((x.mean(0) - exact.mean).abs() / (variance / n).sqrt()).max().item() < 5
    spread = (variance[:, None] * variance[None] * 3 / n).sqrt()
    assert ((torch.cov(x.T) - exact.covariance).abs() / spread).max().item() < 5


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_the_affine_map_is_that_of_the_public_interface(info: ss.SolverInfo) -> None:
    """Basis vectors and basis noise through ``sample`` on a rotated Gaussian: A and c to 1e-12, B B^T to 1e-12."""
    sde, law = ss.VPSDE(), gaussian()
    times = ss.grids.log_snr(sde, 5, 1.0, 0.01)
    gain, offset, noise = ss.exact.affine_map(ss.build_table(info.name, sde, times), law, sde)
    basis = law.bases[0]

    class BasisNoise:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            z = torch.zeros_like(like)
            if 4 + 3 * index < len(z):
                z[4 + 3 * index : 7 + 3 * index] = torch.eye(3, dtype=like.dtype)
            return z

    start = torch.zeros(4 + 3 * 30, 3, dtype=torch.float64)
    start[1:4] = torch.eye(3)
    out = ss.sample(law.model(sde), start=start, solver=info.name, grid=times, noise=BasisNoise()).samples
    assert torch.allclose(out[0], basis @ offset, atol=1e-12)
    assert torch.allclose((out[1:4] - out[0]).T, basis @ torch.diag(gain) @ basis.T, atol=1e-12)
    columns = out[4:] - out[0]
    assert torch.allclose(columns.T @ columns, basis @ torch.diag(noise.square().sum(0)) @ basis.T, atol=1e-12)


def test_states_of_any_dtype_shape_and_device_are_answered_in_kind() -> None:
    law = ss.exact.Empirical(torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 0.1)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    data = law.model(ss.VPSDE()).data(x, 0.3)
    assert data.shape == x.shape
    assert data.dtype == torch.float32
    assert torch.allclose(law.denoise(x, ss.VPSDE().alpha(0.3), ss.VPSDE().sigma(0.3)), data, atol=1e-6)
    assert law.log_prob(x).shape == (3,)


@pytest.mark.parametrize("dtype", ["float32", torch.int32, None])
def test_a_network_is_not_made_in_what_is_no_floating_point_dtype(dtype: object) -> None:
    with pytest.raises(TypeError, match=r"floating-point dtype of torch, like torch.float32, got"):
        mixture_1d().model(ss.VPSDE(), dtype=dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("law", [mixture_2d(), ss.exact.Empirical(torch.eye(2), 0.1)], ids=["mixture", "empirical"])
def test_a_network_computes_in_the_dtype_asked_for(law: ss.exact.Law) -> None:
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = law.model(ss.VPSDE()).data(x, 0.3)
    for dtype, least, most in [(torch.float32, 1e-9, 1e-5), (torch.bfloat16, 1e-4, 0.1), (torch.float64, -1, 1e-15)]:
        found = law.model(ss.VPSDE(), dtype=dtype).data(x, 0.3)
        assert found.dtype == torch.float64
        assert least < float((found - exact).abs().max()) < most
    kept = [v.dtype for v in vars(law).values() if isinstance(v, Tensor)]
    assert kept
    assert set(kept) == {torch.float64}  # the law itself stays what it is


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.exact.GaussianMixture([0.5, -0.5], [[0.0], [1.0]], [1.0, 1.0]), "positive weights"),
        (lambda: ss.exact.GaussianMixture([1.0], [[0.0], [1.0]], [1.0]), r"means of shape \(1, ...\)"),
        (lambda: ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.1, 1.0]])), "symmetric"),
        (lambda: ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "negative eigenvalues"),
        (lambda: ss.exact.Gaussian(torch.zeros(2), torch.eye(3)), r"covariances of shape"),
        (lambda: ss.exact.Empirical(torch.zeros(3), 0.1), r"data of shape \(n, ...\)"),
        (lambda: ss.exact.Empirical(torch.zeros(3, 2), -0.1), "bandwidth >= 0"),
    ],
)
def test_bad_laws_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("s", [0.4, 1e-3])
def test_the_posterior_obeys_bayes_rule(s: float) -> None:
    """log p(x) + log p(y | x) - log p(x | y) is the same for every x; here for a singular operator, too."""
    law, generator = mixture_2d(), torch.Generator().manual_seed(0)
    x, y = law.sample(6, generator=generator), torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    for operator in (ss.operators.Mask(torch.tensor([[True, False]])), ss.operators.matrix(torch.ones(2, 2) / 2)):
        posterior = law.posterior(operator, y, s)
        x = posterior.sample(6, generator=generator)
        likelihood = -0.5 * (operator.reached(y) - operator(x)).square().sum(1) / s**2
        evidence = law.log_prob(x) + likelihood - posterior.log_prob(x)
        assert (evidence - evidence.mean()).abs().max().item() < 1e-6


def test_a_posterior_without_noise_has_what_was_seen_and_only_that() -> None:
    known, y = ss.operators.Mask(torch.tensor([[True, False]])), torch.tensor([[0.5, torch.nan]], dtype=torch.float64)
    x = mixture_2d().posterior(known, y, 0.0).sample(50, generator=torch.Generator().manual_seed(0))
    assert (x[:, 0] - 0.5).abs().max().item() < 1e-7
    assert x[:, 1].std().item() > 0.05
    with pytest.raises(ValueError, match="noise_std > 0 where the law has no spread"):
        ss.exact.Gaussian([0.0, 0.0], [0.0, 1.0]).posterior(known, y, 0.0)
    with pytest.raises(ValueError, match=r"take y\[i : i \+ 1\]"):
        mixture_2d().posterior(known, y.expand(2, 2), 0.1)


@pytest.mark.parametrize(
    "law",
    [
        ss.exact.Empirical(torch.zeros(3, 2), 0.0), ss.exact.Gaussian([0.0, 0.0], [1.0, 0.0]),
        ss.exact.GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 0.0]),
    ],
    ids=["points", "line", "mixture"],
)  # fmt: skip
def test_a_law_on_points_or_planes_has_no_density(law: ss.exact.Law) -> None:
    x = torch.zeros(2, *law.shape)
    with pytest.raises(ValueError, match="a law with a density: variances, or a bandwidth, above 0, got one that is 0"):
        law.log_prob(x)
    assert law.marginal(ss.VPSDE(), 0.5).log_prob(x).isfinite().all()
