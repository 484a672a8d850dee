"""Langevin correctors: their stationary law, their independence of the batch, predictor-corrector, corrector only."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import ONE_STEP, PROCESSES, mixture_1d, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve.noise import SampleStreams


def _gaussian_model(variance: float, sde: ss.SDE) -> ss.ScoreModel:
    return ss.exact.Gaussian(torch.zeros(1), variance).model(sde)


@pytest.mark.property(31)
@pytest.mark.parametrize("snr", [0.1, 0.4])
def test_annealed_langevin_has_the_exact_stationary_variance_of_its_chain(snr: float) -> None:
    """On a Gaussian of variance P the chain is x <- (1 - e/P) x + sqrt(2e) z: variance P / (1 - e/(2P)) at rest.

    The affine map of one step is read off by unit vectors, so nothing is sampled.
    """
    sde, t = ss.VPSDE(), 0.5
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    total = alpha**2 * 0.3 + sigma**2
    step = 2 * (snr * sigma) ** 2

    class Unit:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            return torch.tensor([[0.0], [1.0]], dtype=like.dtype)

    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    out = ss.AnnealedLangevin(snr=snr).correct(_gaussian_model(0.3, sde), x, t, 1.0, Unit(), 0)
    gain, noise = out.flatten().tolist()
    assert gain == pytest.approx(1 - step / total, rel=1e-12)
    assert noise**2 / (1 - gain**2) == pytest.approx(total / (1 - step / (2 * total)), rel=1e-10)


def test_langevin_uses_the_norm_of_each_sample() -> None:
    """x <- x + e score + sqrt(2 e) z with e = 2 a (snr sqrt(d) / |score|)^2, by hand for each sample."""
    sde, t, a, snr = ss.VPSDE(), 0.4, 0.8, 0.16
    model = mixture_2d().model(sde)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = SampleStreams(3, range(4))
    out = ss.Langevin(snr=snr, steps=2).correct(model, x, t, a, noise, 5)
    for i in range(4):
        y = x[i : i + 1]
        for k in range(2):
            z = noise.draw(2, 10 + k, x)[i : i + 1]
            score = model.score(y, t)
            e = 2 * a * (snr * math.sqrt(2) / float(score.norm())) ** 2
            y = y + e * score + math.sqrt(2 * e) * z
        assert torch.allclose(out[i : i + 1], y, rtol=1e-12)


def test_langevin_keeps_a_gaussian_of_many_dimensions() -> None:
    """N(0, 1) in d = 100, 500 chains: the variance is high by 2/d (the step depends on the state) and by e/2.

    500 x 100 numbers: standard error of the variance 0.6 %; the bound is 5 of them beside the known bias.
    """
    d, snr = 100, 0.1
    model = ss.exact.Gaussian(torch.zeros(d), 1.0).model(ss.VPSDE())
    noise = SampleStreams(0, range(500))
    x = noise.draw(0, 0, torch.empty(500, d, dtype=torch.float64))
    x = ss.Langevin(snr=snr, steps=300).correct(model, x, 0.5, 1.0, noise, 0)
    expected = 1 + 2 / d + snr**2
    assert x.var().item() == pytest.approx(expected, abs=5 * math.sqrt(2 / x.numel()) + 0.002)


@pytest.mark.property(31)
@pytest.mark.parametrize("corrector", ["langevin", "annealed_langevin"])
@pytest.mark.parametrize("solver", ONE_STEP)
def test_a_corrected_sample_does_not_depend_on_its_batch(solver: str, corrector: str) -> None:
    model = mixture_2d().model(ss.VPSDE())
    options = {"solver": solver, "corrector": corrector, "nfe": 12, "seed": 4, "dtype": torch.float64}
    whole = ss.sample(model, (6, 2), **options).samples  # type: ignore[arg-type]
    alone = ss.sample(model, (1, 2), indices=[4], **options).samples  # type: ignore[arg-type]
    assert torch.equal(whole[4:5], alone)
    wild = torch.cat([torch.full((1, 2), 50.0, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)])
    options.pop("dtype")
    beside = ss.sample(model, start=wild, indices=[0, 1], **options).samples[1:]  # type: ignore[arg-type]
    by_itself = ss.sample(model, start=wild[1:], indices=[1], **options).samples  # type: ignore[arg-type]
    assert torch.equal(beside, by_itself)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_corrector_follows_each_step_with_the_ratio_of_the_path(name: str) -> None:
    """One step of ddpm and one correction: the ratio is (alpha_t / alpha_s)^2 of the step just taken."""
    sde, model = PROCESSES[name], mixture_2d().model(PROCESSES[name])
    times = np.array([0.8, 0.6]) * sde.t_max
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = ss.sample(model, start=start, solver="ddpm", grid=times, seed=2).samples
    ratio = (sde.alpha(times[0]) / sde.alpha(times[1])) ** 2
    corrected = ss.Langevin().correct(model, plain, times[1], ratio, SampleStreams(2, range(3)), 1)
    found = ss.sample(model, start=start, solver="ddpm", grid=times, seed=2, corrector="langevin")
    assert torch.allclose(found.samples, corrected, rtol=1e-12)
    assert found.nfe == 2


def test_from_where_there_is_no_signal_a_correction_moves_as_any_other() -> None:
    """The path's ratio is 0 there: calls would be spent on steps of no length."""
    sde = ss.RectifiedFlow()
    model, start = mixture_2d().model(sde), SampleStreams(1, range(3)).draw(0, 0, torch.empty(3, 2))
    times = np.array([1.0, 0.6])
    plain = ss.sample(model, start=start, solver="euler_maruyama", grid=times, seed=2).samples
    corrected = ss.Langevin().correct(model, plain, times[1], 1.0, SampleStreams(2, range(3)), 1)
    found = ss.sample(model, start=start, solver="euler_maruyama", grid=times, seed=2, corrector="langevin")
    assert torch.allclose(found.samples, corrected, rtol=1e-6)
    assert not torch.allclose(found.samples, plain, rtol=1e-2)


