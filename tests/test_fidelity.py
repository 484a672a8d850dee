"""Distances of feature sets, precision and recall, against closed forms."""

import math

import pytest
import torch

from benchmarks import fidelity
from benchmarks.fidelity import compared, frechet, frechet_bias, kernel_distance, precision_recall, recognised
from benchmarks.metrics import moments


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, covariance: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Samples that have exactly these."""
    x = normal(n, len(mean), seed=seed)
    found, spread = moments(x)
    whiten = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), (x - found).T, upper=False).T
    return mean + whiten @ torch.linalg.cholesky(covariance).T


# -- Frechet ----------------------------------------------------------------------------------------------------------


def test_frechet_is_the_closed_form_of_two_gaussians() -> None:
    axes = torch.linalg.qr(normal(3, 3))[0]
    first, second = ((axes * torch.tensor(v, dtype=torch.float64)) @ axes.T for v in ([4.0, 9.0, 1.0], [1.0, 1.0, 1.0]))
    mean, zero = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    x, y = with_moments(mean, first, 50, 1), with_moments(zero, second, 40, 2)
    assert frechet(x, y) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 1) ** 2, rel=1e-10)  # on common axes: of the roots
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-12)
    assert frechet(x, x) < 1e-20


def test_frechet_is_biased_by_what_the_closed_form_says() -> None:
    """Equal Gaussian laws, one set, and both, of finitely many samples; the law's spectrum is wide and singular."""
    root = torch.linalg.qr(normal(5, 5))[0] * torch.tensor([3.0, 2.0, 1.0, 0.1, 0.0], dtype=torch.float64)
    covariance = root @ root.T
    exact = with_moments(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64), 20, 9) @ root.T
    for n in (100, 400):
        sets = [normal(n, 5, seed=i) @ root.T for i in range(300)]
        alone = torch.tensor([frechet(x, exact) for x in sets])
        pairs = torch.tensor([frechet(x, y) for x, y in zip(sets[::2], sets[1::2], strict=True)])
        for found, expected in ((alone, frechet_bias(covariance, n)), (pairs, 2 * frechet_bias(covariance, n))):
            assert abs(found.mean() - expected) < 3.5 * found.std() / len(found) ** 0.5 + 2 * expected / n
    assert frechet_bias(torch.eye(64), 1001) == pytest.approx(64 / 1001 + (64**2 + 64) / 4 / 1000)


# -- kernel distance --------------------------------------------------------------------------------------------------


def polynomials(x: torch.Tensor) -> torch.Tensor:
    """Features whose scalar product is ``(x.y / 2 + 1)^3`` in two dimensions: ten monomials."""
    terms = [
        math.sqrt(
            math.factorial(3) / (math.factorial(i) * math.factorial(j) * math.factorial(3 - i - j) * 2 ** (i + j))
        )
        * x[:, 0] ** i
        * x[:, 1] ** j
        for i in range(4)
        for j in range(4 - i)
    ]
    return torch.stack(terms, dim=1)


def test_kernel_distance_is_the_u_statistic_of_explicit_features() -> None:
    x, y = normal(30, 2, seed=1), normal(20, 2, seed=2) + 0.5
    a, b = polynomials(x), polynomials(y)
    within = [
        (p.sum(0).square().sum() - p.square().sum()) / (len(p) * (len(p) - 1)) for p in (a, b)
    ]  # all pairs but i, i
    assert kernel_distance(x, y)[0] == pytest.approx(float(sum(within) - 2 * a.mean(0) @ b.mean(0)), rel=1e-11)
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y), rel=1e-11)


