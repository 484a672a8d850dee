"""The primitive: weights against 40-digit integrals, closed forms and polynomials."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoresolve.quadrature import lagrange_basis, lagrange_weights

gaps = st.lists(st.floats(0.05, 3.0), min_size=1, max_size=5)


@given(gaps=gaps, h=st.floats(1e-6, 12.0), rate=st.sampled_from([0.0, 1.0, 1.25, 2.0, 5.0]))
def test_weights_integrate_polynomials_against_the_kernel(gaps: list[float], h: float, rate: float) -> None:
    """For y = u^k with k below the number of nodes the rule is exact; against mpmath at 40 digits."""
    nodes = -np.cumsum([0.0, *gaps[:-1]])
    weights = lagrange_weights(nodes, 0.0, h, lambda u: np.exp(-rate * (h - u)), panel=4.0 / max(rate, 1.0))
    with mpmath.workdps(40):
        for k in range(len(nodes)):
            integrand = lambda u, k=k: u**k * mpmath.exp(-mpmath.mpf(rate) * (mpmath.mpf(h) - u))  # noqa: E731
            exact = mpmath.quad(integrand, [0, mpmath.mpf(h) / 2, mpmath.mpf(h)])
            found = float(np.dot(weights, nodes**k))
            size = float(np.dot(np.abs(weights), np.abs(nodes) ** k)) + 1e-300
            assert abs(found - float(exact)) < 1e-11 * max(size, float(abs(exact)))


def test_kernel_one_gives_the_adams_bashforth_weights() -> None:
    uniform = lagrange_weights(np.array([0.0, -1.0, -2.0, -3.0]), 0.0, 1.0, np.ones_like)
    assert uniform == pytest.approx(np.array([55, -59, 37, -9]) / 24, rel=1e-12)


@pytest.mark.parametrize("h", [1e-6, 0.1, 1.0, 9.0])
def test_the_exponential_kernel_gives_the_phi_functions(h: float) -> None:
    """int_0^h e^{-(h-u)} u du = h - (1 - e^{-h}), by which the two-step weights are known."""
    weights = lagrange_weights(np.array([0.0, -2.0]), 0.0, h, lambda u: np.exp(u - h))
    first_moment = h + np.expm1(-h)
    assert weights[1] == pytest.approx(-first_moment / 2, rel=1e-7 if h < 1e-3 else 1e-12)
    assert weights.sum() == pytest.approx(-np.expm1(-h), rel=1e-13)


def test_weights_over_a_reversed_interval_change_sign() -> None:
    nodes = np.array([0.0, -0.7, -1.0])
    there = lagrange_weights(nodes, 0.0, 1.5, np.exp)
    assert lagrange_weights(nodes, 1.5, 0.0, np.exp) == pytest.approx(-there, rel=1e-13)


def test_the_basis_is_cardinal() -> None:
    nodes = np.array([0.3, -1.0, 2.0, 5.0])
    assert lagrange_basis(nodes, nodes) == pytest.approx(np.eye(4))
    assert lagrange_basis(nodes, np.linspace(-2, 6, 9)).sum(0) == pytest.approx(np.ones(9))


@pytest.mark.parametrize("nodes", [[0.0, 0.0], [0.0, np.inf], [0.0, np.nan]])
def test_bad_nodes_are_refused(nodes: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        lagrange_weights(np.array(nodes), 0.0, 1.0, np.ones_like)


@pytest.mark.parametrize(
    ("a", "b", "panels"), [(0.0, 0.0, 1), (0.0, 4.0, 1), (0.0, 9.0, 3), (9.0, 0.0, 3), (-6.0, 6.0, 3)]
)
def test_panels_are_as_few_as_their_longest_length_allows(a: float, b: float, panels: int) -> None:
    """32 points on each: a narrow kernel in the middle of a long interval is not missed."""
    asked = []

    def kernel(v: np.ndarray) -> np.ndarray:
        asked.append(v)
        return np.exp(-(v**2))

    whole = lagrange_weights(np.array([0.0]), a, b, kernel)[0]
    assert [v.shape for v in asked] == [(panels, 32)]
    assert whole == pytest.approx(0.5 * math.sqrt(math.pi) * (math.erf(b) - math.erf(a)), rel=1e-12)


def test_the_polynomial_may_live_in_another_clock() -> None:
    """u = e^v and y = u: the integral of e^v itself."""
    nodes = np.array([0.5, 1.0, 4.0])
    weights = lagrange_weights(nodes, -1.0, 2.0, np.ones_like, panel=1.0, clock=np.exp)
    assert weights @ nodes == pytest.approx(math.exp(2.0) - math.exp(-1.0), rel=1e-12)
    assert weights @ nodes**2 == pytest.approx(0.5 * (math.exp(4.0) - math.exp(-2.0)), rel=1e-12)
