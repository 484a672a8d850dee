"""The optimised grid: its bound against the quadrature of the solvers, and that it is minimised."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from oracles import PROCESSES, interval

import scoresolve as ss
from scoresolve.grids import make_grid
from scoresolve.optimised import SHORTEST, bound, optimal_lams
from scoresolve.quadrature import lagrange_weights

FIRST, LAST = ss.VPSDE().lam(1.0), ss.VPSDE().lam(1e-3)


def reference(lams: np.ndarray, order: int) -> float:
    """The bound by its definition, one step after another, with the weights that the solvers use."""
    alpha = 1 / np.sqrt(1 + np.exp(-2 * lams))
    error = (1 - alpha**2) / alpha
    total = 0.0
    for s in range(len(lams) - 1):
        behind = [s - j for j in range(min(order, s + 1))]
        total += np.abs(lagrange_weights(lams[behind], lams[s], lams[s + 1], np.exp)) @ error[behind]
    return float(total)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_the_bound_is_the_sum_over_the_weights_of_the_solvers(order: int, steps: int) -> None:
    lams = np.sort(np.random.default_rng(steps).uniform(-4, 5, steps + 1))
    assert bound(lams, order) == pytest.approx(reference(lams, order), rel=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 5, 10, 50])
def test_the_slope_vanishes_at_the_grid(order: int, steps: int) -> None:
    lams = optimal_lams(FIRST, LAST, steps, order)
    assert lams[0] == FIRST
    assert lams[-1] == pytest.approx(LAST, rel=1e-12)
    equal = (LAST - FIRST) / steps
    assert np.diff(lams).min() > 1.5 * SHORTEST * equal  # the floor is not what holds it
    for i in range(1, steps):
        shift = np.zeros(steps + 1)
        shift[i] = 1e-4 * equal
        low, here, high = (np.log(reference(lams + sign * shift, order)) for sign in (-1, 0, 1))
        assert (high - low) / 2e-4 == pytest.approx(0.0, abs=2e-7)
        assert low + high > 2 * here


@pytest.mark.parametrize("steps", [3, 5, 10, 20, 50])
def test_it_is_better_than_any_other_grid(steps: int) -> None:
    sde = ss.VPSDE()
    best = bound(optimal_lams(FIRST, LAST, steps))
    for name in set(ss.grids.GRIDS) - {"optimised", "leading", "linspace"}:
        assert best < 0.97 * bound(sde.lam(make_grid(name, sde, steps, 1.0, 1e-3))), name
    random = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        shares = np.diff(optimal_lams(FIRST, LAST, steps)) * np.exp(scale * random.normal(size=steps))
        other = FIRST + (LAST - FIRST) * np.append(0.0, shares.cumsum() / shares.sum())
        assert best < bound(other)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_levels_are_those_of_the_range_of_lam(process: str) -> None:
    sde = PROCESSES[process]
    for order, grid in ((3, "optimised"), (2, partial(ss.grids.optimised, order=2))):
        lams = sde.lam(make_grid(grid, sde, 8, *interval(sde, -2.5, 2.5)))
        assert lams == pytest.approx(optimal_lams(-2.5, 2.5, 8, order), rel=1e-6)


def test_a_short_range_has_no_step_below_the_floor() -> None:
    shares = np.diff(optimal_lams(2.0, 3.0, 10)) * 10
    assert shares.min() == pytest.approx(SHORTEST, rel=1e-3)


def test_the_answer_is_kept_and_cannot_be_written_to() -> None:
    lams = optimal_lams(-4.0, 4.0, 6)
    assert optimal_lams(-4.0, 4.0, 6) is lams
    assert not lams.flags.writeable
    times = make_grid("optimised", ss.VPSDE(), 6, 1.0, 1e-3)
    times[1] = 0.0
    assert make_grid("optimised", ss.VPSDE(), 6, 1.0, 1e-3)[1] > 0.5


def test_what_cannot_be_optimised_is_refused() -> None:
    with pytest.raises(ValueError, match="rising"):
        optimal_lams(1.0, 1.0, 5)
    with pytest.raises(ValueError, match="order >= 1"):
        optimal_lams(-1.0, 1.0, 5, 0)
    with pytest.raises(ss.ScoreSolveError, match="use another grid"):
        optimal_lams(0.0, 2000.0, 5)
