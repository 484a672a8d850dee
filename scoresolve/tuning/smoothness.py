"""What a network computes in, and how far its input must move for a difference to be seen above its rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import ScoreModel

STEPS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 5e-2)


def accepted_dtype(model: ScoreModel, like: Tensor) -> torch.dtype:
    """float64 if the network takes such states, else float32. Args: like, a float64 batch. Cost: 1 or 2 calls.

    A module is given states in the dtype of its parameters; a function around a float32 network does not cast.
    """
    if like.device.type == "mps":
        return torch.float32
    try:
        with torch.no_grad():
            model.evaluate(like, model.t_max, "flow")
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        with torch.no_grad():
            model.evaluate(like.float(), model.t_max, "flow")
        return torch.float32
    return torch.float64


@torch.no_grad()
def difference_step(model: ScoreModel, x: Tensor, t: float) -> float:
    """The relative step whose difference agrees best with that of twice the step: rounding is small, and curvature.

    Args: x (batch, ...) states at time t. Cost: 13 calls. A network in float64 gives 1e-6 to 1e-5, one in float32 about
    1e-3, one in half precision 1e-2 or more.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.tuning.smoothness import difference_step
    >>> x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    >>> exact = ss.ScoreModel(lambda x, t: x.sin(), ss.VPSDE(), predicts="noise")
    >>> rounded = ss.ScoreModel(lambda x, t: x.float().sin().double(), ss.VPSDE(), predicts="noise")
    >>> difference_step(exact, x, 0.5) <= 1e-5 < 1e-4 <= difference_step(rounded, x, 0.5)
    True
    """
    model = model.take(torch.arange(len(x), device=x.device), len(x))
    here = model.evaluate(x, t, "flow").double()

    def slope(h: float) -> Tensor:
        return (model.evaluate(x + h * x, t, "flow").double() - here) / h

    def disagreement(h: float) -> float:
        one, two = slope(h), slope(2 * h)
        found = float((one - two).square().mean().sqrt() / two.square().mean().sqrt().clamp_min(1e-300))
        return found if found == found else float("inf")

    return min(STEPS, key=disagreement)
