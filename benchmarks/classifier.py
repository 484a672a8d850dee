"""Small classifiers of labelled images: a judge of how good generated images are, and guides for guidance.

Both are one network, trained on the training images alone. The judge sees clean images, moved by a pixel and with a
little noise; its last hidden layer gives the features that ``benchmarks/fidelity.py`` compares. A guide is told the
time in the process of a system and is trained on that process' own noisy images, so that its softmax estimates
p(y | x, t), which ``ss.classifier_guidance`` takes. They share no weights: who guides the samples does not judge them.

Trained weights are kept in a file named by the hash of their settings, as those of ``benchmarks/digits.py`` are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, pad, silu

import scoresolve as ss
from scoresolve.errors import require, whole_number

from .checkpoints import key, read_tensors, write_tensors
from .classical import system
from .data import Images, images
from .digits import CACHE, Log
from .networks import Block, Clock, Label, bounded, seeded

BLOCK = 1024
"""Images that go through the network at once where no gradient is asked for."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the trained weights; its hash names their file.

    Attributes:
        data: a name of ``data.DATA``.
        system: a name of ``classical.SYSTEMS``, the noise of which a guide is trained on; "" for the judge.
        learning_rate: of AdamW, falling to zero as a cosine; decay: of its weights.
        noise: standard deviation of what the judge's images get; shift: the most pixels that images are moved by.
        widths: channels at each resolution, from the highest, multiples of 8.
        features: width of the last hidden layer.
    """

    data: str = "digits"
    system: str = ""
    steps: int = 1500
    batch: int = 64
    seed: int = 0
    learning_rate: float = 2e-3
    decay: float = 0.05
    noise: float = 0.1
    shift: int = 1
    widths: tuple[int, ...] = (16, 32)
    features: int = 64
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "features"):
            whole_number(name, getattr(self, name))
        whole_number("shift", self.shift, least=0)
        if self.system:
            system(self.system)
        require(whole_number("seed", self.seed, least=0) < 2**31, f"a seed below 2^31, got {self.seed}")
        widths = tuple(whole_number("each of widths", width) for width in self.widths)
        require(bool(widths) and all(w % 8 == 0 for w in widths), f"widths that are multiples of 8, got {widths}")
        object.__setattr__(self, "widths", widths)

    @property
    def label(self) -> Label | None:
        """What the network is told of the time."""
        return system(self.system).label if self.system else None


class Classifier(nn.Module):
    """Residual blocks, halving the resolution between them, then two linear layers. Each image is treated by itself.

    A judge's blocks are given a condition of zero, and their modulation is the plain affine map of a norm.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, settings: Settings) -> None:
        super().__init__()
        self.shape, self.label, width = shape, settings.label, settings.widths[0]
        self.told = 2 * settings.features
        self.clock = Clock(self.label, self.told) if self.label else None
        self.enter = nn.Conv2d(shape[0], width, 3, padding=1)
        self.layers = nn.ModuleList()
        for level, wide in enumerate(settings.widths):
            if level:
                self.layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            self.layers.append(Block(width, wide, self.told))
            width = wide
        self.norm = nn.GroupNorm(8, width)
        self.gather = nn.Linear(width * 4 * 4, settings.features)
        self.leave = nn.Linear(settings.features, classes)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), differentiable."""
        logits: Tensor = self.leave(silu(self._hidden(x, label)))
        return logits

    def _hidden(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = x.to(self.enter.weight.dtype)
        require(tuple(x.shape[1:]) == self.shape, f"images of shape {self.shape}, got {tuple(x.shape[1:])}")
        condition = x.new_zeros(len(x), self.told)
        if self.clock is not None:
            require(label is not None, f"the time label ({self.label}) of each image: this classifier is a guide")
            assert label is not None
            x, condition = bounded(self.label, x, label), self.clock(label, x.dtype)
        else:
            require(label is None, "no time label: this classifier judges images without noise")
        hidden = self.enter(x)
        for layer in self.layers:
            hidden = layer(hidden, condition) if isinstance(layer, Block) else layer(hidden)
        pooled = adaptive_avg_pool2d(silu(self.norm(hidden)), 4)
        return self.gather(pooled.flatten(1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, float64 (n, d), on the classifier's device; x on any."""
        parts = torch.split(x.to(self.enter.weight.device), BLOCK)
        return torch.cat([silu(self._hidden(part, None)).double() for part in parts])

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """The judge's logits, (n, classes), on its device; x on any."""
        return torch.cat([self(part) for part in torch.split(x.to(self.enter.weight.device), BLOCK)])

    def log_prob(self, x: Tensor, label: Tensor, y: Tensor) -> Tensor:
        """log p(y | x, t), (batch,), in nats, as ``ss.classifier_guidance(model, guide.log_prob, y=...)`` takes it."""
        chances: Tensor = self(x, label).log_softmax(1)
        return chances.gather(1, y[:, None])[:, 0]


