"""Decoding is the inverse of encoding, and paths between latents stay where latents are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, mixture_2d, slopes

import scoresolve as ss


@pytest.mark.parametrize("name", ["ve", "vp", "edm", "flow"])
def test_decoding_brings_data_back(name: str) -> None:
    """With the same defaults, ends and grid: 1e-6 with a solver of order five, and falling as its order says."""
    sde = PROCESSES[name]
    model, t_min = mixture_2d().model(sde), max(sde.t_min, sde.t_eps)
    x0 = mixture_2d().marginal(sde, t_min).sample(5, generator=torch.Generator().manual_seed(0))
    encoded = ss.encode(model, x0, nfe=30)
    decoded = ss.decode(model, encoded.samples, nfe=30)
    assert decoded.times.tolist() == encoded.times[::-1].tolist()
    assert decoded.times[-1] == t_min
    errors, ends = [], {"t_max": sde.time(-3.5), "solver": "flow_abm_4"}
    for nfe in (100, 200):
        latents = ss.encode(model, x0, nfe=nfe, **ends).samples
        errors.append((ss.decode(model, latents, nfe=nfe, **ends).samples - x0).abs().max().item())
    assert errors[1] < 1e-6
    assert slopes(errors)[0] > 3.5


def test_decoding_takes_what_encoding_takes() -> None:
    model, x0 = mixture_2d().model(ss.VPSDE()), torch.ones(3, 2)
    times = [1.0, 0.6, 0.3, 0.05]
    latent = ss.encode(model, x0, solver="heun", grid=times, trajectory=True)
    back = ss.decode(model, latent.samples, solver="heun", grid=times, trajectory=True)
    assert back.trajectory is not None
    assert back.times.tolist() == times
    multistep = {"solver": "exponential_2", "nfe": 20, "start": "low", "t_min": 0.02, "t_max": 0.9}
    assert ss.decode(model, latent.samples, **multistep).times[[0, -1]].tolist() == [0.9, 0.02]
    for stochastic in ({"solver": "ddpm"}, {"solver": "ddim", "eta": 1.0}, {"solver": "DPM++ 2M SDE"}):
        with pytest.raises(ValueError, match="decode follows the probability flow"):
            ss.decode(model, latent.samples, nfe=10, **stochastic)
    with pytest.raises(TypeError, match="latent must be a tensor, got list"):
        ss.decode(model, [1.0], nfe=5)


def test_a_table_brings_latents_back_and_does_not_make_them() -> None:
    model = mixture_2d().model(ss.VPSDE())
    latent = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    times = np.array([1.0, 0.6, 0.3, 0.05])
    table = ss.build_table("heun", ss.VPSDE(), times)
    back = ss.decode(model, latent, solver=table)
    assert torch.equal(back.samples, ss.sample(model, start=latent, solver=table).samples)
    assert torch.equal(back.samples, ss.decode(model, latent, solver="heun", grid=times).samples)
    with pytest.raises(ValueError, match="decode follows the probability flow"):
        ss.decode(model, latent, solver=ss.build_table("ddpm", ss.VPSDE(), times))
    for run in (ss.encode, ss.log_likelihood):
        with pytest.raises(TypeError, match=r"a table runs from noise to data only.*: give the solver's name") as error:
            run(model, latent, solver=table)
        assert len(str(error.value)) < 200


@given(st.integers(0, 2**31), st.floats(0.05, 3.09), st.floats(0, 1))
def test_the_spherical_path_is_that_of_shoemake(seed: int, angle: float, weight: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))
    u, v = basis[:, 0], torch.tensor(angle).cos() * basis[:, 0] + torch.tensor(angle).sin() * basis[:, 1]
    theta = torch.acos((u @ v).clamp(-1, 1))
    expected = (torch.sin((1 - weight) * theta) * u + torch.sin(weight * theta) * v) / torch.sin(theta)
    norm = (1 - weight) * 2 + weight * 5
    found = ss.interpolate(2 * u.reshape(1, 2, 3), 5 * v.reshape(1, 2, 3), weight)
    assert torch.allclose(found.flatten(), norm * expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parallel_opposite_and_zero_latents(dtype: torch.dtype) -> None:
    a = torch.tensor([[3.0, 0.0, 4.0], [3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    b = torch.tensor([[6.0, 0.0, 8.0], [-3.0, 0.0, -4.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    path = ss.interpolate(a, b, torch.linspace(0, 1, 5))
    assert path.shape == (5, 4, 3)
    assert path.dtype == dtype
    assert torch.allclose(path[0], a, atol=1e-5)
    assert torch.allclose(path[-1], b, atol=1e-5)
    assert torch.allclose(path[:, 0], torch.lerp(a[0], b[0], torch.linspace(0, 1, 5, dtype=dtype)[:, None]), atol=1e-5)
    assert torch.allclose(path[:, 1].norm(dim=-1), torch.full((5,), 5.0, dtype=dtype))  # by way of the sphere
    assert torch.allclose(path[2, 1], torch.tensor([0.0, 5.0, 0.0], dtype=dtype), atol=1e-5)
    assert torch.allclose(path[:, 2].norm(dim=-1), torch.linspace(0, 2, 5, dtype=dtype))
    nearly = b[1:2] + 1e-9
    assert torch.isfinite(ss.interpolate(a[1:2], nearly, [0.3, 0.7])).all()
    assert torch.allclose(ss.interpolate(a[1:2], nearly, 0.5).norm(), torch.tensor(5.0, dtype=dtype))


def test_a_spherical_path_between_normals_stays_normal_and_a_straight_one_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 20, 3, 32, 32, generator=generator, dtype=torch.float64)
    middle = ss.interpolate(a, b, 0.5).square().mean(dim=(1, 2, 3))
    assert (middle - 1).abs().max() < 0.08
    straight = ss.interpolate(a, b, 0.5, method="linear")
    assert torch.allclose(straight, (a + b) / 2)
    assert (straight.square().mean(dim=(1, 2, 3)) - 0.5).abs().max() < 0.05


def test_errors_of_interpolation() -> None:
    a = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="did you mean 'spherical'"):
        ss.interpolate(a, a, 0.5, method="spheric")
    with pytest.raises(ValueError, match=r"a and b of one shape, got \(2, 3\) and \(1, 3\)"):
        ss.interpolate(a, a[:1], 0.5)
    for weight in (1.5, [0.2, -0.1], [[0.5]], float("nan")):
        with pytest.raises(ValueError, match=r"weights in \[0, 1\]|weight to be finite"):
            ss.interpolate(a, a, weight)
