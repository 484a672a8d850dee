"""Functions of numbers of which each belongs to a sample: to the last bit the same wherever in a tensor it stands.

torch's CPU kernels fill vector registers and compute the few elements that are left over by other code. Both round
alike in exp, expm1, log, log1p, sqrt, sin, cos, atan and asinh; in powers, sigmoid, logaddexp and atan2 they do not,
and so a sample's last bit, and with it an adaptive solver's steps, would depend on how many others there are. Here
these are made of those.
"""

from __future__ import annotations

import torch
from torch import Tensor


def power(base: Tensor, exponent: float | Tensor) -> Tensor:
    """``base^exponent`` for a base above 0, to a relative error of some eps (1 + |exponent log base|).

    >>> import torch
    >>> round(power(torch.tensor([8.0], dtype=torch.float64), 1 / 3).item(), 14)
    2.0
    """
    return (base.log() * exponent).exp()


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + e^{-x})``: 0 and 1 at the infinities.

    >>> import torch
    >>> sigmoid(torch.tensor([-torch.inf, 0.0, torch.inf])).tolist()
    [0.0, 0.5, 1.0]
    """
    return 1 / (1 + (-x).exp())


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``; above 40, where they are equal in float64, x itself.

    >>> import torch
    >>> softplus(torch.tensor([-torch.inf, 50.0, torch.inf])).tolist()
    [0.0, 50.0, inf]
    """
    return torch.where(x > 40, x, x.clamp(max=40).exp().log1p())
