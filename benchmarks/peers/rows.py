"""The cells of the peers, and their measurement: the same numbers, against the same truth, as for our own solvers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import scoresolve as ss

from .. import metrics
from ..measure import TOLERANCES, Cell, Row, probed_rmse, sampled_row, starts_of, timed
from ..problems import Problem
from . import Peer, Probe, TooFewCallsError

MOST_DRAWS = 4096


def cells(
    problem: Problem, peers: Sequence[Peer], budgets: Sequence[int], tolerances: Sequence[float] = TOLERANCES
) -> Iterator[tuple[Cell, Peer]]:
    """Every peer with every budget, or with every tolerance if it is adaptive."""
    for peer in peers:
        for size in tolerances if peer.adaptive else budgets:
            budget, tolerance = (None, size) if peer.adaptive else (int(size), None)
            yield Cell(problem.name, peer.solver, peer.kind, peer.grid, budget, tolerance, peer.library), peer


def measure(problem: Problem, cell: Cell, peer: Peer, seed: int) -> Row:
    """Run a cell. Whatever a peer raises becomes a row; nothing is raised."""
    try:
        if problem.gaussian is not None and not peer.adaptive:
            return _exact(problem, problem.gaussian, cell, peer, seed)
        starts = starts_of(problem, cell)
        run = timed(lambda: peer.run(problem, cell.budget, starts, seed, cell.tolerance), starts.device)
        (x, nfe), seconds = run
        return sampled_row(problem, cell, x, nfe, problem.model.t_min, seconds)
    except TooFewCallsError as error:
        return Row(cell, "left out", message=str(error))
    except Exception as error:
        return Row(cell, "failed", message=f"{type(error).__name__}: {error}")


def _exact(problem: Problem, law: ss.exact.Gaussian, cell: Cell, peer: Peer, seed: int) -> Row:
    """The law of the output on the Gaussian problem, without sampling, as for our own tables.

    A solver whose weights are numbers maps state and noise to the output by functions of the covariance. Along each of
    its principal axes, ``x_end = b + a x + sum_k c_k z_k``; the run on the axes gives a, and a row with only the k-th
    draw switched on, along the sum of all axes, gives every c_k.
    """
    sde, last = problem.model.sde, problem.model.t_min
    first = law.marginal(sde, problem.model.t_max)
    d, axes = len(first.mean), torch.linalg.eigh(first.covariance)[1]
    probes = torch.cat([first.mean[None], first.mean + torch.eye(d, dtype=torch.float64)])
    ends, nfe, seconds = _respond(problem, cell, peer, seed, probes, axes.sum(dim=1))
    matrix = (ends[1 : d + 1] - ends[0]).T
    output = matrix @ first.covariance @ matrix.T
    if cell.kind == "sde":
        responses = (ends[d + 1 :] - ends[0]) @ axes
        output = output + (axes * responses.square().sum(dim=0)) @ axes.T
    truth = law.marginal(sde, last)
    return Row(
        cell,
        nfe=nfe,
        rmse=probed_rmse(problem, probes, ends[: d + 1], last) if cell.kind == "ode" else None,
        w2=metrics.gaussian_wasserstein(ends[0], output, truth.mean, truth.covariance),
        std_error=metrics.std_error(output, truth.covariance),
        sampled=False,
        seconds=seconds,
    )


def _respond(
    problem: Problem, cell: Cell, peer: Peer, seed: int, probes: Tensor, direction: Tensor
) -> tuple[Tensor, int, float]:
    """The ends of the probes without noise and, below them, of the first probe with one draw each."""
    device, draws = problem.starts.device, 0 if cell.kind == "ode" else 2 * (cell.budget or 0) + 8
    while True:
        starts = torch.cat([probes, probes[:1].expand(draws, -1)]).to(device)
        noise = Probe(direction, len(probes)) if draws else None
        try:
            (ends, nfe), seconds = timed(
                lambda starts=starts, noise=noise: peer.run(problem, cell.budget, starts, seed, noise=noise),  # type: ignore[misc]
                device,
            )
            return ends.cpu(), nfe, seconds
        except IndexError:  # more draws than rows
            if noise is None or noise.count <= draws or draws >= MOST_DRAWS:
                raise
            draws *= 4
