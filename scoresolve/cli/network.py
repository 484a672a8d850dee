"""The network that a command is about: found by name, completed by the options."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
import typer

from ..model import ScoreModel
from ..placement import local_device
from ..sde import SDE
from .options import read_time

HINT = "write package.module:factory, such as my_networks:ddpm, or the directory of a diffusers pipeline"


def load(
    target: str, sde: SDE | None = None, predicts: str | None = None, time: str | None = None, device: str | None = None
) -> ScoreModel:
    """The network of a command, on its device.

    Args: target, ``module:name`` of a ScoreModel, of a torch module, or of a function without arguments that returns
    one of these or a tuple (net, sde, predicts, time), whose end may be missing; or a directory. The other arguments
    go before what it says.
    """
    found = _from_directory(target) if Path(target).is_dir() else _from_module(target)
    model = _completed(found, target, sde, predicts, time)
    if device is None and "LOCAL_RANK" in os.environ:  # a process of torchrun: one accelerator for each
        device = str(local_device())
    if device is not None and isinstance(model.net, torch.nn.Module):
        model.net.to(device)
    return model


def _from_directory(target: str) -> object:
    import scoresolve

    reader = getattr(scoresolve, "from_diffusers", None)
    if reader is None:
        raise typer.BadParameter(
            f"{target} is a directory, and this scoresolve reads no diffusers pipelines: {HINT.split(', or')[0]}"
        )
    return reader(target)


def _from_module(target: str) -> object:
    value: Any = find(target, "network", HINT)
    makes = callable(value) and not isinstance(value, torch.nn.Module)
    return value() if makes else value


def find(target: str, what: str, hint: str) -> object:
    """What ``package.module:name`` names, the current directory first. Raises: BadParameter, which says ``hint``."""
    place, colon, name = target.partition(":")
    if not colon or not place or not name:
        raise typer.BadParameter(f"{target!r} is no {what}: {hint}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not place.startswith(error.name):  # what it imports itself
            raise
        raise typer.BadParameter(f"no module {place!r} here ({here}) or installed: {hint}") from error
    try:
        return _attribute(module, name)
    except AttributeError as error:
        raise typer.BadParameter(f"module {place!r} has no {name!r}: {hint}") from error


def _attribute(module: object, name: str) -> object:
    """The attribute of a dotted name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _completed(found: object, target: str, sde: SDE | None, predicts: Any, time: str | None) -> ScoreModel:
    """A ScoreModel of what was found, the options first."""
    label = None if time is None else read_time(time)
    if isinstance(found, ScoreModel):
        if sde is None and predicts is None and label is None:
            return found
        net = ScoreModel(
            found.net,
            sde or found.native,
            predicts=predicts or found.predicts,
            time=found.time if label is None else label,
        )
        return _viewed(net, found)
    parts: list[Any] = [*found, None, None, None][:4] if isinstance(found, tuple | list) else [found, None, None, None]
    net, sde, predicts = parts[0], sde or parts[1], predicts or parts[2]
    missing = [option for option, value in (("--sde", sde), ("--predicts", predicts)) if value is None]
    if not callable(net) or missing:
        got = f"({', '.join(type(part).__name__ for part in parts if part is not None)})"
        wanted = f"give {' and '.join(missing)} as well" if callable(net) else "return a ScoreModel, or (net, sde, ...)"
        raise typer.BadParameter(f"{target} gave {got}: {wanted}")
    return ScoreModel(net, sde, predicts=predicts, time=label or parts[3] or "t")


def _viewed(net: ScoreModel, found: ScoreModel) -> ScoreModel:
    """A network wired anew, with what the ScoreModel that was found adds to it, seen along the process that that is."""
    view = net.condition(**found.conditioning)
    if found._guidance is not None:
        scale, unconditional = found._guidance
        view = view.guide(scale, **unconditional)
    for refinement in found.refinements:
        view = view.refine(refinement)
    return view if found.sde is found.native else view.on(found.sde)
