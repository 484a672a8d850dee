r"""General-purpose integrators: every method of torchdiffeq, torchsde and scipy, on the flow and the reverse SDE.

They are given the flow or the reverse SDE on a clock (``backend_dynamics.py``), and asked as each of them likes it
(``backend_libraries.py``). A run that should end at noise zero goes to the process' ``t_eps`` and takes the denoised
estimate there, one more call. Calls are counted where they are made: rejected steps, and the choice of the first step,
included.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .backend_dynamics import flow, reverse_sde
from .backend_libraries import (
    METHODS,
    Call,
    check_method,
    torchdiffeq_is_fixed,
)
from .coordinates import Clock, check_places, coordinates
from .errors import require
from .model import ScoreModel
from .noise import NoiseSource, SampleStreams
from .per_sample import check_tolerances
from .processes import VPSDE
from .registry import SolverInfo
from .sde import SDE
from .table import AfterStep, Stats, only_shown

Library = Literal["torchdiffeq", "torchsde", "scipy"]
_REFERENCES = {
    "torchdiffeq": "torchdiffeq (Chen 2018)",
    "torchsde": "torchsde (Li et al. 2020, arXiv:2001.01328)",
    "scipy": "scipy.integrate.solve_ivp (Virtanen et al. 2020)",
}


@dataclass(frozen=True)
class Backend:
    """A method of another library, given to ``sample`` or ``encode`` as ``solver=``; made by :func:`backend`.

    Attributes: library, method, clock, rtol, atol, eta, options, as in :func:`backend`.
    """

    library: Library
    method: str
    clock: Clock = "t"
    rtol: float = 1e-5
    atol: float = 1e-5
    eta: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_method(self.library, self.method)
        coordinates(VPSDE(), self.clock)
        check_tolerances(self.rtol, self.atol)
        require(self.eta >= 0, f"eta >= 0, got {self.eta}")
        noiseless = self.library == "torchsde" or self.eta == 0
        require(noiseless, f"eta=0 with {self.library}, which integrates the flow, got {self.eta}: use torchsde")
        taken = sorted({"step_size", "grid_constructor"}.intersection(self.options))
        require(not taken, f"steps= or grid= of sample in place of options {taken}")

    @property
    def name(self) -> str:
        """As it is named in messages and in ``solution.stats``."""
        return f"{self.library}:{self.method}"

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps between the times it is given."""
        if self.library == "torchsde":
            return bool(self.options.get("adaptive", False))
        return self.library == "scipy" or not torchdiffeq_is_fixed(self.method)

    @property
    def info(self) -> SolverInfo:
        """What it declares, as a registered solver does; ``order`` is the library's, 1 where it varies."""
        kind = METHODS[self.library]()[self.method]
        order = getattr(kind, "weak_order" if self.library == "torchsde" else "order", 1)
        return SolverInfo(
            name=self.name,
            kind="sde" if self.eta > 0 else "ode",
            order=int(order) if isinstance(order, int | float) else 1,
            evaluations=1 if self.adaptive else self.calls(6) - self.calls(5),
            reference=_REFERENCES[self.library],
            build=self.build,
            adaptive=self.adaptive,
        )

    def build(self, sde: SDE, times: np.ndarray) -> BackendRun:
        """The run through given times, on the clock of the process."""
        return BackendRun(self, sde, times)

    def calls(self, steps: int) -> int:
        """Network calls of a method of fixed steps, counted on a network of one number: what it takes at most.

        That network never settles, so an implicit method iterates as often as it may. After its first steps a method
        takes as many calls for each step as for the one before.
        """
        few = min(steps, 6)
        counts = [self._counted(few - 1), self._counted(few)]
        return counts[1] + (steps - few) * (counts[1] - counts[0])

    def _counted(self, steps: int) -> int:
        trial = ScoreModel(lambda x, t: x * 0 + (-10.0) ** trial.nfe, VPSDE(), predicts="noise")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does not settle is meant here
            x = torch.ones(1, 1, dtype=torch.float64, device="cpu")
            if steps:
                self.integrate(trial, x, np.linspace(0.9, 0.1, steps + 1), SampleStreams(0, [0]))
        return trial.nfe

    def integrate(self, model: ScoreModel, x: Tensor, times: np.ndarray, noise: NoiseSource) -> list[Tensor]:
        """The states at ``times[1:]``, x being that at ``times[0]``."""
        options = dict(self.options)
        extra: int = getattr(model, "extra", 0)
        if extra and self.library == "torchdiffeq" and self.adaptive:  # log p is one number beside many
            options.setdefault("norm", lambda z: torch.maximum(_rms(z[:, :-extra]), _rms(z[:, -extra:])))
        call = Call(self.library, self.method, self.rtol, self.atol, options)
        if self.library == "torchsde":
            return reverse_sde(call, self.clock, self.eta, model, x, times, noise)
        return flow(call, self.clock, model, x, times)

    def __repr__(self) -> str:
        given: dict[str, Any] = {"clock": self.clock, "rtol": self.rtol, "atol": self.atol}
        given |= {"eta": self.eta} if self.library == "torchsde" else {}
        given |= {"options": dict(self.options)} if self.options else {}
        return f"backend({self.library!r}, {self.method!r}, {', '.join(f'{k}={v!r}' for k, v in given.items())})"


