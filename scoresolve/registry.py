"""Every solver by its name: what it declares of itself, and how its table is built."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args, get_type_hints

import numpy as np
from torch import Tensor

from .errors import kind_of, real_number, unknown, whole_number
from .model import ScoreModel
from .noise import NoiseSource
from .remembered import Remembered
from .sde import SDE
from .table import AfterStep, Stats, Table


class Runner(Protocol):
    """What a builder returns: a ``Table``, or anything else that takes a state from the first time to the last."""

    @property
    def nfe(self) -> int | None:
        """Network calls of a run, or None if they are only known afterwards."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether a run uses noise."""
        ...

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last."""
        ...


Builder: TypeAlias = Callable[..., Runner]
Kind: TypeAlias = Literal["ode", "sde"]
Build = TypeVar("Build", bound=Builder)


@dataclass(frozen=True)
class SolverInfo:
    """What a solver declares.

    Attributes:
        name, aliases: how it is called.
        kind: "ode" if it follows the probability flow by default, "sde" if it draws noise.
        order: global order on a smooth problem with its history seeded (``start="high"``), as measured by the tests;
            weak order for an SDE solver; 0 if it does not converge as the grid is refined.
        strong_order: of an SDE solver on one Brownian path, as measured by the tests; None where it has no such path.
        evaluations: network calls a step.
        reference: paper and equation.
        build: ``build(sde, times, **options)`` -> table or runner.
        grid: the grid used if none is named.
        adaptive: whether it chooses its own steps; the grid then gives its ends, and the times of a trajectory.
        spare: sets of options that change the cost of a run, tried where a budget leaves calls over.
    """

    name: str
    kind: Kind
    order: int
    evaluations: int
    reference: str
    build: Builder = field(repr=False)
    grid: str = "balanced"
    adaptive: bool = False
    aliases: tuple[str, ...] = ()
    spare: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    strong_order: float | None = None

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").split("\n")[0]

    @property
    def options(self) -> dict[str, Any]:
        """The solver's options and their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


_SOLVERS: dict[str, SolverInfo] = {}
_TABLES: Remembered[Runner] = Remembered(lambda runner: isinstance(runner, Table))
"""The last tables, by process, builder, times and options: building one may take longer than a run's arithmetic."""
RESERVED = frozenset([
    "model", "shape", "solver", "nfe", "steps", "grid", "seed", "indices", "opening", "corrector", "t_min", "t_max",
    "denoise", "dtype", "device", "generator", "noise", "batch_size", "parallel", "capture", "log_prob", "trajectory",
    "callback", "progress", "grad", "on_error", "solver_options",
])  # fmt: skip
"""Arguments of ``sample``: no solver can have an option of that name (``start`` is told apart by its type)."""
ELSEWHERE = {
    "num_inference_steps": "steps=, or nfe= for network calls",
    "num_steps": "steps=, or nfe= for network calls",
    "timesteps": "grid=, an array of times or the name of a grid",
    "sigmas": "grid=, an array of times, which sde.time(-log(sigma)) gives for levels of noise",
    "guidance_scale": "model.guide(scale, ...), with what the unconditional half is given",
    "cfg_scale": "model.guide(scale, ...), with what the unconditional half is given",
}
"""Words of other libraries for arguments of ``sample``, and what they are here."""


def solver(
    name: str,
    *,
    kind: Kind = "ode",
    order: int,
    evaluations: int = 1,
    reference: str = "",
    grid: str = "balanced",
    adaptive: bool = False,
    aliases: tuple[str, ...] = (),
    spare: Sequence[Mapping[str, Any]] = (),
    strong_order: float | None = None,
) -> Callable[[Build], Build]:
    """Register ``build(sde, times, **options)`` under a name; the arguments are those of :class:`SolverInfo`.

    ``times`` is the checked grid (float64, decreasing; increasing when a latent is encoded), options are
    keyword-only with defaults. Tests, documentation and benchmark find the solver by itself.

    Raises: ValueError if the name is taken, also where ``sample`` knows it as another library's, if the kind is none,
    or an option has the name of an argument of ``sample``.

    >>> import numpy as np, scoresolve as ss
    >>> @ss.solver("doctest_euler", order=1)
    ... def build(sde, times):
    ...     "Euler's method on the probability flow."
    ...     rows = [ss.Row(t=t, s=s, commit=(1.0, s - t)) for t, s in zip(times[:-1], times[1:])]
    ...     return ss.Table(tuple(rows), predicts="velocity", start=times[0])
    >>> ss.build_table("doctest_euler", ss.RectifiedFlow(), np.array([1.0, 0.5, 0.0])).nfe
    2
    >>> ss.registry.unregister("doctest_euler")
    """

    if kind not in get_args(Kind):
        raise ValueError(unknown("kind of solver", kind, get_args(Kind)))

    def register(build: Build) -> Build:
        from .presets import meant

        info = SolverInfo(
            name, kind, order, evaluations, reference, build, grid, adaptive, tuple(aliases), tuple(spare), strong_order
        )
        clash = sorted(RESERVED.intersection(info.options))
        if clash:
            raise ValueError(f"{name!r} has options that sample() takes itself: rename {', '.join(clash)}")
        for taken in (name, *aliases):
            if taken in _SOLVERS:
                raise ValueError(f"a solver named {taken!r} is registered already: choose another name")
            preset = meant(taken)
            if preset is not None and preset.solver != name:
                raise ValueError(f"{taken!r} is a name for {preset.solver!r} in ss.sample: choose another name")
        for key in (name, *aliases):
            _SOLVERS[key] = info
        return build

    return register


