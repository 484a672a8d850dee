r"""The probability flow by general-purpose adaptive Runge-Kutta 4(5), from torchdiffeq and from scipy.

Both integrate ``dx/dt = velocity(x, t)`` in t with one step size for the whole batch, to local tolerances
``atol + rtol |x|``. Their calls are counted where the network is called: rejected steps and the choice of the first
step included. A run that should end at noise zero integrates to the process' ``t_eps`` and takes the denoised
estimate there, one more call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from ..errors import ScoreSolveError, require
from ..model import ScoreModel
from ..noise import NoiseSource
from ..registry import solver
from ..sde import SDE
from ..table import AfterStep, Stats


@dataclass(frozen=True)
class AdaptiveFlow(ABC):
    """An adaptive integration of the probability flow through the given times."""

    times: np.ndarray
    rtol: float
    atol: float

    nfe = None
    stochastic = False

    def __post_init__(self) -> None:
        require(self.rtol > 0 and self.atol > 0, f"rtol > 0 and atol > 0, got rtol={self.rtol}, atol={self.atol}")

    @abstractmethod
    def integrate(self, model: ScoreModel, x: Tensor, times: np.ndarray) -> list[Tensor]:
        """The states at ``times[1:]``."""

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Integrate; ``after_step`` sees the state at each time but cannot change it."""
        times = self.times
        noiseless = model.sde.sigma(float(times[-1])) == 0
        if noiseless:
            inside = times[times > model.t_eps]
            times = np.append(inside, model.t_eps)
        states = self.integrate(model, x, times)
        if noiseless:
            data = model.data(states[-1], float(times[-1])) * model.sde.alpha(float(self.times[-1]))
            states = [*states[: len(self.times) - 2], data]
        for step, (t, state) in enumerate(zip(self.times[1:].tolist(), states, strict=True), start=1):
            if after_step is not None:
                after_step(step, t, state)
        return states[-1], {"rtol": self.rtol, "atol": self.atol}


class TorchdiffeqFlow(AdaptiveFlow):
    """torchdiffeq's Dormand-Prince 5(4): the state stays on its device."""

    def integrate(self, model: ScoreModel, x: Tensor, times: np.ndarray) -> list[Tensor]:
        """The states at ``times[1:]``."""
        clock = torch.from_numpy(times).to(x.device)
        low, high = float(times.min()), float(times.max())
        # by default it steps past the last time and interpolates back: the network would be asked about times
        # that it does not know, such as negative ones
        options: dict[str, object] = {"step_t": clock[-1:]}
        if extra := getattr(model, "extra", 0):  # log p is one number beside many: it has an error of its own
            options["norm"] = lambda y: torch.maximum(_rms(y[:, :-extra]), _rms(y[:, -extra:]))

        def flow(t: Tensor, state: Tensor) -> Tensor:
            return model.velocity(state, t.clamp(low, high))

        try:
            path = odeint(flow, x, clock, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError as error:  # torchdiffeq's way to say that its step vanished
            raise ScoreSolveError(
                f"rk45 cannot meet rtol={self.rtol:g}, atol={self.atol:g} ({error}): loosen them, "
                "compute in dtype=torch.float64, or keep away from the ends with t_min= and t_max="
            ) from error
        return list(path[1:])


def _rms(y: Tensor) -> Tensor:
    return y.square().mean().sqrt()


class ScipyFlow(AdaptiveFlow):
    """scipy's RK45, as score_sde uses it: the state is copied to the host for every call."""

    def integrate(self, model: ScoreModel, x: Tensor, times: np.ndarray) -> list[Tensor]:
        """The states at ``times[1:]``."""

        def flow(t: float, flat: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(flat).to(x).reshape(x.shape)
            velocity = model.velocity(state, float(t))
            return np.asarray(velocity.double().cpu().reshape(-1).numpy())

        start = x.detach().double().cpu().reshape(-1).numpy()
        ends = (float(times[0]), float(times[-1]))
        found = solve_ivp(flow, ends, start, method="RK45", t_eval=times, rtol=self.rtol, atol=self.atol)
        if not found.success:
            raise ScoreSolveError(
                f"scipy_rk45 stopped ({found.message}): loosen rtol={self.rtol:g}, atol={self.atol:g}"
            )
        return [torch.from_numpy(column.copy()).to(x).reshape(x.shape) for column in found.y.T[1:]]


@solver(
    "rk45",
    order=5,
    evaluations=6,
    reference="Dormand and Prince 1980; torchdiffeq (Chen 2018)",
    adaptive=True,
    aliases=("adaptive_rk45",),
)
def rk45(sde: SDE, times: np.ndarray, *, rtol: float = 1e-5, atol: float = 1e-5) -> TorchdiffeqFlow:
    """Adaptive Dormand-Prince 5(4) on the probability flow, through torchdiffeq.

    rtol, atol: local tolerances.
    """
    return TorchdiffeqFlow(times, rtol, atol)


@solver(
    "scipy_rk45",
    order=5,
    evaluations=6,
    reference="Dormand and Prince 1980; Song et al. 2021, arXiv:2011.13456, app. D.4",
    adaptive=True,
    aliases=("adaptive_scipy_rk45",),
)
def scipy_rk45(sde: SDE, times: np.ndarray, *, rtol: float = 1e-5, atol: float = 1e-5) -> ScipyFlow:
    """Adaptive Dormand-Prince 5(4) on the probability flow, through scipy (score_sde's reference method).

    rtol, atol: local tolerances.
    """
    return ScipyFlow(times, rtol, atol)
