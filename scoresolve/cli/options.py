"""The options that commands share: what each takes, and how its text is read."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from .. import custom, processes
from ..errors import unknown
from ..grids import GRIDS
from ..labels import TimeLabel
from ..predictions import Prediction
from ..presets import resolve
from ..reading import parse_json
from ..sde import SDE
from ..table import Table

PROCESSES: dict[str, Callable[..., SDE]] = {
    "VPSDE": processes.VPSDE,
    "SubVPSDE": processes.SubVPSDE,
    "CosineVPSDE": processes.CosineVPSDE,
    "VESDE": processes.VESDE,
    "EDM": processes.EDM,
    "RectifiedFlow": processes.RectifiedFlow,
    "DiscreteVPSDE.linear": custom.DiscreteVPSDE.linear,
    "DiscreteVPSDE.scaled_linear": custom.DiscreteVPSDE.scaled_linear,
    "DiscreteVPSDE.squared_cosine": custom.DiscreteVPSDE.squared_cosine,
}


PYTHON = {"True": True, "False": False, "None": None}
"""What Python spells in another way than JSON."""


def read_sde(text: str) -> SDE:
    """``VPSDE``, ``VPSDE(beta_max=10)``, ``DiscreteVPSDE.linear()``: a call with numbers, which is not evaluated."""
    match = re.fullmatch(r"\s*(?:ss\.)?([\w.]+)\s*(\(.*\))?\s*", text)
    if match is None or match[1] not in PROCESSES:
        raise typer.BadParameter(unknown("process", match[1] if match else text, PROCESSES))
    try:
        call = ast.parse(f"f{match[2] or '()'}", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return PROCESSES[match[1]](*map(ast.literal_eval, call.args), **given)
    except (SyntaxError, ValueError, TypeError, AssertionError, OverflowError, RecursionError, MemoryError) as error:
        raise typer.BadParameter(f"{text!r}: {error}; write it as in VPSDE(beta_min=0.1, beta_max=20)") from error


def read_time(text: str) -> TimeLabel | Callable[[Tensor], Tensor]:
    """A label of ``ScoreModel``, or ``1000*t`` or ``1-t``."""
    scaled = re.fullmatch(r"\s*([\d.]+)\s*\*?\s*t\s*", text)
    if scaled:
        factor = float(scaled[1])
        return lambda t: factor * t
    if re.fullmatch(r"\s*1\s*-\s*t\s*", text):
        return lambda t: 1 - t
    return text.strip()  # type: ignore[return-value] # ScoreModel checks it


def read_numbers(text: str) -> tuple[int, ...]:
    """``3,32,32`` or ``3x32x32``."""
    try:
        numbers = tuple(int(part) for part in re.split(r"[,x]", text.strip("() ,")) if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is not whole numbers of at least 1 with commas between, such as 3,32,32")
    return numbers


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``eta=0.5``: a name and a number, a truth value as JSON or Python spells it, none of them, or a word."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not name=value, such as eta=0.5", param_hint="--option")
        try:
            found[name.strip()] = parse_json(value)
        except ValueError:
            found[name.strip()] = PYTHON.get(value.strip(), value)
    return found


def check_solver(name: str | None) -> str | Table | None:
    """The name of a solver, as ``sample`` takes it, or the file of a table."""
    if name is not None and name.endswith(".json"):
        try:
            return Table.load(name)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    return check_solver_name(name)


def check_solver_name(name: str | None) -> str | None:
    """The name of a solver alone, where a table is none."""
    if name is not None and name.endswith(".json"):
        raise typer.BadParameter(f"{name}: a table runs from noise to data only (sample); give a solver's name here")
    return _checked(name, resolve) if name is not None else None


def check_solvers(names: Sequence[str] | None) -> Sequence[str]:
    """The same of several."""
    return [str(check_solver_name(name)) for name in names or ()]


def check_grid(name: str | None) -> str | None:
    """The name of a grid."""
    if name is not None and name not in GRIDS:
        raise typer.BadParameter(unknown("grid", name, GRIDS))
    return name


def _checked(name: str, look_up: Callable[[str], object]) -> str:
    try:
        look_up(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


def read_dtype(text: str) -> torch.dtype:
    """float32 or float64."""
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    if text not in dtypes:
        raise typer.BadParameter(unknown("dtype of the state", text, dtypes))
    return dtypes[text]


def check_predicts(name: str | None) -> str | None:
    """A prediction of ``ScoreModel``."""
    known = Prediction.__args__  # type: ignore[attr-defined]
    if name is not None and name not in known:
        raise typer.BadParameter(unknown("prediction", name, known))
    return name


def check_device(name: str | None) -> str | None:
    """A device that torch knows, and that is there."""
    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise typer.BadParameter(str(error).split("\n")[0]) from error
    return name


Network = Annotated[
    str, typer.Argument(help="package.module:factory (a ScoreModel, or what makes one), or a diffusers directory.")
]
Process = Annotated[
    SDE | None, typer.Option("--sde", parser=read_sde, metavar="PROCESS", help="Its process: 'VPSDE(beta_max=20)'.")
]
Predicts = Annotated[
    str | None,
    typer.Option("--predicts", callback=check_predicts, help="What it predicts: noise, score, data, v, ..."),
]
Time = Annotated[
    str | None, typer.Option("--time", help="How it is told the time: t, index, sigma, rho, lam, 1000*t, 1-t.")
]
Shape = Annotated[
    str, typer.Option("--shape", callback=read_numbers, metavar="C,H,W", help="The shape of one sample: 3,32,32.")
]
Solver = Annotated[
    str | None,
    typer.Option(
        "--solver", "-s", callback=check_solver, help="A solver (see list), or a table.json; default: the best."
    ),
]
SolverName = Annotated[
    str | None,
    typer.Option("--solver", "-s", callback=check_solver_name, help="A solver's name (see list); default: the best."),
]
Nfe = Annotated[int | None, typer.Option("--nfe", min=1, help="Budget of network calls.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Number of steps, in place of --nfe.")]
GridName = Annotated[str | None, typer.Option("--grid", callback=check_grid, help="A time grid (see list --grids).")]
TMax = Annotated[float | None, typer.Option("--t-max", min=0.0, help="Where to start; default: the process' t_max.")]
TMin = Annotated[float | None, typer.Option("--t-min", min=0.0, help="Where to end; default: the process' t_min.")]
Rtol = Annotated[float | None, typer.Option("--rtol", min=0.0, help="Relative tolerance of an adaptive solver.")]
Atol = Annotated[float | None, typer.Option("--atol", min=0.0, help="Absolute tolerance of an adaptive solver.")]
Option = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="A solver's own option, such as eta=0.5; may be repeated.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Sample i of a seed is the same in any batch.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples that the network sees at once.")]
Device = Annotated[str | None, typer.Option("--device", callback=check_device, help="Such as cuda; default: its own.")]
Dtype = Annotated[str, typer.Option("--dtype", callback=read_dtype, help="Of the state: float32 or float64.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar, on stderr.")]


def solver_options(option: Sequence[str] | None, rtol: float | None, atol: float | None) -> dict[str, Any]:
    """--option, --rtol and --atol together."""
    tolerances = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    return {**read_options(option or ()), **tolerances}
