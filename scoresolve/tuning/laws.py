r"""Features in which laws are compared: random Fourier features, whose means differ by the maximum mean discrepancy.

For a kernel ``k(x, y) = mean_w exp(-|x - y|^2 / (2 w^2))``, an average of Gaussians of several widths w, the maximum
mean discrepancy of two laws P and Q is

    MMD^2(P, Q) = E k(X, X') - 2 E k(X, Y) + E k(Y, Y'),        X, X' ~ P and Y, Y' ~ Q independent,

zero only if P = Q. By Bochner's theorem ``k(x, y) = E cos(omega . (x - y))`` with omega = xi / w, xi standard normal
and w one of the widths. With M such frequencies and the features

    phi(x) = sqrt(2) (cos(omega_1 . x), sin(omega_1 . x), ..., cos(omega_M . x), sin(omega_M . x))

``phi(x) . phi(y) / (2 M)`` is the average of M independent cosines of that expectation, so that

    mean over the 2 M features of (E phi(X) - E phi(Y))^2  ->  MMD^2(P, Q),        error O(M^{-1/2}):

a sum of squares, as Gauss and Newton's method wants it. Two sets of n samples of one law are not at zero but at about
``(1 - E k(X, X')) 2 / n``. Students and teacher start from different noise: from the same, a table with little noise of
its own would end near its targets one by one, and be taken for one that meets their law better than it does.

The widths are the data's own, in a geometric progression: up to the root mean square distance of two samples, down to
an eighth of it or to the median distance of nearest neighbours, whichever is more (in many dimensions, where all
distances are alike, the latter). Finer ones see single samples: the derivatives of their means are noise, which makes
the steps of the method short (measured: none longer than a per mille of the error at a ratio of 1000).

Source: Gretton et al. 2012, JMLR 13:723; Rahimi and Recht 2007.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FREQUENCIES, WIDTHS, RATIO, SEEN = 256, 4, 8.0, 1024
"""How many frequencies there are, of how many widths, of what ratio, and of how many samples at most they are taken."""

SURE = 3.0
"""Standard errors by which a law must be closer to be taken for closer."""


class FourierFeatures:
    """The features phi, (batch, ...) -> (batch, 2 M). Args: frequencies (d, M)."""

    def __init__(self, frequencies: Tensor) -> None:
        self.frequencies = frequencies

    def __call__(self, x: Tensor) -> Tensor:
        angles = x.flatten(1) @ self.frequencies.to(x)
        return math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)


def fourier_features(samples: Tensor, seed: int, count: int = FREQUENCIES) -> FourierFeatures:
    """The features for laws like that of some samples (n, ...).

    >>> import torch
    >>> from scoresolve.tuning.laws import fourier_features, widths_of
    >>> x = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> y = 0.5 + torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    >>> phi, widths = fourier_features(x, seed=0, count=4096), widths_of(x)
    >>> found = (phi(x).mean(dim=0) - phi(y).mean(dim=0)).square().mean()
    >>> def k(x, y):
    ...     return torch.stack([(-0.5 * (torch.cdist(x, y) / w) ** 2).exp().mean() for w in widths]).mean()
    >>> bool((found / (k(x, x) - 2 * k(x, y) + k(y, y)) - 1).abs() < 0.1)
    True
    """
    widths = widths_of(samples).repeat(-(-count // WIDTHS))[:count]
    normals = torch.randn(
        samples[0].numel(), count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    return FourierFeatures((normals / widths).to(samples))


def widths_of(samples: Tensor) -> Tensor:
    """The widths for some samples (n, ...): (WIDTHS,) float64, rising, on the host."""
    points = samples[:SEEN].flatten(1).double().cpu()
    distances = torch.cdist(points, points)
    far = float(distances.square().mean().sqrt())
    nearest = float(distances.fill_diagonal_(math.inf).amin(dim=1).median())
    widths = torch.linspace(
        math.log(max(nearest, far / RATIO)), math.log(far), WIDTHS, dtype=torch.float64, device="cpu"
    )
    return widths.exp()


def clearly_closer(found: Tensor, other: Tensor, wanted: Tensor) -> bool:
    """Whether the law seen in features ``found`` (n, features) is closer to that of ``wanted`` than ``other``'s is.

    The difference of the two squared discrepancies, ``mean (s - t)^2 - (p - t)^2`` with s, p and t the means, must be
    below zero by three standard errors. Its dependence on sample i, to first order, is ``2 mean [(s - t) found_i -
    (p - t) other_i - (s - p) wanted_i]``; the samples of both may share start and noise. Below the noise of the sets
    one of many students always looks better than what it began from.

    >>> import torch
    >>> from scoresolve.tuning.laws import clearly_closer
    >>> x = torch.randn(3, 500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> clearly_closer(x[0], x[1] + 0.5, x[2]), clearly_closer(x[0], x[1], x[2]), clearly_closer(x[1], x[0], x[2])
    (True, False, False)
    """
    found, other, wanted = found.double(), other.double(), wanted.double()
    s, p, t = found.mean(dim=0), other.mean(dim=0), wanted.mean(dim=0)
    gap = ((s - t).square() - (p - t).square()).mean()
    each = 2 * ((s - t) * (found - s) - (p - t) * (other - p) - (s - p) * (wanted - t)).mean(dim=1)
    return bool(gap < -SURE * each.std() / math.sqrt(len(each)))
