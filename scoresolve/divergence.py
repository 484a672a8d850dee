r"""The trace of a prediction's Jacobian: exactly, by Hutchinson's estimator, and with a Gaussian as control variate.

Let ``J = dm/dx`` be the Jacobian, d x d, of one sample's prediction m(x, t). A backward pass through the network turns
a vector v into ``J^T v``, and so into the number ``v^T J v = v . (J^T v)``.

    exact        tr J = sum_i e_i^T J e_i                                 d backward passes
    hutchinson   tr J = E[eps^T J eps],  eps of independent signs         one backward pass a probe

(``E[eps eps^T] = I`` gives the second.) With ``S = (J + J^T)/2`` a probe of signs has the variance ``2 sum_{i != j}
S_ij^2``: nothing from the diagonal, where a normal probe has ``2 sum_ij S_ij^2``. The probe stays the same along the
path, so that the estimate of the integral is that of one smooth equation.

**Control variate.** Let J_G be the Jacobian of the same prediction for Gaussian data N(mu, U diag(v) U^T). Then

    eps^T (J - J_G) eps + tr J_G

has the same mean, and the variance ``2 sum_{i != j} (S - J_G)_ij^2``: what of the data is Gaussian makes no noise. J_G
does not depend on x. A prediction is ``p data + q noise`` (``predictions.py``) and, with P = alpha^2 v + sigma^2,

    d data / dx = U diag(alpha v / P) U^T,   d noise / dx = (I - alpha d data/dx) / sigma = U diag(sigma / P) U^T
    =>  J_G = U diag((p alpha v + q sigma) / P) U^T,

so that eps^T J_G eps = sum_i j_i (U^T eps)_i^2, one product of matrices for a whole run. Its trace need not be
integrated: the flow of the Gaussian multiplies each eigen-direction by the ratio of two standard deviations, so that
``log |det dx_s/dx_t| = 1/2 sum_i log(P_i(s) / P_i(t))``.

Source: Hutchinson 1990, doi:10.1080/03610919008812866; Grathwohl et al. 2019, arXiv:1810.01367 (one probe for the whole
path); Song et al. 2021, arXiv:2011.13456, app. D.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .errors import require, unknown, whole_number
from .noise import PROBE, NoiseSource
from .predictions import Prediction, parts
from .sde import SDE

if TYPE_CHECKING:
    from .exact import Gaussian

Method = Literal["exact", "hutchinson"]
Vectors: TypeAlias = Callable[[int, int], Tensor]
"""(first, last) -> the vectors of these numbers, shape (last - first, batch, d)."""

_BLOCK = 2**20
"""Elements of the state times vectors that one batched backward pass takes at most."""


@dataclass(frozen=True)
class Divergence:
    """How the trace of the Jacobian is had, for ``log_prob=`` of ``ss.sample`` and ``ss.encode``.

    Args:
        method: "exact", d backward passes a network call, or "hutchinson", one for each probe.
        probes: how many probes of random signs, at least 1; two or more give a standard error.
        control: the Gaussian nearest to the data (``ss.exact.Gaussian.fit``), as control variate; it leaves the
            expected log p as it is, whatever the Gaussian.

    Raises: ValueError for an unknown method, probes below 1, or several probes with the exact trace; TypeError for a
    control that is not a Gaussian.

    >>> import scoresolve as ss
    >>> ss.Divergence("hutchinson", probes=4).columns
    4
    """

    method: Method = "exact"
    probes: int = 1
    control: Gaussian | None = None

    def __post_init__(self) -> None:
        from .exact import Gaussian

        if self.method not in get_args(Method):
            raise ValueError(unknown("divergence", self.method, get_args(Method)))
        probes = whole_number("probes", self.probes)
        require(probes == 1 or self.method == "hutchinson", f"divergence='hutchinson' with probes={probes}")
        if self.control is not None and not isinstance(self.control, Gaussian):
            got = type(self.control).__name__
            raise TypeError(f"control must be an ss.exact.Gaussian, such as ss.exact.Gaussian.fit(data); got {got}")

    @classmethod
    def of(cls, value: Divergence | Method) -> Divergence:
        """The divergence itself, or the one of that method with its defaults."""
        return value if isinstance(value, Divergence) else cls(value)

    @property
    def columns(self) -> int:
        """How many estimates there are of a sample: the probes, or 1."""
        return self.probes if self.method == "hutchinson" else 1

    def on(self, x: Tensor, noise: NoiseSource) -> Estimator:
        """The estimator for a batch: probes drawn from ``noise``, stream PROBE, for the samples x (batch, ...)."""
        probes = None
        if self.method == "hutchinson":
            draws = torch.stack([noise.draw(PROBE, number, x.detach()).flatten(1) for number in range(self.probes)])
            probes = torch.where(draws < 0, -1.0, 1.0).to(x)  # never 0, which the sign of a normal could be
        return Estimator(probes, None if self.control is None else GaussianControl.of(self.control, x, probes))


@dataclass(frozen=True)
class Estimator:
    """The traces of a batch's Jacobians. Attributes: probes (probes, batch, d) or None for the exact trace; control."""

    probes: Tensor | None
    control: GaussianControl | None = None

    def take(self, rows: Tensor) -> Estimator:
        """For some samples of the batch."""
        probes = None if self.probes is None else self.probes[:, rows]
        return Estimator(probes, None if self.control is None else self.control.take(rows))

    def passes(self, d: int) -> int:
        """Backward passes for each network call."""
        return d if self.probes is None else len(self.probes)

    def traces(self, output: Tensor, x: Tensor, create_graph: bool) -> Tensor:
        """Of d output / dx for output and x (batch, ...): shape (batch, columns), without the control variate."""
        if self.probes is not None:
            probes = self.probes
            return quadratic_forms(output, x, lambda i, j: probes[i:j], len(probes), create_graph)
        d = x[0].numel()

        def units(first: int, last: int) -> Tensor:
            eye = torch.zeros(last - first, 1, d, dtype=x.dtype, device=x.device)
            eye.diagonal(offset=first, dim1=0, dim2=2).fill_(1.0)
            return eye.expand(-1, len(x), -1)

        return quadratic_forms(output, x, units, d, create_graph).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class GaussianControl:
    """The same forms for Gaussian data. Attributes: variances (d,); squares ``(U^T eps)^2`` (probes, batch, d)."""

    variances: Tensor
    squares: Tensor | None

    @classmethod
    def of(cls, law: Gaussian, x: Tensor, probes: Tensor | None) -> GaussianControl:
        """For the samples x. Raises: ValueError if the law is one of samples of another shape."""
        require(law.shape == x.shape[1:], f"a control of samples of shape {tuple(x.shape[1:])}, got {tuple(law.shape)}")
        basis = law.bases[0].to(x)
        return cls(law.variances[0].to(x.device), None if probes is None else (probes @ basis).square())

    def take(self, rows: Tensor) -> GaussianControl:
        """For some samples of the batch."""
        return self if self.squares is None else GaussianControl(self.variances, self.squares[:, rows])

    def traces(self, sde: SDE, t: Tensor, target: Prediction) -> Tensor:
        """``eps^T J_G eps`` of each probe, or tr J_G: (batch, columns) or, of one time, (1, 1) for the trace.

        Args: t float64, one time for all, shape (1,), or one a sample, (batch,).
        """
        t = t[:, None]
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        p, q = parts(target, sde, t)
        eigenvalues = (p * alpha * self.variances + q * sigma) / self._totals(alpha, sigma)
        if self.squares is None:
            return eigenvalues.sum(dim=1, keepdim=True)
        return torch.einsum("knd,nd->nk", self.squares, eigenvalues.to(self.squares).expand(self.squares.shape[1:]))

    def log_det(self, sde: SDE, t: float, s: float) -> float:
        """``log |det dx_s/dx_t|`` of the Gaussian's flow."""
        end, start = (self._totals(sde.alpha(u), sde.sigma(u)) for u in (s, t))
        return 0.5 * (end.log() - start.log()).sum().item()

    def _totals(self, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        return alpha**2 * self.variances + sigma**2


def quadratic_forms(output: Tensor, x: Tensor, vectors: Vectors, count: int, create_graph: bool = False) -> Tensor:
    """``v^T J v`` of each sample for ``count`` vectors each, J = d output / dx; shape (batch, count).

    Args: output and x (batch, ...), where each sample's output depends on that sample only. Many backward passes are
    batched into one, as far as memory allows.
    """
    size = max(1, _BLOCK // x.numel())
    forms = []
    for first in range(0, count, size):
        block = vectors(first, min(first + size, count)).reshape(-1, *x.shape)
        forms.append((_products(output, x, block, create_graph) * block).flatten(2).sum(dim=2))
    return torch.cat(forms).T


def _products(output: Tensor, x: Tensor, block: Tensor, create_graph: bool) -> Tensor:
    """``J^T v`` for each v of the block."""
    if len(block) > 1:
        try:
            return torch.autograd.grad(output, x, block, True, create_graph, is_grads_batched=True)[0]
        except RuntimeError:  # some operation of the network cannot be batched
            pass
    return torch.stack([torch.autograd.grad(output, x, v, True, create_graph)[0] for v in block])
