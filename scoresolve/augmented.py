r"""The change of log-density along the flow, by any deterministic solver: one more column of its state.

In coordinates ``z = x / size(t)`` the probability flow is ``dz/du = rate(u) m(x, t)`` (``coordinates.py``; size and
clock belong to the prediction m). With l the logarithm of ``|det dz/dz_0|``, Liouville's formula gives

    dl/du = tr d(rate m)/dz = rate size tr(dm/dx).

So ``(z, l)`` obeys an equation of the same form, with the output ``M = (m, size tr dm/dx)``; and what a solver does to
x = size z it does to ``(x, L)`` with ``L = size l``. No solver needs to be changed: rows of weights and adaptive steps
run on the matrix (x, L) of shape (batch, d + columns), and l is had to the same order as z. The sizes:

    velocity 1      noise alpha      data sigma      flow alpha + sigma

(data: ``d(x/sigma) = D d(alpha/sigma)``.) Undoing the scale, from time t to time s,

    log |det dx_s/dx_t| = L_s / size_s + d log(size_s / size_t),      log p_t(x_t) = log p_s(x_s) + log |det dx_s/dx_t|.

A table qualifies if it is a rule for this form, all rows with one prediction. That is checked: with m = 0 its rows must
take x from size_t to size_s, which the rules of every form do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from .adaptive import AdaptiveFlow
from .coordinates import check_places
from .divergence import Divergence, control_variate, traces
from .errors import require
from .guidance import differentiable
from .model import ScoreModel
from .noise import NoiseSource
from .predictions import Prediction
from .registry import Runner
from .sde import SDE, Time, over_batch
from .table import AfterStep, Stats, Table, only_shown


def size_of(sde: SDE, prediction: Prediction, t: Time) -> Time:
    """The scale of x for a prediction. Raises: ValueError for one that solvers do not work with (score, v)."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    sizes = {"velocity": alpha**0, "noise": alpha, "data": sigma, "flow": alpha + sigma}
    if prediction not in sizes:
        raise ValueError(f"log p needs a solver that asks for {', '.join(sizes)}; this one asks for {prediction!r}")
    size: Time = sizes[prediction]
    return size


@dataclass
class _Tally:
    """What the calls of one run had in common."""

    prediction: Prediction | None = None
    backward_passes: int = 0


class AugmentedModel(ScoreModel):
    """A model of the state (x, L), a matrix (batch, d + extra): its predictions are (m, size tr dm/dx).

    Args: model (a session's); shape of one sample; probes (extra, batch, d), or None for the exact trace.
    Every call of the network is followed by a backward pass for each probe, or for each of the d elements; a graph is
    kept if gradients are enabled.

    Attributes: extra, how many columns L has.
    """

    def __init__(self, model: ScoreModel, shape: torch.Size, probes: Tensor | None) -> None:
        vars(self).update(vars(model))
        self.shape, self.probes, self.extra = shape, probes, 1 if probes is None else len(probes)
        self.tally = _Tally()
        self._watch.differentiates = True

    def take(self, rows: Tensor, batch: int) -> Self:
        """The model for some samples of a batch; see :meth:`ScoreModel.take`."""
        view = cast(Self, super().take(rows, batch))
        view.probes = None if self.probes is None else self.probes[:, rows]
        return view

    def evaluate(self, y: Tensor, t: float | Tensor, target: Prediction) -> Tensor:
        """One network call at (y, t), y a matrix (batch, d + extra); returns one of that shape."""
        require(self.tally.prediction in (None, target), f"one prediction throughout, got {target!r} as well")
        graph, d = torch.is_grad_enabled(), y.shape[1] - self.extra
        with torch.inference_mode(False), torch.enable_grad():
            x = differentiable(y[:, :d].reshape(len(y), *self.shape))
            output = super().evaluate(x, t, target)
            columns = traces(output, x, self.probes, create_graph=graph)
        if not graph:
            output, columns = output.detach(), columns.detach()
        self._watch.check_finite(columns, t, "the derivative of the network by x is")
        self.tally.prediction = target
        self.tally.backward_passes += d if self.probes is None else self.extra
        size = size_of(self.sde, target, t)
        scaled = columns * (over_batch(size, columns) if isinstance(size, Tensor) else size)
        return torch.cat([output.reshape(len(y), -1), scaled], dim=1)


