"""One Brownian path a sample for the rows of tables: samples converge, in law as ever, whatever the batch."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresolve as ss
from scoresolve.brownian_path import ELEMENTS
from scoresolve.noise import SOLVER

VP = ss.VPSDE()
ENDS = VP.time(-3.0), VP.time(2.5)
MIXTURE = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.2]], [[0.09], [0.25]])
GAUSSIAN = ss.exact.Gaussian(torch.tensor([1.0], dtype=torch.float64), 0.09)
STEPS = (20, 40, 80, 160)


def samples(law: object, solver: str, steps: int, count: int = 1000, **options: object) -> Tensor:
    """Of the law, from one start, at a number of steps."""
    start = law.marginal(VP, ENDS[0]).sample(count, generator=torch.Generator().manual_seed(1))  # type: ignore[attr-defined]
    grid = ss.grids.log_snr(VP, steps, *ENDS)
    options = {"noise": ss.BrownianPath, "seed": 3, **options}
    return ss.sample(law.model(VP), start=start, solver=solver, grid=grid, **options).samples  # type: ignore[attr-defined,arg-type]


def orders(law: object, solver: str, **options: object) -> float:
    """The order at which the distance of samples at n and at 2n steps falls."""
    found = [samples(law, solver, steps, **options) for steps in STEPS]
    distances = [float((a - b).abs().mean()) for a, b in pairwise(found)]
    return math.log2(distances[0] / distances[-1]) / (len(distances) - 1)


@pytest.mark.parametrize("law", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("solver", ["euler_maruyama", "dpmpp_2m_sde", "dpmpp_sde", "er_sde_2", "sra1"])
def test_samples_converge_at_the_strong_order(law: object, solver: str) -> None:
    strong = ss.get_solver(solver).strong_order
    assert strong is not None
    assert strong - 0.3 < orders(law, solver) < strong + 0.6  # dpmpp_sde: 0.8 at these steps on any path, 1.0 at 640


def test_with_fresh_noise_they_do_not_converge() -> None:
    """The control."""
    assert orders(MIXTURE, "euler_maruyama", noise=None) < 0.2


def test_grids_that_are_not_nested_and_numbers_of_steps_far_apart_see_one_path() -> None:
    finest = samples(MIXTURE, "sra1", 1000, count=200)
    errors = [float((samples(MIXTURE, "sra1", n, count=200) - finest).abs().mean()) for n in (10, 33, 107)]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


def _normals(solver: str, steps: int, count: int = 4000, grid: str = "balanced") -> Tensor:
    table = ss.build_table(solver, VP, ss.grids.GRIDS[grid](VP, steps, 1.0, 1e-3))
    noise, like = ss.BrownianPath(7, range(count)).along(table, VP), torch.empty(count, 3, dtype=torch.float64)
    return torch.stack([noise.draw(SOLVER, k, like) for k, row in enumerate(table.rows) if row.draws])


def _white(z: Tensor) -> bool:
    """All covariances between draws within 5.5 standard errors of those of independent standard normals."""
    flat = z.flatten(1)
    error = flat @ flat.T / flat.shape[1] - torch.eye(len(flat), dtype=flat.dtype)
    scale = 1 + torch.eye(len(flat), dtype=flat.dtype)
    return bool((error.abs() < 5.5 * (scale / flat.shape[1]).sqrt()).all())


@pytest.mark.parametrize(("solver", "steps"), [("euler_maruyama", 37), ("sra1", 21), ("sosra", 3), ("ddpm", 1)])
def test_the_normals_of_a_grid_are_white(solver: str, steps: int) -> None:
    assert _white(_normals(solver, steps))


def test_the_test_of_whiteness_can_fail() -> None:
    z = _normals("euler_maruyama", 37)
    assert not _white(z + 0.1 * z.roll(1, dims=0))


def test_coarse_normals_are_made_up_of_fine_ones() -> None:
    """Exactly, where the times are nodes of the tree: weights are those of the clock e^{2 lam}."""

    def drawn(steps: int) -> tuple[Tensor, np.ndarray]:
        table = ss.build_table("dpmpp_2m_sde", VP, ss.grids.log_snr(VP, steps, *ENDS))
        noise, like = ss.BrownianPath(7, range(5)).along(table, VP), torch.empty(5, 3, dtype=torch.float64)
        lengths = np.diff(np.exp(2 * VP.lam(table.times)))
        return torch.stack([noise.draw(SOLVER, k, like) for k in range(steps)]), np.sqrt(lengths)

    (coarse, long), (fine, short) = drawn(4), drawn(16)
    total = (fine * torch.from_numpy(short)[:, None, None]).unflatten(0, (4, 4)).sum(1)
    torch.testing.assert_close(coarse * torch.from_numpy(long)[:, None, None], total, rtol=1e-6, atol=1e-9)


def test_the_law_is_that_of_fresh_noise() -> None:
    """Mean and variance at 20 steps against those that the table has in closed form, within 4.9 standard errors."""
    n, law = 20_000, GAUSSIAN
    table = ss.build_table("euler_maruyama", VP, ss.grids.log_snr(VP, 20, *ENDS))
    exact, out = ss.exact.push(table, law, VP), samples(law, "euler_maruyama", 20, count=n)
    variance = float(exact.covariance.squeeze())
    assert abs(float(out.mean() - exact.mean.squeeze())) < 4.9 * math.sqrt(variance / n)
    assert abs(float(out.var()) / variance - 1) < 4.9 * math.sqrt(2 / n)


def test_a_sample_does_not_depend_on_its_batch_nor_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GAUSSIAN.model(VP)
    options = {"solver": "sra1", "steps": 12, "seed": 4, "noise": ss.BrownianPath}
    batch = ss.sample(model, (6, 1), **options).samples  # type: ignore[arg-type]
    some = ss.sample(model, (2, 1), indices=[4, 1], **options).samples  # type: ignore[arg-type]
    assert torch.equal(some, batch[[4, 1]])
    monkeypatch.setattr("scoresolve.brownian_path.ELEMENTS", 24)  # two nodes at a time
    assert torch.equal(ss.sample(model, (6, 1), **options).samples, batch)  # type: ignore[arg-type]


def test_nodes_are_drawn_within_a_bound_however_many_the_steps() -> None:
    sizes: list[int] = []

    class Recorded(ss.SampleStreams):
        def draws(self, stream: int, indices: object, like: Tensor) -> Tensor:
            sizes.append(len(indices) * like.numel())  # type: ignore[arg-type]
            return super().draws(stream, indices, like)  # type: ignore[arg-type]

    table, like = ss.build_table("ddpm", VP, ss.grids.log_snr(VP, 200, 1.0, 1e-3)), torch.empty(2, 1000)
    path = ss.BrownianPath(0, range(2), streams=Recorded).along(table, VP)
    for number in range(200):
        path.draw(SOLVER, number, like)
    assert max(sizes) <= ELEMENTS / 2
    assert sum(sizes) < 2.2 * 200 * like.numel()  # two normals a step


def test_processes_without_signal_or_noise_at_the_ends_and_other_noise_levels() -> None:
    for sde, options in ((ss.RectifiedFlow(), {}), (VP, {"t_min": 0.0}), (ss.EDM(), {"eta": 0.3})):
        law = ss.exact.Gaussian(torch.zeros(1, dtype=torch.float64), 0.3)
        out = ss.sample(
            law.model(sde), (4, 1), solver="reverse_diffusion", steps=9, noise=ss.BrownianPath, seed=0, **options
        )
        assert torch.isfinite(out.samples).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "restart", "steps": 20}, "not that of steps along one path"),
        ({"solver": "edm_heun", "steps": 5}, "not that of steps along one path"),
        ({"solver": "adaptive_sde_sra"}, "for fixed tables without a corrector"),
        ({"solver": "ddpm", "steps": 5, "corrector": "langevin"}, "for fixed tables without a corrector"),
    ],
)
def test_noise_that_is_not_of_one_path_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ss.sample(GAUSSIAN.model(ss.EDM()), (2, 1), noise=ss.BrownianPath, **options)  # type: ignore[arg-type]


def test_a_path_that_was_not_told_the_steps_says_so() -> None:
    with pytest.raises(ValueError, match="before it is told the steps"):
        ss.BrownianPath(0, [0]).draw(SOLVER, 0, torch.empty(1, 1))
