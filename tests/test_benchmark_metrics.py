"""The benchmark's metrics against closed forms."""

import math

import pytest
import torch

from benchmarks import metrics


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_wasserstein_of_commuting_gaussians_is_that_of_their_axes() -> None:
    mean, zero = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    first, second = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 1.0]))
    # |m|^2 = 25, (2 - 1)^2 + (3 - 1)^2 = 5, over two dimensions
    assert metrics.gaussian_wasserstein(mean, first, zero, second) == pytest.approx(math.sqrt(15.0))


def test_wasserstein_of_gaussians_in_general_position() -> None:
    a, b = normal(5, 5, seed=1), normal(5, 5, seed=2)
    first, second = a @ a.T, b @ b.T
    root = metrics.square_root(first)
    trace = torch.trace(first + second - 2 * metrics.square_root(root @ second @ root))
    zero = torch.zeros(5, dtype=torch.float64)
    assert metrics.gaussian_wasserstein(zero, first, zero, second) == pytest.approx(math.sqrt(trace / 5))
    assert metrics.gaussian_wasserstein(zero, first, zero, first) < 1e-14


def test_std_error_is_along_the_exact_axes() -> None:
    axes, _ = torch.linalg.qr(normal(3, 3))
    exact = (axes * torch.tensor([1.0, 4.0, 9.0])) @ axes.T
    wider = (axes * torch.tensor([1.21, 4.0, 9.0])) @ axes.T
    assert metrics.std_error(wider, exact) == pytest.approx(0.1)


def test_sliced_wasserstein_of_a_translation() -> None:
    x, shift = normal(500, 4), torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    # along a random direction u the distance is |u . shift|, whose mean square is |shift|^2 / d
    assert metrics.sliced_wasserstein(x, x + shift, projections=4000) == pytest.approx(1.0, rel=0.03)
    assert metrics.sliced_wasserstein(x, x) == 0.0


def test_energy_distance_of_shifted_gaussians() -> None:
    shift = 2.0
    x, y = normal(3000, 1, seed=1), normal(3000, 1, seed=2) + shift
    # X - Y is N(-shift, 2), X - X' is N(0, 2); the mean of |N(m, s^2)| is that of a folded normal law
    across = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    exact = math.sqrt(2 * across - 2 * 2 / math.sqrt(math.pi))
    assert metrics.energy_distance(x, y) == pytest.approx(exact, rel=0.03)
    assert metrics.energy_distance(x, x) == 0.0


def test_median_is_not_moved_by_one_sample_that_ends_elsewhere() -> None:
    x = torch.zeros(9, 4)
    y = x + 0.1
    y[0] += 100
    assert metrics.median_error(y, x) == pytest.approx(0.1)
    assert metrics.rmse(y, x) > 30
