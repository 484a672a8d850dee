"""Linear inverse problems, against the exact posterior of Gaussian data."""

from __future__ import annotations

import pytest
import torch
from oracles import PROCESSES, gaussian, mixture_2d
from torch import Tensor

import scoresolve as ss

D, M, S = 6, 3, 0.3


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _problem() -> tuple[ss.exact.Gaussian, Tensor, Tensor, Tensor]:
    """Data, a matrix (3, 6), five measurements and five points."""
    sizes = ((M, D), (5, M), (5, D))
    weights, y, x = (torch.randn(n, k, dtype=torch.float64, generator=_generator(n + k)) for n, k in sizes)
    return gaussian(d=D), weights, y, x


def _posterior(law: ss.exact.Gaussian, weights: Tensor, y: Tensor, s: float) -> ss.exact.Gaussian:
    """The law of the data given one measurement, in closed form."""
    c = law.covariance
    gain = torch.linalg.solve(
        weights @ c @ weights.T + s**2 * torch.eye(len(weights), dtype=torch.float64), weights @ c
    ).T
    c = c - gain @ weights @ c
    return ss.exact.Gaussian(law.mean + gain @ (y - weights @ law.mean), 0.5 * (c + c.T))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("s", [S, 0.0])
def test_the_jacobians_covariance_is_exact_on_gaussian_data(name: str, s: float) -> None:
    sde, (law, weights, y, x) = PROCESSES[name], _problem()
    model = law.model(sde)
    seen = ss.posterior_guidance(model, ss.operators.matrix(weights), y, s, covariance="jacobian")
    for t in (0.02 * sde.t_max, 0.4 * sde.t_max, seen.t_max):
        exact = torch.cat([_posterior(law, weights, y[i], s).model(sde).data(x[i : i + 1], t) for i in range(5)])
        for time in (t, torch.full((5,), t, dtype=torch.float64)):
            assert (seen.data(x, time) - exact).abs().max().item() < 1e-8, t
    with torch.inference_mode():
        assert torch.allclose(seen.data(x, sde.t_max / 2), seen.data(x.clone(), sde.t_max / 2))


def test_pigdm_is_exact_where_the_data_are_isotropic_and_the_others_are_off_as_measured() -> None:
    sde, (_, weights, y, x) = ss.VPSDE(), _problem()
    law = ss.exact.Gaussian(torch.ones(D), 0.49)
    operator = ss.operators.matrix(weights)
    for t in (0.05, 0.5, 1.0):
        exact = torch.cat([_posterior(law, weights, y[i], S).model(sde).data(x[i : i + 1], t) for i in range(5)])
        seen = ss.posterior_guidance(law.model(sde), operator, y, S, data_std=0.7)
        assert (seen.data(x, t) - exact).abs().max().item() < 1e-10
    pair = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])).model(sde)
    known, y = ss.operators.Mask(torch.tensor([[True, False]])), torch.tensor([[2.0, torch.nan]], dtype=torch.float64)
    for covariance, mean in (("jacobian", 1.584), ("isotropic", 1.498), ("none", 2.257)):
        model = ss.posterior_guidance(pair, known, y, 0.1, covariance=covariance)  # type: ignore[arg-type]
        how = {"solver": "adaptive_abm", "rtol": 1e-4, "atol": 1e-4, "seed": 0, "dtype": torch.float64}
        assert abs(ss.sample(model, shape=(1000, 2), **how).samples[:, 1].mean().item() - mean) < 0.05, covariance


def test_dps_is_the_gradient_of_the_squared_residual() -> None:
    sde, (_, weights, y, x), t = ss.SubVPSDE(), _problem(), 0.4
    net = lambda x, t: torch.sin(x) * x.flip(1)  # noqa: E731
    model = ss.ScoreModel(net, sde, predicts="v")
    seen = ss.posterior_guidance(model, ss.operators.matrix(weights), y, S, covariance="none", scale=0.7)
    x.requires_grad_()
    loss = (y - model.data(x, t) @ weights.T).square().sum() / (2 * S**2)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.allclose(seen.score(x, t), model.score(x, t) - 0.7 * gradient, rtol=1e-10)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm", "adaptive_abm", "adaptive_sde_sra"])
