"""The figures about SDE solvers: the estimators against known answers, and what the solvers give in one dimension."""

from __future__ import annotations

import csv
import math

import pytest
import torch

import scoresolve as ss
from benchmarks import one_dimension, order_errors, orders, stochastic, stochastic_plots
from benchmarks.stochastic import Plan, Row

LAW, SDE_ = order_errors.mixture(), ss.VPSDE()
LAST = LAW.marginal(SDE_, SDE_.t_min)
TINY = Plan((5, 10), samples=256, independent=512, steps=(8, 16, 32, 64), finest=128, paths=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cdf(law: one_dimension.Law, x: torch.Tensor) -> torch.Tensor:
    z = (x[:, None] - law.means[:, 0]) / law.variances[:, 0].sqrt()
    return (law.weights * torch.special.ndtr(z)).sum(dim=1)


# -- what is exact ----------------------------------------------------------------------------------------------------


def test_the_network_is_that_of_the_law() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    for t in (1.0, 0.3, 1e-3):
        fast, exact = (model.data(x, t) for model in (one_dimension.network(LAW, SDE_), LAW.model(SDE_)))
        assert torch.allclose(fast, exact, rtol=0, atol=1e-12)


def test_quantiles_undo_the_distribution_function() -> None:
    levels = one_dimension.centred(1000)
    assert torch.allclose(cdf(LAST, one_dimension.quantiles(LAST, levels)), levels, rtol=0, atol=1e-12)


# -- the estimators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
def test_the_distance_of_a_shifted_law_is_the_shift(power: int) -> None:
    exact = one_dimension.quantiles(LAST, one_dimension.centred(4096))
    shuffled = exact[torch.randperm(4096, generator=generator())]
    assert one_dimension.wasserstein(shuffled + 0.25, exact, power) == pytest.approx(0.25, abs=1e-12)
    assert one_dimension.wasserstein(shuffled, exact, power) == 0


def test_the_distance_of_two_gaussians_is_the_closed_form() -> None:
    one, two = (ss.exact.GaussianMixture([1.0], [[m]], [[v]]) for m, v in ((0.0, 1.0), (0.3, 0.25)))
    x, exact = (one_dimension.quantiles(law, one_dimension.centred(2**14)) for law in (one, two))
    assert one_dimension.wasserstein(x, exact, 2) == pytest.approx(math.hypot(0.3, 0.5), rel=1e-3)


def test_exact_samples_give_the_floor_of_the_central_limit_theorem() -> None:
    """sqrt(n) W1 tends to the integral of |Brownian bridge at F|, of mean sqrt(2/pi) int sqrt(F (1 - F))."""
    n = 4096
    x = torch.linspace(-4, 5, 20_001, dtype=torch.float64)
    below = cdf(LAST, x)
    expected = math.sqrt(2 / math.pi / n) * float(torch.trapezoid((below * (1 - below)).clamp_min(0).sqrt(), x))
    assert one_dimension.floor(LAST, n, sets=200) == pytest.approx(expected, rel=0.1)


def test_the_share_of_exact_samples_is_the_weight_and_a_biased_set_is_flagged() -> None:
    n = 2**15
    for weight, fine in ((0.7, True), (0.6, False), (0.69, False)):
        law = ss.exact.GaussianMixture([weight, 1 - weight], LAST.means, LAST.variances)
        share, error = one_dimension.mode_share(LAST, law.sample(n, generator=generator()))
        assert error == pytest.approx(math.sqrt(0.21 / n), rel=0.1)
        # judged by the law of weight 0.7 a sample between the modes is given to the wrong one a little more often
        assert share == pytest.approx(weight, abs=3 * error + 0.01 * (0.7 - weight) / 0.1)
        assert Row("share", "", value=share, noise=error).within() == fine


def test_stratified_normals_are_independent_and_normal_for_each_sample() -> None:
    """Over many draws; a sample's place among the others must not tell its normal."""
    n, draws = 64, 4000
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[torch.randperm(n, generator=generator())][:, None]
    source = one_dimension.Stratified(0)
    z = torch.stack([source.draw(1, k, x)[:, 0] for k in range(draws)])
    assert float(z.mean(dim=0).abs().max()) < 4.5 / math.sqrt(draws)
    assert float((z.var(dim=0) - 1).abs().max()) < 4.5 * math.sqrt(2 / draws)
    assert float((z[1:] * z[:-1]).mean(dim=0).abs().max()) < 4.5 / math.sqrt(draws)
    assert float((z.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.002)
    ordered = z[0][x[:, 0].argsort()].reshape(8, 8).sort(dim=1).values  # one in each eighth, in each block of eight
    edges = torch.special.ndtri(torch.arange(1, 8, dtype=torch.float64) / 8)
    assert bool((torch.bucketize(ordered, edges) == torch.arange(8)).all())


def test_the_measured_distance_is_that_of_the_law_in_closed_form() -> None:
    """On one Gaussian the law of the output is known without sampling."""
    law = ss.exact.GaussianMixture([1.0], [[0.5]], [[0.2]])
    info = ss.get_solver("ddpm")
    _, w2, noise, calls = stochastic.distance(info, 20, law, SDE_, 2**12, 2, seed=0)
    times = ss.grids.GRIDS[info.grid](SDE_, 20, SDE_.t_max, SDE_.t_min)
    gaussian = ss.exact.Gaussian(torch.tensor([0.5]), torch.tensor([0.2]))
    out, truth = ss.exact.push(ss.build_table("ddpm", SDE_, times), gaussian, SDE_), law.marginal(SDE_, SDE_.t_min)
    widths = float(out.covariance[0, 0].sqrt() - truth.variances[0, 0].sqrt())
    assert calls == 20
    assert w2 == pytest.approx(math.hypot(float(out.mean[0] - truth.means[0, 0]), widths), abs=2 * noise + 5e-4)
    assert noise < 0.2 * one_dimension.floor(truth, 2**12)


# -- the solvers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpmpp_3m_sde", "er_sde_3", "dpmpp_2s_ancestral"])
def test_the_mode_weights_are_right_at_many_calls(name: str) -> None:
    share, error, calls = stochastic.share(ss.get_solver(name), 200, LAW, SDE_, 2**16, seed=0)
    assert calls == 200
    assert error < 0.002
    assert abs(share - 0.7) < 3.5 * error


def test_the_distance_falls_below_that_of_exact_samples() -> None:
    n = 2**13
    errors = [stochastic.distance(ss.get_solver("er_sde_2"), nfe, LAW, SDE_, n, 1, seed=0)[0] for nfe in (5, 20, 100)]
    assert errors[2] < 0.5 * one_dimension.floor(LAST, n)
    assert 3 * errors[2] < errors[1] < 0.2 * errors[0]


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(stochastic.measure(TINY, progress=False))


def test_every_sde_solver_is_measured(rows: list[Row], tmp_path) -> None:
    stochastic.write(rows, tmp_path / "stochastic.csv")
    with (tmp_path / "stochastic.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    expected = {info.name for info in ss.solvers() if info.kind == "sde" and not info.adaptive}
    for quantity in ("w1", "share"):
        cells = [(r["solver"], int(r["budget"])) for r in read if r["quantity"] == quantity]
        assert len(cells) == len(set(cells))
        assert {name for name, _ in cells} == expected
        assert {budget for _, budget in cells} == set(TINY.budgets)
        assert all(r["value"] and r["noise"] for r in read if r["quantity"] == quantity)
    strong = {info.name for info in ss.solvers() if info.strong_order and not info.adaptive}
    assert {r["solver"] for r in read if r["quantity"] == "strong"} == strong
    assert {r["family"] for r in read if r["solver"] in expected} == set(stochastic.FAMILIES.values())
    assert all(int(r["nfe"]) <= int(r["budget"]) for r in read if r["nfe"])


def test_the_figures_and_the_summary_are_made(rows: list[Row], tmp_path) -> None:
    stochastic_plots.draw(rows, tmp_path)
    for name in ("error", "strong", "modes"):
        picture = (tmp_path / f"sde_{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert 10_000 < len(picture) < 150_000
    said = stochastic.summary([*rows, Row("share", "biased", nfe=50, value=0.6, noise=0.0013)])
    assert "50 (0.600)" in said


def test_the_published_numbers_are_of_every_solver() -> None:
    with (orders.OUT.parent / "stochastic.csv").open(newline="") as file:
        published = {row["solver"] for row in csv.DictReader(file) if row["quantity"] == "share"}
    assert published == {info.name for info in stochastic.stochastic_solvers()}