def _rms(z: Tensor) -> Tensor:
    return z.square().mean().sqrt()


def backend(
    library: Library,
    method: str,
    *,
    clock: Clock = "t",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eta: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Backend:
    """A method of torchdiffeq, torchsde or scipy, as a solver for ``ss.sample`` and ``ss.encode``.

    Args:
        library: "torchdiffeq" and "scipy" integrate the probability flow, "torchsde" the reverse SDE.
        method: any of that library, such as "bosh3", "rk4" or "explicit_adams"; "euler", "srk" or "heun"; "RK23",
            "DOP853", "Radau" or "LSODA".
        clock: "t", "rho" (sigma/alpha), "flow" (sigma/(alpha+sigma)), "log_flow" or "log_rho": see ``coordinates.py``.
        rtol, atol: local tolerances of an adaptive method, above 0, on ``x / size`` (on x with torchsde or clock "t").
            One step size for the whole batch.
        eta: of torchsde, the multiplier of the noise's standard deviation, at least 0 (default 1).
        options: what else the library takes: torchdiffeq's ``options`` (max_num_steps=, first_step=, ...), the keyword
            arguments of ``solve_ivp`` (max_step=, ...), of torchsde adaptive=True, dt= (the first step), dt_min= and
            options=.

    The grid of ``sample`` (``steps=``, ``nfe=`` or ``grid=``) is that of a fixed-step method: one step to each time. An
    adaptive method runs through its times, which are those of the trajectory. torchdiffeq's Adams methods take equal
    steps on their clock for granted: grid="uniform" with clock "t", "log_snr" with "log_rho"; "explicit_adams" goes up
    to order 11, where it is hardly ever stable: options={"max_order": 5} makes it of order 4. torchsde's noise is that
    of the seed: sample i is the same in any batch, as long as the steps are (adaptive ones depend on the batch).

    Returns: a :class:`Backend`.

    Raises: ValueError for an unknown library, method or clock; ImportError if the library is not installed. When it is
    run: ValueError for a clock that is infinite at an end, and for grad=True with scipy; StepUnderflowError where the
    library gives up ("underflow in dt"); BudgetError beyond ``nfe=``, or 10 000 calls of an adaptive method.

    Cost: network calls, counted; an implicit method of scipy takes one for each number of the batch in a Jacobian.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
    >>> bosh3 = ss.backend("torchdiffeq", "bosh3", clock="flow", rtol=1e-4, atol=1e-4)
    >>> ss.sample(model, shape=(16, 2), solver=bosh3, seed=0).nfe
    38
    >>> ss.sample(model, shape=(16, 2), solver=ss.backend("torchsde", "heun"), nfe=20, seed=0).nfe
    20
    """
    chosen = (1.0 if library == "torchsde" else 0.0) if eta is None else float(eta)
    return Backend(library, method, clock, rtol, atol, chosen, dict(options or {}))


@dataclass(frozen=True)
class BackendRun:
    """A backend's run through given times (decreasing, or increasing for a latent) on a process."""

    backend: Backend
    sde: SDE
    times: np.ndarray

    def __post_init__(self) -> None:
        walked = self._walked(self.sde.t_eps)
        check_places(self.sde, self.backend.clock, walked)
        if self.backend.library == "torchsde":
            for t in (float(walked[0]), float(walked[-1])):
                strength = self.sde.diffusion(t)
                require(np.isfinite(strength), f"a finite g(t), got {strength} at t = {t:g}: keep away with t_max=")

    @property
    def stochastic(self) -> bool:
        """Whether a run uses noise."""
        return self.backend.eta > 0

    @cached_property
    def nfe(self) -> int | None:
        """Network calls of a run (at most, of an implicit method); None of an adaptive one."""
        if self.backend.adaptive:
            return None
        return self.backend.calls(len(self._walked(self.sde.t_eps)) - 1) + self._closes

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Integrate; ``after_step`` sees the state at each time but cannot change it."""
        walked = self._walked(model.t_eps)
        states = self.backend.integrate(model, x, walked, noise) if len(walked) > 1 else []
        if self._closes:
            data = model.data(states[-1] if states else x, float(walked[-1]))
            states = [*states[: len(self.times) - 2], data * self.sde.alpha(float(self.times[-1]))]
        for step, (t, state) in enumerate(zip(self.times[1:].tolist(), states, strict=True), start=1):
            if after_step is not None:
                only_shown(after_step, step, t, state, self.backend.name)
        return states[-1], {"rtol": self.backend.rtol, "atol": self.backend.atol}

    @property
    def _closes(self) -> bool:
        """Whether it ends at noise zero, by the denoised estimate at the last positive time."""
        return self.sde.sigma(float(self.times[-1])) == 0

    def _walked(self, t_eps: float) -> np.ndarray:
        """The times that the library is given: down to ``t_eps`` where the run closes."""
        if not self._closes:
            return self.times
        if self.times[-2] <= t_eps * (1 + 1e-9):
            return self.times[:-1]
        return np.append(self.times[:-1], t_eps)
