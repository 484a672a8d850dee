"""Parallel in time: the table's own results, in fewer calls one after the other, for every table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import PROCESSES, TABLES, gaussian, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve.anderson import RIDGE, Anderson

SDE = ss.VPSDE()


def both(model: ss.ScoreModel, picard: ss.Picard, **asked: Any) -> tuple[ss.Solution, ss.Solution, float]:
    """The run one call after the other, the parallel one, and their largest difference."""
    asked = {"shape": (4, 2), "seed": 1, "dtype": torch.float64, **asked}
    plain, parallel = ss.sample(model, **asked), ss.sample(model, **asked, parallel=picard)
    assert parallel.nfe <= plain.nfe
    return plain, parallel, float((parallel.samples - plain.samples).abs().max())


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_without_tolerance_it_is_the_table_and_with_one_it_is_near(info: ss.SolverInfo) -> None:
    """On a mixture (n sweeps at most), and on a Gaussian within the multiple of the tolerance that the docs state."""
    model = mixture_2d().model(SDE)
    for picard in (ss.Picard(tolerance=0.0), ss.Picard(window=4, tolerance=0.0, anderson=2)):
        plain, parallel, error = both(model, picard, solver=info.name, nfe=13)
        assert error < 1e-12 * float(plain.samples.abs().max() + 10)
        assert parallel.table == plain.table
    for anderson in (0, 1):
        near = ss.Picard(tolerance=1e-3, anderson=anderson)
        assert both(gaussian(d=2).model(SDE), near, solver=info.name, nfe=30)[2] < 5e-3


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "unipc_3", "restart", "sra1"])
def test_every_path_to_noise_zero(name: str, solver: str) -> None:
    """Where there is no signal at first, those rows ask for another prediction than the rest."""
    model = mixture_2d().model(PROCESSES[name])
    plain, parallel, error = both(model, ss.Picard(tolerance=0.0), solver=solver, nfe=12, t_min=0.0)
    assert error < 1e-11
    assert parallel.times.tolist() == plain.times.tolist()


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "ddpm"])
def test_few_sweeps_do_for_many_steps(solver: str) -> None:
    law = gaussian(d=8)
    for anderson, most in ((0, 25), (1, 22)):
        picard = ss.Picard(tolerance=1e-3, anderson=anderson)
        _, parallel, error = both(law.model(SDE), picard, shape=(4, 8), solver=solver, nfe=100)
        assert parallel.nfe == parallel.stats["depth"] == parallel.nfe_per_sample.max() < most
        assert parallel.stats["evaluations"].sum() == parallel.stats["network_rows"]
        assert error < 3e-3


def test_anderson_saves_evaluations() -> None:
    asked = {"shape": (16, 8), "solver": "dpmpp_2m", "nfe": 100, "seed": 1, "dtype": torch.float64}
    rows = [
        ss.sample(gaussian(d=8).model(SDE), **asked, parallel=ss.Picard(None, 1e-4, m)).stats["network_rows"]  # type: ignore[arg-type]
        for m in (0, 1)
    ]
    assert rows[1] < 0.95 * rows[0]


def test_anderson_is_triangular_damped_least_squares() -> None:
    """Against the normal equations of each row by itself, over the rows up to it that were asked in all sweeps."""
    generator = torch.Generator().manual_seed(0)
    sweeps = torch.randn(3, 2, 4, 1, 6, dtype=torch.float64, generator=generator)  # sweep, (image, residual), row
    sigma = torch.tensor([1.0, 0.5, 0.25, 2.0], dtype=torch.float64)
    asked, acceleration = torch.ones(4, 1, dtype=torch.bool).numpy(), Anderson(2)
    for image, residual in sweeps:
        found = acceleration.improved(0, list(image), list(residual), sigma, asked, asked)
    images, residuals = sweeps[:, 0, :, 0], sweeps[:, 1, :, 0] / sigma[:, None]
    for r in range(4):
        turned = torch.stack([(residuals[k] - residuals[k - 1])[: r + 1].flatten() for k in (2, 1)])
        matrix = turned @ turned.T
        matrix += RIDGE * matrix.trace() * torch.eye(2, dtype=torch.float64)
        gamma = torch.linalg.solve(matrix, turned @ residuals[2][: r + 1].flatten())
        expected = images[2, r] - gamma @ torch.stack([images[k, r] - images[k - 1, r] for k in (2, 1)])
        assert torch.allclose(found[r][0], expected, atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch_and_rows_of_conditioning_follow() -> None:
    """To the last bit: fronts and windows are each sample's own; guidance and a classifier with a row a sample."""
    labels = torch.tensor([0.3, -0.5, 2.0, 0.0], dtype=torch.float64)

    def conditioned(rows: Tensor) -> ss.ScoreModel:
        net = lambda x, t, y: torch.tanh(3 * (x - y[:, None])) * (1 + t[:, None])  # noqa: E731
        model = ss.ScoreModel(net, SDE, predicts="v").condition(y=labels[rows]).guide(1.5, y=torch.zeros(1))
        return ss.classifier_guidance(model, lambda x, t, y: -0.1 * (x - y[:, None]).square().sum(1), y=labels[rows])

    for window, anderson in ((None, 0), (5, 0), (5, 1)):
        asked = {"solver": "dpmpp_2m_sde", "nfe": 20, "seed": 2, "dtype": torch.float64}
        asked["parallel"] = ss.Picard(window, 1e-2, anderson)
        whole = ss.sample(conditioned(torch.arange(4)), shape=(4, 2), **asked)  # type: ignore[arg-type]
        assert len(set(whole.nfe_per_sample.tolist())) > 1  # they do go different ways
        for i in range(4):
            alone = ss.sample(conditioned(torch.tensor([i])), shape=(1, 2), indices=[i], **asked)  # type: ignore[arg-type]
            assert torch.equal(alone.samples[0], whole.samples[i])
            assert alone.nfe == whole.nfe_per_sample[i]
            assert alone.stats["evaluations"][0] == whole.stats["evaluations"][i]


