"""``ss.capture``: many batches of one kind, from a run that is captured once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .graphs import Capture
from .model import ScoreModel
from .sampling import sample
from .solution import Solution
from .starting import check_model

_EACH = ("seed", "indices", "start", "capture")


class Captured:
    """A run that can be repeated: call it with a seed, and what else differs from batch to batch.

    Args: as of :func:`capture`.
    """

    def __init__(self, model: ScoreModel, shape: Sequence[int], asked: dict[str, Any]) -> None:
        self._model, self._shape, self._asked = model, shape, asked
        self._kept = Capture()

    def __call__(
        self,
        *,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
        start: Tensor | None = None,
        **conditioning: Any,
    ) -> Solution:
        """The samples of a seed, as ``ss.sample`` gives them.

        Args: seed, indices, start: as of ``ss.sample``; conditioning: as of ``model.condition``, tensors of the same
        shape each time.
        """
        model = self._model.condition(**conditioning) if conditioning else self._model
        own = {**self._asked, "capture": self._kept}
        return sample(model, self._shape, seed=seed, indices=indices, start=start, **own)

    def __repr__(self) -> str:
        asked = "".join(f", {name}={value!r}" for name, value in self._asked.items())
        return f"capture({self._model!r}, {tuple(self._shape)}{asked})"


def capture(model: ScoreModel, shape: Sequence[int], **asked: Any) -> Captured:
    """A run of a table to be repeated: on a CUDA device it is captured the first time, and replayed as one launch.

    For networks so small, or devices so fast, that the host cannot keep up. The network's Python runs while it is
    captured only, so it must be the same operations each time: no printing, no branch on values, no ``.item()``. Its
    weights may change in place. The record keeps the memory of a run until it is forgotten.

    Args:
        model: the network; what it is conditioned on may be given anew each time.
        shape: (batch, ...) of the samples.
        asked: everything else ``ss.sample`` takes, but seed, indices and start: solver=, nfe=, batch_size=, ...

    Returns: a function of ``seed=``, ``indices=``, ``start=`` and the conditioning that gives a :class:`Solution`; its
    samples are those of ``ss.sample``, by the same operations. Where nothing can be captured (no CUDA device, steps
    that the host decides, ``callback=``, ``grad=``, refinements, a network that waits for the device) it warns once,
    says why and runs as always.

    Cost: ``solution.nfe`` network calls each time. The first time 3 more come before, which torch asks for: counted by
    the model, and in ``solution.stats["warmup_calls"]``. ``solution.stats["replays"]`` says how often it was replayed.

    Raises: TypeError for what is given each time; else when it is called, as ``ss.sample``.

    >>> import torch, warnings, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), 0.25).model(ss.VPSDE())
    >>> run = ss.capture(model, (64, 2), solver="dpmpp_2m", nfe=10)
    >>> with warnings.catch_warnings(action="ignore"):  # without a CUDA device
    ...     batches = [run(seed=seed).samples for seed in range(3)]
    >>> torch.equal(batches[1], ss.sample(model, (64, 2), solver="dpmpp_2m", nfe=10, seed=1).samples)
    True
    """
    check_model(model)
    taken = [name for name in _EACH if name in asked]
    if taken:
        raise TypeError(f"{', '.join(taken)} is given each time: run = ss.capture(model, shape, ...); run(seed=1)")
    return Captured(model, shape, asked)
