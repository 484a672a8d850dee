"""Shrunk covariances, and the Gaussian that is fitted with them."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import LedoitWolf

import scoresolve as ss
from scoresolve.shrinkage import shrunk_covariance


@pytest.mark.parametrize(("n", "d"), [(200, 5), (12, 30), (2, 4)])
def test_the_weight_is_that_of_ledoit_and_wolf(n: int, d: int) -> None:
    data = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = data * torch.linspace(0.3, 2.0, d) + 3
    assert torch.allclose(shrunk_covariance(data), torch.from_numpy(LedoitWolf().fit(data.numpy()).covariance_))


def test_a_gaussian_is_fitted_to_data() -> None:
    images = torch.randn(8, 1, 3, 4, generator=torch.Generator().manual_seed(1)) + 2
    law = ss.exact.Gaussian.fit(images)
    assert law.shape == (1, 3, 4)
    assert law.variances.min() > 0.1  # eight samples in twelve dimensions
    assert torch.allclose(law.mean, images.double().mean(0))
    whole = ss.exact.Gaussian.fit(images, shrinkage=0)
    assert torch.allclose(whole.covariance, images.flatten(1).double().T.cov(correction=0))
    with pytest.raises(ValueError, match=r"n >= 2, got \(1, 3\)"):
        ss.exact.Gaussian.fit(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="0 <= shrinkage <= 1, got 2"):
        ss.exact.Gaussian.fit(images, shrinkage=2)
