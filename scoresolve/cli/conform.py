"""``scoresolve conform``: is a sampler the one it says it is?"""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from ..conformance import conform
from ..conformance.schedulers import is_scheduler
from ..presets import resolve
from . import options
from .network import find
from .output import guarded, print_report

HINT = "write package.module:sampler, such as my_samplers:heun, or the name of a solver (scoresolve list)"


@guarded
def command(
    sampler: Annotated[
        str,
        typer.Argument(help="package.module:name of sampler(denoiser, x, sigmas) or of a diffusers scheduler; a name."),
    ],
    order: Annotated[float | None, typer.Option("--order", min=0.0, help="The order that it claims.")] = None,
    finest: Annotated[int, typer.Option("--finest", min=1, help="Most steps of a run that shows its order.")] = 256,
    option: options.Option = None,
    progress: options.Progress = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check a sampler, of anybody's, on Gaussian data, where what it does is known without sampling.

    Order, noise level, last step and law; calls and budgets; batches, inputs, generators, NaN. Exit code 1 if something
    is wrong. Options are those of a registered solver, or of the constructor of a scheduler's class.

    \b
    Examples:
      scoresolve conform my_samplers:heun --order 2
      scoresolve conform "DPM++ 2M Karras"
      scoresolve conform diffusers:EulerDiscreteScheduler --order 1 --finest 50 -o timestep_spacing=linspace
    """
    own = options.read_options(option or ())
    target: Any = find(sampler, "sampler", HINT) if ":" in sampler else _registered(sampler)
    if is_scheduler(target):
        target, own = (_made(target, own) if inspect.isclass(target) else target), {}
    try:
        found = conform(target, order=order, finest=finest, progress=progress, **own)
    except (TypeError, ValueError) as error:  # what is no sampler: faults of one are reported, not raised
        raise typer.BadParameter(str(error)) from error
    print_report(found, json)


def _registered(name: str) -> str:
    try:
        resolve(name)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; or {HINT.split(', or')[0]}") from error
    return name


def _made(cls: Any, own: dict[str, Any]) -> Any:
    try:
        return cls(**own)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{cls.__name__}: {error}") from error
