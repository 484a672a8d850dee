"""The command line: what may be asked for, checked before anything runs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

import scoresolve as ss
from scoresolve.errors import unknown

from . import peers
from .digits import CACHE
from .peers import Peer
from .problems import PROBLEMS, PROCESSES
from .settings import VARIANTS, Setting, setting

NFE = (5, 8, 10, 15, 20, 30, 50, 100)
QUICK_NFE = (5, 10, 20)
PEERS_NFE = (5, 6, 8, 10, 12, 15, 20, 30, 50)
USER = "model"


class BadOptionError(ValueError):
    """An option that cannot be followed; the message says what may be written instead."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="benchmarks/run.py",
        description="Solvers x network calls x problems: errors against exact or converged solutions.",
        epilog="Examples: run.py --quick;   run.py --solvers ddim dpmpp_2m --grids log_snr karras --nfe 5 10 20;   "
        "run.py --model mypackage.nets:load --shape 3,32,32. Writes results.csv, results.json, nfe.png, report.html.",
    )
    add = p.add_argument
    add("--solvers", nargs="+", metavar="NAME[:OPTION=VALUE,...]", help="default: every registered solver")
    add("--nfe", nargs="+", type=int, metavar="N", help=f"budgets of network calls (default: {_words(NFE)})")
    add("--problems", nargs="+", metavar="NAME", help=f"of {_words(PROBLEMS)} (default: all, or the --model alone)")
    add("--grids", nargs="+", default=["default"], metavar="NAME",
        help=f"of {_words(ss.grids.GRIDS)}, or default: each solver's own")  # fmt: skip
    add("--process", metavar="NAME", help=f"of {_words(PROCESSES)} (default: vp; with --model its own)")
    add("--model", metavar="PACKAGE.MODULE:FACTORY",
        help="your own network: FACTORY() returns a ScoreModel, or (ScoreModel, shape)")  # fmt: skip
    add("--shape", metavar="C,H,W", help="the shape of one sample of --model, such as 3,32,32")
    add("--peers", action="store_true",
        help=f"run other libraries beside, where installed; calls {_words(PEERS_NFE)}; a verdict")  # fmt: skip
    add("--peer-names", nargs="+", metavar="PATTERN",
        help="only these, by name or a word of it: diffusers, 'dpmpp_*', 'diffusers unipc_3 karras'")  # fmt: skip
    add("--default", nargs="+", metavar="SOLVER[@GRID]",
        help="with --peers: settings of ours to hold theirs against (default: ss.sample's)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path(__file__).resolve().parent / "results", metavar="FOLDER")
    add("--cache", type=Path, default=CACHE, metavar="FOLDER", help="where the trained network is kept")
    add("--paths", type=int, help="starts whose end points are compared (default: 256; --quick: 64)")
    add("--samples", type=int, help="size of the sample sets compared (default: 1024; --quick: 512)")
    add("--threads", type=int, help="of the CPU (default: all)")
    add("--quick", action="store_true", help=f"within a minute: less training, calls {_words(QUICK_NFE)}")
    return p


def check(options: argparse.Namespace) -> None:
    """Raise BadOptionError for the first option that cannot be followed."""
    for label in options.solvers or ():
        try:
            setting(label)
        except (ValueError, TypeError) as error:
            raise BadOptionError(f"--solvers: {error}") from error
    _known("grid", [d.partition("@")[2] for d in options.default or () if "@" in d], ss.grids.GRIDS)
    for text in options.default or ():
        try:
            setting(text.partition("@")[0])
        except (ValueError, TypeError) as error:
            raise BadOptionError(f"--default: {error}") from error
    _known("grid", options.grids, {*ss.grids.GRIDS, "default"})
    _known("process", [options.process] if options.process else [], PROCESSES)
    _known("problem", options.problems or (), {*PROBLEMS, USER} if options.model else PROBLEMS)
    for name in ("nfe", "paths", "samples", "threads"):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            least = 1 if name in ("nfe", "threads") else 8
            if value is not None and value < least:
                raise BadOptionError(f"--{name} takes whole numbers of at least {least}, got {value}")
    if not 0 <= options.seed < 2**31:
        raise BadOptionError(f"--seed takes a whole number from 0 to 2^31 - 1, got {options.seed}")
    if not options.peers and (options.peer_names or options.default):
        raise BadOptionError("--peer-names and --default belong to --peers: add it")
    if options.shape is not None and options.model is None:
        raise BadOptionError("--shape belongs to --model: the other problems have their own")


def chosen_solvers(options: argparse.Namespace) -> list[Setting]:
    """The settings of these names, once each; every solver if none is named, with peers some variants too."""
    every = [info.name for info in ss.solvers()] + list(VARIANTS if options.peers else ())
    found = [setting(label) for label in options.solvers or every]
    return list({one.label: one for one in found}.values())


def chosen_peers(options: argparse.Namespace) -> tuple[list[Peer], dict[str, str], list[str]]:
    """The peers to run, the versions of their libraries, and which are not installed. Raises: BadOptionError."""
    if not options.peers:
        return [], {}, []
    found, versions, missing = peers.installed()
    wanted = peers.chosen(found, options.peer_names)
    if not wanted:
        names = _words(sorted({peer.solver for peer in found})) or "none: " + "; ".join(missing)
        raise BadOptionError(f"--peer-names fits no peer; there are {names}")
    return wanted, versions, missing


def chosen_device(name: str) -> torch.device:
    """The device of that name; a GPU if there is one for "auto". Raises: BadOptionError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise BadOptionError(f"--device {name} cannot be used ({reason}): it must compute in float64") from error
    return device


def load_model(spec: str, shape_text: str | None) -> tuple[ss.ScoreModel, tuple[int, ...]]:
    """The network of ``--model package.module:factory`` and the shape of one sample. Raises: BadOptionError."""
    module_name, colon, factory_name = spec.partition(":")
    if not (module_name and colon and factory_name):
        raise BadOptionError(f"--model takes package.module:factory, got {spec!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadOptionError(f"--model: cannot import {module_name!r} from {Path.cwd()}: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise BadOptionError(f"--model: {module_name!r} has no function {factory_name!r}")
    made = factory()
    model, shape = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, ss.ScoreModel):
        got = type(model).__name__
        raise BadOptionError(f"--model: {spec} returned {got}, expected a ScoreModel or (ScoreModel, shape)")
    if shape_text is not None:
        shape = _shape(shape_text)
    if shape is None:
        raise BadOptionError(f"--model: {spec} gave no shape: return (model, shape) or add --shape 3,32,32")
    return model, tuple(int(n) for n in shape)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise BadOptionError(f"--shape takes whole numbers such as 3,32,32, got {text!r}")
    return tuple(int(part) for part in parts)


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            raise BadOptionError(unknown(kind, name, known))


def _words(values: Iterable[object]) -> str:
    return " ".join(map(str, values))
