"""Grids: exact ends, the spacing they claim, both kinds of infinite end, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, interval

import scoresolve as ss
from scoresolve.grids import GRIDS, make_grid, snap_to_indices

BELOW_T_MAX = {("leading", steps) for steps in range(1, 1001)} | {("linspace", 1)}
SAME_LEVELS = [
    "log_snr", "exponential", "poly_exponential", "karras", "balanced", "cosine", "flow_shift",
    "ays_sd15", "ays_sdxl", "ays_svd", "optimised",
]  # fmt: skip


def check(grid: str, sde: ss.SDE, steps: int, t_min: float) -> None:
    """The contract of every grid: its length, its ends, and that it falls."""
    times = make_grid(grid, sde, steps, sde.t_max, t_min)
    assert times.dtype == np.float64
    assert len(times) == steps + 1
    assert times[0] == sde.t_max or (times[0] < sde.t_max and (grid, steps) in BELOW_T_MAX)
    assert times[-1] == t_min
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_grid_on_every_process_has_exact_ends_and_decreases(grid: str, process: str) -> None:
    sde = PROCESSES[process]
    for steps in (1, 2, 3, 10, 101):
        for t_min in (0.0, sde.t_eps):
            check(grid, sde, steps, t_min)


@given(
    grid=st.sampled_from(sorted(GRIDS)),
    process=st.sampled_from(sorted(PROCESSES)),
    steps=st.integers(1, 999),
    to_zero=st.booleans(),
)
def test_any_number_of_steps(grid: str, process: str, steps: int, to_zero: bool) -> None:
    check(grid, PROCESSES[process], steps, 0.0 if to_zero else PROCESSES[process].t_eps)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_thousand_steps_fit_on_a_table_of_a_thousand(grid: str) -> None:
    check(grid, PROCESSES["ddpm_table"], 1000, 0.0)


@pytest.mark.parametrize("grid", SAME_LEVELS)
def test_a_grid_of_noise_levels_visits_the_same_ones_on_every_process(grid: str) -> None:
    on = {name: sde.lam(make_grid(grid, sde, 9, *interval(sde, -2.5, 2.5))) for name, sde in PROCESSES.items()}
    for name, lams in on.items():
        assert lams == pytest.approx(on["ve"], rel=1e-9, abs=1e-9), name


def test_a_grid_of_times_does_not() -> None:
    others = set(GRIDS) - set(SAME_LEVELS)
    assert others == {"uniform", "power", "quadratic", "beta", "leading", "linspace", "linspace_dpm", "trailing"}
    for grid in others:
        lams = [sde.lam(make_grid(grid, sde, 9, *interval(sde, -2.5, 2.5))) for sde in (ss.VESDE(), ss.VPSDE())]
        assert np.abs(lams[0] - lams[1]).max() > 0.1, grid


def test_spacings_are_the_ones_claimed() -> None:
    sde = ss.VPSDE()
    spaced = {
        "uniform": lambda t: t,
        "power": np.sqrt,
        "quadratic": np.sqrt,
        "beta": lambda t: scipy.stats.beta(0.6, 0.6).cdf((t - 1e-3) / (1 - 1e-3)),
        "log_snr": sde.lam,
        "exponential": lambda t: np.log(sde.rho(t)),
        "poly_exponential": sde.lam,
        "karras": lambda t: sde.rho(t) ** (1 / 7),
        "balanced": lambda t: np.log1p(sde.rho(t) ** 2) ** (1 / 6),
        "cosine": lambda t: np.arctan2(sde.sigma(t), sde.alpha(t)),
        "flow_shift": lambda t: sde.rho(t) / (3 + sde.rho(t)),
    }
    for name, clock in spaced.items():
        steps = np.diff(clock(make_grid(name, sde, 17, 1.0, 1e-3)))
        assert steps == pytest.approx(np.full(17, steps.mean()), rel=1e-9), name


def test_spacings_with_a_parameter_are_the_ones_claimed() -> None:
    sde = ss.VPSDE()
    lam = sde.lam(np.array([1.0, 1e-3]))
    spaced = {
        partial(ss.grids.power, power=3.0): np.cbrt,
        partial(ss.grids.beta, a=2.0, b=0.5): lambda t: scipy.stats.beta(2.0, 0.5).cdf((t - 1e-3) / (1 - 1e-3)),
        partial(ss.grids.poly_exponential, power=2.0): lambda t: ((sde.lam(t) - lam[1]) / (lam[0] - lam[1])) ** 0.5,
        partial(ss.grids.karras, power=3.0): lambda t: sde.rho(t) ** (1 / 3),
        partial(ss.grids.balanced, power=2.0): lambda t: np.log1p(sde.rho(t) ** 2) ** 0.5,
        partial(ss.grids.flow_shift, shift=0.5): lambda t: sde.rho(t) / (0.5 + sde.rho(t)),
    }
    for grid, clock in spaced.items():
        steps = np.diff(clock(make_grid(grid, sde, 17, 1.0, 1e-3)))
        assert steps == pytest.approx(np.full(17, steps.mean()), rel=1e-9), grid


def test_on_edm_the_grids_are_the_published_formulas() -> None:
    n, low, high = 18, 0.002, 80.0
    down = np.linspace(1, 0, n)
    published = {
        "karras": (high ** (1 / 7) + (1 - down) * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
        "exponential": np.exp(np.linspace(np.log(high), np.log(low), n)),
        "poly_exponential": np.exp(down * (np.log(high) - np.log(low)) + np.log(low)),
        "cosine": np.tan((1 - down) * np.arctan(low) + down * np.arctan(high)),
        "beta": low + (high - low) * scipy.stats.beta.ppf(1 - np.arange(n) / n, 0.6, 0.6),
    }
    for name, levels in published.items():
        times = make_grid(name, ss.EDM(), n, high, 0.0)
        assert times == pytest.approx(np.append(levels, 0.0), rel=1e-11), name
    curved = np.exp(down**0.5 * (np.log(high) - np.log(low)) + np.log(low))
    times = ss.grids.poly_exponential(ss.EDM(), n, high, 0.0, power=0.5)
    assert times == pytest.approx(np.append(curved, 0.0), rel=1e-11)


def test_the_beta_grid_of_a_table_is_that_of_the_web_interfaces() -> None:
    sde, n = ss.DiscreteVPSDE.linear(), 12
    indices = np.rint(scipy.stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * (sde.N - 1))
    assert np.rint(make_grid("beta", sde, n, 1.0, 0.0)[:-1] * sde.N - 1) == pytest.approx(indices)


def test_a_flow_is_shifted_once() -> None:
    sde, t = ss.RectifiedFlow(), np.linspace(1, 0, 29)
    times = make_grid("flow_shift", sde, 28, 1.0, 0.0)
    assert times == pytest.approx(3 * t / (1 + 2 * t), rel=1e-12)
    twice = 3 * times / (1 + 2 * times)
    assert np.abs(twice - times).max() > 0.1
    assert ss.grids.flow_shift(sde, 28, 1.0, 0.0, shift=9.0) == pytest.approx(twice, rel=1e-12)
    assert ss.grids.flow_shift(sde, 28, 1.0, 0.0, shift=1.0) == pytest.approx(t, rel=1e-12)
    rho = sde.rho(ss.grids.flow_shift(sde, 8, 0.9, 0.2, shift=5.0))  # inside the ends the steps are equal all the same
    assert np.diff(rho / (rho + 5.0), n=2) == pytest.approx(np.zeros(7), abs=1e-12)


def test_a_clock_that_is_infinite_at_an_end_jumps_to_it() -> None:
    sde = ss.RectifiedFlow()
    times = make_grid("log_snr", sde, 10, 1.0, 0.0)
    assert times[-2] == sde.t_eps
    inner = sde.lam(times[1:-1])
    assert inner == pytest.approx(np.linspace(-np.log(80.0), sde.lam(sde.t_eps), 10)[1:], rel=1e-9)
    assert make_grid("karras", sde, 1, 1.0, 0.0).tolist() == [1.0, 0.0]


def test_a_clock_that_is_finite_where_alpha_is_zero_starts_there() -> None:
    angles = np.arctan(ss.RectifiedFlow().rho(make_grid("cosine", ss.RectifiedFlow(), 10, 1.0, 0.0)[1:-1]))
    assert angles == pytest.approx(np.linspace(np.pi / 2, np.arctan(1e-3 / 0.999), 10)[1:], rel=1e-9)


def test_arrays_of_every_kind_are_taken_as_they_are() -> None:
    sde = ss.VPSDE()
    for given_times in ([1.0, 0.4, 0.1], (1.0, 0.4, 0.1), np.array([1.0, 0.4, 0.1]), torch.tensor([1.0, 0.4, 0.1])):
        for steps in (None, 2):
            assert make_grid(given_times, sde, steps, 1.0, 0.0) == pytest.approx([1.0, 0.4, 0.1])
    own = lambda sde, steps, t_max, t_min: np.geomspace(t_max, t_min, steps + 1)  # noqa: E731
    assert make_grid(own, sde, 3, 1.0, 1e-3) == pytest.approx([1.0, 0.1, 0.01, 0.001])
    inside = lambda sde, steps, t_max, t_min: np.linspace(0.9, 0.2, steps + 1)  # noqa: E731
    assert make_grid(inside, sde, 1, 1.0, 1e-3).tolist() == [0.9, 0.2]


@pytest.mark.parametrize(
    ("grid", "steps", "message"),
    [
        ([1.0, 0.5, 0.7], None, r"increases at 1: 0.5, 0.7"),
        ([1.0, 0.5, 0.5, 0.1], None, "repeats at 1"),
        ([0.1, 1.0], None, "increases"),
        ([1.5, 0.5], None, r"leaves \[t_min, t_max\]"),
        ([1.0, -0.5], None, "leaves"),
        ([1.0, float("nan"), 0.1], None, "finite times"),
        ([1.0], None, "at least two times"),
        ([[1.0, 0.5]], None, "at least two times, got shape"),
        ([1.0, 0.5, 0.1], 5, "2 steps, but steps=5"),
        ("karas", 5, "did you mean 'karras'"),
        ("uniform", 0, "at least one step"),
        ("uniform", None, "steps= or nfe="),
        (lambda sde, steps, a, b: np.array([a, b]), 5, "6 times from the grid"),
        (partial(ss.grids.power, power=0.0), 5, "power > 0"),
        (partial(ss.grids.poly_exponential, power=0.0), 5, "power > 0"),
        (partial(ss.grids.beta, a=0.0), 5, "a > 0"),
        (partial(ss.grids.beta, b=0.0), 5, "b > 0"),
        (partial(ss.grids.flow_shift, shift=0.0), 5, "shift > 0"),
    ],
)
def test_bad_grids_are_refused(grid: object, steps: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_grid(grid, ss.VPSDE(), steps, 1.0, 0.0)  # type: ignore[arg-type]


@given(steps=st.integers(1, 50), count=st.integers(50, 1000), power=st.floats(0.2, 8.0))
def test_snapped_times_are_distinct_indices_near_the_wanted_ones(steps: int, count: int, power: float) -> None:
    wanted = np.linspace(1.0, 0.0, steps + 1) ** power
    times = snap_to_indices(wanted, count)
    index = times * count
    assert index == pytest.approx(np.rint(index), abs=1e-9)
    assert (np.diff(index) < -0.5).all()
    assert times[0] <= 1.0
    assert times[-1] == 0.0
    apart = np.abs(np.diff(wanted)).min() * count > 1
    assert not apart or np.abs(times - wanted).max() <= 0.5 / count + 1e-12


def test_a_grid_by_name_is_made_once_and_given_away() -> None:
    """What a caller writes into it stays there; a process that cannot be hashed is no obstacle."""
    asked: list[int] = []

    class Counting(ss.VPSDE):
        def _time(self, lam: torch.Tensor) -> torch.Tensor:
            asked.append(len(lam))
            return super()._time(lam)

    class Unhashable(ss.VPSDE):
        __hash__ = None  # type: ignore[assignment]

    sde = Counting()
    first = ss.grids.make_grid("balanced", sde, 6, 1.0, 1e-3)
    first[2:5] = 0.0
    again = ss.grids.make_grid("balanced", sde, 6, 1.0, 1e-3)
    assert len(asked) == 1
    assert again.tolist() == ss.grids.make_grid("balanced", Unhashable(), 6, 1.0, 1e-3).tolist()
    assert again.tolist() == ss.grids.balanced(ss.VPSDE(), 6, 1.0, 1e-3).tolist()
    with pytest.raises(ValueError, match="at least one step"):
        ss.grids.make_grid("balanced", sde, 0, 1.0, 1e-3)


@pytest.mark.parametrize("t_min", [1.0, 1.5, -0.1])
def test_an_interval_without_length_is_refused(t_min: float) -> None:
    with pytest.raises(ValueError, match=rf"0 <= t_min < t_max, got t_min={t_min:g} and t_max=1"):
        make_grid("uniform", ss.VPSDE(), 4, 1.0, t_min)


def test_a_power_below_one_is_finer_towards_the_noise() -> None:
    """t = u^(1/2), u in equal steps."""
    assert ss.grids.power(ss.VPSDE(), 4, 1.0, 0.0, power=0.5) == pytest.approx(np.sqrt([1, 0.75, 0.5, 0.25, 0]))
