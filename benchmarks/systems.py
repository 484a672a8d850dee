"""The classical systems end to end: trained, sampled, scored: ``python benchmarks/systems.py``; see ``--help``.

Every system of ``classical.py`` and DDPM told the class are trained (``train.py``) if they are not yet, sampled in
every way of ``samplers.py`` with every seed, and scored against the training images in the features of a classifier
(``fidelity.py``); bits per dimension are of the test images. In the folder ``--out`` are written

    systems.csv     systems x samplers: network calls, distances, precision and recall, each mean and spread of seeds
    bits.csv        bits per dimension of each system, of the probability flow and of its variational bound
    systems.png     Frechet distance against network calls
    systems.html    all of it on one page with samples; samples/*.png the same as pictures
    cells/          what each run gave. The same command leaves out what is there, and so goes on where it was stopped
                    (remove the folder when the library's numbers have changed)

The full table takes about an hour on two cores, most of it DDPM's 1000 steps and the SDEs' 500; ``--quick`` a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor
from tqdm import tqdm

import scoresolve as ss
from benchmarks import train
from benchmarks.checkpoints import CheckpointError, read_tensors, write_tensors
from benchmarks.classical import SYSTEMS
from benchmarks.classifier import Classifier, guide, judge
from benchmarks.data import Images, images
from benchmarks.fidelity import fidelity
from benchmarks.likelihood import LEVELS, PLACES, UNIFORM, with_decoder
from benchmarks.options import chosen_device
from benchmarks.samplers import Sampler, guided, samplers
from benchmarks.systems_report import write
from benchmarks.systems_results import GUIDED, REAL, Bits, Results, Row
from benchmarks.training import Run
from scoresolve.errors import unknown, whole_number
from scoresolve.noise import START

RESULTS = train.RESULTS
NAMES = (*SYSTEMS, GUIDED)
"""GUIDED: DDPM told the class, and guided by a classifier."""
PROBES = 4
HARDLY: dict[str, Any] = train.QUICK | {"steps": 60, "warmup": 10}
"""Training with --quick."""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes: seeds; count, of samples for each; networks and cells, folders; quick, small networks and few samplers.
    """

    seeds: tuple[int, ...]
    count: int
    networks: Path
    cells: Path
    device: torch.device
    quick: bool = False
    data: str = "digits"

    @property
    def images(self) -> Images:
        """The data set."""
        return images(self.data)

    def classes(self) -> Tensor:
        """The classes asked for: each as often."""
        return torch.arange(self.count, device=self.device) % self.images.classes


# -- networks --------------------------------------------------------------------------------------------------------


def network(plan: Plan, system: str, *, conditional: bool = False) -> Path:
    """The file of a system's network, which is trained if it is not there."""
    folder = plan.networks / (f"{system}-{plan.data}" + ("-conditional" * conditional) + ("-hardly" * plan.quick))
    path = folder / "model.safetensors"
    if not path.exists():
        settings: dict[str, Any] = HARDLY if plan.quick else {}
        train.train(Run(system, plan.data, conditional=conditional, **settings), folder, plan.device, progress=True)
    return path


@cache
def digest(path: Path) -> str:
    """Of a file's content: what a cell was made with."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digest_of(weights: dict[str, Tensor]) -> str:
    """Of weights that are in no file."""
    return hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in weights.values())).hexdigest()[:16]


# -- cells -----------------------------------------------------------------------------------------------------------


def kept(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What an earlier run wrote, if it was asked the same."""
    try:
        tensors, found = read_tensors(path)
    except (FileNotFoundError, CheckpointError):
        return None
    return (tensors, found) if {key: found.get(key) for key in facts} == facts else None


