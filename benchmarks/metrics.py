"""Distances between samples, between Gaussians, and between a solver's end points and the exact ones."""

from __future__ import annotations

import numpy as np
import ot
import torch
from torch import Tensor


def rmse(x: Tensor, reference: Tensor) -> float:
    """Root of the mean squared difference, over samples and elements."""
    return float((x.double() - reference.double()).square().mean().sqrt())


def median_error(x: Tensor, reference: Tensor) -> float:
    """Median over samples of each sample's root mean squared difference.

    Where a flow ends in one of many modes, a few samples that end in another one decide the mean; not the median.
    """
    errors = (x.double() - reference.double()).flatten(1).square().mean(dim=1).sqrt()
    return float(errors.median())


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of two sample sets, along fixed directions."""
    left, right = x.double().flatten(1).cpu().numpy(), y.double().flatten(1).cpu().numpy()
    return float(ot.sliced_wasserstein_distance(left, right, n_projections=projections, seed=seed))


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance ``sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|)`` of two sample sets (Szekely and Rizzo 2013).

    Over all pairs, a sample with itself included: it is the distance of the two empirical laws, zero only if they are
    one, and has a floor of the order of the samples' number to the power -1/2.
    """
    left, right = x.double().flatten(1), y.double().flatten(1)
    within = torch.cdist(left, left).mean() + torch.cdist(right, right).mean()
    return float((2 * torch.cdist(left, right).mean() - within).clamp_min(0).sqrt())


def gaussian_wasserstein(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Wasserstein-2 distance of two Gaussians (Bures), divided by the root of the dimension.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^{1/2} C2 C1^{1/2})^{1/2})``; the division puts it on the scale of an RMSE. The
    trace is taken as ``|C1^{1/2} - C2^{1/2} U|^2`` with U the rotation that aligns the roots best: a sum of squares,
    so close Gaussians lose no digits to cancellation.
    """
    root, other = square_root(covariance), square_root(other_covariance)
    left, _, right = torch.linalg.svd(other @ root)
    gap = (root - other @ left @ right).square().sum()
    return float((((mean - other_mean).square().sum() + gap) / len(mean)).sqrt())


def std_error(covariance: Tensor, exact: Tensor) -> float:
    """Largest relative error of the standard deviation along the exact law's principal axes."""
    values, axes = torch.linalg.eigh(exact.double())
    std = (axes.T @ covariance.double() @ axes).diagonal().clamp_min(0).sqrt()
    return float((std / values.clamp_min(0).sqrt() - 1).abs().max())


def affine_rmse(offset: Tensor, matrix: Tensor, covariance: Tensor) -> float:
    """Exact RMSE of an affine map whose difference from the exact flow is ``offset + matrix (x - mean)``.

    The expectation over ``x ~ N(mean, covariance)`` is in closed form: ``|offset|^2 + tr(M C M^T)``.
    """
    total = offset.square().sum() + (matrix @ square_root(covariance)).square().sum()
    return float((total / len(offset)).sqrt())


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance; rounding below zero is cut off."""
    values, axes = torch.linalg.eigh(covariance.double())
    root: Tensor = (axes * values.clamp_min(0).sqrt()) @ axes.T
    return root


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a sample set, flattened."""
    flat = x.double().flatten(1)
    return flat.mean(dim=0), torch.as_tensor(np.atleast_2d(np.cov(flat.cpu().numpy().T))).to(flat)
