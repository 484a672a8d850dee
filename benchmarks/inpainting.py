"""Linear inverse problems where the exact posterior is known: ``python benchmarks/inpainting.py``; see ``--help``.

====================  ============================================================================================
half a digit          8 x 8; the prior is the kernel density of the training digits, with the bandwidth that makes
                      the test digits likeliest, and the posterior a mixture of Gaussians
``--colour``          colours of grey 8 x 8 patches of photographs; prior and posterior are Gaussians
====================  ============================================================================================

Written are a table and a picture: what is measured of some test images, the images, samples of the exact posterior, and
of each method. ``distance`` is the energy distance to samples of the exact posterior, over the mean distance of two
exact samples from each other, averaged over the images; the row "exact" has what is left of it with as many samples.
``mean off`` is the root mean square error of the mean of the samples, ``known off`` the largest error of A x, and
``calls`` and ``passes`` count calls of the network and backward passes through it.

With ``--model`` a network of benchmarks/train.py takes the place of the digits' prior; it is a law of its own, so that
its distance is that to the posterior of the kernel density still.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

import scoresolve as ss
from benchmarks.checkpoints import CheckpointError
from benchmarks.data import digit_images, patch_images
from benchmarks.likelihood import Line, report, seeded
from benchmarks.metrics import energy_distance
from benchmarks.train import load
from benchmarks.work_precision import OUT
from scoresolve.errors import require, whole_number

BANDWIDTH = 0.25
"""Of the digits' kernel density: of 0.15, 0.20, ..., 0.40 the one with the largest likelihood of the test digits."""
STEPS, JUMP, REPEATS = 100, 10, 10
TOLD = 0.1
"""Noise that "none" is told of: it divides by it, and cannot be told of none."""
RANGE = 2.0
"""Guided data predictions are kept in +-RANGE, twice the pixels' own: all but "jacobian" run away without."""


@dataclass(frozen=True)
class Problem:
    """Images of which something is measured, without noise.

    Attributes: model, the unconditional network; operator, A; truth (n, ...); posteriors, the exact law of each;
    data_std, of the training data.
    """

    name: str
    model: ss.ScoreModel
    operator: ss.LinearOperator
    truth: Tensor
    posteriors: list[ss.exact.GaussianMixture]
    data_std: float


