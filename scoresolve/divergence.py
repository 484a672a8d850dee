r"""The trace of a prediction's Jacobian: exactly, by Hutchinson's estimator, and with a Gaussian as control variate.

Let ``J = dm/dx`` be the Jacobian, d x d, of one sample's prediction m(x, t). A backward pass through the network turns
a vector v into ``J^T v``, and so into the number ``v^T J v = v . (J^T v)``.

    exact        tr J = sum_i e_i^T J e_i                                 d backward passes
    hutchinson   tr J = E[eps^T J eps],  eps of independent signs         one backward pass a probe

(``E[eps eps^T] = I`` gives the second.) With ``S = (J + J^T)/2`` a probe of signs has the variance ``2 sum_{i != j}
S_ij^2``: nothing from the diagonal, where a normal probe has ``2 sum_ij S_ij^2``. The probe stays the same along the
path, so that the integral of the estimate is that of one smooth equation.

**Control variate.** For Gaussian data N(mu, U diag(v) U^T) the Jacobian of dx/dt is ``J_G = U diag(j) U^T`` with the
same U at all times, and its flow from t to s multiplies each eigen-direction by the ratio of two standard deviations:

    int_t^s j_i dt = g_i = 1/2 log(P_i(s) / P_i(t)),      P_i = alpha^2 v_i + sigma^2.

So the integral of ``eps^T J_G eps - tr J_G`` is known without integrating,

    c(eps) = sum_i g_i ((U^T eps)_i^2 - 1),      E c(eps) = 0,

and an estimate of the network's log-determinant less c(eps) has the same mean, whatever the Gaussian. Its variance is
``2 sum_{i != j} (S - G)_ij^2`` with S now integrated along the path and G = U diag(g) U^T: what of the data is Gaussian
makes no noise. Nothing is left for Gaussian data; for data far from it (separate points) the variance may even grow.
The standard error shows which.

Source: Hutchinson 1990, doi:10.1080/03610919008812866; Grathwohl et al. 2019, arXiv:1810.01367 (one probe for the whole
path); Song et al. 2021, arXiv:2011.13456, app. D.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .draws import drawn
from .errors import require, unknown, whole_number
from .exact import Gaussian
from .noise import PROBE, NoiseSource
from .sde import SDE

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
        control: a Gaussian near to the data (``ss.exact.Gaussian.fit``), as control variate of the probes: the expected
            log p stays as it is, whatever the Gaussian.

    Raises: ValueError for an unknown method, probes below 1, probes or a control with the exact trace; TypeError for a
    control that is not a Gaussian.

    >>> import scoresolve as ss
    >>> ss.Divergence("hutchinson", probes=4).columns
    4
    """

    method: Method = "exact"
    probes: int = 1
    control: Gaussian | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(unknown("divergence", self.method, get_args(Method)))
        alone = whole_number("probes", self.probes) == 1 and self.control is None
        require(alone or self.method == "hutchinson", "divergence='hutchinson' with probes= or control=, got 'exact'")
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

    def draw(self, noise: NoiseSource, x: Tensor) -> Tensor | None:
        """The probes for the samples x (batch, ...), signs of stream PROBE: (probes, batch, d); None if exact.

        Raises: ValueError if the control is the law of samples of another shape.
        """
        if self.method == "exact":
            return None
        if self.control is not None:
            wanted, got = tuple(x.shape[1:]), tuple(self.control.shape)
            require(wanted == got, f"a control of samples of shape {wanted}, got {got}")
        normals = torch.stack(
            [drawn(noise, PROBE, number, x.detach()).reshape(len(x), -1) for number in range(self.probes)]
        )
        return torch.where(normals < 0, -1.0, 1.0).to(x)  # never 0, which the sign of a normal could be


def control_variate(law: Gaussian, sde: SDE, probes: Tensor, t: float, s: float) -> Tensor:
    """``c(eps)`` of each probe for the flow from t to s: float64 (batch, probes), of mean zero."""
    law = law.to(probes.device)
    end, start = (sde.alpha(u) ** 2 * law.variances[0] + sde.sigma(u) ** 2 for u in (s, t))
    rates = 0.5 * (end / start).log()
    return ((probes @ law.bases[0].to(probes)).double().square() @ rates - rates.sum()).T


def traces(output: Tensor, x: Tensor, probes: Tensor | None, create_graph: bool = False) -> Tensor:
    """tr d output / dx for output and x (batch, ...): an estimate a probe, (batch, probes), or exactly, (batch, 1)."""
    if probes is not None:
        return quadratic_forms(output, x, lambda first, last: probes[first:last], len(probes), create_graph)
    d = x[0].numel()

    def units(first: int, last: int) -> Tensor:
        eye = torch.zeros(last - first, 1, d, dtype=x.dtype, device=x.device)
        eye.diagonal(offset=first, dim1=0, dim2=2).fill_(1.0)
        return eye.expand(-1, len(x), -1)

    return quadratic_forms(output, x, units, d, create_graph).sum(dim=1, keepdim=True)


def quadratic_forms(output: Tensor, x: Tensor, vectors: Vectors, count: int, create_graph: bool = False) -> Tensor:
    """``v^T J v`` of each sample for ``count`` vectors each, J = d output / dx; shape (batch, count).

    Args: output and x (batch, ...), where each sample's output depends on that sample only. Many backward passes are
    batched into one, as far as memory allows.
    """
    size = max(1, _BLOCK // x.numel())
    forms = []
    for first in range(0, count, size):
        block = vectors(first, min(first + size, count)).reshape(-1, *x.shape)
        forms.append((_products(output, x, block, create_graph) * block).reshape(len(block), len(x), -1).sum(dim=2))
    return torch.cat(forms).T


def _products(output: Tensor, x: Tensor, block: Tensor, create_graph: bool) -> Tensor:
    """``J^T v`` for each v of the block."""
    if len(block) > 1:
        try:
            return torch.autograd.grad(output, x, block, True, create_graph, is_grads_batched=True)[0]
        except RuntimeError:  # some operation of the network cannot be batched
            pass
    return torch.stack([torch.autograd.grad(output, x, v, True, create_graph)[0] for v in block])
