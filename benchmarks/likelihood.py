r"""What log p, its bits and its bounds cost, and how far they are off: ``python benchmarks/likelihood.py``.

**likelihood.csv**, ``likelihood.png``: root mean square error of log p, in nats per dimension, against network calls.
Divergence and prior are exact, so that what is left is the solver's error; the truth is the law's closed form at t_min.

**hutchinson.csv**: z-scores ``(estimate - truth) / standard_error`` of many samples, that of the mean of all samples
(is there a bias?), and the standard deviation of a single probe, without and with a control variate, a Gaussian fitted
to data. Were the probes normal, z would follow Student's t. The truth is a closed form, for the network its exact
divergence.

**bits_per_dim.csv**: upper bounds of ``-log2 P(k) / d`` of the digits, whole numbers k in 0 ... 16, under a model:

    dequantised      E_U[-log p(x_0)],  x_0 the place of k + U on (-17/16, 17/16), where k itself stands at k/8 - 1
    with a decoder   E_q[log q(x|k) - log p(x) - log P(k|x)],  x the state at t_min, q its law given k
    variational      the same, with the bound of the diffusion process in the place of -log p(x)

p is the probability flow's. The third is above the second if the scores are those of a law; those of a trained network
are nearly so. The first is another decoder, and can be on either side. Standard errors are those of all that is drawn
(U, q, probes) for these images.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
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
from benchmarks import digits
from benchmarks.plots import COLOURS
from benchmarks.problems import PROCESSES, gaussian_law, mixture_law
from benchmarks.work_precision import CACHE, OTHERS, OUT, Row, needed, save, write

ALONG = ("ve", "vp", "subvp")
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
BUDGETS = (10, 15, 20, 30, 40, 60, 80, 120)
ERRORS = (1e-2, 1e-3, 1e-4, 1e-5)
ADAPTIVE = ("adaptive_abm", "rk45", "scipy_rk45")
FIXED = "flow_abm_4"
PROBES = 16
LEVELS, PLACES, CELLS = 17, (-1.0, 1.0), (-17 / 16, 17 / 16)
UNIFORM = 1 / (8 * math.sqrt(12))
"""Standard deviation of the dequantisation: where the noise at t_min equals it, p is asked about what it knows."""
Line = dict[str, str | float | int]


def seeded(seed: int) -> torch.Generator:
    """Random numbers of the benchmark's own."""
    return torch.Generator().manual_seed(seed)


def laws() -> dict[str, ss.exact.Law]:
    """The laws whose log p is known."""
    return {"gaussian": gaussian_law(seeded(10)), "mixture": mixture_law()}


# -- error against work ----------------------------------------------------------------------------------------------


def precision(process: str, name: str, law: ss.exact.Law, count: int, quick: bool) -> Iterator[Row]:
    """Every solver, from rough to fine, on samples of the law at t_min."""
    sde = PROCESSES[process]()
    model, prior, t_min = law.model(sde), law.marginal(sde, sde.t_max), max(sde.t_min, sde.t_eps)
    truth, d = law.marginal(sde, t_min), math.prod(law.shape)
    x0 = truth.sample(count, generator=seeded(1))
    exact = truth.log_prob(x0)
    asked = [(solver, tolerance) for solver in ADAPTIVE for tolerance in TOLERANCES[:: 2 if quick else 1]]
    runs = [(solver, tolerance, {"rtol": tolerance, "atol": tolerance}) for solver, tolerance in asked]
    fixed = [(FIXED, math.nan, {"nfe": budget}) for budget in BUDGETS[:: 3 if quick else 1]]
    for solver, tolerance, amount in tqdm([*runs, *fixed], f"{process}, {name}", leave=False):
        found = ss.log_likelihood(model, x0, prior=prior, solver=solver, t_min=t_min, **amount)
        error = (found.log_prob - exact).abs() / d
        rmse, median = float(error.square().mean().sqrt()), float(error.median())
        work = float(found.nfe_per_sample.double().mean())
        yield Row(process, name, solver, tolerance, work, found.nfe, rmse, median)


def at_equal_error(rows: Sequence[Row]) -> list[Line]:
    """For each process, law and error in nats per dimension: the calls of every solver."""
    lines: list[Line] = []
    for process, problem in dict.fromkeys((row.process, row.problem) for row in rows):
        for error in ERRORS:
            line: Line = {"process": process, "law": problem, "nats/dim": f"{error:.0e}"}
            for solver in (*ADAPTIVE, FIXED):
                own = [row for row in rows if (row.process, row.problem, row.solver) == (process, problem, solver)]
                calls = needed(own, error)
                line[OTHERS.get(solver, solver)] = f"{calls:.0f}" if math.isfinite(calls) else "–"
            lines.append(line)
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """Error against calls: a column for each process, a row for each law."""
    processes, problems = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("process", "problem"))
    size = (4 * len(processes), 3.5 * len(problems) + 0.5)
    figure, axes = plt.subplots(
        len(problems), len(processes), figsize=size, squeeze=False, layout="constrained", sharex=True, sharey=True
    )
    for line, problem in enumerate(problems):
        for column, process in enumerate(processes):
            panel = axes[line][column]
            for number, solver in enumerate((*ADAPTIVE, FIXED)):
                own = [row for row in rows if (row.process, row.problem, row.solver) == (process, problem, solver)]
                style = {"color": "0.45", "linestyle": (":", "--")[number % 2], "marker": "s"}
                if solver not in OTHERS:
                    style = {"color": COLOURS[number % 2], "linestyle": "-", "marker": "o"}
                points = [row.work for row in own], [row.rmse for row in own]
                panel.plot(*points, **style, markersize=4, label=OTHERS.get(solver, solver))
            panel.set(xscale="log", yscale="log", title=f"{problem}, {process}")
            panel.grid(alpha=0.25)
        axes[line][0].set_ylabel("error of log p, nats per dimension")
    for panel in axes[-1]:
        panel.set_xlabel("network calls a sample took part in")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


