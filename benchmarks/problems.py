"""What is solved: a network (exact or trained), where its paths start, and the truth that they are measured against.

====================  ==========================================================================================
gaussian              32 dimensions, variances from 1e-4 to 1 along random axes; everything in closed form
mixture               five modes in the plane, unequal and elongated
digits                the smoothed empirical law of scikit-learn's digits: 1797 points in 64 dimensions
network               a perceptron trained on those digits
====================  ==========================================================================================

A law has an exact network, exact starts (its marginal at t_max), and exact samples at t_min. A trained network starts
from the process' prior, and its own converged probability flow stands for the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import scoresolve as ss
from scoresolve.reference import Reference, converge, draw

from . import digits, metrics

Log = Callable[[str], None]
PROCESSES: dict[str, Callable[[], ss.SDE]] = {
    "vp": ss.VPSDE,
    "ve": ss.VESDE,
    "subvp": ss.SubVPSDE,
    "edm": ss.EDM,
    "flow": ss.RectifiedFlow,
}


@dataclass(frozen=True)
class Settings:
    """How much work, where, and from which seed.

    Attributes: paths (starts whose end points are compared one by one), samples (size of the sets whose laws are
    compared), training (of the digits network), cache (its folder).
    """

    sde: ss.SDE
    device: torch.device
    seed: int
    paths: int
    samples: int
    training: digits.Training
    cache: Path
    log: Log

    def generator(self, stream: int) -> torch.Generator:
        """Random numbers on the host: the same on every device, and apart for each use."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + stream)


@dataclass(frozen=True)
class Problem:
    """A network, its starts, and the truth.

    Attributes:
        name, title: for the tables and the plots.
        model: the network with its process.
        starts: states at t_max, float64; the first ``len(reference.ends)`` have converged ends.
        reference: those ends.
        exact: two independent sample sets of the truth at t_min.
        gaussian: the data law where it is one Gaussian: errors are then exact, not sampled.
        most_calls: the largest of the default budgets that is affordable.
    """

    name: str
    title: str
    model: ss.ScoreModel
    starts: Tensor
    reference: Reference
    exact: tuple[Tensor, Tensor]
    gaussian: ss.exact.Gaussian | None = None
    most_calls: int = 1000

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        return self.starts.shape[1:]

    @property
    def images(self) -> bool:
        """Whether a sample can be shown as a picture: (1 or 3, height, width)."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def floor(self) -> dict[str, float]:
        """The distances between two exact sample sets: what no solver can be seen to beat."""
        first, second = self.exact
        found = {
            "sliced_w2": metrics.sliced_wasserstein(first, second),
            "energy": metrics.energy_distance(first, second),
        }
        if self.gaussian is not None:
            law = self.gaussian.marginal(self.model.sde, self.model.t_min)
            found["w2"] = metrics.gaussian_wasserstein(
                *metrics.moments(first), law.mean.flatten().to(first), law.covariance.to(first)
            )
        return found


def gaussian_law(generator: torch.Generator, d: int = 32) -> ss.exact.Gaussian:
    """A Gaussian of condition number 1e4, along random axes."""
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    variances = torch.logspace(-4, 0, d, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    covariance = (axes * variances) @ axes.T
    return ss.exact.Gaussian(mean, 0.5 * (covariance + covariance.T))


def gaussian(settings: Settings) -> Problem:
    """A Gaussian in 32 dimensions, condition number 1e4."""
    law = gaussian_law(settings.generator(10))
    sde = settings.sde
    starts = _marginal_starts(settings, law, 11)
    ends = law.flow(sde, starts[: settings.paths], sde.t_max, sde.t_min)
    truth = law.marginal(sde, sde.t_min)
    exact = _two_sets(settings, truth, 12)
    reference = Reference(ends, 0.0, "closed form", 0)
    return Problem("gaussian", "Gaussian, 32-D, variances 1e-4 to 1", law.model(sde), starts, reference, exact, law)


def mixture_law() -> ss.exact.GaussianMixture:
    """Five modes in the plane, of unequal weight, size and elongation."""
    angles = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
    outward = torch.stack([angles.cos(), angles.sin()], dim=1)
    across = torch.stack([-angles.sin(), angles.cos()], dim=1)
    widths = torch.tensor([0.05, 0.08, 0.12, 0.18, 0.25], dtype=torch.float64)[:, None, None]
    covariances = widths**2 * (_outer(outward) + 0.1 * _outer(across))
    return ss.exact.GaussianMixture([0.1, 0.3, 0.15, 0.2, 0.25], 1.5 * outward, covariances)


def mixture(settings: Settings) -> Problem:
    """The law of five modes."""
    more = replace(settings, samples=2 * settings.samples)  # cheap here, and the modes' shares need many
    return _from_law(more, mixture_law(), "mixture", "Mixture, 2-D, five modes", stream=20)


def digits_law() -> ss.exact.Empirical:
    """The digits themselves, each widened by a Gaussian of standard deviation 0.05."""
    return ss.exact.Empirical(digits.images(), bandwidth=0.05)


def empirical_digits(settings: Settings) -> Problem:
    """The digits' own law."""
    title = "Digits, empirical law (1797 points, 64-D)"
    return _from_law(settings, digits_law(), "digits", title, stream=30, most_calls=50)


