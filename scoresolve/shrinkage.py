r"""The covariance of a data set, shrunk towards a multiple of the identity.

The sample covariance S of n points in d dimensions spreads its eigenvalues too far, and has none above zero in d - n
directions if n < d. With m = tr S / d and a weight r in [0, 1],

    C = (1 - r) S + r m I

has the least expected squared distance ``|C - Sigma|_F^2`` from the true Sigma at r = E|S - Sigma|^2 / E|S - m I|^2, of
which both terms can be estimated: ``|S - m I|^2`` by itself, the variance of S by ``sum_i |x_i x_i^T - S|^2 / n^2 =
(mean_i |x_i|^4 - |S|^2) / n``, the x_i being centred.

Source: Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, lemmas 3.2 to 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import require


def shrunk_covariance(data: Tensor, shrinkage: float | None = None) -> Tensor:
    """The covariance (d, d) of data (n, d), float64; the weight r is that of Ledoit and Wolf unless it is given.

    >>> import torch
    >>> shrunk_covariance(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), shrinkage=0.5)
    tensor([[0.7500, 0.0000],
            [0.0000, 0.2500]], dtype=torch.float64)
    """
    require(shrinkage is None or 0 <= shrinkage <= 1, f"0 <= shrinkage <= 1, got {shrinkage}")
    centred = data.double() - data.double().mean(dim=0)
    n, d = centred.shape
    covariance = centred.T @ centred / n
    covariance = (covariance + covariance.T) / 2
    target = covariance.trace() / d * torch.eye(d, dtype=torch.float64, device=data.device)
    if shrinkage is None:
        distance = (covariance - target).square().sum()
        variance = (centred.square().sum(dim=1).square().mean() - covariance.square().sum()) / n
        shrinkage = 1.0 if distance <= variance else float(variance / distance)
    return torch.lerp(covariance, target, shrinkage)