# -- Hutchinson ------------------------------------------------------------------------------------------------------


def natural_images(side: int) -> ss.exact.Gaussian:
    """Colour images with the power spectrum 1/f^2 of natural ones: standard deviation 0.5, grey most of it."""

    def cosines(n: int) -> Tensor:  # orthonormal, one frequency a row
        place, frequency = torch.arange(n) + 0.5, torch.arange(n)[:, None]
        table = torch.cos(math.pi / n * frequency * place) * math.sqrt(2 / n)
        table[0] /= math.sqrt(2)
        return table.double()

    frequency = torch.arange(side, dtype=torch.float64)
    power = 1 / (1 + frequency[:, None] ** 2 + frequency**2)
    variances = torch.kron(torch.tensor([1.0, 0.1, 0.02], dtype=torch.float64), power.flatten())
    basis = torch.kron(cosines(3), torch.kron(cosines(side), cosines(side)))
    covariance = (basis.T * (0.25 * variances / variances.mean())) @ basis
    return ss.exact.Gaussian(torch.zeros(3, side, side), 0.5 * (covariance + covariance.T))


def probing(network: ss.ScoreModel, count: int, quick: bool) -> Iterator[Line]:
    """Estimates without and with a control, for laws along the process of the network, and for the network."""
    sde, data = network.sde, digits.images()
    images = natural_images(6 if quick else 16)
    for name, law, points in (
        ("Gaussian, spectrum of images", images, images.sample(4 * math.prod(images.shape), generator=seeded(2))),
        ("digits, empirical law", ss.exact.Empirical(data, UNIFORM), data),
        ("digits, trained network", None, data),
    ):
        few, tolerance = (count // 6, 1e-5) if law is images else (count, 1e-4)
        d, control = points[0].numel(), ss.exact.Gaussian.fit(points)
        if law is not None:
            truth, prior, asked = law.marginal(sde, sde.t_min), law.marginal(sde, sde.t_max), law.model(sde)
            x0 = truth.sample(few, generator=seeded(3))
            exact = truth.log_prob(x0)
        else:
            asked, prior = network, None
            x0 = sde.perturb(data[:: len(data) // few][:few], sde.t_min, generator=seeded(3))
            exact = ss.log_likelihood(asked, x0, rtol=tolerance, atol=tolerance).log_prob
        plain = math.nan
        for label, law_of_control in (("none", None), ("Gaussian", control)):
            found = ss.log_likelihood(
                asked, x0, divergence="hutchinson", probes=PROBES, control=law_of_control, prior=prior,
                rtol=tolerance, atol=tolerance, seed=4,
            )  # fmt: skip
            apart, error = found.log_prob - exact, found.standard_error
            z, single = apart / error, float(error.square().mean().sqrt()) * math.sqrt(PROBES) / (d * math.log(2))
            plain = single if law_of_control is None else plain
            yield {
                "model": f"{name}, {d}-D",
                "samples": len(x0),
                "probes": PROBES,
                "control": label,
                "z of the mean": f"{float(apart.sum() / error.square().sum().sqrt()):.1f}",
                "deviation of z": f"{float(z.std()):.2f}",
                "largest z": f"{float(z.abs().max()):.1f}",
                "one probe, bits/dim": f"{single:.4f}",
                "variance divided by": f"{(plain / single) ** 2:.2g}",
            }


# -- bits ------------------------------------------------------------------------------------------------------------


def measured(estimate: Callable[[], tuple[Tensor, Tensor, int, int]], d: int) -> Line:
    """Bits per dimension of (nats, standard errors, calls, backward passes), each tensor one number an image."""
    begin = time.perf_counter()
    nats, error, calls, passes = estimate()
    bit = d * math.log(2)
    bits, spread = float(nats.mean()) / bit, float(error.square().sum().sqrt()) / len(error) / bit
    seconds = f"{time.perf_counter() - begin:.1f}"
    return {"bits/dim": f"{bits:.4f}", "s.e.": f"{spread:.4f}", "calls": calls, "passes": passes, "seconds": seconds}


def over_repeats(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and its standard error of (repeats * count) values, one number an image."""
    table = values.reshape(-1, count)
    return table.mean(dim=0), table.std(dim=0) / math.sqrt(len(table))


def with_decoder(
    model: ss.ScoreModel, x0: Tensor, noise: Tensor, t_min: float, *, seed: int = 0, **asked: Any
) -> tuple[Tensor, ss.LogLikelihood]:
    """``log q(x|k) - log p(x) - log P(k|x)`` in nats, x the digits x0 with the noise of t_min; and the likelihood."""
    sde, d = model.sde, x0[0].numel()
    bound = ss.variational_bound(model, x0, points=1, t_min=t_min, seed=seed, levels=LEVELS, data_range=PLACES)
    found = ss.log_likelihood(model, sde.perturb(x0, t_min, noise=noise), t_min=t_min, seed=seed, **asked)
    forward = -0.5 * noise.square().flatten(1).sum(1) - d * math.log(sde.sigma(t_min) * math.sqrt(2 * math.pi))
    return forward - found.log_prob + bound.terms["decoder"], found


def bits(name: str, model: ss.ScoreModel, t_min: float, count: int, discrete: ss.ScoreModel | None) -> Iterator[Line]:
    """Every way to bits per dimension, on some of the digits."""
    sde, x0 = model.sde, digits.images()[:: 1797 // count][:count]
    d, control = x0[0].numel(), ss.exact.Gaussian.fit(digits.images())
    levels = {"levels": LEVELS, "data_range": PLACES}
    twice = torch.cat([x0, x0])
    uniform = ss.dequantise(((twice + 1) * 8).round().long(), LEVELS, CELLS, seed=5, dtype=torch.float64)
    uniform *= sde.alpha(t_min)
    offset = d * math.log(LEVELS / (CELLS[1] - CELLS[0]) / sde.alpha(t_min))
    noise = torch.randn(twice.shape, generator=seeded(6), dtype=torch.float64)
    asked = {"rtol": 1e-3, "atol": 1e-3, "t_min": t_min}  # far below the standard errors

    def dequantised(**divergence: object) -> tuple[Tensor, Tensor, int, int]:
        found = ss.log_likelihood(model, uniform, **asked, **divergence)  # type: ignore[arg-type]
        return *over_repeats(offset - found.log_prob, count), found.nfe, found.stats["backward_passes"]

    def decoded() -> tuple[Tensor, Tensor, int, int]:
        nats, found = with_decoder(model, twice, noise, t_min, rtol=1e-3, atol=1e-3)
        return *over_repeats(nats, count), found.nfe, found.stats["backward_passes"]

    def bound(of: ss.ScoreModel, **kind: object) -> tuple[Tensor, Tensor, int, int]:
        found = ss.variational_bound(of, x0, **levels, importance=0.5, **kind)  # type: ignore[arg-type]
        return found.nats, found.standard_error, found.nfe, 0

    ways: dict[str, Callable[[], tuple[Tensor, Tensor, int, int]]] = {
        "flow, dequantised, exact": dequantised,
        "flow, dequantised, 1 probe": lambda: dequantised(divergence="hutchinson"),
        "flow, dequantised, 1 probe, control": lambda: dequantised(divergence="hutchinson", control=control),
        "flow with a decoder, exact": decoded,
        "variational, continuous": lambda: bound(model, t_min=t_min, points=64, repeats=8),
    }
    if (table := discrete) is not None:
        ways["variational, DDPM's 1000 levels"] = lambda: bound(table, kind="discrete")
    for way, estimate in tqdm(ways.items(), f"bits, {name}", leave=False):
        yield {"model": name, "rho at t_min": f"{sde.rho(t_min):.3f}", "estimate": way} | measured(estimate, d)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all, write the CSVs and the figure, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples, few tolerances, a small network")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the trained network")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small tensors: more threads cost more than they bring
    rows = [
        row
        for process in ALONG
        for name, law in laws().items()
        for row in precision(process, name, law, 4 if quick else 16, quick)
    ]
    draw(rows, options.out / "likelihood.png")
    write([asdict(row) for row in rows], options.out / "likelihood.csv")
    report(at_equal_error(rows), options.out / "likelihood_at_equal_error.csv")
    trained = digits.model(digits.QUICK if quick else digits.Training(), torch.device("cpu"), options.cache, tqdm.write)
    sde, count = ss.VPSDE(), 16 if quick else 100
    network, law = trained.on(sde), ss.exact.Empirical(digits.images(), UNIFORM).model(sde)
    wide = sde.time(-math.log(UNIFORM))
    found = [
        *bits("trained network", network, sde.t_min, count, trained.on(ss.DiscreteVPSDE.linear())),
        *bits("trained network", network, wide, count, None),
        *bits("empirical law", law, wide, count // 3, None),
    ]
    report(found, options.out / "bits_per_dim.csv")
    report(list(probing(network, count, quick)), options.out / "hutchinson.csv")


def report(lines: Sequence[Line], path: Path) -> None:
    """Write and print a table."""
    write(lines, path)
    print("", *("  ".join(f"{key} {value}" for key, value in line.items()) for line in lines), sep="\n", flush=True)


if __name__ == "__main__":
    main()