def test_measurements_and_masks_follow_the_samples(solver: str) -> None:
    """Each sample is the one it would be alone, and no gradient is left behind; a batch of 3 with 3 channels."""
    sde, y = ss.VPSDE(), torch.randn(3, 3, 2, 2, dtype=torch.float64, generator=_generator())
    law = ss.exact.GaussianMixture([0.5, 0.5], y[:2], [0.3, 0.1])
    mask = torch.rand(3, 1, 2, 2, generator=_generator(1)) < 0.6
    how = {"rtol": 1e-2, "atol": 1e-2} if "adaptive" in solver else {"nfe": 6}

    def run(rows: slice, **more: object) -> ss.Solution:
        known = ss.operators.Mask(mask[rows])
        model = ss.posterior_guidance(law.model(sde), known, y[rows], 0.2, covariance="jacobian", iterations=2)
        model = ss.threshold(model, -3, 3, quantile=0.9)
        return ss.sample(model, solver=solver, seed=3, dtype=torch.float64, **how, **more)  # type: ignore[arg-type]

    together = run(slice(0, 3), shape=(3, 3, 2, 2))
    assert not together.samples.requires_grad
    for i in range(3):
        alone = run(slice(i, i + 1), shape=(1, 3, 2, 2), indices=[i])
        assert torch.allclose(together.samples[i], alone.samples[0], atol=1e-8)


def test_two_measurements_one_after_the_other_and_gradients_through_a_run() -> None:
    """The second takes the first's data and their Jacobian: exact again on Gaussian data, and differentiable."""
    sde, (law, weights, y, x), t = ss.VPSDE(), _problem(), 0.5
    model = law.model(sde)
    for row in range(M):
        operator = ss.operators.matrix(weights[row : row + 1])
        model = ss.posterior_guidance(model, operator, y[:, row : row + 1], S, covariance="jacobian")
    exact = torch.cat([_posterior(law, weights, y[i], S).model(sde).data(x[i : i + 1], t) for i in range(5)])
    assert (model.data(x, t) - exact).abs().max().item() < 1e-8
    with torch.no_grad():
        assert (model.data(x, t) - exact).abs().max().item() < 1e-8
    run = lambda start: ss.sample(model, start=start, solver="ddim", nfe=3, grad=True).samples.sum()  # noqa: E731
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run(start), start)
    step = 1e-5 * torch.ones_like(x)
    assert abs(((run(x + step) - run(x - step)) / 2e-5 - gradient.sum()).item()) < 1e-6 * gradient.abs().sum().item()


@pytest.mark.parametrize("kind", ["mask", "grey", "downsample", "matrix"])
def test_operators_their_transposes_and_replacement(kind: str) -> None:
    """<A x, y> = <x, A^T y>; a state at t = 0 is given the measurement, and keeps what A does not see."""
    x, z = (torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=_generator(seed)) for seed in (0, 1))
    operator = {
        "mask": lambda: ss.operators.Mask(x[:, :1] > 0),
        "grey": lambda: ss.operators.grey(3),
        "downsample": lambda: ss.operators.downsample(2),
        "matrix": lambda: ss.operators.matrix(z.flatten(1), (3, 4, 4)),
    }[kind]()
    y = operator(x)
    other = torch.randn(y.shape, dtype=y.dtype, generator=_generator(2))
    assert torch.allclose((y * other).sum(), (x * operator.transpose(other)).sum())
    put = ss.Replacement(ss.RectifiedFlow(), operator, y, seed=0)
    placed = put(ss.Step(1, 0.0, z, 0))
    assert torch.allclose(operator(placed), y, atol=1e-9)
    back = put(ss.Step(1, 0.0, placed + (z - x), 0)) - placed - (z - x)  # only in the range of A^T
    assert torch.allclose(operator.transpose(operator(z - x) + operator(back)), torch.zeros_like(x), atol=1e-8)
    noisy = put(ss.Step(2, 0.3, z, 0))
    alone = ss.Replacement(ss.RectifiedFlow(), operator.take(torch.tensor([2]), 4), y[2:3], seed=0, indices=[2])
    assert torch.allclose(alone(ss.Step(2, 0.3, z[2:3], 0))[0], noisy[2], atol=1e-12)


