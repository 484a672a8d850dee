"""A training run: its settings, its state, one step of it, and the checkpoint that it goes on from.

The batch, the noise and the times of a step are pure functions of (seed, step): nothing random has a state, so that a
checkpoint is the network, its average, the optimiser's moments and the number of steps, and nothing else.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresolve as ss
from scoresolve.errors import require, whole_number

from .checkpoints import CheckpointError, read_tensors, write_tensors
from .classical import system
from .data import Images
from .networks import NetworkConfig, initial

ORDER, DROP = 100, 101
"""Streams of random numbers, apart from the library's own."""


@dataclass(frozen=True)
class Run:
    """Everything that decides the trained weights.

    Attributes:
        system, data: names of ``classical.SYSTEMS`` and ``data.DATA``.
        conditional: whether the network is told the labels, but for a share ``drop`` of them (guidance without a
            classifier: Ho and Salimans 2022, arXiv:2207.12598).
        learning_rate: of AdamW, reached after ``warmup`` steps, then falling to zero as a cosine.
        clip: the largest norm of the gradient. average: the decay of the weights' moving average, reached slowly.
        precision: "float32", or "bfloat16" for autocast.
        widths: of the network; () for its default.
    """

    system: str
    data: str = "digits"
    steps: int = 6000
    batch: int = 64
    seed: int = 0
    conditional: bool = False
    drop: float = 0.1
    learning_rate: float = 2e-3
    warmup: int = 200
    clip: float = 1.0
    average: float = 0.999
    precision: str = "float32"
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        system(self.system)
        for name in ("steps", "batch", "warmup"):
            require(whole_number(name, getattr(self, name)) < 2**32, f"{name} below 2^32")
        require(whole_number("seed", self.seed, least=0) < 2**31, f"a seed below 2^31, got {self.seed}")
        require(0 <= self.drop <= 1, f"0 <= drop <= 1, got {self.drop}")
        require(self.learning_rate > 0 and self.clip > 0, "a positive learning_rate and a positive clip")
        require(0 <= self.average < 1, f"0 <= average < 1, got {self.average}")
        known = ("float32", "bfloat16")
        require(self.precision in known, f"a precision of {' or '.join(known)}, got {self.precision!r}")
        object.__setattr__(self, "widths", tuple(self.widths))

    @classmethod
    def read(cls, facts: dict[str, Any]) -> Run:
        """From what ``asdict`` and JSON made of one. Raises: CheckpointError for other settings than ours."""
        names = {f.name for f in fields(cls)}
        if set(facts) != names:
            raise CheckpointError(
                f"expected the settings {sorted(names)}, got {sorted(facts)}: it is of another version"
            )
        return cls(**facts)

    def network(self, images: Images) -> NetworkConfig:
        """Of the network for these images."""
        classes = images.classes if self.conditional else 0
        config = NetworkConfig.of(images.shape, system(self.system).label, classes)
        return NetworkConfig(config.shape, config.label, self.widths, classes=classes) if self.widths else config

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return (
            self.learning_rate * min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        )

    def decay(self, step: int) -> float:
        """The average's decay at a step: the first weights, which are nobody's, are soon forgotten."""
        return min(self.average, (1 + step) / (10 + step))


@dataclass
class State:
    """A run under way: all that a checkpoint holds."""

    run: Run
    images: Images
    device: torch.device
    span: float = field(init=False)
    step: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.span = self.images.span
        self.net = initial(self.run.network(self.images), self.run.seed).to(self.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), self.run.learning_rate, betas=(0.9, 0.99), fused=True)
        self.losses = torch.zeros(self.run.steps, device=self.device)
        self.model = system(self.run.system).model(self.net, self.span)
        self.x0, self.labels = self.images.train.to(self.device), self.images.train_labels.to(self.device)

    @property
    def averaged(self) -> ss.ScoreModel:
        """The averaged network with its process."""
        return system(self.run.system).model(self.average, self.span)

    def advance(self) -> None:
        """One step."""
        run, step = self.run, self.step
        chosen = batch_of(run, step, len(self.x0)).to(self.device)
        x0, model = self.x0[chosen], self.model
        if run.conditional:
            null = self.net.config.classes
            model = model.condition(classes=self.labels[chosen].masked_fill(dropped(run, step).to(self.device), null))
        for group in self.optimiser.param_groups:
            group["lr"] = run.rate(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
            losses = system(run.system).loss(model, x0, _key(run.seed, step))
        loss = losses.mean() / x0[0].numel()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), run.clip)
        self.optimiser.step()
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list[Tensor](self.net.parameters()), 1 - run.decay(step))
        self.losses[step] = loss.detach()
        self.step += 1

    def save(self, path: Path) -> None:
        """Raises: ss.NonFiniteError, and leaves the last checkpoint as it is, if the loss has become NaN."""
        bad = (~self.losses[: self.step].isfinite()).nonzero()
        if len(bad):
            raise ss.NonFiniteError(
                f"the loss is not finite from step {int(bad[0]) + 1} on: use a lower --rate, "
                f"now {self.run.learning_rate:g}"
            )
        tensors = {"losses": self.losses[: self.step]}
        tensors |= {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in moments.items()}
        write_tensors(path, tensors, {"run": asdict(self.run), "step": self.step})

    def restore(self, path: Path) -> None:
        """Go to where a checkpoint was. Raises: CheckpointError if it is of another run."""
        tensors, facts = read_tensors(path, str(self.device))
        ours = asdict(self.run)
        theirs = asdict(Run.read(facts["run"]))
        differ = [f"{name} {value} (now {ours[name]})" for name, value in theirs.items() if value != ours[name]]
        if differ:
            raise CheckpointError(
                f"the checkpoint {path} is of a run with {', '.join(differ)}: ask for these, or for another "
                "folder with --out"
            )
        self.step = facts["step"]
        self.losses[: self.step] = tensors.pop("losses")
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "average": {}, "optimiser": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.net.load_state_dict(parts["net"])
        self.average.load_state_dict(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            i, _, moment = name.partition(".")
            moments.setdefault(int(i), {})[moment] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def batch_of(run: Run, step: int, count: int) -> Tensor:
    """Which images a step sees: every epoch another order of all of them, read on from batch to batch."""
    start, end = step * run.batch, (step + 1) * run.batch
    epochs = range(start // count, (end - 1) // count + 1)
    return torch.cat([_order(run.seed, e, count)[max(start - e * count, 0) : end - e * count] for e in epochs])


def dropped(run: Run, step: int) -> Tensor:
    """Which samples of a step are not told their class, bool (batch,)."""
    streams = ss.SampleStreams(_key(run.seed, step), range(run.batch))
    normal = streams.draw(DROP, 0, torch.empty(run.batch, 1, dtype=torch.float64))
    untold: Tensor = torch.special.ndtr(normal[:, 0]) < run.drop
    return untold


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    streams = ss.SampleStreams(_key(seed, epoch), [0])
    return streams.draw(ORDER, 0, torch.empty(1, count, dtype=torch.float64))[0].argsort(stable=True)


def _key(seed: int, number: int) -> int:
    return seed * 2**32 + number
