"""Train the reference network of a classical system: ``python benchmarks/train.py --system ddpm``; see ``--help``.

A run that is killed at any moment and started again with the same command goes on from its last checkpoint, and ends,
on a CPU, with the same bits as one that was not. In the folder ``--out`` are written

    checkpoint.safetensors    network, average, optimiser, losses, step; replaced whole every ``--every`` steps
    model.safetensors         the averaged weights and the configuration: what :func:`load` reads
    losses.csv, losses.png    the loss of each step, per element

The digits take 0.05 s a step on one core, so 6000 steps some five minutes; patches of 28 x 28 are for a GPU (0.7 s).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks.checkpoints import CheckpointError, read_tensors, write_tensors, write_whole
from benchmarks.classical import SYSTEMS, system
from benchmarks.data import DATA, Images, images
from benchmarks.networks import NetworkConfig, initial
from benchmarks.options import chosen_device
from benchmarks.training import Run, State
from scoresolve.errors import whole_number

RESULTS = Path(__file__).resolve().parent / "results"
QUICK: dict[str, Any] = {"steps": 400, "warmup": 50, "widths": (16, 32), "learning_rate": 4e-3}


def train(
    run: Run, folder: Path, device: torch.device | str = "cpu", *, every: int = 250, progress: bool = False
) -> ss.ScoreModel:
    """Train, from the checkpoint in the folder if there is one, and write the files. Returns the averaged network.

    Raises: CheckpointError if the folder holds another run; ss.NonFiniteError if the loss becomes NaN.
    """
    whole_number("every", every)
    state = State(run, images(run.data), torch.device(device))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        state.restore(checkpoint)
    name = f"{run.system} on {run.data}"
    bar = tqdm(total=run.steps, initial=state.step, desc=name, unit="step", disable=None if progress else True)
    with bar:
        while state.step < run.steps:
            state.advance()
            bar.update()
            if state.step % every == 0 or state.step == run.steps:
                state.save(checkpoint)
                bar.set_postfix(loss=f"{float(state.losses[max(0, state.step - every) : state.step].mean()):.4f}")
    facts = {"run": asdict(run), "network": asdict(state.net.config), "span": state.span}
    write_tensors(folder / "model.safetensors", state.average.state_dict(), facts)
    losses = state.losses.tolist()
    lines = ["step,loss", *(f"{step},{loss!r}" for step, loss in enumerate(losses, start=1))]
    write_whole(folder / "losses.csv", ("\n".join(lines) + "\n").encode())
    write_whole(folder / "losses.png", _picture(losses, f"{system(run.system).title}, {run.data}"))
    return state.averaged


def load(path: str | Path, device: torch.device | str = "cpu", *, between: bool = False) -> ss.ScoreModel:
    """The averaged network of a ``model.safetensors``, with its process; told its class by ``condition(classes=...)``.

    ``between``: DDPM's is told fractional indices, for solvers that choose their own times; else whole ones.
    Raises: FileNotFoundError; CheckpointError for another file.
    """
    tensors, facts = read_tensors(Path(path), str(device))
    if "network" not in facts:
        raise CheckpointError(f"{path} is a checkpoint, not a model: that is written beside it when the run has ended")
    net = initial(NetworkConfig(**facts["network"]), seed=0)
    net.load_state_dict(tensors)
    net = net.to(device).requires_grad_(False).eval()
    return system(facts["run"]["system"]).model(net, facts["span"], between=between)


@torch.no_grad()
def held_out(name: str, model: ss.ScoreModel, data: Images, *, repeats: int = 4) -> float:
    """The system's loss on the test images, per element, over fixed draws: the same for every model of the system."""
    x0 = data.test.to(next((p.device for p in _parameters(model)), "cpu"))
    losses = [system(name).loss(model, x0, seed).mean().item() / x0[0].numel() for seed in range(repeats)]
    return sum(losses) / repeats


def _parameters(model: ss.ScoreModel) -> list[torch.nn.Parameter]:
    return list(model.net.parameters()) if isinstance(model.net, torch.nn.Module) else []


def _picture(losses: Sequence[float], title: str) -> bytes:
    """The losses as a PNG: each step's, and their average over a fiftieth of the run."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    values, steps = np.asarray(losses), np.arange(1, len(losses) + 1)
    window = max(1, len(values) // 50)
    axes.plot(steps, values, color="0.8", linewidth=0.5, label="each step")
    smooth = np.convolve(values, np.full(window, 1 / window), "valid")
    axes.plot(steps[window - 1 :], smooth, color="#0072B2", label=f"mean of {window}")
    axes.set(title=title, xlabel="step", ylabel="loss per element", yscale="log")
    axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    plt.close(figure)
    return content.getvalue()


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="benchmarks/train.py",
        description="Train the reference network of a classical system; goes on from the last checkpoint in --out.",
        epilog="Systems: " + "; ".join(f"{name}: {one.title} ({one.source})" for name, one in SYSTEMS.items()) + ".",
    )
    defaults = Run("ddpm")
    add = p.add_argument
    add("--system", required=True, metavar="NAME", help=f"of {' '.join(SYSTEMS)}")
    add("--data", default=defaults.data, metavar="NAME", help=f"of {' '.join(DATA)} (default: {defaults.data})")
    add("--steps", type=int, metavar="N", help=f"(default: {defaults.steps}; --quick: {QUICK['steps']})")
    add("--batch", type=int, default=defaults.batch, metavar="N", help=f"images a step (default: {defaults.batch})")
    add("--seed", type=int, default=defaults.seed)
    add("--rate", type=float, metavar="X", help=f"largest learning rate (default: {defaults.learning_rate})")
    add("--conditional", action="store_true", help="tell the network the labels, for guidance")
    add("--precision", default="auto", help="float32 or bfloat16 (default: bfloat16 on a GPU that has it)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--out", type=Path, metavar="FOLDER", help="(default: benchmarks/results/train/SYSTEM-DATA)")
    add("--every", type=int, default=250, metavar="N", help="steps between checkpoints (default: 250)")
    add("--quick", action="store_true", help="a small network and few steps: within half a minute for the digits")
    return p


def _asked(options: argparse.Namespace, device: torch.device) -> Run:
    """The run that the options ask for. Raises: ValueError."""
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    named = {"steps": options.steps, "learning_rate": options.rate}
    settings = (QUICK if options.quick else {}) | {name: value for name, value in named.items() if value is not None}
    if options.data not in DATA:
        images(options.data)  # raises
    return Run(options.system, options.data, batch=options.batch, seed=options.seed, conditional=options.conditional,
               precision=precision, **settings)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns 0, 1 if the loss became NaN, 2 for options that cannot be followed, 130 if stopped by Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        device = chosen_device(options.device)
        run = _asked(options, device)
        whole_number("--every", options.every)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    label = f"{run.system}-{run.data}" + ("-conditional" if run.conditional else "")
    folder = options.out or RESULTS / "train" / (label + ("-quick" if options.quick else ""))
    try:
        model = train(run, folder, device, every=options.every, progress=True)
    except (CheckpointError, OSError, ss.NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ss.NonFiniteError) else 2
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on from the last checkpoint in {folder}", file=sys.stderr)
        return 130
    data = images(run.data)
    gaussian = ss.exact.Gaussian.fit(data.train).model(model.sde)
    found, fitted = held_out(run.system, model, data), held_out(run.system, gaussian, data)
    print(f"test loss {found:.4f} per element (a Gaussian fitted to the training images: {fitted:.4f}); wrote "
          f"model.safetensors, losses.csv, losses.png to {folder}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