def unregister(name: str) -> None:
    """Forget a solver and its aliases."""
    info = get_solver(name)
    for key in (info.name, *info.aliases):
        del _SOLVERS[key]


def solvers() -> tuple[SolverInfo, ...]:
    """Every registered solver, once each, in the order of registration.

    >>> import scoresolve as ss
    >>> [s.order for s in ss.solvers() if s.name == "heun"]
    [2]
    """
    return tuple({id(info): info for info in _SOLVERS.values()}.values())


def get_solver(name: str) -> SolverInfo:
    """The solver of that name or alias. Raises: ValueError, naming the nearest, if there is none."""
    if isinstance(name, str) and name in _SOLVERS:
        return _SOLVERS[name]
    from .presets import meant

    preset = meant(name) if isinstance(name, str) else None
    if preset is not None:
        grid = f" on the grid {preset.grid!r}" if preset.grid else ""
        raise ValueError(
            f"{name!r} is no solver but a name that ss.sample takes, for {preset.solver!r}{grid}: "
            f"get_solver({preset.solver!r})"
        )
    raise ValueError(unknown("solver", name, _SOLVERS))


def build(solver: str | SolverInfo, sde: SDE, times: np.ndarray, **options: Any) -> Runner:
    """The table or runner of a solver on a grid, its claims verified. Raises: ValueError, TypeError for options."""
    info = solver if isinstance(solver, SolverInfo) else get_solver(solver)
    check_options(info, options)
    times = np.asarray(times, dtype=np.float64)
    key = info.build, times.tobytes(), tuple(sorted(options.items()))
    return _TABLES.of(sde, times, key, lambda: _built(info, sde, times, options))


def _built(info: SolverInfo, sde: SDE, times: np.ndarray, options: Mapping[str, Any]) -> Runner:
    try:
        runner = info.build(sde, times, **options)
    except OverflowError as error:
        said = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(f"the weights of {info.name!r} overflow with {said or 'these steps'}: {error}") from error
    if not isinstance(runner, Table) and not callable(getattr(runner, "run", None)):
        raise TypeError(f"the builder of {info.name!r} must return a ss.Table, got {kind_of(runner)}")
    return runner.verify(sde) if isinstance(runner, Table) else runner


def build_table(name: str, sde: SDE, times: np.ndarray, **options: Any) -> Table:
    """The table of a solver on a grid.

    Args: the solver's name, a forward process, the times (decreasing) and the solver's options.
    Raises: ValueError if the solver is not a table (adaptive solvers, Langevin chains).

    >>> import numpy as np, scoresolve as ss
    >>> print(ss.build_table("euler", ss.EDM(), np.array([80.0, 1.0, 0.0])))
    euler, clock=flow on EDM(sigma_min=0.002, sigma_max=80.0): 2 calls, deterministic, m = flow
    call          t       -> s  weights
       0         80          1  x <- +0.0246914 x -0.975309 m0
       1          1          0  x <- +0.5 x -0.5 m0
    """
    runner = build(name, sde, times, **options)
    if not isinstance(runner, Table):
        raise ValueError(f"{name!r} is not a table: it decides its steps as it runs; use ss.sample")
    return runner


def _no_option(info: SolverInfo, option: str) -> str:
    """The message for an option that the solver does not have, with what to write where that is known."""
    having = [other.name for other in solvers() if option in other.options]
    near = difflib.get_close_matches(info.name, having, n=3, cutoff=0.0)
    hint = f"; here that is {ELSEWHERE[option]}" if option in ELSEWHERE else ""
    hint = f"; {' and '.join(map(repr, near))} {'have' if near[1:] else 'has'} it" if near else hint
    if not info.options:
        said = f"{info.name!r} has no options, got {option!r} (those of another library's method go to ss.backend)"
        return said + hint
    said = f"unknown option {option!r}" if hint else unknown("option", option, info.options, also=RESERVED)
    known = ", ".join(f"{name}={value!r}" for name, value in info.options.items())
    return f"{said}{hint}; {info.name!r} has the options {known}"


def check_options(info: SolverInfo, options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that the solver does not have, or that is no number or no truth value where it
    should be one; ValueError for a number that no float holds."""
    for option, value in options.items():
        if isinstance(value, int):
            real_number(option, int(value))
        if option not in info.options:
            raise TypeError(_no_option(info, option))
        default = info.options[option]
        if isinstance(default, bool) or option in _switches(info.build):
            _check_switch(option, value, default)
        elif isinstance(default, float) and not callable(value):  # of time, where a solver takes that
            real_number(option, value)
        elif isinstance(default, int):
            whole_number(option, value, least=0)


@functools.cache
def _switches(build: Builder) -> frozenset[str]:
    """The options that are annotated as True or False, or as these or None."""
    try:
        hints = get_type_hints(build)
    except Exception:  # of somebody's function, with names that are not there when it runs
        return frozenset()
    return frozenset(name for name, hint in hints.items() if hint in (bool, bool | None))


def _check_switch(option: str, value: object, default: object) -> None:
    """Raise TypeError unless it is True or False, or None where that is the default: any word is true to Python."""
    if isinstance(value, bool) or (value is None and default is None):
        return
    words = "True or False" if isinstance(default, bool) else "True, False or None"
    quoted = ", without quotation marks" if isinstance(value, str) else ""
    raise TypeError(f"{option} must be {words}{quoted}, got {value!r}")
