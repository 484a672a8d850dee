r"""Brownian paths that are refined where they are needed and never redrawn: one for each sample, on a dyadic tree.

**Why.** An adaptive SDE solver that rejects a step and draws new noise for the shorter one keeps the increments that
were easy: its law is wrong at every tolerance. Here the increments of an interval are given once; those of its halves
are drawn *given them* (a Brownian bridge), so that refining changes nothing that was known.

**The tree.** A root is an interval of the solver's clock between two given edges; each node is one half of its parent.
With n roots and ``R = 2^ceil(log2 n)``, root j has the number R + j and the children of node m the numbers 2m and
2m + 1. The normals of a pair of halves are keyed by the number of the first, those of a root by its own: a path is a
pure function of (seed, sample, node), the same at every tolerance, in every batch and in whatever order it is
explored. (Steps that are nodes of one tree are nested. Convergence proofs for steps chosen along the path need that: a
controller that skips times which it has looked at before may converge to a wrong limit.)

**The walk** goes from left to right. It splits a node (the right half waits), or goes on from it: after node m comes
m + 1 without its trailing binary zeros, that is the right sibling of m's nearest ancestor that is a left half, or the
next root. A level of the tree has at most one half that waits, so that its level is its place.

**The bridge.** On an interval of length L of the Brownian clock V a node has the numbers, in units of L,

    W = B(V_s) - B(V_t),     I = int (B(v) - B(V_t)) dv,     Var W = 1,  Cov(W, I) = 1/2,  Var I = 1/3.

Let (w, i) be those of its first part, a share theta of it, in the same units, r = 1 - theta. Then Cov(w, W) = theta,
Cov(w, I) = theta - theta^2/2, Cov(i, W) = theta^2/2, Cov(i, I) = theta^2/2 - theta^3/6, and by the rule for
conditioning Gaussians

    E[w | W, I] = (3 theta^2 - 2 theta) W + 6 theta r I          Var w = theta r q,  q = 1 - 3 theta + 3 theta^2
    E[i | W, I] = (theta^3 - theta^2) W + (3 theta^2 - 2 theta^3) I
    Cov(w, i) = theta^2 r^2 (1 - 2 theta) / 2                    Var i = theta^3 r^3 / 3

and of its second part ``W - w`` and ``I - i - r w``. What is stored is in units of each interval's own length: w /
theta^{1/2}, i / theta^{3/2}; the covariances then have the Cholesky factor of :func:`halves`, regular for all theta.
Without I (theta = 1/2 or any), ``w = theta W + sqrt(theta r) z``.

Source: Levy 1948 (the bridge); Foster, Lyons and Oberhauser 2020, arXiv:1904.03099 (W and I together); Foster and
Jelincic 2023, arXiv:2311.14201 (nested steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .draws import drawn
from .noise import PATH, PathSource

DEPTH = 40
"""How often a root may be halved: shares of it below 2^-40 are not told apart."""


def halves(share: Tensor, parent: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """The increments of the two parts of an interval, given those of the whole; each in units of its own length.

    Args: share (n,), the first part's share of the length, in (0, 1); parent (n, c, d), c = 1 for W alone, 2 for W
    and I; normals (n, c, d), standard normal. Returns two tensors (n, c, d).

    >>> import torch
    >>> left, right = halves(torch.tensor([0.25]), torch.tensor([[[1.0]]]), torch.zeros(1, 1, 1))
    >>> left.item() * 0.25**0.5, round(right.item() * 0.75**0.5, 6)  # without noise, in proportion to the lengths
    (0.25, 0.75)
    """
    left, right = halved(share, parent, normals).unbind(1)
    return left, right


def halved(share: Tensor, parent: Tensor, normals: Tensor) -> Tensor:
    """What :func:`halves` returns as one tensor (n, 2, c, d), in few passes over it."""
    theta = share.double()
    rest = 1 - theta
    root, other, q = theta.sqrt(), rest.sqrt(), 1 - 3 * theta * rest
    both = parent.new_empty(len(parent), 2, *parent.shape[1:])
    left, right = both.unbind(1)
    W, z = parent[:, 0], normals[:, 0]
    if parent.shape[1] == 1:  # a rotation
        c, s = _beside(parent, root, other)
        torch.mul(W, c, out=left[:, 0]).addcmul_(z, s)
        torch.mul(W, s, out=right[:, 0]).addcmul_(z, c, value=-1)
        return both
    tail = rest * (rest / q).sqrt()
    of_w = _beside(parent, root * (3 * theta - 2), 6 * root * rest, (rest * q).sqrt())
    of_i = _beside(parent, -root * rest, root * (3 - 2 * theta), tail * (0.5 - theta), tail / math.sqrt(12))
    of_rest = _beside(parent, 1 / other, root / other, 1 / (rest * other), theta / rest * (root / other))
    area, z_2 = parent[:, 1], normals[:, 1]
    w = torch.mul(W, of_w[0], out=left[:, 0]).addcmul_(area, of_w[1]).addcmul_(z, of_w[2])
    i = torch.mul(W, of_i[0], out=left[:, 1]).addcmul_(area, of_i[1]).addcmul_(z, of_i[2]).addcmul_(z_2, of_i[3])
    torch.mul(W, of_rest[0], out=right[:, 0]).addcmul_(w, of_rest[1], value=-1)
    torch.mul(area, of_rest[2], out=right[:, 1]).addcmul_(i, of_rest[3], value=-1).addcmul_(w, of_rest[1], value=-1)
    return both


def whole(normals: Tensor) -> Tensor:
    """The increments (n, c, d) of intervals of which nothing is known, in units of their length."""
    if normals.shape[1] == 1:
        return normals
    z, z_2 = normals.unbind(1)
    return torch.stack([z, 0.5 * z + z_2 / math.sqrt(12)], 1)


def _beside(x: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
    """Coefficients (n,) of the host as columns (n, 1) beside the noise, by one copy."""
    return torch.stack(coefficients).to(device=x.device, dtype=x.dtype)[:, :, None].unbind()


class BrownianWalk:
    """Where each sample of a batch stands on its own Brownian path.

    Args:
        noise: where the normals come from.
        edges: of the roots on the solver's clock, increasing, float64 (roots + 1,) on the host.
        share: the first half's share of the Brownian clock, as a function of a node's ends; float64 tensors.
        like: (batch, d), the states: their dtype and device are the path's.
        integrals: whether I is wanted beside W.

    Attributes: node, level (int64 (n,), on the host): the number of the node each sample stands at, and how often its
    root has been halved for it; increments (n, c, d): its W, and I, in units of its length.

    >>> import torch, scoresolve as ss
    >>> edges, like = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.empty(1, 3, dtype=torch.float64)
    >>> walk = BrownianWalk(ss.SampleStreams(0, [0]), edges, lambda a, b: torch.full_like(a, 0.5), like, False)
    >>> one, known = torch.tensor([0]), walk.increments.clone()
    >>> walk.split(one)
    >>> first = walk.increments.clone()
    >>> walk.advance(one)
    >>> torch.allclose(0.5**0.5 * (first + walk.increments), known)
    True
    """

    def __init__(
        self,
        noise: PathSource,
        edges: Tensor,
        share: Callable[[Tensor, Tensor], Tensor],
        like: Tensor,
        integrals: bool,
    ) -> None:
        self.noise, self.edges, self._share = noise, edges, share
        roots, batch = len(edges) - 1, len(like)
        self._first = 1 << max(roots - 1, 0).bit_length()
        self._end = self._first + roots
        self.node = torch.full((batch,), self._first, device="cpu")
        self.level = torch.zeros(batch, dtype=torch.int64, device="cpu")
        self.increments = like.new_zeros(batch, 1 + integrals, like.shape[1])
        self._waiting = like.new_zeros(0, *self.increments.shape)  # at l - 1 those of level l
        self._enter_roots(self.active().nonzero().flatten())

    def active(self) -> Tensor:
        """Which samples have not come to the last edge, bool (n,)."""
        return (self.node >> self.level) < self._end

    def at_edge(self) -> Tensor:
        """The number of the edge that each sample stands at, -1 for those between two; int64 (n,)."""
        return torch.where(self.level == 0, self.node - self._first, -1)

    def ends(self) -> tuple[Tensor, Tensor]:
        """The node's ends on the solver's clock, float64 (n,), for samples that are active."""
        root = self.node >> self.level
        place, count = self.node - (root << self.level), (1 << self.level).double()
        low, high = self.edges[root - self._first], self.edges[root - self._first + 1]
        return torch.lerp(low, high, place / count), torch.lerp(low, high, (place + 1) / count)

    def split(self, rows: Tensor) -> None:
        """Go to the first half of each node; ``rows`` (n,) int64 says of which samples."""
        a, b = (end[rows] for end in self.ends())
        self.node[rows] *= 2
        self.level[rows] += 1
        there = rows.to(self.increments.device)
        left, right = halves(self._share(a, b), self.increments[there], self._normals(rows))
        self.increments[there] = left
        if int(self.level.max()) > len(self._waiting):
            self._waiting = torch.cat([self._waiting, torch.zeros_like(self.increments)[None]])
        self._waiting[self.level[rows].to(there.device) - 1, there] = right

    def advance(self, rows: Tensor) -> None:
        """Go on to the next node: the half that waits, or the next root."""
        after = self.node[rows] + 1
        zeros = torch.frexp((after & -after).double()).exponent - 1  # of a power of two, which double holds exactly
        up = torch.minimum(zeros.long(), self.level[rows])
        self.node[rows] = after >> up
        self.level[rows] -= up
        inside = self.level[rows] > 0
        self._enter_roots(rows[~inside & self.active()[rows]])
        rows = rows[inside]
        there, place = rows.to(self.increments.device), (self.level[rows] - 1).to(self.increments.device)
        self.increments[there] = self._waiting[place, there]

    def keep(self, rows: Tensor) -> None:
        """Forget all samples but these."""
        there = rows.to(self.increments.device)
        self.noise, self.node, self.level = self.noise.take(rows), self.node[rows], self.level[rows]
        self.increments, self._waiting = self.increments[there], self._waiting[:, there]

    def _enter_roots(self, rows: Tensor) -> None:
        if len(rows):
            self.increments[rows.to(self.increments.device)] = whole(self._normals(rows))

    def _normals(self, rows: Tensor) -> Tensor:
        """The normals of the nodes at which these samples stand."""
        like = self.increments.new_empty(len(rows), *self.increments.shape[1:])
        return drawn(self.noise.take(rows), PATH, self.node[rows], like)
