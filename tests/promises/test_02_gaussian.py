"""Promise 2: on Gaussian data mean, covariance, strong error and log-likelihood are those of closed forms.

Through the public interface, and without sampling: the exact network of Gaussian data is affine, so a solver maps start
and noise to ``x = A x_u + c + sum_k B_k z_k``. One run of ``ss.sample`` on a batch of basis vectors, with a source of
noise that is one unit vector a row, reads all of it off. What is measured then is exact; the bounds are of the solvers'
own errors at 32 steps (the order is promise 1).

With v a variance of the data, ``P_t = alpha_t^2 v + sigma_t^2`` and ``R_t = P_t / alpha_t^2``: the flow multiplies the
deviation from the mean by ``sqrt(P_t / P_u)``, the reverse SDE by ``Phi = (alpha_t / alpha_u) (R_t / R_u)``. Its noise
is white in the clock ``V = alpha^2 / sigma^2``, in which (from ``g^2 |dt| = sigma^4 / alpha^2 dV``)

    x_t = Phi x_u + int kappa dB(V),     kappa(V) = alpha_t R_t / (1 + v V).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from oracles import PROCESSES, TABLES, gaussian, interval
from strategies import SOLVERS, beyond, named, normal
from torch import Tensor

import scoresolve as ss
from benchmarks.order_errors import seeded
from benchmarks.order_paths import parts

LAW = gaussian()
STEPS = 32
BOUNDS = {1: 0.33, 2: 0.06, 3: 7e-3, 4: 3e-3, 5: 3e-5}
"""Of mean and covariance, by the declared order: the largest of all solvers, with a margin of a third at least."""
NOT_AFFINE = beyond("its steps depend on the state", *(info for info in SOLVERS if info.adaptive)) | beyond(
    "a chain with a law of its own, exact in test_correctors.py", "annealed_langevin"
)


class BasisNoise:
    """Draw k is the unit vector e_j in row ``first + k d + j``, zero elsewhere; the rows after those are given."""

    def __init__(self, first: int, draws: list[int], given: Tensor) -> None:
        self.first, self.number, self.given = first, {draw: k for k, draw in enumerate(draws)}, given

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The draw of a row of the table."""
        z, d, k = torch.zeros_like(like), like.shape[1], self.number[index]
        z[self.first + k * d : self.first + (k + 1) * d] = torch.eye(d, dtype=like.dtype)
        z[-1] = self.given[k]
        return z


@dataclass
class Affine:
    """``x = A x_u + c + sum_k B_k z_k``: (d, d), (d,) and (draws, d, d); table, the rows that it belongs to."""

    A: Tensor
    c: Tensor
    B: Tensor
    table: ss.Table


def affine(info: ss.SolverInfo, sde: ss.SDE, steps: int = STEPS) -> Affine:
    """The map of a solver, checked on one more row of any start and any noise: else it is none."""
    table = ss.build_table(info.name, sde, ss.grids.log_snr(sde, steps, *interval(sde)), **seeded(info))
    draws, d = [number for number, row in enumerate(table.rows) if row.draws], 3
    z, x = normal(len(draws), d, seed=1), normal(1, d, seed=2)
    start = torch.cat([torch.zeros(1, d), torch.eye(d), torch.zeros(len(draws) * d, d), x])
    found = ss.sample(LAW.model(sde), start=start, solver=table, noise=BasisNoise(1 + d, draws, z)).samples
    c, moved = found[0], found - found[0]
    A, B = moved[1 : 1 + d].T, moved[1 + d : -1].reshape(len(draws), d, d).mT
    expected = A @ x[0] + c + torch.einsum("kij,kj->i", B, z)
    assert torch.allclose(found[-1], expected, rtol=1e-11, atol=1e-11), "the map is not affine"
    return Affine(A, c, B, table)


def error_of_law(found: Affine, sde: ss.SDE) -> float:
    """Of mean and covariance at the end, relative to the exact law's, the start being the exact one."""
    begin, end = (LAW.marginal(sde, t) for t in (found.table.times[0], found.table.times[-1]))
    mean = found.A @ begin.mean + found.c
    covariance = found.A @ begin.covariance @ found.A.T + torch.einsum("kij,klj->il", found.B, found.B)
    of_mean = (mean - end.mean).norm() / end.covariance.diagonal().sum().sqrt()
    return float(of_mean + (covariance - end.covariance).norm() / end.covariance.norm())


@pytest.mark.property(1, beyond=NOT_AFFINE)
@pytest.mark.parametrize("info", TABLES, ids=named)
def test_mean_and_covariance(info: ss.SolverInfo) -> None:
    for name in ("vp", "flow"):
        error = error_of_law(affine(info, PROCESSES[name]), PROCESSES[name])
        assert error < BOUNDS[info.order], name


