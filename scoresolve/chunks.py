"""A batch in chunks: what each chunk is given, and the solution of all from those of each.

No sample looks at another, and whatever has a row for each sample can be asked for some of them (``take``): the model
and what it is conditioned on, the source of noise, a callback such as ``ss.Replacement``. So a chunk is a run like any
other, and the results are those of one batch, to the last bit where the network, too, treats its samples apart. The
network and the solver then need the memory of one chunk; the start, and what is returned, that of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .augmented import Density
from .dense import DenseOutput
from .noise import NoiseSource, PathSource
from .outcome import Outcome
from .solution import Solution

SUMMED = ("network_rows", "backward_passes", "depth", "replays", "warmup_calls")
"""Statistics of which a batch has the sum of its chunks'; of tensors with a row a sample it has all rows."""


def chunks_of(batch: int, size: int | None) -> list[range]:
    """Which samples go together: ``size`` of them, or those that are left; all if it is None."""
    size = batch if size is None else size
    return [range(first, min(first + size, batch)) for first in range(0, batch, size)]


def divisible(noise: NoiseSource) -> PathSource:
    """The noise, if some of the samples can be asked of it. Raises: TypeError."""
    if not isinstance(noise, PathSource):
        raise TypeError(
            f"batch_size= asks for the noise of some of the samples, noise={type(noise).__name__} has no take(rows): "
            "add it, leave noise= out, or leave batch_size= out"
        )
    return noise


def join(parts: Sequence[Solution], chunks: Sequence[range]) -> Solution:
    """One solution of the samples of all chunks, in their order."""
    first = parts[0]
    trajectories = [part.trajectory for part in parts if part.trajectory is not None]
    kept = [part.dense for part in parts if part.dense is not None]
    densities = [part.density for part in parts if part.density is not None]
    return Solution(
        samples=torch.cat([part.samples for part in parts]),
        nfe=sum(part.nfe for part in parts),
        times=first.times,
        outcome=Outcome.join([part.outcome for part in parts]),
        trajectory=torch.cat(trajectories, dim=1) if trajectories else None,
        table=first.table,
        dense=DenseOutput.join(kept) if kept else None,
        density=Density.join(densities) if densities else None,
        stats={name: _joined(name, [part.stats[name] for part in parts], chunks) for name in first.stats},
    )


def _joined(name: str, values: list[Any], chunks: Sequence[range]) -> Any:
    if name in SUMMED:
        return sum(values)
    if name == "nodes":  # each names its sample, counted from the first of its chunk
        shifts = [torch.tensor([chunk.start, 0, 0], device="cpu") for chunk in chunks]
        return torch.cat([value + shift for value, shift in zip(values, shifts, strict=True)])
    return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
