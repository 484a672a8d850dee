"""Embedded pairs and Adams' weights: the conditions that make their orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresolve.adams import integrated_differences
from scoresolve.pairs import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, Tableau

TABLEAUS = {"dp5": (DORMAND_PRINCE, 5), "tsit5": (TSITOURAS, 5), "bs3": (BOGACKI_SHAMPINE, 3)}


def matrices(tableau: Tableau) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """a, b, c and the weights b^ of the lower order."""
    stages = len(tableau.places) + 1
    a = np.zeros((stages, stages))
    for i, row in enumerate(tableau.stages, start=1):
        a[i, : len(row)] = row
    return a, a[-1], np.array([0.0, *tableau.places]), a[-1] - np.array(tableau.error)


def conditions(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[int, list[float]]:
    """What each order asks for beyond the one below: the residuals of its rooted trees."""
    return {
        1: [b.sum() - 1],
        2: [b @ c - 1 / 2],
        3: [b @ c**2 - 1 / 3, b @ a @ c - 1 / 6],
        4: [b @ c**3 - 1 / 4, b @ (c * (a @ c)) - 1 / 8, b @ a @ c**2 - 1 / 12, b @ a @ a @ c - 1 / 24],
        5: [
            b @ c**4 - 1 / 5, b @ (c**2 * (a @ c)) - 1 / 10, b @ (a @ c) ** 2 - 1 / 20,
            b @ (c * (a @ c**2)) - 1 / 15, b @ (c * (a @ a @ c)) - 1 / 30, b @ a @ c**3 - 1 / 20,
            b @ a @ (c * (a @ c)) - 1 / 40, b @ a @ a @ c**2 - 1 / 60, b @ a @ a @ a @ c - 1 / 120,
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_pair_has_its_two_orders_and_not_more(name: str) -> None:
    tableau, order = TABLEAUS[name]
    a, b, c, lower = matrices(tableau)
    assert tableau.order == order
    np.testing.assert_allclose(a.sum(1), c, atol=1e-14)
    for p in range(1, order + 1):
        np.testing.assert_allclose(conditions(a, b, c)[p], 0, atol=1e-14)
        residual = np.abs(conditions(a, lower, c)[p]).max()
        assert (residual < 1e-14) == (p < order), (p, residual)
    assert tableau.places[-1] == 1.0  # the last slope is the first of the next step


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_newtons_terms_integrate_polynomials(k: int) -> None:
    """k nodes at random places: exact for every power below k, and the part up to r for those below r."""
    generator = torch.Generator().manual_seed(k)
    s = torch.cat([torch.ones(5, 1), -torch.rand(5, k, generator=generator).cumsum(1)], dim=1).double()[:, :k]
    terms = integrated_differences(s)
    for r in range(1, k + 1):
        weights = terms[:, :r].sum(1)
        assert (weights[:, r:] == 0).all()
        for power in range(r):
            value = (weights * s**power).sum(1)
            torch.testing.assert_close(value, torch.full_like(value, 1 / (power + 1)), rtol=1e-9, atol=1e-9)


def test_even_steps_give_adams_weights() -> None:
    """Bashforth's 55, -59, 37, -9 and Moulton's 251, 646, -264, 106, -19."""
    s = torch.tensor([[0.0, -1.0, -2.0, -3.0]]).double()
    np.testing.assert_allclose(integrated_differences(s).sum(1)[0] * 24, [55, -59, 37, -9], atol=1e-10)
    s = torch.tensor([[1.0, 0.0, -1.0, -2.0, -3.0]]).double()
    np.testing.assert_allclose(integrated_differences(s).sum(1)[0] * 720, [251, 646, -264, 106, -19], atol=1e-9)
