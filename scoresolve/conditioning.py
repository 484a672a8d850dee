r"""Conditioning by a classifier, and thresholds of the data prediction: refinements that ask the network nothing more.

**Classifier guidance.** By Bayes' rule ``p_t(x | y)`` is proportional to ``p_t(x) p(y | x, t)``, so

    grad log p_t(x | y) = grad log p_t(x) + grad log p(y | x, t),

exact if ``p(y | x, t)`` is the law of the label given the noisy x at time t (a classifier that was trained on noisy
data). A scale s takes ``p_t(x) p(y | x, t)^s`` in its place: sharper for s > 1, and for s != 1 the path of no data law.

**Thresholds.** Data in [-1, 1] has its conditional expectation there. A network's, above all a guided one's, may leave
it; static thresholding clamps it. The dynamic one takes s, a quantile of ``|D|`` over the elements of a sample, and
where s > 1 clamps to [-s, s] and divides by s, which keeps the largest elements apart from each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import require
from .guidance import differentiable
from .model import ScoreModel
from .refinement import Refinement
from .sde import over_batch


def classifier_guidance(
    model: ScoreModel, log_prob: Callable[..., Tensor], scale: float = 1.0, **labels: Any
) -> ScoreModel:
    """The model with ``scale grad log p(y | x, t)`` added to its score, the gradient through the classifier only.

    Args:
        model: the unconditional (or any other) network with its process.
        log_prob: called as ``log_prob(x, label, **labels)`` with what the network is given, x (batch, ...) on its own
            process and its time labels (batch,); returns log p(y | x, t) of each sample, (batch,), in nats.
        scale: 1 is Bayes' rule.
        labels: passed on to log_prob; tensors with a row for each sample follow the samples still on their way.

    NFE: one call of the network an evaluation; the classifier and its backward pass are not counted. Where there is no
    signal (t = 1 of a rectified flow) it cannot be had: sampling then starts just before.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, sec. 4; Song et al. 2021, arXiv:2011.13456, app. I.4.

    >>> import torch, scoresolve as ss
    >>> model = ss.ScoreModel(lambda x, t: -x, ss.VPSDE())  # standard normal data
    >>> log_prob = lambda x, t, y: -0.5 * (y - x).square().sum(1)
    >>> guided = ss.classifier_guidance(model, log_prob, scale=2.0, y=torch.tensor([[1.0], [3.0]]))
    >>> guided.score(torch.zeros(2, 1, dtype=torch.float64), 0.5).round(decimals=9).tolist()
    [[2.0], [6.0]]
    """
    if not callable(log_prob):
        raise TypeError(f"log_prob must be callable as log_prob(x, label), got {type(log_prob).__name__}")
    return model.refine(ClassifierGuidance(log_prob, scale, labels))


class ClassifierGuidance(Refinement):
    """``D + scale (sigma^2 / alpha) grad log p(y | x, t)``; see :func:`classifier_guidance`."""

    needs_signal = True

    def __init__(self, log_prob: Callable[..., Tensor], scale: float, labels: dict[str, Any]) -> None:
        self.log_prob, self.scale, self.labels = log_prob, float(scale), labels

    def __call__(self, x: Tensor, data: Tensor, t: float | Tensor, model: ScoreModel) -> Tensor:
        """The guided data prediction."""
        graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = differentiable(x)
            value = self.log_prob(*model.asked(x, t), **self.labels)
            self._check(value, len(x))
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
        return data + over_batch(self.scale * model.sde.sigma(t) ** 2 / model.sde.alpha(t), x) * gradient

    def _check(self, value: object, batch: int) -> None:
        if not isinstance(value, Tensor) or value.shape != (batch,):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"log_prob returned {got}, expected one log p(y | x, t) for each sample, shape ({batch},): of logits "
                "take lambda x, t, y: logits(x, t).log_softmax(1).gather(1, y[:, None])[:, 0]"
            )
        require(value.requires_grad, "log_prob to be differentiable in x; it detaches, or runs under torch.no_grad")


def threshold(model: ScoreModel, low: float = -1.0, high: float = 1.0, *, quantile: float | None = None) -> ScoreModel:
    """The model with its data prediction kept in [low, high]; every other prediction follows.

    Args: low < high, the range of the data; quantile in [0, 1], such as 0.995, for dynamic thresholding of each sample
    (distances from the middle of the range are taken in half its width); None clamps.
    Source: Saharia et al. 2022, arXiv:2205.11487, sec. 2.3. What lies inside is not changed. Raises: ValueError.

    >>> import torch, scoresolve as ss
    >>> model = ss.ScoreModel(lambda x, t: torch.tensor([[0.5, -4.0, 2.0]]), ss.VPSDE(), predicts="data")
    >>> ss.threshold(model).data(torch.zeros(1, 3), 0.5).tolist()
    [[0.5, -1.0, 1.0]]
    >>> ss.threshold(model, quantile=1.0).data(torch.zeros(1, 3), 0.5).tolist()
    [[0.125, -1.0, 0.5]]
    """
    return model.refine(Threshold(low, high, quantile))


class Threshold(Refinement):
    """The data prediction kept in a range; see :func:`threshold`."""

    def __init__(self, low: float = -1.0, high: float = 1.0, quantile: float | None = None) -> None:
        require(low < high, f"low < high, got low={low}, high={high}")
        require(quantile is None or 0 <= quantile <= 1, f"a quantile in [0, 1] or None, got {quantile}")
        self.low, self.high, self.quantile = float(low), float(high), quantile

    def __call__(self, x: Tensor, data: Tensor, t: float | Tensor, model: ScoreModel) -> Tensor:
        """The data prediction, clamped or scaled."""
        if self.quantile is None:
            return data.clamp(self.low, self.high)
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        flat = (data - middle).abs().unsqueeze(-1).flatten(1)  # samples may be single numbers
        size = flat.sort(dim=1).values / half  # torch.quantile refuses large tensors
        place = self.quantile * (size.shape[1] - 1)
        below = min(int(place), max(size.shape[1] - 2, 0))
        level = torch.lerp(size[:, below], size[:, min(below + 1, size.shape[1] - 1)], place - below)
        scale = over_batch(level.clamp(min=1.0), data)
        shrunk = middle + ((data - middle) / scale).clamp(-half, half)
        return torch.where(scale > 1, shrunk, data.clamp(self.low, self.high))
