"""Processes at random: noise that grows, variance that is preserved. Clocks and rates: test_sde.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import paths

import scoresolve as ss

EPS = 2.0**-52


@pytest.mark.property(23)
@given(sde=paths)
def test_noise_grows_and_nothing_is_negative(sde: ss.SDE) -> None:
    """alpha and sigma positive inside, lam falls; and alpha^2 + sigma^2 = 1 to some ulp where the process says so."""
    times = np.linspace(sde.t_eps, 0.999 * sde.t_max, 101)
    assert (sde.alpha(times) > 0).all()
    assert (sde.sigma(times) > 0).all()
    assert (np.diff(sde.lam(times)) < 0).all()
    if isinstance(sde, ss.VPSDE | ss.CosineVPSDE | ss.DiscreteVPSDE) and not isinstance(sde, ss.SubVPSDE):
        off = np.abs(sde.alpha(times) ** 2 + sde.sigma(times) ** 2 - 1).max()
        assert off <= 4 * EPS  # two roundings of a square each
