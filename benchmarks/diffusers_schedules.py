"""Our float64 schedules beside diffusers' float32 tables: ``python benchmarks/diffusers_schedules.py`` writes CSVs.

Every scheduler class of the installed diffusers with a table of betas, on every schedule that it knows, as it is and
rescaled to zero signal; and the noise levels of its flow-matching and EDM schedulers. Then what their schedulers and
ours make of a network that is exact: how far the standard deviation of the samples is from that of the data.
"""

from __future__ import annotations

import csv
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import diffusers
import numpy as np
import torch

import scoresolve as ss
from scoresolve.integrations.diffusers import ScoreSolveScheduler
from scoresolve.integrations.loading import config_of
from scoresolve.integrations.schedules import REFUSED, schedule_of
from scoresolve.integrations.timesteps import grid_of, published_flow_times

OUT = Path(__file__).resolve().parent.parent / "docs" / "assets" / "diffusers_schedules.csv"
SUMMARY = OUT.with_name("diffusers_parity.csv")
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace", "trained_betas")
STEPS = 10
FLOWS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "shift 3": {"shift": 3.0},
    "dynamic, mu 0.8": {"use_dynamic_shifting": True},
    "dynamic, linear, mu 0.8": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "shift 3, terminal 0.1": {"shift": 3.0, "shift_terminal": 0.1},
}
MU = 0.8
MEAN, STD, BUDGETS = 0.3, 0.25, (5, 10, 20, 50)


def _theirs(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(**options)


SPREADS: dict[str, Callable[[], Any]] = {
    "`DDIMScheduler`": partial(_theirs, "DDIMScheduler", clip_sample=False),
    "`DPMSolverMultistepScheduler`": partial(_theirs, "DPMSolverMultistepScheduler"),
    "the same, `use_karras_sigmas=True`": partial(_theirs, "DPMSolverMultistepScheduler", use_karras_sigmas=True),
    "`UniPCMultistepScheduler`": partial(_theirs, "UniPCMultistepScheduler"),
    **{
        f'`ScoreSolveScheduler(solver="{name}")`': partial(ScoreSolveScheduler, solver=name)
        for name in ("ddim", "dpmpp_2m", "unipc_3", "flow_abm_2")
    },
}
"""Schedulers with their defaults, all of one call a step."""


@dataclass(frozen=True)
class Parity:
    """A schedule of a class: how far our numbers are from theirs.

    Attributes: scheduler, its class; schedule; compared, "alphas_cumprod" or "sigmas"; count, of numbers; error, the
    largest difference, of sigmas relative to them.
    """

    scheduler: str
    schedule: str
    compared: str
    count: int
    error: float


def classes_with(option: str) -> list[str]:
    """The scheduler classes of diffusers whose constructor has an option."""
    names = [name for name in dir(diffusers) if name.endswith("Scheduler") and name not in REFUSED]
    found = []
    for name in names:
        cls = getattr(diffusers, name)
        if inspect.isclass(cls) and option in inspect.signature(cls.__init__).parameters:
            found.append(name)
    return found


def tables(name: str) -> Iterator[Parity]:
    """The tables of betas of a class, on every schedule that it knows."""
    cls = getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    for schedule in SCHEDULES:
        for rescaled in (False, True) if "rescale_betas_zero_snr" in known else (False,):
            options: dict[str, Any] = {"beta_schedule": schedule}
            if schedule == "trained_betas":
                options = {"trained_betas": np.geomspace(1e-4, 0.05, 200).tolist(), "num_train_timesteps": 200}
            try:
                scheduler = cls(**options, **({"rescale_betas_zero_snr": True} if rescaled else {}))
            except (NotImplementedError, ValueError, TypeError):
                continue  # not a schedule of this class
            theirs = getattr(scheduler, "alphas_cumprod", None)
            if theirs is None:
                continue
            sde = schedule_of(config_of(scheduler)).sde
            ours = sde.alpha(np.arange(1, len(theirs) + 1) / len(theirs)) ** 2
            error = float(np.abs(ours - theirs.double().numpy()).max())
            yield Parity(name, schedule + (", rescaled" if rescaled else ""), "alphas_cumprod", len(theirs), error)


def flows() -> Iterator[Parity]:
    """Sampling times of the flow-matching scheduler, its static shift applied twice as there."""
    name = "FlowMatchEulerDiscreteScheduler"
    for said, options in FLOWS.items():
        scheduler = getattr(diffusers, name)(**options)
        dynamic = {"mu": MU} if scheduler.config.use_dynamic_shifting else {}
        scheduler.set_timesteps(STEPS, **dynamic)
        theirs = scheduler.sigmas.double().numpy()
        ours = published_flow_times(ss.RectifiedFlow(), STEPS, 1.0, 0.0, config=scheduler.config, mu=MU)
        yield Parity(name, said, "sigmas", STEPS, _relative(ours[:-1], theirs[:-1]))


def preconditioned() -> Iterator[Parity]:
    """Noise levels of the EDM schedulers."""
    for name in classes_with("sigma_schedule"):
        for spacing in ("karras", "exponential"):
            scheduler = getattr(diffusers, name)(sigma_schedule=spacing)
            scheduler.set_timesteps(STEPS)
            theirs = scheduler.sigmas.double().numpy()
            grid: Any = grid_of(scheduler)
            sde = schedule_of(config_of(scheduler)).sde
            ours = grid(sde, STEPS, sde.t_max, 0.0)
            yield Parity(name, spacing, "sigmas", STEPS, _relative(ours[:-1], theirs[:-1]))


def parities() -> list[Parity]:
    """All of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside diffusers
        found = [row for name in classes_with("beta_schedule") for row in tables(name)]
        return [*found, *flows(), *preconditioned()]


def spread(scheduler: Any, steps: int, samples: int = 200_000) -> float:
    """How far the standard deviation of samples of N(MEAN, STD^2) is off, relative to it, with an exact network."""
    law = ss.exact.Gaussian(torch.full((2,), MEAN), STD**2)
    model = law.model(ss.DiscreteVPSDE.linear())
    x = torch.randn(samples // 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        noise = model.noise(scheduler.scale_model_input(x, t), (float(t) + 1) / 1000)
        x = scheduler.step(noise, t, x).prev_sample
    return float(x.std()) / STD - 1


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours / theirs - 1).max())


def main() -> None:
    """Measure and write."""
    rows = parities()
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**asdict(row), "error": f"{row.error:.2g}"})
    with SUMMARY.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["scheduler", "schedules", "compared", "largest difference"])
        for name in dict.fromkeys(row.scheduler for row in rows):
            found = [row for row in rows if row.scheduler == name]
            lines.writerow([f"`{name}`", len(found), found[0].compared, f"{max(row.error for row in found):.1e}"])
    with warnings.catch_warnings(), OUT.with_name("diffusers_gaussian.csv").open("w", newline="") as file:
        warnings.simplefilter("ignore")  # deprecations inside diffusers
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["steps", *BUDGETS])
        for name, make in SPREADS.items():
            lines.writerow([name, *(f"{100 * spread(make(), steps):+.1f} %" for steps in BUDGETS)])
    print(f"{len(rows)} schedules of {len({row.scheduler for row in rows})} classes, to {OUT}")


if __name__ == "__main__":
    main()
