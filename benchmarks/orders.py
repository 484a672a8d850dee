"""Measured orders of the registered solvers: ``python benchmarks/orders.py`` writes ``docs/assets/orders.csv``.

All in float64 on a two-mode mixture in one dimension, between two noise levels (lam from -3 to 2.5), the history of
multistep methods seeded at full order (``start="high"``).

- ODE: RMSE to the exact flow, which in one dimension takes quantiles to quantiles.
- strong: mean distance, on one Brownian path a sample, to the same solver's result on the finest grid.
- weak: the law of the output on Gaussian data in closed form (``ss.exact.push``; no sampling). On the mixture the
  errors of the means of x and x^2 are mean differences between two grids on one path, known to their standard error.
- Gaussian: the affine map of a table on Gaussian data against that of the flow, or the law of the output, and the
  constant C of error = C n^-p at the finest grid.
- start-up: first steps of order q err by O(h^{q + 1}), once: a method of order p that begins so is of order
  min(p, q + 1). The error of six steps of length h, begun as the solver begins by itself, shows it.
- the end: the error of six steps from rho = h to noise zero.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:  # run as a script: the folder above holds both packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

import scoresolve as ss
from benchmarks.order_errors import constant, end_errors, exact_errors, flow_errors, slope, start_errors
from benchmarks.order_paths import CLOSED_STEPS, STRONG_STEPS, path_errors, strong_errors

OUT = Path(__file__).resolve().parent.parent / "docs" / "assets" / "orders.csv"


@dataclass(frozen=True)
class Orders:
    """What was measured of a solver; None where it does not apply.

    Attributes: order (ODE: on the mixture; SDE: weak, closed form), strong (on the mixture), error (ODE: at the finest
    grid), gaussian (the order on a Gaussian) and constant (its C), path and path_constant (the same of the strong
    error on a Gaussian), start (the order that its own start-up leaves it), end (the order of what the last steps to
    noise zero err by, in the noise level at which they begin).
    """

    solver: str
    order: float
    strong: float | None = None
    error: float | None = None
    gaussian: float | None = None
    constant: float | None = None
    path: float | None = None
    path_constant: float | None = None
    start: float | None = None
    end: float | None = None


def measure(info: ss.SolverInfo, sde: ss.SDE, batch: int = 4096) -> Orders:
    """The orders of a solver."""
    exact = exact_errors(info, sde)
    found = Orders(
        info.name,
        slope(exact),
        gaussian=slope(exact),
        constant=constant(info, exact),
        start=min(info.order, slope(start_errors(info, sde))) if "start" in info.options else None,
        end=slope(end_errors(info, sde)),
    )
    if info.kind == "ode":
        errors = flow_errors(info, sde, (256, 512))
        return replace(found, order=slope(errors), error=errors[-1])
    if info.strong_order is None:
        return found
    fine = info.strong_order > 1  # terms of order 2 hide the 1.5 on coarser grids
    grids, finest, paths = ((256, 512, 1024), 4096, batch // 4) if fine else (STRONG_STEPS, 2048, batch)
    strong, _, _ = path_errors(info, sde, grids, paths, finest)
    closed = strong_errors(info, sde, CLOSED_STEPS)
    path = slope(closed)
    return replace(
        found, strong=slope(strong, last=2), path=path, path_constant=closed[-1] * CLOSED_STEPS[-1] ** info.strong_order
    )


def main() -> None:
    """Measure every fixed-grid solver and write the CSV."""
    torch.set_num_threads(1)
    found = [measure(info, ss.VPSDE()) for info in tqdm(ss.solvers()) if not info.adaptive and info.order]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in found
        )


if __name__ == "__main__":
    main()
