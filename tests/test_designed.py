"""Antithetic and quasi-random noise: less variance of means, each sample exact by itself, the same in any batch."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

import scoresolve as ss
from scoresolve.designed import scrambled, sobol
from scoresolve.noise import PATH, SOLVER, START

GAUSSIAN = ss.exact.Gaussian(torch.tensor([1.0, -0.5], dtype=torch.float64), 0.25)
MIXTURE = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [1.2, 0.5]], [[0.09, 0.09], [0.25, 0.25]])
SEEDS = range(24)


def spread(law: object, noise: object, solver: str, count: int = 256) -> tuple[float, float]:
    """Of the mean of the first coordinate over seeds: its average and its standard deviation."""
    model = law.model(ss.VPSDE())  # type: ignore[attr-defined]
    means = [
        ss.sample(model, (count, 2), solver=solver, nfe=10, seed=seed, noise=noise).samples[:, 0].mean()  # type: ignore[arg-type]
        for seed in SEEDS
    ]
    return float(torch.stack(means).mean()), float(torch.stack(means).std())


@pytest.mark.parametrize(
    ("law", "noise", "solver", "less"),
    [
        (GAUSSIAN, ss.Antithetic, "ddpm", 1e-5),  # a Gaussian's samples are linear in the noise: the mean is exact
        (GAUSSIAN, ss.QuasiRandom, "dpmpp_2m", 0.1),
        (MIXTURE, ss.Antithetic, "dpmpp_2m", 0.75),
        (MIXTURE, ss.QuasiRandom, "dpmpp_2m", 0.25),
    ],
)
def test_means_vary_less_and_are_as_right(law: object, noise: object, solver: str, less: float) -> None:
    plain_mean, plain = spread(law, None, solver)
    mean, designed = spread(law, noise, solver)
    assert designed < less * plain
    assert abs(mean - plain_mean) < 4.9 * plain * (2 / len(SEEDS)) ** 0.5


@pytest.mark.parametrize("source", [ss.Antithetic, ss.QuasiRandom])
def test_a_sample_is_the_same_in_any_batch(source: type[ss.SampleStreams]) -> None:
    like = torch.empty(6, 3, 2)
    batch, some = source(5, range(6)), torch.tensor([4, 1])
    for stream, index in ((START, 0), (SOLVER, 3)):
        drawn = batch.draw(stream, index, like)
        assert torch.equal(source(5, [4, 1]).draw(stream, index, like[:2]), drawn[some])
        assert torch.equal(batch.take(some).draw(stream, index, like[:2]), drawn[some])
    numbers = torch.tensor([7, 2**45])
    assert torch.equal(batch.take(some).draw(PATH, numbers, like[:2])[1], batch.draw(PATH, 2**45, like)[1])


def _starts(source: type[ss.SampleStreams], number: int) -> Tensor:
    """One sample's first two coordinates over 400 seeds."""
    like = torch.empty(1, 2, dtype=torch.float64)
    return torch.cat([source(seed, [number]).draw(START, 0, like) for seed in range(400)])


@pytest.mark.parametrize(("source", "number"), [(ss.Antithetic, 3), (ss.QuasiRandom, 0), (ss.QuasiRandom, 5)])
def test_each_sample_by_itself_is_standard_normal(source: type[ss.SampleStreams], number: int) -> None:
    z = _starts(source, number)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-6
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 4.9 / len(z) ** 0.5


def test_a_sequence_that_is_not_scrambled_fails_that_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoresolve.designed.scrambled", lambda points, seed: points)
    assert stats.kstest(_starts(ss.QuasiRandom, 5).flatten().numpy(), "norm").pvalue < 1e-6


def test_points_are_those_of_the_sequence_and_stay_evenly_spread_when_scrambled() -> None:
    engine = torch.quasirandom.SobolEngine(7)  # type: ignore[no-untyped-call]
    points = sobol(torch.arange(256), 7)
    assert torch.equal(points * 2.0**-30, engine.draw(256, dtype=torch.float64))
    mixed = scrambled(points, 9)
    for digits in range(9):  # one point in each box of 2^-digits by 2^-(8 - digits) of the first two coordinates
        boxes = (mixed[:, 0] >> (30 - digits)) * 2 ** (8 - digits) + (mixed[:, 1] >> (22 + digits))
        assert len(torch.unique(boxes)) == 256
    assert not torch.equal(scrambled(points, 10), mixed)


def test_starts_beyond_the_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 21201 numbers, got 49152"):
        ss.QuasiRandom(0, [0]).draw(START, 0, torch.empty(1, 3, 128, 128))
    with pytest.raises(ValueError, match="must be below 2\\^30"):
        ss.QuasiRandom(0, [2**30])
    with pytest.raises(TypeError, match="noise must have a method draw"):
        ss.sample(GAUSSIAN.model(ss.VPSDE()), (2, 2), nfe=5, noise="sobol")  # type: ignore[arg-type]
