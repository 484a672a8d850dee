"""The network's door: the one place where it is called. What does not depend on the state is got ready once.

A :class:`Door` casts, doubles the batch for guidance, counts and checks. :class:`Questions` are all the calls of a run
whose times are known in advance: labels go to the device together, conditioning is stacked once, and of an answer o at
the point y a prediction is ``a y + b o`` with numbers a and b, which a solver folds into its own weights.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .guidance import join_conditioning
from .labels import batch_labels
from .predictions import Prediction
from .watch import Watch, dtype_of, lent, version_of

if TYPE_CHECKING:
    from .model import ScoreModel
    from .refinement import Refinement


class Door:
    """A network with what it is given beside the state.

    Args: net; conditioning, its keyword arguments; guidance, a scale and what the unconditional half has in their
    place, or None; batch, of the states; watch; refinements, of the model.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        conditioning: dict[str, Any],
        guidance: tuple[float, dict[str, Any]] | None,
        batch: int,
        watch: Watch,
        refinements: Sequence[Refinement],
    ) -> None:
        self.net, self.watch = net, watch
        self.differentiates = any(each.differentiates for each in refinements)
        self.dtype = dtype_of(net)
        self.scale = None if guidance is None else guidance[0]
        self.conditioning = conditioning if guidance is None else join_conditioning(conditioning, guidance[1], batch)
        self.rows = batch if guidance is None else 2 * batch

    def __call__(self, x: Tensor, labels: Tensor, t: float | Tensor) -> Tensor:
        """The network's answer at x (batch, ...), labels (rows,), in x's dtype. One call; t is for messages."""
        inputs = x if self.dtype is None or self.dtype == x.dtype else x.to(self.dtype)
        if self.scale is not None:
            inputs = torch.cat([inputs, inputs])
        watch = self.watch
        watch.count(self.rows, t)
        output = self._asked(lent(inputs), lent(labels), t)
        if self.scale is not None:
            conditional, unconditional = output.chunk(2)
            output = torch.lerp(unconditional, conditional, self.scale)
        watch.check_finite(output, t)
        answer: Tensor = output if output.dtype == x.dtype else output.to(x.dtype)
        return answer.contiguous()  # sums of tensors of several layouts are rounded in several ways

    def _asked(self, inputs: Tensor, labels: Tensor, t: float | Tensor) -> Any:
        """What the network says, checked. An exception of its own goes on as it is, with a note of where it was."""
        watch, versions, grad = self.watch, (version_of(inputs), version_of(labels)), torch.is_grad_enabled()
        try:
            if watch.casts is nullcontext:  # entering it would cost as much as all that is checked here
                output = self.net(inputs, labels, **self.conditioning)
            else:
                with watch.casts():
                    output = self.net(inputs, labels, **self.conditioning)
        except BaseException as error:
            self._note(error, t)
            raise
        finally:
            if torch.is_grad_enabled() != grad:  # a network may leave its own mode behind
                torch.set_grad_enabled(grad)
        watch.check(output, inputs, versions[0], t, watch.differentiates or self.differentiates)
        if version_of(labels) != versions[1]:
            watch.refuse("wrote into its time label; have it work on a copy (t.clone())", t)
        return output

    def _note(self, error: BaseException, t: float | Tensor) -> None:
        """Say beside an exception of the network where it was raised, and how the network is called."""
        if isinstance(error, TypeError) and _raised_by_the_call(error):
            names = "".join(f", {name}=" for name in self.conditioning)
            error.add_note(
                f"the network is called as net(x, t{names}), t being the time label of each sample: give it what else "
                "it takes with model.condition(name=value); wrap one that takes no time, such as lambda x, t: net(x)"
            )
        if isinstance(error, torch.OutOfMemoryError):
            error.add_note(f"the network had a batch of {self.rows}: batch_size= asks about fewer samples at once")
        error.add_note(self.watch.place(t, "raised by the network"))

    def labels(self, whole: bool, label: float | Tensor, x: Tensor) -> Tensor:
        """The label of each row that the network sees, of a state x; see ``batch_labels``."""
        like = x if self.dtype is None else x.new_empty(0, dtype=self.dtype)
        labels = batch_labels(whole, label, len(x), like)
        return labels if self.scale is None else torch.cat([labels, labels], dim=-1)


def _raised_by_the_call(error: BaseException) -> bool:
    """Whether the network was never entered: it does not take the arguments it was given."""
    where = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return where[-1] in (__file__, torch.nn.modules.module.__file__)


class Questions:
    """The network asked at times known in advance, for states like x.

    Args: model, a session's; times and targets, of each call its time and the prediction wanted of it; x (batch, ...).

    Attributes: a, b, of each call, with which the prediction at the point y is ``a y + b answer``; a = 0 and b = 1
    where answers are predictions themselves, of a model with refinements or with an evaluation of its own.
    """

    def __init__(self, model: ScoreModel, times: Sequence[float], targets: Sequence[Prediction], x: Tensor) -> None:
        self.model, self.times, self.targets = model, times, targets
        model.prepare_each(times, targets)
        self.door = model.door(len(x)) if model.plain else None
        if self.door is None:
            self.a, self.b = [0.0] * len(times), [1.0] * len(times)
            return
        plans = [model.planned(t, target) for t, target in zip(times, targets, strict=True)]
        self.a, self.b, self.scales, labels = ([float(plan[i]) for plan in plans] for i in range(4))
        column = torch.tensor(labels, dtype=torch.float64, device="cpu")[:, None]
        self.labels = self.door.labels(model.whole, column, x).contiguous().unbind(0)

    def __call__(self, number: int, y: Tensor) -> Tensor:
        """The answer to call ``number`` at the point y."""
        t = self.times[number]
        if self.door is None:
            return self.model.evaluate(y, t, self.targets[number])
        scale = self.scales[number]
        return self.door(y if scale == 1.0 else y * scale, self.labels[number], t)
