r"""Step sizes from error estimates, each sample for itself.

With e the scaled error of an attempted step (accepted if e <= 1) and k the order of the estimate plus one,

    h_next = h * clip(safety * e_n^{-a/k} * e_{n-1}^{b/k}, shrink, grow),

e_{n-1} the error of the last accepted step. a = 1, b = 0 is the elementary controller; b > 0 (PI) damps the seesaw of
accepted and rejected steps. After a rejection b does not count, and the step does not grow.

Source: Gustafsson 1991, doi:10.1145/210232.210242; Soederlind 2003, doi:10.1145/641876.641877.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import require
from .rounding import power


@dataclass(frozen=True)
class Controller:
    """A PI controller of step sizes.

    Args: integral (a) and proportional (b) gains; safety below 1; the least and the most that a step may change by.
    """

    integral: float = 1.0
    proportional: float = 0.0
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0

    def __post_init__(self) -> None:
        require(self.integral > 0, f"integral > 0, got {self.integral}")
        require(0 < self.safety < 1, f"0 < safety < 1, got {self.safety}")
        require(0 < self.shrink < 1 < self.grow, f"0 < shrink < 1 < grow, got {self.shrink}, {self.grow}")

    def factor(self, error: Tensor, previous: Tensor, order: float | Tensor) -> Tensor:
        """What to multiply each step by.

        Args: scaled errors of this attempt and of the last accepted step, float64 (n,); order of the estimate plus
        one; or anything that these broadcast to. An error that is not finite shrinks the step as far as allowed.

        >>> import torch
        >>> Controller(safety=0.5).factor(torch.tensor([16.0, 0.0]), torch.ones(2), 4).tolist()
        [0.25, 10.0]
        """
        least = torch.finfo(error.dtype).tiny
        order = order.to(error.dtype) if isinstance(order, Tensor) else order  # else quotients are of torch's default
        error = torch.where(torch.isfinite(error), error, torch.inf).clamp(min=least)
        factor = self.safety * power(error, -self.integral / order)
        accepted = error <= 1
        if self.proportional:
            steadied = factor * power(previous.clamp(min=1e-4), self.proportional / order)
            factor = torch.where(accepted, steadied, factor)
        factor = factor.clamp(self.shrink, self.grow)
        return torch.where(accepted, factor, factor.clamp(max=self.safety))


def scaled_error(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    """Root mean square, over the elements of each sample, of ``error / (atol + rtol max(|before|, |after|))``.

    Args: matrices (n, d). Returns float64 (n,); infinite where anything is not finite.
    """
    scale = torch.maximum(before.abs(), after.abs()).mul_(rtol).add_(atol)
    found = (error / scale).square().mean(dim=1).sqrt().double()
    return torch.where(torch.isfinite(found) & torch.isfinite(after).all(dim=1), found, torch.inf)
