"""DPM-Solver-v3: what its statistics are on laws that are known, and what they buy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import scoresolve as ss

VP = ss.VPSDE()
ROUND = ss.exact.Gaussian(torch.tensor([1.5, -0.5, 0.0]), 0.3)
LONG = ss.exact.Gaussian(torch.tensor([1.0, -0.5]), torch.tensor([[0.5, 0.2], [0.2, 0.3]]))
PROCESSES = [VP, ss.EDM(), ss.RectifiedFlow(), ss.VESDE()]


def statistics_of(law: ss.exact.Gaussian, sde: ss.SDE, n: int = 512) -> ss.ModelStatistics:
    return ss.model_statistics(law.model(sde), law.sample(n, generator=torch.Generator().manual_seed(0)))


def pushed(law: ss.exact.Gaussian, steps: int, **options: object) -> float:
    """Error of mean and covariance on a VP process between two finite noise levels."""
    table = ss.build_table("dpm_solver_v3", VP, ss.grids.log_snr(VP, steps, 0.9, 0.01), **options)
    out, exact = ss.exact.push(table, law, VP), law.marginal(VP, 0.01)
    return float((out.covariance - exact.covariance).abs().max() + (out.mean - exact.mean).abs().max())


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_the_statistics_of_an_isotropic_gaussian_are_those_of_the_formula(sde: ss.SDE) -> None:
    found = statistics_of(ROUND, sde, n=64)
    noise = np.exp(-2 * np.array(found.lam))
    linear = noise / (0.3 + noise)
    np.testing.assert_allclose(found.linear, linear, atol=1e-5)
    growth = -2 * (1 - linear)  # l'/l
    np.testing.assert_allclose(found.growth[2:-2], growth[2:-2], atol=2e-3)
    np.testing.assert_allclose(found.growth, growth, atol=0.06)  # a spline's derivative is worst at its ends


def test_the_statistics_of_a_gaussian_average_its_directions() -> None:
    found = statistics_of(LONG, VP, n=2048)
    noise = np.exp(-2 * np.array(found.lam))
    variances = LONG.variances[0].numpy()
    linear = (noise[:, None] / (variances + noise[:, None])).mean(axis=1)
    np.testing.assert_allclose(found.linear, linear, atol=0.01)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_one_call_is_exact_on_an_isotropic_gaussian(sde: ss.SDE) -> None:
    statistics = statistics_of(ROUND, sde, n=64)
    low, high = (float(sde.time(lam)) for lam in (4.0, -3.5))
    x = ROUND.marginal(sde, high).sample(16, generator=torch.Generator().manual_seed(1))
    truth = ROUND.flow(sde, x, high, low)

    def error(**options: object) -> float:
        run = ss.sample(ROUND.model(sde), start=x, solver="dpm_solver_v3", nfe=1, t_max=high, t_min=low, **options)
        return float((run.samples - truth).abs().max())

    assert error(statistics=statistics) < 1e-3 * error()


@pytest.mark.parametrize(("outputs", "unic", "order"), [(1, False, 1), (2, False, 2), (2, True, 3), (3, True, 4)])
@pytest.mark.parametrize("own", [False, True])
def test_the_order_is_kept_with_statistics(own: bool, outputs: int, unic: bool, order: int) -> None:
    options = {"statistics": statistics_of(LONG, VP) if own else None, "outputs": outputs, "unic": unic}
    few, many = (pushed(LONG, steps, **options) for steps in (32, 256))
    assert math.log2(few / many) / 3 > order - 0.3


def test_statistics_bring_the_error_down() -> None:
    assert pushed(LONG, 16, statistics=statistics_of(LONG, VP)) < 0.1 * pushed(LONG, 16)


def test_without_statistics_it_is_exact_unipc() -> None:
    times = ss.grids.balanced(VP, 7, 1.0, 1e-3)
    ours = ss.build_table("dpm_solver_v3", VP, times)
    theirs = ss.build_table("unipc_2", VP, times, variant="exact")
    for row, other in zip(ours.rows, theirs.rows, strict=True):
        np.testing.assert_allclose(row.commit, other.commit, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("outputs", "unic"), [(2, False), (2, True), (3, True)])
def test_it_is_exact_where_the_rest_grows_as_its_statistic_says(outputs: int, unic: bool) -> None:
    """f = e^S times a polynomial through the nodes at hand: one output predicts the first step, two correct it.

    Then ``e^L y`` at the end is that at the start minus the integral of e^L f, by adaptive quadrature.
    """
    statistics = ss.ModelStatistics((-3.0, -1.0, 1.0, 2.5), (0.9, 0.6, 0.3, 0.1), (0.5, -0.3, -0.8, -1.2))
    times = np.asarray(VP.time(np.array([-4.0, -2.4, -1.5, 0.1, 0.8, 2.0, 3.5])))  # beyond the statistics too

    def rest(lam: float) -> float:
        return math.exp(statistics.integrals(np.array(lam))[1]) * (0.7 - 0.4 * lam * unic)

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        lam = float(VP.lam(t[0].item()))
        return (1 - float(statistics.l(np.array(lam)))) * x / VP.alpha(t[0].item()) - rest(lam)

    model = ss.ScoreModel(net, VP, predicts="data")
    start = torch.tensor([[0.4], [-1.1]], dtype=torch.float64)
    table = ss.build_table("dpm_solver_v3", VP, times, statistics=statistics, outputs=outputs, unic=unic)
    found = ss.sample(model, start=start, solver=table).samples
    whole = lambda lam: math.exp(statistics.integrals(np.array(lam))[0])  # noqa: E731
    first, last = (float(VP.lam(t)) for t in times[[0, -1]])
    added = quad(lambda lam: whole(lam) * rest(lam), first, last, epsabs=1e-12, epsrel=1e-12, limit=200)[0]
    exact = VP.alpha(times[-1]) * (whole(first) * start / VP.alpha(times[0]) - added) / whole(last)
    assert torch.allclose(found, exact, rtol=1e-8, atol=1e-8)


def test_where_lam_is_infinite_its_steps_are_ddims() -> None:
    flow, times = ss.RectifiedFlow(), np.array([1.0, 0.7, 0.3, 0.0])
    for found, ddim in zip(
        *(ss.build_table(name, flow, times).rows for name in ("dpm_solver_v3", "ddim")), strict=True
    ):
        if found.t == 1.0 or found.s == 0.0:
            np.testing.assert_allclose(found.commit[:2], ddim.commit, atol=1e-12)
            assert not np.any(found.commit[2:])


def test_tables_and_statistics_are_json() -> None:
    statistics = statistics_of(ROUND, VP, n=32)
    table = ss.build_table("dpm_solver_v3", VP, ss.grids.balanced(VP, 4, 1.0, 1e-3), statistics=statistics)
    assert ss.Table.from_json(table.to_json()) == table
    assert ss.ModelStatistics.from_json(statistics.to_json()) == statistics
    assert table.options["statistics"] == statistics.summary != statistics_of(LONG, VP, n=32).summary


def test_chunks_and_refusals() -> None:
    data = LONG.sample(40, generator=torch.Generator().manual_seed(0))
    whole = ss.model_statistics(LONG.model(VP), data, places=9)
    parts = ss.model_statistics(LONG.model(VP), data, places=9, batch_size=16)
    np.testing.assert_allclose(parts.linear, whole.linear, rtol=1e-9)
    np.testing.assert_allclose(parts.growth, whole.growth, rtol=1e-7, atol=1e-12)
    with pytest.raises(ValueError, match=r"statistics=ss\.model_statistics\(model, data\), got dict"):
        ss.build_table("dpm_solver_v3", VP, np.array([1.0, 0.1]), statistics={"lam": [0, 1]})
    with pytest.raises(ValueError, match="places lam that rise"):
        ss.ModelStatistics((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    betas = ss.DiscreteVPSDE.linear()
    rounded = ss.ScoreModel(lambda x, t: x, betas, predicts="noise", time="index")
    with pytest.raises(ValueError, match="fractional_index"):
        ss.model_statistics(rounded, data)