def test_replacement_is_biased_and_resampling_makes_it_less_so() -> None:
    """On a pair of correlation 0.8 the mean of the free one should be 1.6."""
    sde, known, y = ss.VPSDE(), ss.operators.Mask(torch.tensor([[True, False]])), torch.tensor([[2.0, 0.0]])
    model = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])).model(sde)
    put = ss.Replacement(sde, known, y, seed=1)
    plain = ss.sample(model, shape=(4000, 2), solver="ddpm", steps=50, t_min=0.0, seed=0, callback=put)
    seen = torch.stack([put(ss.Step(index, 0.3, plain.samples, 0))[:, 0] for index in (1, 2)])
    assert (seen.mean(1) - 2 * sde.alpha(0.3)).abs().max().item() < 0.05
    spread = sde.sigma(0.3) ** 2 * torch.eye(2)  # of the process, and drawn afresh at each step
    assert (seen.cov() - spread).abs().max().item() < 0.05
    table = ss.resampled(plain.table, sde, jump=5, repeats=5)
    again = ss.sample(model, shape=(4000, 2), solver=table, seed=0, callback=put)
    assert (plain.samples[:, 0] == 2).all()
    assert again.nfe == table.nfe == 5 * plain.nfe
    assert abs(plain.samples[:, 1].mean().item() - 0.96) < 0.05
    assert abs(again.samples[:, 1].mean().item() - 1.44) < 0.05


@pytest.mark.parametrize("solver", ["ddpm", "heun"])
def test_a_resampled_table_keeps_the_law(solver: str) -> None:
    """Without a measurement going up and down changes nothing of the mean and the covariance but their small errors."""
    law, sde = gaussian(), ss.VPSDE()
    plain = ss.build_table(solver, sde, sde.time(torch.linspace(-4.5, 4, 203).double()).numpy())
    table = ss.resampled(plain, sde, jump=10, repeats=3)
    assert table.nfe == 3 * plain.nfe
    assert sorted(set(table.times.tolist())) == sorted(plain.times.tolist())
    gain, offset, noise = ss.exact.affine_map(table, law, sde)
    v, mean = law.variances[0], law.bases[0].T @ law.means[0]
    first, last = (sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2 for t in plain.times[[0, -1]])
    reached = gain * sde.alpha(plain.times[0]) * mean + offset
    assert (reached - sde.alpha(plain.times[-1]) * mean).abs().max().item() < 5e-3
    assert ((gain**2 * first + noise.square().sum(0)) / last - 1).abs().max().item() < 0.05


def test_what_makes_no_sense_is_refused() -> None:
    sde, (law, weights, y, x) = ss.VPSDE(), _problem()
    model, operator = law.model(sde), ss.operators.matrix(weights)
    guide = ss.posterior_guidance
    with pytest.raises(ValueError, match="did you mean 'isotropic'"):
        guide(model, operator, y, S, covariance="isotropc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise_std > 0 with covariance='none'"):
        guide(model, operator, y, 0.0, covariance="none")
    with pytest.raises(ValueError, match="the transpose of the operator"):
        guide(model, ss.LinearOperator(operator, lambda y: 2 * operator.transpose(y)), y, S)
    with pytest.raises(ValueError, match=r"the measurement has shape \(4, 3\)"):
        guide(model, operator, y[:4], S).data(x, 0.5)
    with pytest.raises(ValueError, match=r"a mask of shape \(6,\) does not fit"):
        guide(model, ss.operators.Mask(torch.ones(6)), x, S)
    with pytest.raises(TypeError, match="expected an operator"):
        guide(model, weights, y, S)  # type: ignore[arg-type]
    blind = ss.ScoreModel(torch.no_grad()(lambda x, t: -x), sde)
    with pytest.raises(ss.NetworkOutputError, match="carries no gradient"):
        ss.sample(guide(blind, operator, y, S), shape=(5, 6), nfe=4, seed=0)
    assert ss.sample(blind, shape=(5, 6), nfe=4, seed=0).nfe == 4  # the model itself is as it was
    with pytest.raises(ValueError, match="take a one-step solver"):
        ss.resampled(ss.build_table("dpmpp_2m", sde, [1.0, 0.5, 0.2, 0.1]), sde)  # type: ignore[arg-type]


def test_a_measurement_noised_by_another_process_is_refused() -> None:
    model, known = mixture_2d().model(ss.EDM()), ss.operators.Mask(torch.tensor([[True, False]]))
    for other in (ss.VPSDE(), ss.VESDE()):
        put = ss.Replacement(other, known, torch.zeros(1, 2), seed=0)
        with pytest.raises(ValueError, match=r"the process that is sampled along, EDM\(.*\), in ss.Replacement, got V"):
            ss.sample(model, (2, 2), solver="ddim", steps=4, seed=0, callback=put)
    equal = ss.Replacement(ss.EDM(), known, torch.zeros(1, 2), seed=0)
    assert torch.equal(
        ss.sample(model, (2, 2), solver="ddim", steps=4, seed=0, callback=equal).samples[:, 0], torch.zeros(2)
    )
