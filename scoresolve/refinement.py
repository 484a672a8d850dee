"""Refinements: what changes a model's data prediction, and with it every other prediction.

A refinement takes the expected data D, given x, to D'. Every prediction is a combination ``P data + Q noise`` of two
that satisfy ``x = alpha data + sigma noise``, so that the noise falls by ``(alpha/sigma) (D' - D)`` and

    target' = target + (P - Q alpha / sigma) (D' - D).

What a refinement leaves alone is left alone exactly, to the last bit. A change of the score is one of the data, by
Tweedie's formula ``D = (x + sigma^2 score) / alpha``:

    score' = score + g        <=>        D' = D + (sigma^2 / alpha) g.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import require
from .guidance import Rowwise, differentiable
from .predictions import Prediction, conversion
from .sde import SDE, over_batch

if TYPE_CHECKING:
    from .model import ScoreModel


class Refinement(Rowwise, ABC):
    """A change of the data prediction; ``model.refine(...)`` applies it. No sample may look at another.

    Attributes that are tensors with a row for each sample follow the samples when some leave the batch.

    Attributes: differentiates (whether it differentiates ``data`` by ``x``), needs_signal (whether it makes no sense
    where alpha = 0, as a gradient of the score does).

    >>> import torch, scoresolve as ss
    >>> class Nonnegative(ss.Refinement):
    ...     def __call__(self, x, data, t, model):
    ...         return data.clamp(min=0)
    >>> model = ss.exact.Gaussian([-1.0], 0.1).model(ss.VPSDE()).refine(Nonnegative())
    >>> model.data(torch.zeros(1, 1), 0.5).item()
    0.0
    """

    differentiates: ClassVar[bool] = False
    needs_signal: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor, data: Tensor, t: float | Tensor, model: ScoreModel) -> Tensor:
        """The new data prediction, of the shape of x (batch, ...).

        Args: x and t as the model was asked; data, what it and the refinements before this one predict, with a graph
        that leads to x if it ``differentiates``. A graph of what it returns is wanted if gradients are enabled.
        """


def refined(model: ScoreModel, x: Tensor, t: float | Tensor, target: Prediction) -> Tensor:
    """A prediction with the model's refinements. One network call. Raises: ValueError where there is no signal."""
    graph = torch.is_grad_enabled()
    if any(refinement.needs_signal for refinement in model.refinements):
        require_signal(model.sde, t)
    following = [refinement.differentiates for refinement in model.refinements]
    differentiates = any(following)
    with (
        torch.inference_mode(torch.is_inference_mode_enabled() and not differentiates),
        torch.set_grad_enabled(graph or differentiates),
    ):
        x = differentiable(x) if differentiates else x
        value, data = model.answers(x, t, target, "data")
        changed = data
        for number, refinement in enumerate(model.refinements, start=1):
            with torch.set_grad_enabled(graph or any(following[number:])):
                changed = refinement(x, changed, t, model)
            got, expected = tuple(changed.shape), tuple(x.shape)
            require(got == expected, f"data of shape {expected} from {type(refinement).__name__}, got {got}")
        result = changed if target == "data" else value + data_weight(model.sde, t, target, x) * (changed - data)
    return result if graph else result.detach()


def data_weight(sde: SDE, t: float | Tensor, target: Prediction, x: Tensor) -> Tensor:
    """``P - Q alpha / sigma``, shaped to multiply x. Raises: ValueError at noise zero, where it is infinite."""
    if isinstance(t, Tensor):
        return over_batch(conversion("data", target, sde, t.double(), sde, t.double())[1], x)
    weight = float(conversion("data", target, sde, np.array([t]), sde, np.array([t]))[1][0])
    require(math.isfinite(weight), f"noise where data changes the {target}, there is none at t = {t:g}: use t_min=")
    return over_batch(weight, x)


def require_signal(sde: SDE, t: float | Tensor) -> None:
    """Raise ValueError where alpha = 0; a tensor on an accelerator is not looked at, which would wait for it."""
    if isinstance(t, Tensor) and t.device.type != "cpu":
        return
    least = float(np.min(np.asarray(sde.alpha(t.detach() if isinstance(t, Tensor) else t))))
    if least <= 0:
        raise ValueError(
            f"x says nothing about the data where {sde!r} has no signal, and a gradient by x nothing about how a "
            f"measurement or a label changes it: start before, such as with t_max={end_with_signal(sde):.4g}"
        )


def end_with_signal(sde: SDE) -> float:
    """The process' t_max, or where there is no signal the time at which alpha = sigma / 1000."""
    return sde.t_max if sde.alpha(sde.t_max) > 0 else sde.time(-math.log(1000.0))
