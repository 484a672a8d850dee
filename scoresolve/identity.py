"""What a run is asked for, as JSON: equal where the run is the same, and to be read by people.

Arrays, networks and tables are named by a hash of their content, processes by their path at some times, functions by
their code and what they hold (closures, ``functools.partial``, methods); what they take from a module's globals is not
seen. Functions and networks keep counts and caches too, which are no part of what they are: of lists, mappings and
names that begin with an underscore only those count that hold weights. A hash of code is that of one version of Python.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .model import ScoreModel
from .sde import SDE
from .table import Table

_DEEP = 8
"""Objects within objects that are looked into; there may be cycles."""


def describe(value: Any, depth: int = 0) -> Any:
    """A value as JSON: the same for equal values, in any process.

    >>> import torch
    >>> describe({"nfe": 20, "dtype": torch.float64, "rtol": float("inf")})
    {'nfe': 20, 'dtype': 'torch.float64', 'rtol': 'inf'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, Table):
        return {"table": value.solver, "sha256": table_hash(value)}
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return {"array": [str(value.dtype), *value.shape], "sha256": hashlib.sha256(content.data).hexdigest()}
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), *value.shape], "sha256": hashlib.sha256(value.tobytes()).hexdigest()}
    if isinstance(value, torch.dtype | torch.device | range):
        return str(value)
    if depth > _DEEP:
        return _name(type(value))
    if isinstance(value, torch.nn.Module):
        return {"network": _name(type(value)), "sha256": _weights_hash(value, depth)}
    if isinstance(value, Mapping):
        return {str(key): describe(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [describe(one, depth + 1) for one in value]
    return _named(value, depth)


def describe_model(model: ScoreModel) -> dict[str, Any]:
    """A model: its processes, what its network is, predicts and is conditioned on."""
    found = {
        "network": model.net,
        "process": model.native,
        "along": None if model.sde is model.native else model.sde,
        "predicts": model.predicts,
        "time": model.time,
        "conditioning": model.conditioning,
        "guidance": model._guidance,
        "refinements": model.refinements,
    }
    return {name: describe(value) for name, value in found.items()}


def table_hash(table: Table) -> str:
    """The sha256 of a table's JSON, its numbers to the last bit."""
    return hashlib.sha256(table.to_json().encode()).hexdigest()


def _named(value: Any, depth: int) -> Any:
    """Types, functions and objects: a name, and what they hold."""
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, functools.partial):
        return {"partial": [describe(one, depth + 1) for one in (value.func, value.args, value.keywords)]}
    if hasattr(value, "__qualname__"):
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _filled(cell)]
        kept = [one for one in (getattr(value, "__self__", None), *cells) if one is not None and _tells(one)]
        code = {"code": _code_hash(value.__code__)} if hasattr(value, "__code__") else {}
        return {"function": _name(value), **code, "holds": [describe(one, depth + 1) for one in kept]}
    names = [field.name for field in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", {}))
    ours = type(value).__module__.split(".")[0] == __package__
    told = [name for name in names if not name.startswith("_") or (not ours and _weighs(getattr(value, name)))]
    held = {name: describe(getattr(value, name), depth + 1) for name in told}
    path = {"path": _path_hash(value)} if isinstance(value, SDE) else {}
    return {"type": _name(type(value)), **held, **path}


def _tells(value: Any) -> bool:
    """Whether what a function holds is part of what it does: not if it is where counts and caches are kept."""
    return not isinstance(value, list | dict | set) or _weighs(value)


def _weighs(value: Any, depth: int = 0) -> bool:
    """Whether something is a weight, a network or a number of a formula, or holds one."""
    if isinstance(value, list | tuple | set | dict):
        inside = value.values() if isinstance(value, dict) else value
        return depth < _DEEP and any(_weighs(one, depth + 1) for one in inside if not isinstance(one, float))
    return isinstance(value, Tensor | np.ndarray | float) or callable(value)


def _path_hash(sde: SDE) -> str:
    """Of its noise levels, in no more digits than any two machines agree on."""
    times = np.linspace(sde.t_min, sde.t_max, 17)[1:-1]
    levels = [f"{float(at(t)):.9g}" for at in (sde.alpha, sde.sigma) for t in times]
    return hashlib.sha256(repr(levels).encode()).hexdigest()


def _code_hash(code: CodeType) -> str:
    """Of what a function does, wherever it stands."""
    constants = [_constant(one) for one in code.co_consts]
    return hashlib.sha256(repr([code.co_code, code.co_names, constants]).encode()).hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code_hash(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}.{thing.__qualname__}"


def _weights_hash(network: torch.nn.Module, depth: int) -> str:
    """Of names, types, shapes and values of all parameters and buffers, and of the settings of each part."""
    held = [[name, describe(value, depth + 1)] for name, value in sorted(network.state_dict().items())]
    parts = [[name, _name(type(part)), *_settings(part)] for name, part in network.named_modules()]
    return hashlib.sha256(repr([held, parts]).encode()).hexdigest()


def _settings(part: torch.nn.Module) -> list[Any]:
    """What a module prints of itself, and its numbers, words and switches; whole numbers may be counts."""
    named = sorted(vars(part).items())
    plain = [[name, value] for name, value in named if isinstance(value, float | str | bool) and name != "training"]
    return [re.sub(r" at 0x[0-9a-f]+", "", part.extra_repr()), plain]