def drawn(plan: Plan, system: str, sampler: Sampler, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """The samples of a cell, and what is known of them; from its file if there is one."""
    conditional = system == GUIDED and sampler.name.startswith("free")
    source = network(plan, "ddpm" if system == GUIDED else system, conditional=conditional)
    path = plan.cells / f"{system}-{sampler.name}-{seed}.safetensors"
    asked = {"settings": repr(sampler.settings), "by": sampler.by, "weights": digest(source), "count": plan.count}
    if (found := kept(path, asked)) is not None:
        return found[0]["samples"], found[1]
    model = train.load(source, plan.device, between="rtol" in sampler.settings)
    if sampler.told is not None:
        model = sampler.told(model, plan.classes())
    begin = time.perf_counter()
    solution = ss.sample(model, (plan.count, *plan.images.shape), seed=seed, device=plan.device, **sampler.settings)
    samples = solution.samples.cpu()  # which waits for the device
    calls = float(solution.nfe_per_sample.double().mean())
    facts = asked | {"nfe": calls, "seconds": (time.perf_counter() - begin) * 1000 / plan.count}
    write_tensors(path, {"samples": samples}, facts)
    return samples, facts


def bits(plan: Plan, system: str, seed: int) -> Bits:
    """Bits per dimension of the test images: under the probability flow, and a bound of them.

    Both are upper bounds of ``-log2 P(k) / d``, by the same decoder, at the level where the noise is that of
    dequantisation: below it the networks only know that pixels are whole numbers.
    """
    source = network(plan, system)
    path = plan.cells / f"{system}-bits-{seed}.safetensors"
    data = plan.images
    count = 8 if plan.quick else len(data.test)
    asked = {"weights": digest(source), "count": count, "probes": PROBES, "rho": UNIFORM}
    found = kept(path, asked)
    if found is None:
        model = train.load(source, plan.device, between=True)
        t_min = model.sde.time(-math.log(UNIFORM))
        x0 = data.test[:count].to(plan.device)
        noise = ss.SampleStreams(seed, range(count)).draw(START, 0, x0)
        flow, _ = with_decoder(
            model, x0, noise, t_min, seed=seed, divergence="hutchinson", probes=PROBES, rtol=1e-3, atol=1e-3
        )
        levels: dict[str, Any] = {"levels": LEVELS, "data_range": PLACES, "t_min": t_min, "seed": seed}
        bound = ss.variational_bound(model, x0, importance=0.5, points=64, repeats=4, **levels).nats
        found = {"flow": flow, "bound": bound}, asked
        write_tensors(path, *found)
    unit = math.log(2) * data.test[0].numel()
    return Bits(system, seed, *(float(found[0][name].mean()) / unit for name in ("flow", "bound")))


# -- all of them -----------------------------------------------------------------------------------------------------


def planned(plan: Plan, systems: Sequence[str]) -> Iterator[tuple[str, Sampler]]:
    """Every system with each of its samplers."""
    for system in systems:
        if system == GUIDED:
            by = guide("ddpm", plan.data, plan.device)
            found = list(guided(by.log_prob, digest_of(by.state_dict()), plan.images.classes))
        else:
            sde = train.load(network(plan, system)).sde
            found = samplers(system, sde, plan.images.train[0].numel())
        for sampler in found:
            if not plan.quick or not sampler.name.endswith(("-500", "-1000")):
                yield system, sampler


def scored(plan: Plan, system: str, sampler: Sampler, seed: int, by: Classifier) -> tuple[Row, Tensor]:
    """A row of the table, and its samples."""
    samples, facts = drawn(plan, system, sampler, seed)
    classes = plan.classes() if sampler.told is not None else None
    found = fidelity(samples, plan.images, by, seed, labels=classes)
    return Row.of(system, sampler.name, sampler.title, seed, found, nfe=facts["nfe"], seconds=facts["seconds"]), samples


def scale(plan: Plan, seed: int, by: Classifier) -> Iterator[tuple[Row, Tensor]]:
    """What the numbers are of real images, and of a Gaussian fitted to the training images."""
    data, generator = plan.images, torch.Generator().manual_seed(seed)
    gaussian = ss.exact.Gaussian.fit(data.train).sample(plan.count, generator=generator)
    again = torch.randperm(len(data.train), generator=generator)[: plan.count]
    sets = {
        "again": ("training images drawn again", data.train[again], data.train_labels[again]),
        "test": (f"{len(data.test)} {data.name} held out", data.test, data.test_labels),
        "gaussian": ("a Gaussian fitted to the training images", gaussian.float(), None),
    }
    for name, (title, samples, labels) in sets.items():
        yield Row.of(REAL, name, title, seed, fidelity(samples, data, by, seed, labels=labels)), samples


def run(plan: Plan, systems: Sequence[str], *, progress: bool = True) -> Results:
    """Train, sample and score; seed by seed, so that a table stopped half-way is a whole one of fewer seeds."""
    plan.cells.mkdir(parents=True, exist_ok=True)
    by = judge(plan.data, plan.device)
    pairs = list(planned(plan, systems))
    measured = [name for name in systems if name != GUIDED]
    results = Results(plan.images, plan.count)
    bar = tqdm(total=len(plan.seeds) * (len(pairs) + len(measured)), unit="cell", disable=None if progress else True)
    with bar:
        for seed in plan.seeds:
            for row, samples in scale(plan, seed, by):
                results.add(row, samples)
            for system, sampler in pairs:
                bar.set_description(f"{system}, {sampler.name}, seed {seed}")
                results.add(*scored(plan, system, sampler, seed, by))
                bar.update()
            for system in measured:
                bar.set_description(f"{system}, bits, seed {seed}")
                results.bits.append(bits(plan, system, seed))
                bar.update()
    return results


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="benchmarks/systems.py",
        description="Train, sample and score the classical systems: NCSN, DDPM, DDIM, the score SDEs, guidance.",
        epilog="The same command goes on where it was stopped. Several may run at once, with other --seeds and the "
        "same --out; when all have ended, one with all seeds makes the table.",
    )
    add = p.add_argument
    add("--systems", nargs="+", default=list(NAMES), metavar="NAME", help=f"of {' '.join(NAMES)} (default: all)")
    add("--seeds", nargs="+", type=int, metavar="N", help="(default: 0 1 2; --quick: 0)")
    add("--count", type=int, metavar="N", help="samples of each sampler and seed (default: 500; --quick: 20)")
    add("--out", type=Path, default=RESULTS / "systems", metavar="FOLDER")
    add("--networks", type=Path, default=RESULTS / "train", metavar="FOLDER", help="where train.py leaves networks")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--threads", type=int, metavar="N", help="of the CPU (default: all)")
    add("--quick", action="store_true", help="hardly trained small networks, few samples: to see that all of it runs")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all; returns 0, 2 for options that cannot be followed, 130 if stopped by Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        for name in options.systems:
            if name not in NAMES:
                raise ValueError(unknown("system", name, NAMES))
        count = whole_number("--count", options.count or (20 if options.quick else 500), least=5)
        asked = options.seeds or ([0] if options.quick else [0, 1, 2])
        seeds = tuple(dict.fromkeys(whole_number("--seeds", seed, least=0) for seed in asked))
        device = chosen_device(options.device)
        if options.threads is not None:
            torch.set_num_threads(whole_number("--threads", options.threads))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plan = Plan(seeds, count, options.networks, options.out / "cells", device, options.quick)
    try:
        results = run(plan, options.systems)
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on with what is in {plan.cells}", file=sys.stderr)
        return 130
    write(results, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
