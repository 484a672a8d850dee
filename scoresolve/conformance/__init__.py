"""``conform``: is a sampler the one it says it is? Anybody's, found out on Gaussian data without sampling."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from ..checks import Check, Report
from ..errors import require
from ..registry import SolverInfo, solvers
from ..table import Table
from . import accuracy
from .behaviour import Behaviour
from .functions import Function
from .registered import Solver
from .schedulers import Scheduler, is_scheduler
from .subject import Oracle, Subject

__all__ = ["Conformance", "conform"]


@dataclass(frozen=True)
class Conformance(Report):
    """What :func:`conform` found.

    Attributes: checks, in the order in which they were made; nfe, network calls; sampler, its name; figures, what was
    measured: "order", "deviation", "noise", "eta", "error" (at the finest run), as far as it could be.
    """

    sampler: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"sampler": self.sampler, **super().as_dict(), "figures": dict(self.figures)}


def conform(
    sampler: Any,
    *,
    order: float | None = None,
    calls: Callable[[int], int] | None = None,
    finest: int = 256,
    progress: bool = False,
    **options: Any,
) -> Conformance:
    """Check a sampler against exact Gaussian oracles.

    Args:
        sampler: a function ``sampler(denoiser, x, sigmas)`` as k-diffusion has them (denoiser(x, sigma (batch,)) -> D,
            x = x_0 + sigma noise, sigmas decreasing, 0 the last of them or not); a scheduler of diffusers, or such a
            class; a name of ``ss.solvers()`` or one that others use ("DPM++ 2M"), or the function of a solver.
        order: the order that it claims (weak, if it draws noise); default that of a registered solver, else none, and
            what is measured is told.
        calls: network calls for a number of steps, of a function; default none are claimed.
        finest: the most steps of the runs in which the order is seen; there are three of them at least (16, 32, 64; of
            schedulers 25, 50, 100), and one more before a claim is said to be missed.
        progress: show a progress bar.
        options: of a registered solver, such as eta=0.5.

    Returns: a :class:`Conformance`; print it. Cost: some thousand calls of a network that costs nothing; no more than
    seconds, but for samplers that are slow by themselves.

    Raises: TypeError for what is no sampler, ValueError for a name that is not known and for a scheduler that does not
    solve the equations of a score. What goes wrong in the sampler is reported, not raised.

    On a Gaussian every sampler on a fixed grid is an affine map, mean -> A mean + c, which is read off unit vectors put
    in place of the state and of each draw. A must be ``(alpha_t/alpha_u) (R_t/R_u)^((1 + eta^2)/2)``, R the variance of
    x_t over alpha_t^2, and the noise what then is missing.

    >>> import scoresolve as ss
    >>> def euler(denoiser, x, sigmas):
    ...     for a, b in zip(sigmas[:-1], sigmas[1:]):
    ...         x = x + (b - a) * (x - denoiser(x, a.expand(len(x)))) / a
    ...     return x
    >>> found = ss.conform(euler, order=1, finest=64)
    >>> found.ok, round(found.figures["order"], 1)
    (True, 1.0)
    """
    require(finest >= 1, f"finest of at least 1, got {finest}")
    subject = subject_of(sampler, order, calls, options)
    oracle, figures, checks = Oracle(), dict[str, float](), list[Check]()
    bar = tqdm(desc="conform", unit="check", disable=not progress)
    with bar, torch.random.fork_rng(devices=[]):  # others draw from torch's global generator
        for check in _checks(subject, oracle, finest, figures):
            checks.append(check)
            bar.update()
    return Conformance(tuple(checks), oracle.calls, subject.name, figures)


def subject_of(
    sampler: Any, order: float | None, calls: Callable[[int], int] | None, options: Mapping[str, Any]
) -> Subject:
    """What the checks are told of a sampler. Raises: TypeError, ValueError."""
    own = next((info for info in solvers() if info.build is sampler), None)
    if isinstance(sampler, SolverInfo):
        own = sampler
    if own is not None or isinstance(sampler, str):
        require(calls is None, "calls= with a function only: a registered solver declares its own")
        return Solver(sampler if own is None else own.name, dict(options), order)
    require(not options, f"options with a registered solver only, got {sorted(options)}")
    if is_scheduler(sampler):
        require(calls is None, "calls= with a function only: a scheduler has its timesteps")
        return Scheduler(sampler, order)
    if isinstance(sampler, Table):
        raise TypeError("a Table is made for one grid, and orders are seen on many: give the solver that builds it")
    if not callable(sampler):
        raise TypeError(
            f"expected a function sampler(denoiser, x, sigmas), a scheduler of diffusers or the name of a solver, "
            f"got {type(sampler).__name__}"
        )
    name = getattr(sampler, "__name__", type(sampler).__name__)
    _check_signature(sampler, name)
    return Function(sampler, name, order, calls)


def _check_signature(sampler: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(sampler).bind(None, None, None)
    except TypeError as error:
        raise TypeError(
            f"{name} must be callable as sampler(denoiser, x, sigmas), got {name}{inspect.signature(sampler)}: {error}"
        ) from None
    except ValueError:  # a builtin says nothing
        return


def _checks(subject: Subject, oracle: Oracle, finest: int, figures: dict[str, float]) -> Iterator[Check]:
    """One after the other; none but the first where it cannot be run."""
    try:
        behaviour = Behaviour(subject, oracle)
    except Exception as error:
        yield Check(
            "runs", "fail", f"{type(error).__name__}: {str(error)[:160]}", "call it with a denoiser of your own and see"
        )
        return
    affine = accuracy.affine(subject, oracle)
    yield accuracy.calls(subject, oracle)
    yield accuracy.budgets(subject, oracle)
    yield affine
    if affine.status == "ok" and subject.fixed:
        found = accuracy.study(subject, oracle, finest)
        figures.update(_figures(subject, found))
        yield accuracy.level(found)
        yield from accuracy.order(subject, found)
        yield from accuracy.closing(subject, found)
        yield accuracy.last_step(subject, oracle)
        yield accuracy.laws(subject, oracle)
    else:
        why = "not affine" if subject.fixed else "it chooses its own steps"
        yield from (Check(name, "skip", why) for name in ("noise level", "order", "last step", "law"))
    if bool(behaviour.usual.isfinite().all()):
        yield from behaviour.checks()
    else:
        yield Check("runs", "fail", f"not finite with {behaviour.course.steps} steps: nothing can be compared")


def _figures(subject: Subject, found: accuracy.Study) -> dict[str, float]:
    """What was measured."""
    parts = {"order": found.part, "deviation": "gain", "noise": "noise"}
    values = {name: found.slope(part, subject.floor) for name, part in parts.items()}
    values |= {"eta": found.eta, "error": getattr(found.errors[-1], found.part)}
    return {name: value for name, value in values.items() if value is not None}
