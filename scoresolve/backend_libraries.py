"""What torchdiffeq, torchsde and scipy ask for, and their errors as ours: one adapter a library.

An adapter knows its methods by asking the library, and carries a state through increasing or decreasing places of a
clock. It knows nothing of diffusion: ``backends.py`` gives it the field to integrate.
"""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .errors import BudgetError, NonFiniteError, ScoreSolveError, StepUnderflowError, unknown

Field: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``dz/du = field(u, z)``, u a tensor of shape ()."""


def load(library: str, module: str = "") -> ModuleType:
    """A library, or a module of it. Raises: ImportError that says what to install."""
    try:
        return importlib.import_module(f"{library}{module}")
    except ImportError as error:
        raise ImportError(f"{library} is needed for this solver and is not here: pip install {library}") from error


@dataclass(frozen=True)
class Call:
    """One use of a library: the method, the local tolerances, and what else it is given."""

    library: str
    method: str
    rtol: float
    atol: float
    options: Mapping[str, Any]

    def own(self, error: BaseException) -> bool:
        """Whether the library raised it itself, not what it called."""
        _, *frames = traceback.walk_tb(error.__traceback__)  # the first is ours, that asked the library
        return not any(str(frame.f_globals.get("__name__")).startswith(__package__) for frame, _ in frames)

    def failed(self, problem: object, kind: type[ScoreSolveError] = StepUnderflowError) -> NoReturn:
        """Raise the library's complaint as ours, with what to do about it."""
        raise kind(
            f"{self.library} {self.method} cannot meet rtol={self.rtol:g}, atol={self.atol:g} ({problem}): loosen "
            "them, compute in dtype=torch.float64, take another clock=, or keep away from the ends with t_min=, t_max="
        ) from (problem if isinstance(problem, BaseException) else None)


# -- torchdiffeq ----------------------------------------------------------------------------------------------------


def torchdiffeq_methods() -> dict[str, Any]:
    """The classes of torchdiffeq's methods."""
    return dict(load("torchdiffeq", "._impl.odeint").SOLVERS)


def torchdiffeq_is_fixed(method: str) -> bool:
    """Whether the method steps from one given place to the next."""
    return issubclass(torchdiffeq_methods()[method], load("torchdiffeq", "._impl.solvers").FixedGridODESolver)


def torchdiffeq_solve(call: Call, field: Field, z: Tensor, places: np.ndarray) -> list[Tensor]:
    """The states at ``places[1:]``. Gradients flow through every method but "scipy_solver"."""
    clock = torch.from_numpy(places).to(z.device)
    kind, options = torchdiffeq_methods()[call.method], dict(call.options)
    if issubclass(kind, load("torchdiffeq", "._impl.rk_common").RKAdaptiveStepsizeODESolver):
        # by default it steps past the last place and interpolates back: the network would be asked about times
        # that it does not know, such as negative ones
        options.setdefault("step_t", clock[-1:])
    tolerances = {"rtol": call.rtol, "atol": call.atol}
    try:
        path = load("torchdiffeq").odeint(field, z, clock, method=call.method, options=options, **tolerances)
    except AssertionError as error:  # its way to say that a step vanished, or that it had enough of them
        if not call.own(error):
            raise
        lost = "non-finite" in str(error)
        call.failed(error, NonFiniteError if lost else BudgetError if "max_num" in str(error) else StepUnderflowError)
    if len(path) < len(places):  # of scipy inside torchdiffeq, whose message it drops
        call.failed("scipy stopped early")
    return list(path[1:])


# -- scipy ----------------------------------------------------------------------------------------------------------


def scipy_methods() -> dict[str, Any]:
    """The classes of scipy's methods."""
    return dict(load("scipy", ".integrate._ivp.ivp").METHODS)