@dataclass(frozen=True)
class Density:
    """log p along a run, float64 (batch,). Attributes: log_prob, log_det, standard_error; see ``Solution``."""

    log_prob: Tensor
    log_det: Tensor
    standard_error: Tensor

    def where(self, ok: Tensor) -> Density:
        """NaN for the samples that are not ok."""
        values = (self.log_prob, self.log_det, self.standard_error)
        return Density(*(torch.where(ok.to(value.device), value, torch.nan) for value in values))

    @classmethod
    def join(cls, parts: Sequence[Density]) -> Density:
        """Of the samples of all parts, in their order."""
        names = ("log_prob", "log_det", "standard_error")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class AugmentedRunner:
    """A deterministic solver that integrates log p as well; its statistic "density" is a :class:`Density`.

    Args: inner, the solver; divergence; sde and times of the run, which must end where there is noise.
    Raises: ValueError for a solver that draws noise or is no rule for one of the forms, or an end without noise.
    """

    inner: Runner
    divergence: Divergence
    sde: SDE = field(repr=False)
    times: np.ndarray

    def __post_init__(self) -> None:
        if self.inner.stochastic:
            raise ValueError("log p is that of the probability flow: take a solver of kind 'ode', without corrector=")
        low = float(min(self.times[0], self.times[-1]))
        if self.sde.sigma(low) == 0:
            raise ValueError(
                f"log p needs noise at both ends, there is none at t = {low:g} of {self.sde!r}: "
                f"stop before it, with t_min={self.sde.t_eps:g} or a grid that ends there"
            )
        if isinstance(self.inner, Table):
            check_form(self.inner, self.sde)
        if isinstance(self.inner, AdaptiveFlow) and self.inner.method.clock != "data":
            # where the clock is infinite the first step is one of the data prediction, which scales log p differently
            check_places(self.sde, self.inner.method.clock, self.times)

    @property
    def nfe(self) -> int | None:
        """Network calls of a run."""
        return self.inner.nfe

    @property
    def stochastic(self) -> bool:
        """It is not."""
        return False

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take (x, 0) from the first time to the last; ``after_step`` sees x alone and cannot change it."""
        d, columns = x[0].numel(), self.divergence.columns
        augmented = AugmentedModel(model, x.shape[1:], self.divergence.draw(noise, x))

        def seen(step: int, t: float, y: Tensor) -> Tensor:
            assert after_step is not None
            state = y[:, :d].reshape(x.shape)
            only_shown(after_step, step, t, state, "a run with log_prob=")
            return y

        start = torch.cat([x.reshape(len(x), -1), x.new_zeros(len(x), columns)], dim=1)
        y, stats = self.inner.run(augmented, start, noise, None if after_step is None else seen)
        state = y[:, :d].reshape(x.shape).contiguous()
        density = self._density(y[:, d:].double(), x, state, augmented)
        return state, {**stats, "density": density, "backward_passes": augmented.tally.backward_passes}

    def _density(self, change: Tensor, x: Tensor, end: Tensor, model: AugmentedModel) -> Density:
        """From the columns L and the two ends of the run."""
        t, s, prediction, count = float(self.times[0]), float(self.times[-1]), model.tally.prediction, change.shape[1]
        assert prediction is not None
        size = size_of(self.sde, prediction, s)
        estimates = change / size + x[0].numel() * math.log(size / size_of(self.sde, prediction, t))
        if self.divergence.control is not None and model.probes is not None:
            estimates = estimates - control_variate(self.divergence.control, self.sde, model.probes, t, s)
        log_det = estimates.mean(dim=1)
        if model.probes is None:
            error = torch.zeros_like(log_det.detach())
        elif count == 1:
            error = torch.full_like(log_det.detach(), math.nan)
        else:
            error = estimates.detach().std(dim=1) / math.sqrt(count)
        if s > t:
            return Density(self.sde.prior_log_prob(end.double(), s) + log_det, log_det, error)
        return Density(self.sde.prior_log_prob(x.double(), t) - log_det, log_det, error)


def check_form(table: Table, sde: SDE) -> None:
    """Raise ValueError unless the table is a rule for one of the forms, in one prediction throughout."""
    asked = sorted({row.asks or table.predicts for row in table.rows})
    name, advice = table.solver or "the table", "keep away from an end without signal with t_max=, or take 'flow_abm_4'"
    if len(asked) > 1:
        raise ValueError(
            f"log p cannot be had by {name!r} here: its rows ask for {' and '.join(asked)}, which scale log p "
            f"differently; {advice}"
        )
    times = np.array([table.start, *(time for row in table.rows for time in (row.t, row.s) if time is not None)])
    sizes = dict(zip(times.tolist(), size_of(sde, asked[0], times).tolist(), strict=True))
    base, off = table.start, min(sizes.values()) <= 0
    for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
        reached = base if row.s is None else row.s
        off |= abs(row.commit[0] * sizes[base] - sizes[reached]) > 1e-9 * sizes[reached]
        base = reached
        if following is not None:
            off |= abs(row.propose[0] * sizes[base] - sizes[following.t]) > 1e-9 * sizes[following.t]
    if off:
        raise ValueError(
            f"log p cannot be had by {name!r} here: with m = 0 its rows must multiply x by the ratio of sizes of the "
            f"{asked[0]} prediction, which go from {sizes[table.start]:g} to {sizes[base]:g}, and do not; {advice}"
        )
