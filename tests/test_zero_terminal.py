"""The table rescaled to zero signal at its end, against its definition, its own inverse and an exact Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scoresolve as ss

BETAS = ss.DiscreteVPSDE.scaled_linear().betas
SDE = ss.ZeroTerminalVPSDE(BETAS)


def test_alpha_at_the_indices_is_that_of_the_rescaled_table() -> None:
    root = np.sqrt(np.cumprod(1 - BETAS))
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])  # Lin et al., algorithm 1
    times = np.arange(1, 1001) / 1000
    assert np.abs(SDE.alpha(times) - rescaled).max() < 1e-14
    assert np.abs(np.cumprod(1 - SDE.betas) - rescaled**2).max() < 1e-14
    assert (SDE.alpha(1.0), SDE.sigma(1.0), SDE.lam(1.0)) == (0.0, 1.0, -np.inf)


def test_the_clock_inverts_to_rounding_up_to_both_ends() -> None:
    times = np.concatenate([np.geomspace(1e-6, 0.5, 200), 1 - np.geomspace(1e-6, 0.4, 200)])
    assert np.abs(SDE.time(SDE.lam(times)) - times).max() < 1e-12
    assert np.abs(SDE.time(SDE.lam(times)) / times - 1).max() < 1e-9
    late = 1 - np.geomspace(1e-9, 1e-3, 50)
    assert np.abs((1 - SDE.time(SDE.lam(late))) / (1 - late) - 1).max() < 1e-6
    assert SDE.time(-np.inf) == 1.0
    assert np.abs(SDE.alpha(times) ** 2 + SDE.sigma(times) ** 2 - 1).max() < 1e-14


def test_v_networks_start_at_noise_alone_and_arrive_at_the_law() -> None:
    law = ss.exact.Gaussian([0.3, -0.2], [0.1, 0.2])
    times = ss.grids.karras(SDE, 200, 1.0, 0.0)
    out = ss.exact.push(ss.build_table("dpmpp_2m", SDE, times), law, SDE)
    assert times[0] == 1.0
    assert float((out.covariance - law.covariance).abs().max()) < 2e-3
    noise = ss.ScoreModel(lambda x, t: x, SDE, predicts="noise", time="fractional_index")
    with pytest.raises(ValueError, match="does not determine the 'data' at t = 1"):
        ss.sample(noise, shape=(2, 2), solver="dpmpp_2m", nfe=4, seed=0)
    asked = []
    v = ss.ScoreModel(lambda x, index: asked.append(index[0].item()) or x, SDE, predicts="v", time="index")
    ss.sample(v, shape=(2, 2), solver="dpmpp_2m", grid="trailing", nfe=4, seed=0)
    assert asked == [999, 749, 499, 249]
    assert torch.equal(torch.tensor(SDE.betas[-1]), torch.tensor(1.0, dtype=torch.float64))
