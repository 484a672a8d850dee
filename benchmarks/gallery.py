"""Pictures that move for ``docs/gallery.md``: solvers side by side carry noise to data, few and many calls at a time.

Networks are exact, so whatever is wrong in a picture is the solver's doing. Writes to ``docs/assets`` (or ``--out``)
an animation of each law (SVG) and of digits (WebP), a still of the end of each, and ``gallery.csv`` with the distance
of each panel's law to the exact one.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import scoresolve as ss
from benchmarks import digits
from benchmarks.gallery_pictures import FRAMES, animated, flow_picture, strip, write_frames
from benchmarks.metrics import sliced_wasserstein
from benchmarks.problems import mixture_law

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "assets"
PATH = ss.RectifiedFlow()
Settings = Mapping[str, Any]
COLUMNS: tuple[tuple[str, tuple[Settings, Settings]], ...] = (
    ("DDIM", ({"solver": "ddim", "nfe": 6}, {"solver": "ddim", "nfe": 40})),
    ("default", ({"nfe": 6}, {"nfe": 40})),
    ("adaptive", ({"rtol": 0.5, "atol": 0.5, "dense": True}, {"rtol": 3e-3, "atol": 3e-3, "dense": True})),
    ("SDE (er_sde_3)", ({"solver": "er_sde_3", "nfe": 6}, {"solver": "er_sde_3", "nfe": 40})),
)
"""Solvers side by side: a title, the settings of the row of few calls, and of the row of many."""
DIGITS: tuple[tuple[str, Settings], ...] = (
    ("DDIM, 5 calls", {"solver": "ddim", "nfe": 5}),
    ("default, 5 calls", {"nfe": 5}),
    ("DDIM, 20 calls", {"solver": "ddim", "nfe": 20}),
    ("default, 20 calls", {"nfe": 20}),
)
SHOWN, MEASURED = 96, 8192


@dataclass(frozen=True)
class Panel:
    """What one solver did: states at the times of the frames, network calls, distance of its law to the exact one."""

    title: str
    states: Tensor
    calls: float
    distance: float


def moons() -> ss.exact.Empirical:
    """Two arcs, one in the arm of the other."""
    angle = torch.linspace(0, math.pi, 48, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    return ss.exact.Empirical(torch.cat([upper, -upper]) * 1.25, bandwidth=0.07)


def checkerboard() -> ss.exact.Empirical:
    """Every other square of four by four."""
    line = (torch.arange(24, dtype=torch.float64) + 0.5) / 6 - 2
    points = torch.cartesian_prod(line, line)
    dark = (points.floor().sum(dim=1).long() % 2) == 0
    return ss.exact.Empirical(points[dark] * 0.8, bandwidth=0.055)


LAWS: dict[str, Callable[[], ss.exact.Law]] = {"moons": moons, "checkerboard": checkerboard, "mixture": mixture_law}


def frames_of(solution: ss.Solution, times: Sequence[float], count: int) -> Tensor:
    """The first samples at the times of the frames; between two steps of a grid on the straight line."""
    if solution.dense is not None:  # known down to the last level that has noise
        known = [solution.at(t)[:count] for t in times if t >= solution.dense.ends[1]]
        return torch.stack(known + [solution.samples[:count]] * (len(times) - len(known)))
    assert solution.trajectory is not None
    states, stops = solution.trajectory[:, :count].double(), -solution.times
    found = []
    for t in times:
        after = int(np.clip(np.searchsorted(stops, -t), 1, len(stops) - 1))
        part = float((-t - stops[after - 1]) / (stops[after] - stops[after - 1]))
        found.append(torch.lerp(states[after - 1], states[after], part))
    return torch.stack(found)


def solve(model: ss.ScoreModel, settings: Settings, shape: Sequence[int]) -> ss.Solution:
    """One run, from the same starts whatever the solver."""
    kept = "dense" not in settings
    return ss.sample(model, shape=shape, seed=0, dtype=torch.float64, t_min=0.0, trajectory=kept, **settings)


def flow(law: ss.exact.Law) -> tuple[list[list[Panel]], float]:
    """A row of panels for few calls, one for many; and the distance of two exact sample sets, the floor of theirs."""
    model, times = law.model(PATH), np.linspace(1, 0, FRAMES).tolist()
    first, second = (law.sample(MEASURED, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    rows = []
    for row in range(2):
        panels = []
        for title, settings in COLUMNS:
            solution = solve(model, settings[row], (MEASURED, 2))
            calls = float(solution.nfe_per_sample.double().mean())
            distance = sliced_wasserstein(solution.samples, first)
            panels.append(Panel(title, frames_of(solution, times, SHOWN), calls, distance))
        rows.append(panels)
    return rows, sliced_wasserstein(first, second)


def digit_frames(count: int = 12) -> list[Image.Image]:
    """Digits appear: the same starts under every solver, the law of 1797 images its exact network."""
    model, times = ss.exact.Empirical(digits.images(), bandwidth=0.05).model(PATH), np.linspace(1, 0, FRAMES).tolist()
    runs = [frames_of(solve(model, settings, (count, *digits.SHAPE)), times, count) for _, settings in DIGITS]
    return [strip([run[number, :, 0] for run in runs], [title for title, _ in DIGITS]) for number in range(FRAMES)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description="Write the moving pictures of docs/gallery.md.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the files (default: docs/assets)")
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, make in LAWS.items():
        law = make()
        rows, floor = flow(law)
        data = law.sample(500, generator=torch.Generator().manual_seed(3))
        shown = [[(f"{panel.title}, {panel.calls:.0f} calls", panel.states) for panel in panels] for panels in rows]
        for suffix, moving in (("", True), ("_still", False)):
            picture = flow_picture(shown, data, animated if moving else None)
            (folder / f"gallery_{name}{suffix}.svg").write_text(picture)
        found = [[f"{panel.distance:.3f} ({panel.calls:.0f})" for panel in panels] for panels in rows]
        lines += [[name, *few_or_many, f"{floor:.3f}"] for few_or_many in found]
    write_frames(digit_frames(), folder / "gallery_digits.webp", folder / "gallery_digits_still.webp")
    with (folder / "gallery.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["law", *(title for title, _ in COLUMNS), "two exact sets"], *lines])
    size = sum(path.stat().st_size for path in folder.glob("gallery_*"))
    print(f"wrote gallery_*.svg, gallery_*.webp and gallery.csv to {folder}: {size / 1000:.0f} kB of pictures")


if __name__ == "__main__":
    main()