def train(settings: Settings, data: Images, device: torch.device | str = "cpu") -> Classifier:
    """Train on the training images. The same settings see the same batches on any device."""
    net = initial(settings, data).to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    x0, labels = data.train.to(device), data.train_labels.to(device)
    optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.decay, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    show = _noisy(net, settings, data.span) if settings.system else _jittered(settings)
    for step in range(settings.steps):
        chosen = torch.randint(len(x0), (settings.batch,), generator=generator).to(device)
        x, told = show(_moved(x0[chosen], settings.shift, generator), generator, step)
        loss = cross_entropy(net(x, told), labels[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        falling.step()
    return net.requires_grad_(False).eval()


Show = Callable[[Tensor, torch.Generator, int], tuple[Tensor, Tensor | None]]
"""What the network is shown of clean images in a step, and the time label that it is told."""


def _jittered(settings: Settings) -> Show:
    def show(x0: Tensor, generator: torch.Generator, step: int) -> tuple[Tensor, None]:
        return x0 + settings.noise * torch.randn(x0.shape, generator=generator).to(x0), None

    return show


def _noisy(net: Classifier, settings: Settings, span: float) -> Show:
    """Images at all levels of the system's process, told the time as its networks are."""
    model = system(settings.system).model(net, span)

    def show(x0: Tensor, generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        drawn = ss.losses.draw(model, x0, seed=settings.seed * 2**32 + step)
        return model.asked(model.sde.perturb(x0, drawn.t, drawn.noise), drawn.t)

    return show


def _moved(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to ``shift`` pixels along both sides; its edge is repeated."""
    windows = pad(x, (shift,) * 4, mode="replicate").unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    down, right = torch.randint(2 * shift + 1, (2, len(x)), generator=generator).to(x.device)
    return windows[torch.arange(len(x), device=x.device), :, down, right]


def initial(settings: Settings, data: Images) -> Classifier:
    """The classifier before training."""
    with seeded(settings.seed):
        return Classifier(data.shape, data.classes, settings)


def trained(
    settings: Settings, device: torch.device | str = "cpu", cache: Path = CACHE, log: Log = print
) -> Classifier:
    """The trained classifier, from the cache if it is there, else trained on the CPU and stored."""
    data, path = images(settings.data), cache / f"classifier-{key(settings)}.safetensors"
    net = initial(settings, data)
    if path.exists():
        try:
            net.load_state_dict(read_tensors(path)[0])
            return net.requires_grad_(False).eval().to(device)
        except (SafetensorError, RuntimeError, ValueError) as error:
            log(f"classifier: {path.name} cannot be used ({error}); training again")
    net = train(settings, data)
    log(f"classifier: trained {settings.steps} steps, kept as {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, net.state_dict(), {"settings": asdict(settings)})
    return net.to(device)


def judge(
    data: str = "digits", device: torch.device | str = "cpu", cache: Path = CACHE, log: Log = print
) -> Classifier:
    """The judge of a data set's images: ``features`` and ``logits``."""
    return trained(Settings(data), device, cache, log)


def guide(
    name: str, data: str = "digits", device: torch.device | str = "cpu", cache: Path = CACHE, log: Log = print
) -> Classifier:
    """The guide of the system of that name: ``log_prob``.

    Its images are not moved: p(y | x, t) is that of the training law, and of moved images it is another, less certain
    one (by 0.2 to 0.4 nats on the digits, where the noise hides most).
    """
    return trained(Settings(data, name, steps=2000, batch=128, seed=1, shift=0), device, cache, log)
