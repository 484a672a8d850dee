r"""The solution at any time: a polynomial through the points at which the steps of an adaptive run ended.

Each accepted step leaves a place, a state and a slope. On the clock log w, w = sigma / (alpha + sigma), with
``y = x / (alpha + sigma)`` and ``dy / d log w = w (eps - D)``, the polynomial of degree five that has the states and
slopes of three neighbouring points (Hermite's, in Newton's form with each node twice) is off by

    (v - u_0)^2 (v - u_1)^2 (v - u_2)^2 / 720 * d^6 y / du^6,

of order six in the steps: no less than the methods themselves. It costs no network call, whatever the method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .coordinates import coordinates
from .errors import require
from .flow import Flow
from .predictions import conversion
from .sde import SDE, over_batch


class Recorder:
    """Keeps the points of a run, in the coordinates of its flow; nothing is read from the device on the way."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, rows: Tensor, accept: Tensor, u: Tensor, z: Tensor, slope: Tensor) -> None:
        """The points (u, z, what the method keeps of the network there) of those samples whose step was accepted."""
        self._kept.append((rows, accept, u, z, slope))

    def finished(self, ends: tuple[float, float], kept_is_slope: bool) -> DenseOutput:
        """The solution of each sample between its points; ``ends`` are the times of the run's first and last."""
        flow, sde = self.flow, self.flow.model.sde
        accept = torch.cat([mask for _, mask, _, _, _ in self._kept])
        rows, u, z, kept = (torch.cat([entry[which] for entry in self._kept])[accept] for which in (0, 2, 3, 4))
        width = z.shape[1] - flow.extra
        z, kept, t = z[:, :width], kept[:, :width], flow.time(u)
        output = kept / over_batch(flow.coordinates.rate(t), kept) if kept_is_slope else kept
        x = z * over_batch(flow.coordinates.size(t), z)
        log_flow = coordinates(sde, "log_flow")
        a, b, _ = conversion(flow.coordinates.predicts, "flow", sde, t, sde, t)
        slope = (over_batch(a, x) * x + over_batch(b, x) * output) * over_batch(log_flow.rate(t), x)
        y = x / over_batch(log_flow.size(t), x)
        return DenseOutput(sde, ends, flow.shape, rows, log_flow.place(t), y, slope)


class DenseOutput:
    """The state of every sample at any time of the run: ``dense(t)``.

    Args: sde; ends, the times between which the steps went; shape of the batch; of each point its sample (p,), place
    log w (p,), y and its slope (p, d), the points of a sample in the order in which it went through them.
    """

    def __init__(
        self,
        sde: SDE,
        ends: tuple[float, float],
        shape: torch.Size,
        rows: Tensor,
        places: Tensor,
        y: Tensor,
        slopes: Tensor,
    ) -> None:
        self.sde, self.ends, self.shape, self._on = sde, ends, shape, coordinates(sde, "log_flow")
        order = rows.argsort(stable=True)
        self._places, self._y, self._slopes = places[order], y[order], slopes[order]
        self._count = torch.bincount(rows, minlength=shape[0])
        self._start = self._count.cumsum(0) - self._count
        self._sign = 1.0 if ends[1] > ends[0] else -1.0
        self._table = self._padded()

    @classmethod
    def join(cls, parts: Sequence[DenseOutput]) -> DenseOutput:
        """Of the samples of all parts, in their order."""
        first = parts[0]
        counts = torch.cat([part._count for part in parts])
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        points = (torch.cat([getattr(part, name) for part in parts]) for name in ("_places", "_y", "_slopes"))
        return cls(first.sde, first.ends, torch.Size([len(counts), *first.shape[1:]]), rows, *points)

    def _padded(self) -> Tensor:
        """The places of each sample in the direction of travel, those it lacks at infinity: (batch, most)."""
        most = int(self._count.max())
        index = torch.arange(most, device=self._places.device)
        inside = index < self._count[:, None]
        at = (self._start[:, None] + index).clamp(max=len(self._places) - 1)
        travelled = self._places[at] * self._sign
        return torch.where(inside, travelled, torch.inf).contiguous()

    def __call__(self, t: float | Tensor) -> Tensor:
        """The states at time t, a number or one for each sample, shape (batch,).

        A sample that failed is NaN beyond the time that it reached. Raises: ValueError outside the run's times.
        """
        batch = self.shape[0]
        t = torch.as_tensor(t, dtype=torch.float64, device=self._places.device)
        require(t.shape in ((), (batch,)), f"one time, or {batch}, one for each sample; got shape {tuple(t.shape)}")
        low, high = sorted(self.ends)
        inside = bool(((t >= low * (1 - 1e-9)) & (t <= high * (1 + 1e-9))).all())
        require(inside, f"times within those of the run, from {self.ends[0]:g} to {self.ends[1]:g}")
        t = t.clamp(low, high).expand(batch)
        own = self._on.place(t)
        place, slack = own * self._sign, 1e-9 * (1 + own.abs())
        after = torch.searchsorted(self._table, place[:, None].contiguous())[:, 0]
        first = (after - 2).clamp(min=0).minimum((self._count - 3).clamp(min=0))
        value = self._hermite(self._start + first, (self._count - first).clamp(max=3), own)
        last = self._table.gather(1, self._count[:, None] - 1)[:, 0]
        value = torch.where((place <= last + slack)[:, None], value, torch.nan)
        return (value * over_batch(self._on.size(t), value)).reshape(self.shape)

    def _hermite(self, first: Tensor, count: Tensor, place: Tensor) -> Tensor:
        """Newton's form through up to three points from number ``first`` on, each node twice."""
        points = [first + torch.minimum(count - 1, torch.full_like(count, k)) for k in range(3)]
        nodes = [self._places[p] for p in points for _ in range(2)]
        column = [self._y[p] for p in points for _ in range(2)]
        slopes = [self._slopes[p] for p in points]
        value, factor = column[0].clone(), torch.ones_like(place)
        for degree in range(1, 6):
            known = degree < 2 * count
            column = [
                _difference(column[j], column[j + 1], nodes[j], nodes[j + degree], slopes[j // 2])
                for j in range(6 - degree)
            ]
            factor = factor * (place - nodes[degree - 1])
            value = value + over_batch(torch.where(known, factor, 0.0), value) * torch.where(
                known[:, None], column[0], 0.0
            )
        return value


def _difference(left: Tensor, right: Tensor, a: Tensor, b: Tensor, slope: Tensor) -> Tensor:
    """The divided difference; of a node with itself it is the slope there."""
    apart = (b - a) != 0
    quotient = (right - left) / over_batch(torch.where(apart, b - a, 1.0), left)
    return torch.where(apart[:, None], quotient, slope)
