"""Log-likelihoods: what they are of independent, rotated and scaled data. Closed forms: test_likelihood.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal
from torch import Tensor

import scoresolve as ss
from scoresolve.divergence import traces

ASKED = {"solver": "flow_abm_4", "steps": 12, "grid": "log_snr", "t_min": 0.02}


def log_p(net: object, x0: Tensor, sde: ss.SDE | None = None, **how: object) -> Tensor:
    model = ss.ScoreModel(net, ss.VPSDE() if sde is None else sde, predicts="data")  # type: ignore[arg-type]
    return ss.log_likelihood(model, x0, **{**ASKED, **how}).log_prob  # type: ignore[arg-type]


def bounded(x: Tensor, t: Tensor) -> Tensor:
    """Each element by itself, in the range of data."""
    return torch.tanh(x) * (1 - 0.5 * t[:, None])


@pytest.mark.property(28)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 4))
def test_independent_dimensions_add_up(seed: int, d: int) -> None:
    x0 = normal(3, d, seed=seed)
    each = sum(log_p(bounded, x0[:, i : i + 1]) for i in range(d))
    assert torch.allclose(log_p(bounded, x0), torch.as_tensor(each), rtol=1e-10, atol=1e-10)


@pytest.mark.property(28)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_rotations_change_nothing(seed: int) -> None:
    Q = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    x0 = normal(2, 3, seed=seed + 1)
    turned = log_p(lambda x, t: bounded(x @ Q, t) @ Q.T, x0 @ Q.T)
    assert torch.allclose(turned, log_p(bounded, x0), rtol=1e-9, atol=1e-9)


@pytest.mark.property(28)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), k=st.floats(0.2, 5))
def test_scaled_data_has_its_density_divided(seed: int, k: float) -> None:
    """Data and noise k times as large: log p - d log k; a clock without a unit."""
    x0, ends = normal(2, 3, seed=seed), {"t_min": 0.02, "t_max": 50.0}
    how = {"solver": "heun", "clock": "rho", "grid": "log_snr"}
    plain = log_p(bounded, x0, ss.EDM(), **how, **ends)
    scaled = {name: k * t for name, t in ends.items()}
    larger = log_p(lambda x, t: k * bounded(x / k, t / k), k * x0, ss.EDM(k * 0.002, k * 80), **how, **scaled)
    assert torch.allclose(larger, plain - 3 * math.log(k), rtol=1e-9, atol=1e-8)


@pytest.mark.property(27)
def test_one_probe_is_exact_for_a_diagonal_jacobian() -> None:
    """Signs square to one: Rademacher's estimate has no variance where elements do not touch each other."""
    x = normal(4, 6).requires_grad_()
    exact = traces(x.tanh(), x, None)[:, 0]
    probes = ss.Divergence("hutchinson", probes=3).draw(ss.SampleStreams(0, range(4)), x)
    assert probes is not None
    assert torch.allclose(traces(x.tanh(), x, probes), exact[:, None].expand(4, 3), rtol=1e-12)