def test_the_window_bounds_what_the_network_sees() -> None:
    seen: list[int] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(len(x))
        return -torch.tanh(x)

    ss.sample(ss.ScoreModel(net, SDE), (3, 2), solver="ddim", nfe=40, seed=0, parallel=ss.Picard(window=6))
    assert max(seen) == 18
    assert seen[0] == 3  # nothing is known before the first answer


def test_trajectory_callback_and_denoising() -> None:
    model, steps = mixture_2d().model(SDE), list[ss.Step]()
    more: dict[str, Any] = {"solver": "heun", "steps": 8, "trajectory": True, "denoise": True, "callback": steps.append}
    plain, parallel, error = both(model, ss.Picard(window=5, tolerance=0.0), **more)
    assert error < 1e-12
    assert plain.trajectory is not None
    assert parallel.trajectory is not None
    assert torch.allclose(parallel.trajectory, plain.trajectory, atol=1e-12)
    assert [step.index for step in steps] == 2 * list(range(1, 9))
    assert parallel.nfe == parallel.stats["depth"] + 1 == parallel.nfe_per_sample.max()
    with pytest.raises(ValueError, match="a callback cannot change the state of a run that is parallel in time"):
        ss.sample(model, (2, 2), nfe=4, solver="ddim", parallel=ss.Picard(), callback=lambda step: step.x + 1)


def test_samples_that_fail_are_told_apart() -> None:

    def net(x: Tensor, t: Tensor) -> Tensor:
        slow = -5 * torch.tanh(5 * x)
        return torch.where(x[:, :1] > 1e3, torch.where(t[:, None] < 0.5, torch.nan, -x), slow)

    start = torch.tensor([[1.0, -0.3], [1e6, 0.0]], dtype=torch.float64)
    asked = {"start": start, "solver": "ddim", "steps": 20, "grid": "uniform"}
    model = ss.ScoreModel(net, SDE)
    plain = ss.sample(model, **asked, on_error="mask")  # type: ignore[arg-type]
    for window in (None, 4):  # the one that fails is ahead of the other
        masked = ss.sample(model, **asked, parallel=ss.Picard(window), on_error="mask")  # type: ignore[arg-type]
        assert masked.ok.tolist() == plain.ok.tolist() == [True, False]
        assert masked.failures[0].time == plain.failures[0].time
        assert masked.nfe_per_sample[1] < masked.nfe_per_sample[0]
        assert torch.allclose(masked.samples[0], plain.samples[0], atol=1e-2)
    with pytest.raises(ss.NonFiniteError, match="sample 1: nonfinite"):
        ss.sample(model, **asked, parallel=ss.Picard())  # type: ignore[arg-type]


def test_only_answers_at_the_tables_own_points_count() -> None:
    """A network that answers on the path and nowhere else: guesses are lost, a sweep gains a row, and nothing fails."""
    path: dict[float, Tensor] = {}

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        path[round(float(t[0]), 9)] = x.clone()
        return -torch.tanh(x)

    def narrow(x: Tensor, t: Tensor) -> Tensor:
        own = torch.stack([path[round(float(each), 9)][0] for each in t])
        return torch.where((x - own).abs() < 1e-9, -torch.tanh(x), torch.nan)

    asked: dict[str, Any] = {"shape": (1, 2), "solver": "dpmpp_2m", "nfe": 9, "seed": 0, "dtype": torch.float64}
    plain = ss.sample(ss.ScoreModel(recorded, SDE), **asked)
    for anderson in (0, 2):
        found = ss.sample(ss.ScoreModel(narrow, SDE), **asked, parallel=ss.Picard(None, 1e-3, anderson))
        assert torch.allclose(found.samples, plain.samples, atol=1e-12)
        assert found.nfe == 9


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"solver": "ddpm", "nfe": 9, "corrector": "langevin"}, "steps that depend on the state"),
        ({"rtol": 0.1}, "steps that depend on the state"),
        ({"solver": "annealed_langevin", "nfe": 9}, "steps that depend on the state"),
        ({"nfe": 9, "grad": True}, "grad=True without parallel="),
        ({"solver": "heun", "nfe": 9, "log_prob": "exact"}, "log_prob= without parallel="),
        ({"nfe": 9, "parallel": True}, r"parallel must be an ss.Picard\(\), got bool"),
    ],
)
def test_what_cannot_be_is_refused_before_the_network_is_called(asked: dict[str, Any], message: str) -> None:
    model = mixture_2d().model(SDE)
    with pytest.raises((ValueError, TypeError), match=message):
        ss.sample(model, (2, 2), **{"parallel": ss.Picard(), **asked})
    assert model.nfe == 0


@pytest.mark.parametrize("bad", [{"window": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}, {"anderson": -1}])
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ss.Picard(**bad)