def test_at_noise_zero_nothing_is_corrected() -> None:
    model = mixture_2d().model(ss.EDM())
    solution = ss.sample(model, (3, 2), solver="heun", steps=5, corrector=ss.Langevin(steps=2), seed=0)
    assert solution.nfe == (2 * 5 - 1) + 2 * 4
    assert solution.table is not None


def test_predictor_corrector_keeps_the_law() -> None:
    """Mode weights and moments of a mixture, 4000 samples; bounds of 5 standard errors (p < 1e-6) and the bias of

    200 steps beside (below 0.01 in each moment)."""
    law, sde, n = mixture_1d(), ss.VPSDE(), 4000
    for corrector in (None, ss.AnnealedLangevin(snr=0.1)):
        nfe = 200 if corrector is None else 400
        x = (
            ss.sample(law.model(sde), (n, 1), solver="ddpm", corrector=corrector, nfe=nfe, seed=0)
            .samples[:, 0]
            .double()
        )
        share = (x < 0.1).double().mean().item()
        assert abs(share - 0.7) < 5 * math.sqrt(0.21 / n) + 0.01
        variance = float(law.covariance)
        assert abs(x.mean().item() - float(law.mean)) < 5 * math.sqrt(variance / n) + 0.01
        fourth = float((law.sample(200_000, generator=torch.Generator().manual_seed(0)) - law.mean).pow(4).mean())
        assert abs(x.var().item() - variance) < 5 * math.sqrt((fourth - variance**2) / n) + 0.01 * variance + 0.01


def test_corrector_only_sampling_reaches_the_law_of_a_gaussian() -> None:
    """Annealed Langevin on N(0.5, 0.3^2), 3000 samples, against the exact moments of its own affine chain."""
    law, sde, n = ss.exact.Gaussian(torch.tensor([0.5]), 0.09), ss.VESDE(sigma_max=10.0), 3000
    solution = ss.sample(law.model(sde), (n, 1), solver="annealed_langevin", steps=60, corrections=5, snr=0.2, seed=0)
    assert solution.nfe == 300
    mean, variance = 0.0, sde.sigma(1.0) ** 2
    for t in solution.times[1:].tolist():
        total, step = 0.09 + sde.sigma(t) ** 2, 2 * (0.2 * sde.sigma(t)) ** 2
        for _ in range(5):
            gain = 1 - step / total
            mean, variance = 0.5 + gain * (mean - 0.5), gain**2 * variance + 2 * step
    x = solution.samples.double()
    assert abs(x.mean().item() - mean) < 5 * math.sqrt(variance / n)
    assert abs(x.var().item() / variance - 1) < 5 * math.sqrt(2 / n)
    assert mean == pytest.approx(0.5, abs=0.1)  # the chain itself comes to the law,
    assert variance == pytest.approx(0.09, rel=0.6)  # with the bias of its last, unadjusted steps


def test_corrector_only_sampling_to_noise_zero_ends_with_the_denoised_estimate() -> None:
    point = ss.exact.Gaussian([0.7], 0.0)
    solution = ss.sample(point.model(ss.EDM()), (2, 1), solver="annealed_langevin", nfe=21, corrections=4, seed=0)
    assert solution.nfe == 21  # five levels of four, and the denoising
    assert solution.samples.flatten().tolist() == pytest.approx([0.7, 0.7], rel=1e-6)


def test_corrector_only_sampling_shows_each_level_and_takes_what_a_callback_returns() -> None:
    model = mixture_2d().model(ss.VPSDE())
    seen: list[tuple[int, float]] = []

    def halved(step: ss.Step) -> Tensor:
        seen.append((step.index, step.time))
        return 0.5 * step.x

    times = [1.0, 0.6, 0.2]
    options = {"solver": "annealed_langevin", "grid": times, "seed": 0, "dtype": torch.float64}
    plain = ss.sample(model, (3, 2), trajectory=True, **options)
    ours = ss.sample(model, (3, 2), trajectory=True, callback=halved, **options)
    assert seen == [(1, 0.6), (2, 0.2)]
    assert plain.trajectory is not None
    assert ours.trajectory is not None
    assert torch.equal(plain.trajectory[-1], plain.samples)
    assert torch.allclose(ours.trajectory[1], 0.5 * plain.trajectory[1])
    assert torch.equal(ours.trajectory[-1], ours.samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "dpmpp_2m", "corrector": "langevin"}, "needs a one-step predictor, 'dpmpp_2m'"),
        ({"solver": "rk45", "corrector": "langevin"}, "needs a one-step predictor"),
        ({"solver": "ddpm", "corrector": "lagevin"}, "did you mean 'langevin'"),
        ({"solver": "ddpm", "corrector": "langevin", "nfe": 1}, "needs 2 network calls here, more than nfe=1"),
    ],
)
def test_bad_pairs_are_refused(arguments: dict[str, object], message: str) -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(ValueError, match=message):
        ss.sample(model, (2, 2), **{"nfe": 10, **arguments})  # type: ignore[arg-type]
    assert model.nfe == 0


@pytest.mark.parametrize("make", [lambda: ss.Langevin(snr=0.0), lambda: ss.AnnealedLangevin(steps=0)])
def test_bad_correctors_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"snr > 0|at least 1, got 0"):
        make()  # type: ignore[operator]
