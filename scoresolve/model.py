"""``ScoreModel``: any network, seen as score, noise, data, v or velocity at any noise level.

The conversions between these are derived in ``predictions.py``; the path and its clocks in ``sde.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .door import Door
from .errors import kind_of, real_number, unknown
from .guidance import check_unconditional, take_rows
from .labels import TimeLabel, are_whole, batch_labels, label_of
from .predictions import ELSEWHERE, Prediction, Values, conversion, require_determined
from .refinement import Refinement, end_with_signal, refined
from .sde import SDE, check_time, over_batch
from .watch import Watch

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Plan: TypeAlias = tuple[float, float, float, float]


class ScoreModel:
    """A network with its forward process: the one place where the network is called, and calls are counted.

    Args:
        net: called as ``net(x, label, **conditioning)`` with x (batch, ...) and label (batch,); returns x's shape.
        sde: the forward process it was trained on.
        predicts: what it returns: "score", "noise" (epsilon), "data" (x_0, the denoiser), "v"
            (``alpha noise - sigma data``), "velocity" (``alpha' data + sigma' noise``) or "flow" (``noise - data``).
        time: how it is told the time: "t", "sigma", "rho", "lam", a function of t (float64 tensor -> label, kept
            int64 if whole), or for a ``DiscreteVPSDE`` "index" (``t N - 1`` rounded, int64) or "fractional_index".

    The state is float32 or float64; x is cast to the dtype of the network's parameters at its door only.

    Raises: ValueError for an unknown prediction or label, or an index label without a table of betas.

    >>> import torch, scoresolve as ss
    >>> model = ss.ScoreModel(lambda x, t: -x, ss.VPSDE(), predicts="score")  # standard normal data
    >>> x = torch.randn(4, 3)
    >>> torch.allclose(model.data(x, 0.5), ss.VPSDE().alpha(0.5) * x, atol=1e-6)
    True
    >>> model.nfe
    1
    """

    def __init__(
        self,
        net: Callable[..., Any],
        sde: SDE,
        *,
        predicts: Prediction = "score",
        time: TimeLabel | Callable[[Tensor], Tensor | float] = "t",
    ) -> None:
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, label), got {type(net).__name__}")
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be a forward process such as ss.VPSDE(), got {kind_of(sde)}")
        if predicts not in get_args(Prediction):
            raise ValueError(unknown("prediction", predicts, get_args(Prediction), elsewhere=ELSEWHERE))
        if not callable(time) and time not in get_args(TimeLabel):
            raise ValueError(unknown("time label", time, get_args(TimeLabel)))
        if isinstance(time, str) and "index" in time and not hasattr(sde, "betas"):
            raise ValueError(
                f"time={time!r} needs a table of betas, {sde!r} has none: use ss.DiscreteVPSDE(betas), "
                'time="t", or a function such as time=lambda t: 999 * t'
            )
        self.net, self.sde, self.predicts, self.time, self.whole = net, sde, predicts, time, are_whole(time, sde)
        self.conditioning: dict[str, Any] = {}
        self._guidance: tuple[float, dict[str, Any]] | None = None
        self.refinements: tuple[Refinement, ...] = ()
        self.native = sde  # the process the network was trained on; not sde in a view made by `on`
        self._watch = Watch()
        self._plan: dict[tuple[float, str], Plan] | None = None  # of a session: paths may change between two
        self.t_min, self.t_max, self.t_eps = sde.t_min, sde.t_max, sde.t_eps

    # -- views --------------------------------------------------------------------------------------------------

    def _view(self) -> ScoreModel:
        view = copy.copy(self)
        view._plan = None if self._plan is None else {}
        return view

    def condition(self, **conditioning: Any) -> ScoreModel:
        """The same network with these keyword arguments passed to every call.

        A tensor with as many rows as there are samples has one for each, in mappings, lists and tuples too. What all
        share is better bound in the network, ``functools.partial(net, bank=bank)``: it may happen to have as many.

        >>> import torch, scoresolve as ss
        >>> net = lambda x, t, label: label[:, None] - x
        >>> model = ss.ScoreModel(net, ss.VPSDE()).condition(label=torch.tensor([0.0, 3.0]))
        >>> model.score(torch.zeros(2, 1), 0.5).tolist()
        [[0.0], [3.0]]
        """
        view = self._view()
        view.conditioning = {**self.conditioning, **conditioning}
        return view

    def guide(self, scale: float, **unconditional: Any) -> ScoreModel:
        """Classifier-free guidance: ``output = o_u + scale (o_c - o_u)``, one call on a doubled batch.

        Args: scale 1 is the conditional network, 0 the unconditional; ``unconditional`` replaces the conditioning
        of the same names in the second half: tensors with a row a sample, or a single row for all.
        NFE: 1 an evaluation (the network sees twice the batch: ``solution.stats["network_rows"]``).
        Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6 with w = scale - 1.

        >>> import torch, scoresolve as ss
        >>> net = lambda x, t, label: label[:, None] - x
        >>> model = ss.ScoreModel(net, ss.VPSDE()).condition(label=torch.tensor([1.0, 3.0]))
        >>> model.guide(2.0, label=torch.tensor([0.0])).score(torch.zeros(2, 1), 0.5).tolist()
        [[2.0], [6.0]]
        """
        view = self._view()
        view._guidance = real_number("scale", scale), unconditional
        check_unconditional(self.conditioning, unconditional)
        return view

    def refine(self, refinement: Refinement) -> ScoreModel:
        """The same network with its data prediction changed, after its guidance and earlier refinements.

        Every prediction follows: see :class:`Refinement`. If it needs signal, t_max stays where there is some.
        """
        if not isinstance(refinement, Refinement):
            raise TypeError(f"refinement must be an ss.Refinement (see ss.threshold), got {type(refinement).__name__}")
        view = self._view()
        view.refinements = (*self.refinements, refinement)
        if refinement.needs_signal:
            view.t_max = min(self.t_max, end_with_signal(self.sde))
        return view

    def on(self, sde: SDE) -> ScoreModel:
        """The same network seen along another process.

        At equal lam two processes differ by a scale, ``x' = (alpha'/alpha) x``, and data and noise are the same;
        the network is asked at its own x and its own time. Times are restricted to those at which it knows lam.

        >>> import torch, scoresolve as ss
        >>> law = ss.exact.Gaussian([0.5], 0.04)
        >>> x = torch.ones(1, 1, dtype=torch.float64)
        >>> seen, exact = law.model(ss.VPSDE()).on(ss.EDM()), law.model(ss.EDM())
        >>> bool((seen.score(x, 2.0) - exact.score(x, 2.0)).abs() < 1e-12)
        True
        """
        view = self._view()
        view.sde, native = sde, self.native
        slack = 1e-9  # in lam: ends that are equal but for rounding stay as they are

        def known(own: float, its: float) -> float:
            return own if sde.lam(own) < native.lam(its) + slack else sde.time(native.lam(its))

        ends_noisy = sde.lam(sde.t_max) < native.lam(native.t_max) - slack
        view.t_max = sde.time(native.lam(native.t_max)) if ends_noisy else sde.t_max
        view.t_eps = known(sde.t_eps, native.t_eps)
        ends_clean = native.sigma(native.t_min) == 0
        view.t_min = sde.t_min if ends_clean else known(sde.t_min, native.t_min)
        if any(refinement.needs_signal for refinement in self.refinements):
            view.t_max = min(view.t_max, end_with_signal(sde))
        return view

    def take(self, rows: Tensor, batch: int) -> ScoreModel:
        """The network for some samples of a batch: conditioning with a row for each sample keeps these rows only.

        Args: rows (n,) int64, which samples; batch, the size of the batch that the conditioning was given for.
        """
        view = copy.copy(self)  # the plan of times stays good
        view.conditioning = take_rows(self.conditioning, rows, batch)
        view.refinements = tuple(refinement.take(rows, batch) for refinement in self.refinements)
        if self._guidance is not None:
            view._guidance = (self._guidance[0], take_rows(self._guidance[1], rows, batch))
        return view

    def session(self, watch: Watch) -> ScoreModel:
        """A view whose calls are counted and checked by ``watch``, and by this model."""
        view = self._view()
        view._watch, view._plan = watch, {}
        watch.parent, watch.casts = self._watch, self._watch.casts
        return view

    def at_step(self, step: int) -> None:
        """Tell which step the solver is at, for the messages."""
        self._watch.step = step

    # -- predictions --------------------------------------------------------------------------------------------

    @property
    def nfe(self) -> int:
        """Network calls so far, through this model and every view of it; a batch counts once."""
        return self._watch.calls

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x). Args: x (batch, ...); t a float or a tensor of shape () or (batch,). 1 NFE."""
        return self.evaluate(x, t, "score")

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The expected noise eps given x. Arguments as in :meth:`score`. 1 NFE."""
        return self.evaluate(x, t, "noise")

    def data(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The expected clean data x_0 given x (the denoiser). Arguments as in :meth:`score`. 1 NFE."""
        return self.evaluate(x, t, "data")

    def v(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``alpha noise - sigma data`` (Salimans and Ho 2022). Arguments as in :meth:`score`. 1 NFE."""
        return self.evaluate(x, t, "v")

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """dx/dt of the probability flow, ``alpha' data + sigma' noise``. Arguments as in :meth:`score`. 1 NFE."""
        return self.evaluate(x, t, "velocity")

    def prepare(self, times: Sequence[float], target: Prediction) -> None:
        """Compute the coefficients of many host times at once; ``evaluate`` then finds them ready."""
        plans = self._plans(times, target)
        if self._plan is not None:
            self._plan |= {(float(t), target): plan for t, plan in zip(times, plans, strict=True)}

    def prepare_each(self, times: Sequence[float], targets: Sequence[Prediction]) -> None:
        """The same for times that are each asked for a prediction of their own."""
        for target in set(targets):
            self.prepare([t for t, wanted in zip(times, targets, strict=True) if wanted == target], target)

    @property
    def plain(self) -> bool:
        """Whether predictions are the network's own answers, converted."""
        return not self.refinements and type(self).evaluate is ScoreModel.evaluate

    def evaluate(self, x: Tensor, t: float | Tensor, target: Prediction) -> Tensor:
        """One network call at (x, t), converted to the wanted prediction.

        Raises: NetworkOutputError if the network's answer is not a floating tensor of x's shape; NonFiniteError
        (inside ``sample``) if it is NaN or infinite; ValueError if the prediction cannot be had at t (not of a tensor).
        """
        return refined(self, x, t, target) if self.refinements else self.answers(x, t, target)[0]

    def answers(self, x: Tensor, t: float | Tensor, *targets: Prediction) -> list[Tensor]:
        """The network's own answer, without refinements, as several predictions. One call; raises as above."""
        if isinstance(t, Tensor):
            check_time(t, x)
        plans = [self.planned(t, target) for target in targets]
        scale, label = plans[0][2:]
        door, x_native = self.door(len(x)), self._to_native(x, scale)
        output = door(x_native, door.labels(self.whole, label, x), t)
        if isinstance(t, Tensor):
            return [over_batch(a, x) * x + over_batch(b, x) * output for a, b, *_ in plans]
        terms = [output * b if b != 1.0 else output for _, b, *_ in plans]
        return [torch.add(m, x, alpha=a) if a != 0.0 else m for m, (a, *_) in zip(terms, plans, strict=True)]

    def asked(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """What the network is asked at (x, t): x on its own process, in x's dtype, and labels (batch,)."""
        scale, label = self.planned(t, "data")[2:]
        return self._to_native(x, scale), batch_labels(self.whole, label, len(x), x)

    def _to_native(self, x: Tensor, scale: float | Tensor) -> Tensor:
        if isinstance(scale, Tensor):
            return x * over_batch(scale, x) if self.native is not self.sde else x
        return x * scale if scale != 1.0 else x

    # -- coefficients -------------------------------------------------------------------------------------------

    def planned(self, t: float | Tensor, target: Prediction) -> tuple[Any, Any, Any, Any]:
        """(a, b, scale, label) of a time, see below: of a host time those prepared, as floats."""
        if isinstance(t, Tensor):
            return self._coefficients(t.double(), target)
        t = float(t)
        if self._plan is None:
            return self._plans([t], target)[0]
        if (t, target) not in self._plan:
            self.prepare([t], target)
        return self._plan[t, target]

    def _plans(self, times: Sequence[float], target: Prediction) -> list[Plan]:
        return list(zip(*self._coefficients(np.asarray(times, dtype=np.float64), target), strict=True))

    def _coefficients(self, t: Values, target: Prediction) -> tuple[Values, Values, Values, Values]:
        """(a, b, scale, label): the net is called at (scale x, label) and the wanted value is a x + b output."""
        native = self.native
        tau = t if native is self.sde else native.time(self.sde.lam(t))
        a, b, scale = conversion(self.predicts, target, native, tau, self.sde, t)
        if isinstance(t, np.ndarray):
            require_determined(self.predicts, target, self.sde, t, a, b)
        return a, b, scale, label_of(self.time, native, tau)

    def door(self, batch: int) -> Door:
        """The network's door, for states of that many samples."""
        return Door(self.net, self.conditioning, self._guidance, batch, self._watch, self.refinements)

    def __repr__(self) -> str:
        name = getattr(self.net, "__name__", type(self.net).__name__)
        return f"ScoreModel({name}, {self.sde!r}, predicts={self.predicts!r}, time={self.time!r})"
