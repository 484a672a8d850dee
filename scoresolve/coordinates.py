r"""The probability flow in coordinates: ``z = x / size`` on a clock u, with the linear part gone.

For each way of writing the network's output m there is a size and a clock with ``dz/du = rate(u) m(x, u)``:

    clock       u                       size             m          rate
    t           t                       1                velocity   1
    rho         rho = sigma / alpha     alpha            noise      1
    flow        w = sigma/(alpha+sigma) alpha + sigma    flow       1
    log_flow    log w                   alpha + sigma    flow       w
    log_rho     log rho = -lam          alpha + sigma    flow       w (1 - w)
    data        lam                     sigma            data       e^lam
    noise       lam                     alpha            noise      -e^{-lam}

(flow is the velocity eps - D of the rectified flow at equal noise levels: with ``x / (alpha + sigma) = (1 - w) D + w
eps`` along a straight path, ``d/dw`` is eps - D, and ``dw = w (1 - w) d log rho``.) The last two are the data and noise
forms of ``forms.py``, whose rate is integrated exactly by exponential methods. All but t give the same z at the same
noise level whatever the process: two processes of equal lam differ by the size alone. log_flow is log rho near the
data and straightens out towards pure noise, where log rho is infinite: it is the clock of choice for adaptive steps.

Every function works on float64 tensors, so that each sample may stand at a time of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .errors import unknown
from .predictions import Prediction
from .sde import SDE

Clock = Literal["t", "rho", "flow", "log_flow", "log_rho", "data", "noise"]
TimeFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Coordinates:
    """One way to write the flow; made by :func:`coordinates`.

    Attributes:
        predicts: what the output m is.
        place: t -> u. time: u -> t.
        scales: t -> the scale of x, and the factor of m in dz/du.
        unit: t -> ``size / (alpha + sigma)``: what 1 in z is in units of ``x / (alpha + sigma)``, in which tolerances
            are given, because data and noise of unit variance keep it near one at all times; None where it is one.
    """

    clock: Clock
    predicts: Prediction
    place: TimeFunction
    time: TimeFunction
    scales: Callable[[Tensor], tuple[Tensor, Tensor]]
    unit: TimeFunction | None

    def size(self, t: Tensor) -> Tensor:
        """The scale of x."""
        return self.scales(t)[0]

    def rate(self, t: Tensor) -> Tensor:
        """The factor of m in dz/du."""
        return self.scales(t)[1]

    def places(self, times: np.ndarray) -> np.ndarray:
        """u of host times, float64. It is infinite where the noise, or for most clocks the signal, vanishes."""
        with np.errstate(all="ignore"):
            return self.place(torch.from_numpy(np.array(times, dtype=np.float64))).numpy()


def coordinates(sde: SDE, clock: Clock) -> Coordinates:
    """The flow of a process on a clock. Raises: ValueError for a clock that is not known.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.coordinates import coordinates
    >>> flow = coordinates(ss.EDM(), "flow")
    >>> flow.place(torch.tensor([1.0], dtype=torch.float64)).item(), flow.size(torch.tensor([3.0])).item()
    (0.5, 4.0)
    """

    def share(t: Tensor) -> Tensor:
        return sde.sigma(t) / (sde.alpha(t) + sde.sigma(t))

    def of_share(w: Tensor) -> Tensor:
        return sde.time(torch.log1p(-w) - w.log())

    def flow(rate: Callable[[Tensor, Tensor, Tensor], Tensor], place: TimeFunction, time: TimeFunction) -> Coordinates:
        """The flow form, its rate a function of alpha, sigma and their sum."""

        def scales(t: Tensor) -> tuple[Tensor, Tensor]:
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            total = alpha + sigma
            return total, rate(alpha, sigma, total)

        return Coordinates(clock, "flow", place, time, scales, None)

    def other(
        predicts: Prediction, size: TimeFunction, rate: TimeFunction, place: TimeFunction, time: TimeFunction
    ) -> Coordinates:
        def unit(t: Tensor) -> Tensor:
            return size(t) / (sde.alpha(t) + sde.sigma(t))

        return Coordinates(clock, predicts, place, time, lambda t: (size(t), rate(t)), unit)

    one = torch.ones_like
    match clock:
        case "t":
            return other("velocity", one, one, _same, _same)
        case "rho":
            return other("noise", sde.alpha, one, sde.rho, lambda u: sde.time(-u.log()))
        case "flow":
            return flow(lambda a, s, total: one(total), share, of_share)
        case "log_flow":
            return flow(lambda a, s, total: s / total, lambda t: share(t).log(), lambda u: of_share(u.exp()))
        case "log_rho":
            return flow(lambda a, s, total: a * s / total**2, lambda t: -sde.lam(t), lambda u: sde.time(-u))
        case "data":
            return other("data", sde.sigma, lambda t: sde.lam(t).exp(), sde.lam, sde.time)
        case "noise":
            return other("noise", sde.alpha, lambda t: -(-sde.lam(t)).exp(), sde.lam, sde.time)
    raise ValueError(unknown("clock", clock, get_args(Clock)))


def check_places(sde: SDE, clock: Clock, times: np.ndarray) -> np.ndarray:
    """The places of times on a clock. Raises: ValueError where it is infinite, naming the clocks that are not.

    >>> import numpy as np, scoresolve as ss
    >>> check_places(ss.RectifiedFlow(), "flow", np.array([1.0, 0.5])).tolist()
    [1.0, 0.5]
    """
    places = coordinates(sde, clock).places(times)
    if not np.isfinite(places).all():
        finite = [name for name in get_args(Clock) if np.isfinite(coordinates(sde, name).places(times)).all()]
        at = float(times[~np.isfinite(places)][0])
        raise ValueError(
            f"clock={clock!r} is infinite at t = {at:g} of {sde!r}: use clock={' or '.join(map(repr, finite))}, or "
            "keep away from that end with t_max= or t_min="
        )
    return places


def _same(t: Tensor) -> Tensor:
    return t