def trained_network(settings: Settings) -> Problem:
    """The network of ``digits.py``, seen along the chosen process."""
    model = digits.model(settings.training, settings.device, settings.cache, settings.log).on(settings.sde)
    return from_model(settings, model, digits.SHAPE, "network", "Network trained on the digits (64-D)")


def from_model(settings: Settings, model: ss.ScoreModel, shape: tuple[int, ...], name: str, title: str) -> Problem:
    """A network without an exact law, against its own converged probability flow."""
    dtype = _accepted_dtype(settings, model, shape)
    starts = _prior_starts(settings, model, shape, settings.samples, 40).to(dtype)
    settings.log(f"{name}: converging {settings.paths} paths and two sets of {settings.samples} samples")
    reference = converge(model, starts[: settings.paths], exact=False)
    others = _prior_starts(settings, model, shape, 2 * settings.samples, 41).to(dtype)
    sets = draw(model, others)
    settings.log(_converged(name, reference))
    return Problem(name, title, model, starts, reference, (sets[: settings.samples], sets[settings.samples :]))


PROBLEMS: dict[str, Callable[[Settings], Problem]] = {
    "gaussian": gaussian,
    "mixture": mixture,
    "digits": empirical_digits,
    "network": trained_network,
}


def _from_law(
    settings: Settings, law: ss.exact.Law, name: str, title: str, stream: int, most_calls: int = 1000
) -> Problem:
    sde, model = settings.sde, law.model(settings.sde)
    starts = _marginal_starts(settings, law, stream + 1)
    settings.log(f"{name}: converging {settings.paths} paths")
    reference = converge(model, starts[: settings.paths], exact=True)
    settings.log(_converged(name, reference))
    exact = _two_sets(settings, law.marginal(sde, sde.t_min), stream + 2)
    return Problem(name, title, model, starts, reference, exact, most_calls=most_calls)


def _marginal_starts(settings: Settings, law: ss.exact.Law, stream: int) -> Tensor:
    """Starts from the law's own marginal at t_max, so that the prior's mismatch is no part of any error."""
    first = law.marginal(settings.sde, settings.sde.t_max)
    return first.sample(settings.samples, generator=settings.generator(stream)).to(settings.device)


def _prior_starts(settings: Settings, model: ss.ScoreModel, shape: tuple[int, ...], count: int, stream: int) -> Tensor:
    noise = torch.randn(count, *shape, generator=settings.generator(stream), dtype=torch.float64)
    return (model.sde.prior_std(model.t_max) * noise).to(settings.device)


def _accepted_dtype(settings: Settings, model: ss.ScoreModel, shape: tuple[int, ...]) -> torch.dtype:
    """float64 if the network takes it, else float32 (a function around a float32 network does not cast its input)."""
    two = _prior_starts(settings, model, shape, 2, 42)
    try:
        with torch.no_grad():
            model.v(two, model.t_max)
    except RuntimeError:
        with torch.no_grad():
            model.v(two.float(), model.t_max)
        return torch.float32
    return torch.float64


def _two_sets(settings: Settings, truth: ss.exact.Law, stream: int) -> tuple[Tensor, Tensor]:
    both = truth.sample(2 * settings.samples, generator=settings.generator(stream)).to(settings.device)
    return both[: settings.samples], both[settings.samples :]


def _converged(name: str, reference: Reference) -> str:
    found = f"{name}: the reference agrees with itself to {reference.consistency:.1e}"
    return f"{found} ({reference.method}, {reference.calls} calls)"


def _outer(vectors: Tensor) -> Tensor:
    return vectors[:, :, None] * vectors[:, None, :]
