"""How good generated samples are: distances between sets of features, and which of them lie among the real ones.

=================  ================================================================================================
Frechet distance   Wasserstein-2 distance, squared, of two Gaussians with the sets' moments (Heusel et al. 2017,
                   arXiv:1706.08500). Its mean falls by about 1 / n to its limit: compare equal numbers of samples
kernel distance    squared MMD with the kernel ``(x.y / d + 1)^3`` (Binkowski et al. 2018, arXiv:1801.01401, "KID"),
                   unbiased at any number of samples, with its standard error; below zero as often as above for
                   equal laws
precision          share of the samples within the k-th nearest neighbour's distance of some real one, and recall, the
                   same the other way round (Kynkaanniemi et al. 2019, arXiv:1904.06991)
recognised         share of the samples in which a classifier sees the class that was asked for
=================  ================================================================================================

The numbers are those of one judge's features, and mean nothing beside another's. All is taken in float64 on the
features' device, in blocks that keep 10000 x 10000 pairs out of memory. Sums over d features are sums, not means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresolve.errors import require, whole_number

from .classifier import Classifier
from .data import Images
from .metrics import gaussian_wasserstein, moments

PAIRS = 2**22
"""Pairs of samples at once, 32 MiB of them."""


@dataclass(frozen=True)
class Fidelity:
    """What a set of samples gets.

    Attributes:
        frechet, kernel: the distances; kernel_error: the standard error of kernel.
        precision, recall: shares, 0 to 1.
        recognised: a share; None if no classes were given.
        samples, references: how many there were.
    """

    frechet: float
    kernel: float
    kernel_error: float
    precision: float
    recall: float
    recognised: float | None
    samples: int
    references: int


def fidelity(
    samples: Tensor, images: Images, judge: Classifier, seed: int = 0, *, labels: Tensor | None = None, k: int = 3
) -> Fidelity:
    """Samples (n, channels, height, width) against the training images, as the judge sees them.

    The training images are the reference because the papers' numbers take them, and because they are what the sampled
    law was fitted to. It follows that copies of them are given the best numbers, a kernel distance below zero among
    them: whether a network copies is another question. :func:`floors` says what zero is.

    Args: labels, the class asked for of each sample; k, the neighbour that the radii of precision and recall go to;
    seed, of which images those two take, as many of each kind. Samples are taken as they are, not clamped or rounded.
    """
    rate = None if labels is None else recognised(judge.logits(samples), labels)
    return compared(judge.features(samples), judge.features(images.train), seed, k=k, rate=rate)


def floors(images: Images, judge: Classifier, seed: int = 0, *, k: int = 3) -> dict[str, Fidelity]:
    """What real images get, so that a reader knows what zero is: "test", and "halves" of the training set.

    Both are few, and have the larger Frechet distance for it: :func:`frechet_bias` says by how much.
    """
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(seed))
    first, second = order.chunk(2)
    rate = recognised(judge.logits(images.train[first]), images.train_labels[first])
    half, other = judge.features(images.train[first]), judge.features(images.train[second])
    return {
        "test": fidelity(images.test, images, judge, seed, labels=images.test_labels, k=k),
        "halves": compared(half, other, seed, k=k, rate=rate),
    }


def compared(x: Tensor, reference: Tensor, seed: int = 0, *, k: int = 3, rate: float | None = None) -> Fidelity:
    """All distances of features x (n, d) to reference (m, d); ``rate`` is the share recognised, if there is one.

    Features are taken in the root mean square of the reference's, as the scale of a judge's is nobody's: with the scale
    of the kernel's argument goes its third power.
    """
    unit = reference.double().square().mean().sqrt()
    x, reference = x.double() / unit, reference.double() / unit
    distance, error = kernel_distance(x, reference)
    precision, recall = precision_recall(x, reference, k=k, seed=seed)
    return Fidelity(frechet(x, reference), distance, error, precision, recall, rate, len(x), len(reference))


def recognised(logits: Tensor, labels: Tensor) -> float:
    """The share of samples whose largest logit (n, classes) is that of the class asked for (n,)."""
    require(len(logits) == len(labels) > 0, f"a label for each of the samples, got {len(labels)} for {len(logits)}")
    return float((logits.argmax(dim=1) == labels.to(logits.device)).double().mean())


# -- Frechet ----------------------------------------------------------------------------------------------------------


def frechet(x: Tensor, y: Tensor) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^{1/2} C2 C1^{1/2})^{1/2})`` of the sets' means and covariances."""
    x, y = _checked(x, y)
    return x.shape[1] * gaussian_wasserstein(*moments(x), *moments(y)) ** 2


def frechet_bias(covariance: Tensor, samples: int) -> float:
    """The Frechet distance that n samples of a Gaussian law are expected to have from it, to first order in 1 / n.

    With eigenvalues v of the covariance, the mean's part is ``sum_i v_i / n``. An error E of the covariance costs
    ``sum_ij E_ij^2 / (2 (v_i + v_j))``, and ``E_ij^2`` is ``v_i v_j (1 + [i = j]) / (n - 1)`` on average:

        sum_i v_i / n + (sum_i v_i / 4 + sum_ij v_i v_j / (2 (v_i + v_j))) / (n - 1)

    Of two sets of samples, n and m, the parts add up.
    """
    whole_number("samples", samples, least=2)
    v = torch.linalg.eigvalsh(covariance.double()).clamp_min(torch.finfo(torch.float64).tiny)
    pairs = (v * v[:, None] / (v + v[:, None])).sum() / 2
    return float(v.sum() / samples + (v.sum() / 4 + pairs) / (samples - 1))


