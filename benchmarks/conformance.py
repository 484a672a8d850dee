"""Every solver of ours and every scheduler of diffusers under ``ss.conform``: ``python benchmarks/conformance.py``.

Writes ``docs/assets/conformance.csv``. A scheduler is run with its defaults and with the settings that name its
algorithms; clipping, meant for pixels in [-1, 1], is off, since the data here are not bounded (one row shows it on).
``claimed`` is ``solver_order``, the order in the method's own name, or what we declare.
"""

from __future__ import annotations

import csv
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
import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks.order_errors import SETTINGS
from scoresolve.conformance import Conformance

OUT = Path(__file__).resolve().parent.parent / "docs" / "assets" / "conformance.csv"
SLOW = ("DPMSolverSDEScheduler", "LMSDiscreteScheduler")
"""A Brownian tree, and quadrature at every step: seen on fewer steps."""
CLIP, FLOW = {"clip_sample": False}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
NOISY_END = {"final_sigmas_type": "sigma_min"}
MULTI, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
PEERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DDIMScheduler", {}),
    ("DDIMScheduler", CLIP),
    ("DDIMScheduler", {**CLIP, "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {**CLIP, "timestep_spacing": "linspace"}),
    ("DDIMScheduler", {**CLIP, "set_alpha_to_one": False}),
    ("DDIMParallelScheduler", CLIP),
    ("CogVideoXDDIMScheduler", CLIP),
    ("DDPMScheduler", CLIP),
    ("DDPMScheduler", {**CLIP, "variance_type": "fixed_large"}),
    ("DDPMParallelScheduler", CLIP),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("IPNDMScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DPMSolverSDEScheduler", {}),
    *((MULTI, {"solver_order": order}) for order in (1, 2, 3)),
    (MULTI, {"solver_order": 2, "solver_type": "heun"}),
    (MULTI, {"solver_order": 2, "use_karras_sigmas": True}),
    (MULTI, {"solver_order": 2, **NOISY_END}),
    (MULTI, {"solver_order": 2, **FLOW}),
    *((MULTI, {"algorithm_type": "dpmsolver", "solver_order": order, **NOISY_END}) for order in (2, 3)),
    *((MULTI, {"algorithm_type": "sde-dpmsolver++", "solver_order": order}) for order in (1, 2, 3)),
    *((SINGLE, {"solver_order": order}) for order in (2, 3)),
    *((SINGLE, {"algorithm_type": "sde-dpmsolver++", "solver_order": order}) for order in (1, 2)),
    *(("UniPCMultistepScheduler", {"solver_order": order}) for order in (1, 2, 3)),
    ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}),
    ("UniPCMultistepScheduler", {"solver_order": 2, **FLOW}),
    *(("DEISMultistepScheduler", {"solver_order": order}) for order in (1, 2, 3)),
    ("SASolverScheduler", {}),
    ("EDMEulerScheduler", {}),
    *(("EDMDPMSolverMultistepScheduler", {"solver_order": order}) for order in (2, 3)),
    ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
)  # fmt: skip
CLAIMS = {"Euler": 1, "Heun": 2, "KDPM2D": 2, "FlowMatchEuler": 1, "FlowMatchHeun": 2, "EDMEuler": 1}
"""By the beginning of a name: the order in the name of the method."""


@dataclass(frozen=True)
class Row:
    """What was found of a sampler; "" where it could not be measured.

    Attributes: library, sampler, options; claimed, the order; order, measured; eta; fails, warns: what was found.
    """

    library: str
    sampler: str
    options: str
    claimed: str
    order: str
    eta: str
    fails: str
    warns: str


Job = tuple[str, str, dict[str, Any], float | None, Callable[[], Conformance]]


def jobs() -> Iterator[Job]:
    """(library, sampler, options, claim, run)."""
    for name, options in PEERS:
        begins = next((order for start, order in CLAIMS.items() if name.startswith(start)), None)
        claim = options.get("solver_order", None if "Ancestral" in name else begins)
        finest = 100 if name in SLOW else 200

        def run(name: str = name, options: dict[str, Any] = options, claim: Any = claim, finest: int = finest) -> Any:
            return ss.conform(getattr(diffusers, name)(**options), order=claim, finest=finest)

        yield f"diffusers {diffusers.__version__}", name, options, claim, run
    for info in ss.solvers():
        options = SETTINGS.get(info.name, {})
        claim = None if info.adaptive else info.order or None
        yield "scoresolve", info.name, options, claim, partial(ss.conform, info.name, **options)


def keys() -> list[tuple[str, str]]:
    """What names a row, in the order of the table."""
    return [(sampler, _told(options)) for _, sampler, options, _, _ in jobs()]


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def row_of(library: str, sampler: str, options: dict[str, Any], claim: float | None, found: Conformance) -> Row:
    """A line of the table."""
    told = {
        status: "; ".join(f"{check.name}: {check.found}" for check in found.checks if check.status == status)
        for status in ("fail", "warn")
    }
    order, eta = found.figures.get("order"), found.figures.get("eta")
    return Row(
        library, sampler, _told(options),
        "" if claim is None else f"{claim:g}", "" if order is None else f"{order:.2f}",
        "" if eta is None else f"{eta:.2g}", told["fail"], told["warn"],
    )  # fmt: skip


def main(names: list[str]) -> None:
    """Run all, or those whose names are given, whose rows are then replaced."""
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    asked = [job for job in jobs() if not names or job[1] in names]
    known: dict[tuple[str, str], Row] = {}
    if names and OUT.exists():
        with OUT.open(newline="") as file:
            known = {(line["sampler"], line["options"]): Row(**line) for line in csv.DictReader(file)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside diffusers
        for library, sampler, options, claim, run in tqdm(asked, disable=None):
            row = row_of(library, sampler, options, claim, run())
            known[row.sampler, row.options] = row
            with OUT.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(asdict(row)))
                writer.writeheader()
                writer.writerows(asdict(known[key]) for key in keys() if key in known)


if __name__ == "__main__":
    main(sys.argv[1:])