@pytest.mark.parametrize("info", [info for info in TABLES if info.kind == "ode"], ids=named)
def test_the_flow_map_itself(info: ss.SolverInfo) -> None:
    """``x_t - alpha_t m = U sqrt(P_t / P_u) U^T (x_u - alpha_u m)``, with the rotated covariance."""
    sde = PROCESSES["subvp"]
    found = affine(info, sde)
    u, t = found.table.times[0], found.table.times[-1]
    size = LAW.marginal(sde, t).covariance.norm().sqrt() / LAW.marginal(sde, u).covariance.norm().sqrt()
    exact = LAW.flow(sde, torch.cat([torch.zeros(1, 3), torch.eye(3)]).double(), u, t)
    assert float((found.A - (exact[1:] - exact[0]).T).norm() / size) < BOUNDS[info.order]
    assert float((found.c - exact[0]).norm()) < BOUNDS[info.order]


# -- strong error -----------------------------------------------------------------------------------------------------

ETA_ONE = [
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "seeds_1",
    "seeds_2",
    "seeds_3",
    "euler_maruyama",
    "sra1",
    "sosra",
]
STRONG = {1: 0.12, 1.5: 0.025}


def level(sde: ss.SDE, t: float) -> float:
    return float(sde.rho(t)) ** -2


def strong_error(found: Affine, sde: ss.SDE) -> float:
    """Root of ``E |x - exact|^2`` on one path, ``(A - Phi)^2 P_u + int (kappa - sum_k b_k phi_k)^2 dV``, in each
    eigen-direction, phi_k the orthonormal kernels of the draws; relative to the exact standard deviation."""
    u, t = found.table.times[0], found.table.times[-1]
    basis, total, exact = LAW.bases[0], 0.0, 0.0
    A, B = basis.T @ found.A @ basis, basis.T @ found.B @ basis
    for j, v in enumerate(LAW.variances[0].tolist()):
        R_u, R_t = (v + float(sde.rho(w)) ** 2 for w in (u, t))
        P_u, P_t = (sde.alpha(w) ** 2 * (v + sde.rho(w) ** 2) for w in (u, t))
        size = sde.alpha(t) * R_t  # kappa = size / (1 + v V)
        Phi, whole = sde.alpha(t) / sde.alpha(u) * R_t / R_u, (level(sde, u), level(sde, t))
        a, b = (1 + v * w for w in whole)
        total += (float(A[j, j]) - Phi) ** 2 * P_u + size**2 * (whole[1] - whole[0]) / (a * b)
        for number, part in enumerate(parts(found.table, sde).values()):
            low, high = math.exp(2 * part.a), math.exp(2 * part.b)
            weight, length = float(B[number, j, j]), high - low
            grown = torch.tensor(v * length / (1 + v * low), dtype=torch.float64).log1p().item()
            increment = size * grown / v / length**0.5
            area = 3**0.5 * size * ((high + 1 / v) * grown / v - length / v) / length**1.5
            inner = {"increment": increment, "area": area, "rest": 2 * increment - 3**0.5 * area}[part.kind]
            total += weight**2 - 2 * weight * inner
        exact += P_t
    return (max(total, 0.0) / exact) ** 0.5


@pytest.mark.parametrize("name", ETA_ONE)
def test_strong_error(name: str) -> None:
    """Against the solution of the reverse SDE on the same Brownian path, and falling as declared."""
    info, sde = ss.get_solver(name), PROCESSES["vp"]
    errors = [strong_error(affine(info, sde, steps), sde) for steps in (STEPS, 2 * STEPS)]
    assert info.strong_order is not None
    assert errors[0] < STRONG[info.strong_order]
    assert errors[1] < errors[0] * 2 ** -(info.strong_order - 0.2)


def test_noise_in_another_order_is_another_path() -> None:
    """The control of the test before: the law is the same, the path is not."""
    found = affine(ss.get_solver("sra1"), PROCESSES["vp"])
    turned = Affine(found.A, found.c, found.B.flip(0), found.table)
    assert error_of_law(turned, PROCESSES["vp"]) == pytest.approx(error_of_law(found, PROCESSES["vp"]))
    assert strong_error(turned, PROCESSES["vp"]) > 10 * strong_error(found, PROCESSES["vp"])


# -- log-likelihood ---------------------------------------------------------------------------------------------------

LIKELIHOOD = {1: 1.3, 2: 0.4, 3: 0.16, 4: 0.11, 5: 1e-4}
ADAPTIVE_DENSITIES = beyond("test_likelihood.py, test_augmented.py", *(i for i in SOLVERS if i.adaptive))


@pytest.mark.property(30, beyond=beyond("noise", *(i for i in SOLVERS if i.kind == "sde")) | ADAPTIVE_DENSITIES)
@pytest.mark.parametrize("info", [info for info in TABLES if info.kind == "ode"], ids=named)
def test_log_likelihood(info: ss.SolverInfo) -> None:
    """log N(x; alpha m, alpha^2 S + sigma^2) at t_min, the exact law at t_max being the prior; nats of 3 dimensions."""
    sde = PROCESSES["ve"]
    t_max, t_min = interval(sde)
    prior, exact = (LAW.marginal(sde, t) for t in (t_max, t_min))
    x0 = exact.mean + 0.5 * normal(2, 3)
    asked = {"solver": info.name, "grid": ss.grids.log_snr(sde, STEPS, t_max, t_min), **seeded(info)}
    found = ss.log_likelihood(LAW.model(sde), x0, prior=prior, **asked)
    assert float((found.log_prob - exact.log_prob(x0)).abs().max()) < LIKELIHOOD[info.order]