# -- kernel distance --------------------------------------------------------------------------------------------------


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The unbiased squared MMD of x (n, d) and y (m, d), over all pairs, and its standard error.

    With r and c the row and column means of a kernel matrix (its diagonal left out within a set) and ``z_xx, z_yy,
    z_xy`` the mean squares of the matrices freed of both, the variance is, in Hoeffding's decomposition,

        V_x / n + V_y / m + 2 z_xx / (n (n - 1)) + 2 z_yy / (m (m - 1)) + 4 z_xy / (n m),

    V_x that of ``2 (E k(x, X') - E k(x, Y))``. That of ``2 (r_xx - r_xy)`` is larger, its means being of finitely many,
    by ``4 z_xx / (n - 1) + 4 z_xy / m``. Both are freed of that, and their sum, zero for equal laws, is cut off below
    zero: for equal laws the error is then up to a quarter too large, and for laws well apart right.
    """
    x, y = _checked(x, y)
    (xx, _, z_xx), (yy, _, z_yy) = _kernel(x, x, within=True), _kernel(y, y, within=True)
    xy, yx, z_xy = _kernel(x, y)
    n, m = len(x), len(y)
    first = second = 0.0
    for inside, across, z, here, there in ((xx, xy, z_xx, n, m), (yy, yx, z_yy, m, n)):
        surplus = 4 * z / (here - 1) + 4 * z_xy / there
        first += (float((2 * (inside - across)).var()) - surplus) / here
        second += 2 * z / (here * (here - 1))
    variance = max(first, 0.0) + second + 4 * z_xy / (n * m)
    return float(xx.mean() + yy.mean() - 2 * xy.mean()), variance**0.5


def _kernel(x: Tensor, y: Tensor, within: bool = False) -> tuple[Tensor, Tensor, float]:
    """Row means, column means, and the mean square of the matrix freed of both; its diagonal left out if within."""

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for rows in _blocks(len(x), len(y)):
            yield rows, (x[rows] @ y.T / x.shape[1] + 1) ** 3

    def off(rows: slice, block: Tensor) -> Tensor:
        if within:
            block.diagonal(rows.start).zero_()
        return block

    n, m = len(x) - within, len(y) - within  # how many each mean is over
    right, down = x.new_empty(len(x)), x.new_zeros(len(y))
    for rows, block in blocks():
        block = off(rows, block)
        right[rows] = block.sum(dim=1) / m
        down += block.sum(dim=0) / n
    middle = right.mean()
    squares = sum(off(rows, b - right[rows, None] - down + middle).square().sum() for rows, b in blocks())
    return right, down, float(squares / (len(x) * m))


# -- precision and recall ---------------------------------------------------------------------------------------------


def precision_recall(x: Tensor, real: Tensor, *, k: int = 3, seed: int = 0) -> tuple[float, float]:
    """The share of x that lies among the real, and of the real that lies among x, as many of each.

    A set's manifold is the union of the balls around its members that reach to their k-th nearest of the others. As
    the balls shrink with the number, the larger set is thinned at random, from the seed, to the size of the smaller.
    Two samples of one law get less than 1, and a larger k gives larger shares.
    """
    x, real = _checked(x, real)
    size = min(len(x), len(real))
    require(whole_number("k", k) < size, f"more than k = {k} of each kind, got {len(x)} samples and {len(real)} real")
    generator = torch.Generator().manual_seed(seed)
    keep = [torch.randperm(len(one), generator=generator)[:size].to(one.device) for one in (x, real)]
    x, real = x[keep[0]], real[keep[1]]
    return _inside(x, real, _radii(real, k)), _inside(real, x, _radii(x, k))


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance of each to its k-th nearest of the others; itself, at distance zero, is one of k + 1."""
    parts = [_distances(x[rows], x).topk(k + 1, dim=1, largest=False).values[:, k] for rows in _blocks(len(x), len(x))]
    return torch.cat(parts)


def _inside(x: Tensor, centres: Tensor, radii: Tensor) -> float:
    """The share of x in some ball."""
    parts = [(_distances(x[rows], centres) <= radii).any(dim=1) for rows in _blocks(len(x), len(centres))]
    return float(torch.cat(parts).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """From differences: by way of scalar products a copy would not be at zero."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


# -- both -------------------------------------------------------------------------------------------------------------


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, PAIRS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64."""
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    require(x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1], f"features (n, d) and (m, d), got {shapes}")
    require(min(len(x), len(y)) >= 2, f"at least 2 of each kind, got {shapes}")
    require(x.device == y.device, f"both sets of features on one device, got {x.device} and {y.device}")
    for name, one in (("first", x), ("second", y)):
        bad = int((~one.isfinite()).any(dim=1).sum())
        require(not bad, f"finite features, got {bad} rows of the {name} set that are not: drop them and say how many")
    return x.double(), y.double()