@pytest.mark.parametrize(("shift", "d"), [(0.0, 2), (0.0, 16), (1.0, 2)])
def test_kernel_distance_is_unbiased_and_its_error_honest(shift: float, d: int) -> None:
    draws = [kernel_distance(normal(60, d, seed=i), normal(90, d, seed=5000 + i) + shift) for i in range(400)]
    found, errors = torch.tensor(draws, dtype=torch.float64).T
    powers = [1, shift, shift**2 + 1, shift**3 + 3 * shift]  # moments of N(shift, 1), and below of N(0, 1)
    gap = [
        math.factorial(3)
        / (math.factorial(i) * math.factorial(j) * math.factorial(3 - i - j) * 2 ** (i + j))
        * (powers[i] * powers[j] - [1, 0, 1, 0][i] * [1, 0, 1, 0][j]) ** 2
        for i in range(4)
        for j in range(4 - i)
    ]
    spread = float(found.std())
    assert abs(float(found.mean()) - sum(gap)) < 3.5 * spread / 400**0.5
    low, high = {(0.0, 2): (1.0, 1.4), (0.0, 16): (0.97, 1.25), (1.0, 2): (0.88, 1.12)}[shift, d]
    assert low < float(errors.square().mean().sqrt()) / spread < high


# -- precision and recall ---------------------------------------------------------------------------------------------


def test_precision_and_recall_of_known_cases() -> None:
    real = torch.cat([normal(100, 4, seed=1), normal(100, 4, seed=2) + 100])
    assert precision_recall(real, real) == (1.0, 1.0)
    one_mode = real[:100].repeat(2, 1)
    assert precision_recall(one_mode, real) == (1.0, 0.5)
    assert precision_recall(real, one_mode) == (0.5, 1.0)  # the same, the other way round
    outliers = real.clone()
    outliers[:20] = 1e4 * normal(20, 4, seed=3)
    assert precision_recall(outliers, real)[0] == 0.9
    assert precision_recall(real + 1000, real) == (0.0, 0.0)


def test_radii_reach_to_the_kth_of_the_others() -> None:
    """On a line at 0, 1, 3, 7 the balls of k = 1 are of radius 1, 1, 2, 4, of k = 2 of radius 3, 2, 3, 6."""
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    samples = torch.tensor([[-1.0], [-1.5], [11.5], [5.1]])
    assert precision_recall(samples, real, k=1) == (0.5, 1.0)  # -1 in the ball of 0, 5.1 in that of 7; all in 5.1's
    assert precision_recall(samples, real, k=2)[0] == 1.0


def test_as_many_real_as_generated_from_the_seed() -> None:
    x, real = normal(150, 3, seed=1), normal(600, 3, seed=2)
    found = [precision_recall(x, real, seed=seed) for seed in range(20)]
    assert found[0] == precision_recall(x, real, seed=0)
    assert len(set(found)) > 5
    same = [precision_recall(normal(150, 3, seed=i), normal(150, 3, seed=100 + i)) for i in range(20)]
    thinned, equal = torch.tensor(found).mean(0), torch.tensor(same).mean(0)
    assert (thinned - equal).abs().max() < 0.05  # and not that of the 600, which are 0.1 apart


# -- all --------------------------------------------------------------------------------------------------------------


def test_blocks_change_nothing(monkeypatch) -> None:
    x, y = normal(70, 5, seed=1), normal(50, 5, seed=2) + 0.3
    whole = compared(x, y)
    monkeypatch.setattr(fidelity, "PAIRS", 160)  # three rows at once
    parts = compared(x, y)
    assert (parts.kernel, parts.kernel_error) == pytest.approx((whole.kernel, whole.kernel_error), rel=1e-12)
    assert (parts.precision, parts.recall, parts.frechet) == (whole.precision, whole.recall, whole.frechet)
    assert (whole.samples, whole.references, whole.recognised) == (70, 50, None)


def test_recognised_is_the_share_of_agreement() -> None:
    assert recognised(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75
    with pytest.raises(ValueError, match="got 3 for 4"):
        recognised(torch.eye(4), torch.tensor([0, 1, 2]))


def test_what_cannot_be_compared_is_named() -> None:
    x = normal(10, 3)
    with pytest.raises(ValueError, match=r"\(n, d\) and \(m, d\), got \(10, 3\) and \(10, 2\)"):
        frechet(x, x[:, :2])
    with pytest.raises(ValueError, match="at least 2 of each"):
        kernel_distance(x[:1], x)
    with pytest.raises(ValueError, match="more than k = 3 of each kind, got 10 samples and 3 real"):
        precision_recall(x, x[:3])
    bad = x.clone()
    bad[[2, 5]] = math.nan
    with pytest.raises(ValueError, match="2 rows of the first set"):
        frechet(bad, x)
