r"""A mixture of Gaussians after a linear measurement ``y = A x_0 + s n``, in closed form.

Of a component N(mu, S) with ``V = A S A^T + s^2 I`` become

    mean  mu + S A^T V^-1 (y - A mu),    covariance  S - S A^T V^-1 A S,    weight  w N(y; A mu, V),

Kalman's update, and the weights of Bayes' rule. A is reduced to its range first, ``A = U diag(d) W^T``: what a mask
hides is then no measurement of zeros, and V has an inverse for s = 0, too, where S has one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import require

LEAST = 37.0
"""Components whose log weight is lower than the largest by this much, a rounding error, are left out."""


def reduced(weights: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (m, d) and a measurement (m,) on the range of the matrix, which the noise is not changed by."""
    left, size, right = torch.linalg.svd(weights, full_matrices=False)
    kept = size > 1e-12 * size.max()
    return (size[:, None] * right)[kept], left[:, kept].T @ y


def measured(
    weights: Tensor, means: Tensor, roots: Tensor, matrix: Tensor, y: Tensor, noise_std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (n,), means (n, d) and covariances (n, d, d) of the components that are left after a measurement.

    Args: weights (k,), means (k, d), roots (k, d, d) with S = root root^T; matrix (m, d), y (m,); all float64.
    Raises: ValueError for a measurement without noise of what the law does not let vary.
    """
    require(noise_std >= 0, f"noise_std of at least 0, got {noise_std}")
    matrix, y = reduced(matrix, y)
    half = matrix @ roots
    total = half @ half.mT + noise_std**2 * torch.eye(len(y), dtype=y.dtype, device=y.device)
    factor, failed = torch.linalg.cholesky_ex(total)
    require(
        not bool(failed.any()), f"noise_std > 0 where the law has no spread of its own, got noise_std={noise_std:g}"
    )
    residual = (y - means @ matrix.T)[:, :, None]
    white = torch.linalg.solve_triangular(factor, residual, upper=False)[:, :, 0]
    log_weight = weights.log() - 0.5 * white.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    kept = log_weight > log_weight.max() - LEAST
    half, factor, roots = half[kept], factor[kept], roots[kept]
    solved = torch.cholesky_solve(torch.cat([half, residual[kept]], dim=2), factor)
    means = means[kept] + (roots @ (half.mT @ solved[:, :, -1:]))[:, :, 0]
    left = torch.eye(roots.shape[-1], dtype=y.dtype, device=y.device) - half.mT @ solved[:, :, :-1]
    covariances = roots @ (0.5 * (left + left.mT)) @ roots.mT
    return log_weight[kept].softmax(dim=0), means, 0.5 * (covariances + covariances.mT)
