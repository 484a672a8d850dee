"""The exceptions of this library. Each says what was got, what was expected and what to write instead."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any


class ScoreSolveError(Exception):
    """Base of every exception raised while a solver runs."""


class NetworkOutputError(ScoreSolveError, ValueError, TypeError):
    """The network returned something that is not a floating tensor of its input's shape."""


class NonFiniteError(ScoreSolveError, ValueError):
    """The network or the state became NaN or infinite; the message names the step, the time and the samples."""


class StepUnderflowError(ScoreSolveError, ValueError):
    """An adaptive solver's step became too small to advance its clock; the message names the samples and the time."""


class BudgetError(ScoreSolveError, ValueError):
    """A solver would need more network calls than it was given."""


def require(condition: bool, expected: str) -> None:
    """Raise ``ValueError("expected ...")`` unless the condition holds; the text says what was got as well."""
    if not condition:
        raise ValueError(f"expected {expected}")


def kind_of(value: object) -> str:
    """What a value is, for messages: the name of its type, or that it is a class itself."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def whole_number(name: str, value: object, least: int = 1) -> int:
    """The value as an int, numpy's integers included; ValueError unless it is a whole number of at least ``least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def call_counts(nfe: object) -> list[int]:
    """The numbers of network calls asked for, one or several, ascending and each once. Raises: ValueError."""
    several = list(nfe) if isinstance(nfe, Iterable) and not isinstance(nfe, str) else [nfe]
    require(bool(several), "at least one number of calls in nfe=, got none")
    return sorted({whole_number("nfe", calls) for calls in several})


def real_number(name: str, value: Any) -> float:
    """The value as a float, of a tensor of one element too.

    Raises: TypeError unless it is a number; ValueError for NaN, and for one that no float holds.
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float holds, got one too large") from None
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    require(not math.isnan(number), f"{name} to be a number, got {number}")
    return number


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    spelling: Callable[[str], str] = str,
    also: Iterable[str] = (),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The message for a name that does not exist, with the nearest that do; all of them if they are few.

    ``spelling`` is what of a name is compared; ``also`` are names that may be the nearest but are not listed;
    ``elsewhere`` has other libraries' words, and what is meant by them.
    """
    names = sorted(known)
    spelled = {spelling(one): one for one in (*also, *names)}
    near = [spelled[key] for key in difflib.get_close_matches(spelling(str(name)), spelled, n=3, cutoff=0.5)]
    near = [elsewhere[str(name)]] if str(name) in elsewhere else near
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = f"known: {', '.join(names)}" if len(names) <= 30 else f"{len(names)} are known"
    return f"unknown {kind} {name!r}{hint} ({listed})" if hint else f"unknown {kind} {name!r}; {listed}"