def inpainting(count: int, model: ss.ScoreModel | None = None) -> Problem:
    """The upper half of test digits is known."""
    data = digit_images()
    prior = mixture(data.train, BANDWIDTH)
    mask = torch.zeros(1, *data.shape, dtype=torch.bool)
    mask[:, :, : data.shape[1] // 2] = True
    model = model or ss.exact.Empirical(data.train, BANDWIDTH).model(ss.VPSDE())
    return problem("inpainting", model, prior, ss.operators.Mask(mask), data.train, data.test[:count])


def colourisation(count: int) -> Problem:
    """The mean of the channels is known. The test patches are as many of each photograph."""
    data = patch_images(side=8, train=4000, test=count, colour=True)
    prior = ss.exact.Gaussian.fit(data.train)
    return problem("colourisation", prior.model(ss.VPSDE()), prior, ss.operators.grey(3), data.train, data.test)


def mixture(points: Tensor, bandwidth: float) -> ss.exact.GaussianMixture:
    """A kernel density as a mixture: slower than ``ss.exact.Empirical``, but with posteriors."""
    return ss.exact.GaussianMixture(torch.ones(len(points)), points, torch.full((len(points),), bandwidth**2))


def problem(
    name: str, model: ss.ScoreModel, prior: ss.exact.GaussianMixture, operator: ss.LinearOperator, train: Tensor,
    truth: Tensor,
) -> Problem:  # fmt: skip
    """The problem with its posteriors."""
    posteriors = [prior.posterior(operator, operator(one[None]), 0.0) for one in truth]
    return Problem(name, model, operator, truth, posteriors, float(train.std()))


class Counted:
    """A network that counts its calls and the backward passes through its answers."""

    def __init__(self, net: Callable[..., Tensor]) -> None:
        self.net, self.calls, self.passes = net, 0, 0

    def __call__(self, x: Tensor, label: Tensor) -> Tensor:
        """The answer of the network, in x's dtype."""
        self.calls += 1
        answer = self.net(x, label)
        if answer.requires_grad:
            answer.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return answer

    def _backward(self, _: Tensor) -> None:
        self.passes += 1


Method = Callable[[ss.ScoreModel, Problem, Tensor, dict[str, Any]], Tensor]


def replacement(model: ss.ScoreModel, of: Problem, y: Tensor, how: dict[str, Any]) -> Tensor:
    """The measurement, noised, takes its place after each step."""
    put = ss.Replacement(model.sde, of.operator, y, seed=1)
    return ss.sample(
        model, shape=(len(y), *of.truth.shape[1:]), solver="ddpm", steps=STEPS, callback=put, **how
    ).samples


def repaint(model: ss.ScoreModel, of: Problem, y: Tensor, how: dict[str, Any]) -> Tensor:
    """The same, blocks of steps repeated; as many steps as keep the calls at five times those of the others."""
    plain = ss.sample(of.model, shape=(1, *of.truth.shape[1:]), solver="ddpm", steps=5 * STEPS // REPEATS, **how).table
    assert plain is not None  # it is, of a solver with a fixed grid
    table = ss.resampled(plain, model.sde, jump=JUMP, repeats=REPEATS)
    put = ss.Replacement(model.sde, of.operator, y, seed=1)
    return ss.sample(model, shape=(len(y), *of.truth.shape[1:]), solver=table, seed=0, callback=put).samples


def guidance(covariance: Any, **solver: Any) -> Method:
    """Posterior guidance with a covariance, by a solver."""

    def method(model: ss.ScoreModel, of: Problem, y: Tensor, how: dict[str, Any]) -> Tensor:
        noise_std = TOLD if covariance == "none" else 0.0
        guided = ss.posterior_guidance(model, of.operator, y, noise_std, covariance=covariance, data_std=of.data_std)
        kept = ss.threshold(guided, -RANGE, RANGE)
        return ss.sample(kept, shape=(len(y), *of.truth.shape[1:]), **solver, **how).samples

    return method


METHODS: dict[str, Method] = {
    "Replacement": replacement,
    "RePaint": repaint,
    '"none" (DPS)': guidance("none", solver="ddpm", steps=STEPS),
    '"isotropic" (PiGDM)': guidance("isotropic", solver="ddpm", steps=STEPS),
    '"jacobian"': guidance("jacobian", solver="ddpm", steps=STEPS),
    '"jacobian", flow': guidance("jacobian", nfe=STEPS // 5),
}


def measure(of: Problem, draws: int) -> tuple[list[Line], dict[str, Tensor]]:
    """The table, and for each method its samples (n, draws, ...)."""
    seen = of.operator(of.truth)
    hidden = torch.ones(of.truth.shape[1:], dtype=torch.bool)
    if isinstance(of.operator, ss.operators.Mask):
        hidden = ~of.operator.mask[0]
    generators = seeded(1), seeded(2)
    exact, again = (torch.stack([law.sample(draws, generator=g) for law in of.posteriors]) for g in generators)
    found, lines = {"exact": again}, []
    lines.append(judged("exact", again, exact, of, seen, hidden) | {"calls": 0, "passes": 0})
    how: dict[str, Any] = {"seed": 0, "t_min": 0.0}
    for name, method in tqdm(METHODS.items(), of.name, leave=False):
        net = Counted(of.model.net)
        model = ss.ScoreModel(net, of.model.sde, predicts=of.model.predicts, time=of.model.time)
        samples = method(model, of, seen.repeat_interleave(draws, dim=0), how)
        found[name] = samples.unflatten(0, (-1, draws)).double()
        lines.append(judged(name, found[name], exact, of, seen, hidden) | {"calls": net.calls, "passes": net.passes})
    return lines, found


def judged(name: str, samples: Tensor, exact: Tensor, of: Problem, seen: Tensor, hidden: Tensor) -> Line:
    """How far samples (n, draws, ...) are from the exact posteriors, on the elements that are not known."""
    distances, squares = [], []
    for one, other, law in zip(samples, exact, of.posteriors, strict=True):
        x, y = one[:, hidden], other[:, hidden]
        apart = torch.pdist(y).mean()
        distances.append(energy_distance(x, y) / float(apart))
        squares.append(float((x.mean(dim=0) - law.mean[hidden]).square().mean()))
    off = max(float((of.operator(one) - y[None].double()).abs().max()) for one, y in zip(samples, seen, strict=True))
    return {
        "method": name,
        "distance": f"{sum(distances) / len(distances):.3f}",
        "mean off": f"{(sum(squares) / len(squares)) ** 0.5:.3f}",
        "known off": f"{off:.0e}",
    }


def draw(of: Problem, found: dict[str, Tensor], path: Path) -> None:
    """Rows: measured, truth, two samples of each method; a column for each image."""
    if isinstance(of.operator, ss.operators.Mask):
        seen = torch.where(of.operator.mask, of.truth, torch.nan)
    else:
        seen = of.operator(of.truth).expand_as(of.truth)
    rows = {"measured": seen, "truth": of.truth}
    rows |= {f"{name}{mark}": samples[:, i] for name, samples in found.items() for i, mark in enumerate(("", " "))}
    count = len(of.truth)
    figure, axes = plt.subplots(len(rows), count, figsize=(0.62 * count + 1.7, 0.64 * len(rows)), layout="constrained")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=True):
            pixels = ((image.float() + 1) / 2).clamp(0, 1).movedim(0, -1).numpy()
            panel.set(xticks=[], yticks=[], facecolor="#56B4E9")
            panel.spines[:].set_visible(False)
            panel.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(name.strip() if not name.endswith(" ") else "", rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the methods, write the table and the picture; 2 for options that cannot be followed."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/inpainting.py", description=(__doc__ or "").split("\n")[0],
        epilog="Writes inpainting.csv and .png, or colourisation.csv and .png. Half a minute on one core.",
    )  # fmt: skip
    parser.add_argument("--colour", action="store_true", help="colourisation of patches of photographs")
    parser.add_argument("--model", type=Path, metavar="PATH", help="a model.safetensors of benchmarks/train.py, digits")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="(default: 8)")
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="samples for each image (default: 100)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # small tensors: more threads cost more than they bring
    try:
        count, draws = (
            whole_number("--images", options.images, least=2),
            whole_number("--draws", options.draws, least=2),
        )
        require(not (options.colour and options.model), "--model or --colour, got both: the networks know no colours")
        network = load(options.model) if options.model else None
        shape = network.net.config.shape if network else (1, 8, 8)  # type: ignore[attr-defined]
        require(shape == (1, 8, 8), f"a network of --data digits, (1, 8, 8), got one of {shape}")
        of = colourisation(count) if options.colour else inpainting(count, network)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    lines, found = measure(of, draws)
    report(lines, options.out / f"{of.name}.csv")
    draw(of, found, options.out / f"{of.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