def scipy_solve(call: Call, field: Field, z: Tensor, places: np.ndarray) -> list[Tensor]:
    """The states at ``places[1:]``; each call of the field copies the state to the host and back. No gradients."""

    def flat_field(u: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).to(z).reshape(z.shape)
        rate = field(torch.tensor(u, dtype=torch.float64, device=z.device), state)
        return np.asarray(rate.double().cpu().reshape(-1).numpy())

    start = z.detach().double().cpu().reshape(-1).numpy()
    ends = (float(places[0]), float(places[-1]))
    tolerances = {"rtol": call.rtol, "atol": call.atol}
    solve = load("scipy", ".integrate").solve_ivp
    try:
        found = solve(flat_field, ends, start, method=call.method, t_eval=places, **tolerances, **call.options)
    except ValueError as error:  # an implicit method's way to say that it met a NaN
        if not call.own(error) or "NaN" not in str(error):
            raise
        call.failed(error, NonFiniteError)
    if not found.success:
        call.failed(found.message)
    return [torch.from_numpy(column.copy()).to(z).reshape(z.shape) for column in found.y.T[1:]]


# -- torchsde -------------------------------------------------------------------------------------------------------


def torchsde_methods() -> dict[str, Any]:
    """The classes of torchsde's methods; those that only run an adjoint backwards are left out."""
    names = [name for name in load("torchsde", ".settings").METHODS.all() if not name.startswith("adjoint")]
    select = load("torchsde", "._core.methods").select
    return {name: select(name, "ito") for name in names}


class DiagonalSDE:
    """An SDE ``dy = f du + g dW`` of matrices (batch, d) with noise of its own for each element, as torchsde wants it.

    g does not depend on y, so Ito's and Stratonovich's readings agree. The drift at a point is computed once, however
    often a method asks for it ("srk" computes its stages anew, adaptive steps their start).
    """

    noise_type = "diagonal"
    _KEPT = 4  # the stages of "srk", the largest number of points that a method comes back to

    def __init__(
        self, sde_type: str, drift: Callable[[float, Tensor], Tensor], scale: Callable[[float], float]
    ) -> None:
        self.sde_type, self._drift, self._scale = sde_type, drift, scale
        self._known: list[tuple[float, Tensor, Tensor]] = []

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        """The drift."""
        place = float(u)
        for known_place, known_y, value in self._known:
            if known_place == place and known_y is y:
                return value
        value = self._drift(place, y)
        self._known = [(place, y, value), *self._known[: self._KEPT - 1]]
        return value

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        """The diffusion."""
        return torch.full_like(y, self._scale(float(u)))


def torchsde_solve(call: Call, sde: DiagonalSDE, y: Tensor, places: np.ndarray, path: object) -> list[Tensor]:
    """The states (batch, d) at ``places[1:]``, which increase: a step for each, or adaptive steps in between."""
    options = {"adaptive": False, "dt": None, "dt_min": 1e-5, **call.options}
    first_step, adaptive = options.pop("dt"), options["adaptive"]
    # of noise that does not depend on the state "milstein" need not ask autograd for the derivative, which is zero
    method = {"options": {"grad_free": True}, "rtol": call.rtol, "atol": call.atol, "bm": path, **options}
    # its own front door, sdeint, asks for a drift that it does not use, one network call for each of our steps
    wrapped = load("torchsde", "._core.base_sde").ForwardSDE(sde)
    kind, extra, states = torchsde_methods()[call.method], None, []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Hitting minimum allowed step size")
        for left, right in pairwise(places.tolist()):
            length = right - left
            clock = torch.tensor([left, right], dtype=torch.float64, device="cpu")
            step = (
                (first_step or 0.1 * length) if adaptive else 2 * length
            )  # cut at the end; of equal length it may miss
            solver = kind(sde=wrapped, dt=step, **method)
            extra = solver.init_extra_solver_state(clock[0], y) if extra is None else extra
            try:
                found, extra = solver.integrate(y, clock, extra)
            except (UserWarning, AssertionError) as error:  # a step too small, or an error estimate that is NaN
                if not call.own(error):
                    raise
                call.failed(error, NonFiniteError if isinstance(error, AssertionError) else StepUnderflowError)
            y = found[-1]
            states.append(y)
    return states


METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "torchdiffeq": torchdiffeq_methods,
    "torchsde": torchsde_methods,
    "scipy": scipy_methods,
}
"""The methods of each library."""


def check_method(library: str, method: str) -> None:
    """Raise ValueError, listing what there is, unless the library and its method exist."""
    if library not in METHODS:
        raise ValueError(unknown("library", library, METHODS))
    known = METHODS[library]()
    if method not in known:
        raise ValueError(unknown(f"method of {library}", method, known))
