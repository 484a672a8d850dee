"""Grids: exact ends, the spacing they claim, both kinds of infinite end, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES

import scoresolve as ss
from scoresolve.grids import GRIDS, RHO_CAP, make_grid, snap_to_indices


@given(
    grid=st.sampled_from(sorted(GRIDS)),
    process=st.sampled_from(sorted(PROCESSES)),
    steps=st.integers(1, 400),
    to_zero=st.booleans(),
)
def test_every_grid_on_every_process_has_exact_ends_and_decreases(
    grid: str, process: str, steps: int, to_zero: bool
) -> None:
    sde = PROCESSES[process]
    t_min = 0.0 if to_zero else sde.t_eps
    times = make_grid(grid, sde, steps, sde.t_max, t_min)
    assert times.dtype == np.float64
    assert len(times) == steps + 1
    assert times[0] == sde.t_max
    assert times[-1] == t_min
    assert (np.diff(times) < 0).all()


def test_spacings_are_the_ones_claimed() -> None:
    sde = ss.VPSDE()
    spaced = {
        "uniform": lambda t: t,
        "quadratic": np.sqrt,
        "log_snr": sde.lam,
        "karras": lambda t: sde.rho(t) ** (1 / 7),
        "balanced": lambda t: np.log1p(sde.rho(t) ** 2) ** (1 / 6),
    }
    for name, clock in spaced.items():
        steps = np.diff(clock(make_grid(name, sde, 17, 1.0, 1e-3)))
        assert steps == pytest.approx(np.full(17, steps.mean()), rel=1e-9), name


def test_karras_on_edm_is_the_published_formula() -> None:
    n, i = 18, np.arange(18)
    published = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = make_grid("karras", ss.EDM(), n, 80.0, 0.0)
    assert times == pytest.approx(np.append(published, 0.0), rel=1e-12)


def test_a_clock_that_is_infinite_at_an_end_jumps_to_it() -> None:
    sde = ss.RectifiedFlow()
    times = make_grid("log_snr", sde, 10, 1.0, 0.0)
    assert times[-2] == sde.t_eps
    inner = sde.lam(times[1:-1])
    first = -np.log(RHO_CAP)
    assert inner == pytest.approx(np.linspace(first, sde.lam(sde.t_eps), 10)[1:], rel=1e-9)
    assert make_grid("karras", sde, 1, 1.0, 0.0).tolist() == [1.0, 0.0]


def test_arrays_of_every_kind_are_taken_as_they_are() -> None:
    sde = ss.VPSDE()
    for given_times in ([1.0, 0.4, 0.1], (1.0, 0.4, 0.1), np.array([1.0, 0.4, 0.1]), torch.tensor([1.0, 0.4, 0.1])):
        assert make_grid(given_times, sde, None, 1.0, 0.0) == pytest.approx([1.0, 0.4, 0.1])
    own = lambda sde, steps, t_max, t_min: np.geomspace(t_max, t_min, steps + 1)  # noqa: E731
    assert make_grid(own, sde, 3, 1.0, 1e-3) == pytest.approx([1.0, 0.1, 0.01, 0.001])


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
        ([[1.0, 0.5]], None, "vector"),
        ([1.0, 0.5, 0.1], 5, "2 steps, but steps=5"),
        ("karas", 5, "did you mean 'karras'"),
        ("uniform", 0, "at least one step"),
        ("uniform", None, "steps= or nfe="),
        (lambda sde, steps, a, b: np.array([a, b]), 5, "6 times from the grid"),
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
