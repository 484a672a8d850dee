"""The probability flow of a batch whose samples stand at times of their own: what adaptive methods ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .coordinates import Clock, Coordinates, coordinates
from .model import ScoreModel
from .sde import over_batch


@dataclass(frozen=True)
class Flow:
    """``dz/du = rate m`` for the samples ``rows`` of a batch, each a row of a matrix.

    Attributes:
        model, coordinates: the network, and how the flow is written.
        shape: of the whole batch. rows: which of its samples are here; None for all.
        times: the lowest and the highest time that the network is asked about.
        rtol, atol: tolerances, on ``x / (alpha + sigma)``.
        extra: how many of the last columns are logarithms of densities: their errors are measured apart.
    """

    model: ScoreModel
    coordinates: Coordinates
    shape: torch.Size
    times: tuple[float, float]
    rtol: float
    atol: float
    extra: int = 0

    @classmethod
    def of(
        cls, model: ScoreModel, clock: Clock, x: Tensor, ends: tuple[float, float], rtol: float, atol: float
    ) -> Flow:
        """The flow of a model on a clock, for the batch x, between two times."""
        inside = min(ends), max(ends)
        return cls(model, coordinates(model.sde, clock), x.shape, inside, rtol, atol, getattr(model, "extra", 0))

    def take(self, rows: Tensor) -> Flow:
        """The flow for some samples of the whole batch."""
        return replace(self, model=self.model.take(rows, self.shape[0]))

    def time(self, u: Tensor) -> Tensor:
        """The times of places, kept inside the interval to the last bit."""
        return self.coordinates.time(u).clamp(*self.times)

    def output(self, z: Tensor, u: Tensor) -> Tensor:
        """m at the states z (n, d) and places u (n,). One network call."""
        t = self.time(u)
        return self._asked(z, t, self.coordinates.size(t))

    def slope(self, z: Tensor, u: Tensor) -> Tensor:
        """dz/du. One network call."""
        t = self.time(u)
        size, rate = self.coordinates.scales(t)
        return self._asked(z, t, size) * over_batch(rate, z)

    def _asked(self, z: Tensor, t: Tensor, size: Tensor) -> Tensor:
        x = (z * over_batch(size, z)).reshape(-1, *self.shape[1:])
        return self.model.evaluate(x, t, self.coordinates.predicts).reshape(z.shape)

    def weight(self, before: Tensor, after: Tensor, u: Tensor) -> Tensor:
        """One over the tolerance of each element of a step that ends at u: shape (n, d); NaN where it overflows."""
        d = after.shape[1] - self.extra
        largest = torch.maximum(before.abs(), after.abs()).mul_(self.rtol)
        largest = torch.where(torch.isfinite(after), largest, torch.nan)  # any error would be small beside infinity
        state = largest[:, :d]
        if self.coordinates.unit is None:
            state = state.add_(self.atol).reciprocal_()
        else:
            unit = over_batch(self.coordinates.unit(self.time(u)), after)
            state = unit / (state * unit + self.atol)
        return torch.cat([state, 1 / (largest[:, d:] + d * self.atol)], dim=1) if self.extra else state

    def norm(self, weighted: Tensor) -> Tensor:
        """Root mean square over the last dimension; with log-densities the largest of theirs and that of the state.

        float64; infinite where an element is not finite.
        """
        d = weighted.shape[-1] - self.extra
        found = torch.linalg.vector_norm(weighted[..., :d], dim=-1) / math.sqrt(d)
        if self.extra:
            found = torch.maximum(found, weighted[..., d:].abs().amax(dim=-1))
        found = found.double()
        return torch.where(torch.isfinite(found), found, torch.inf)
