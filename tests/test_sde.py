"""Processes: moments, clocks, precision; and straight into the integrators of others."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torchdiffeq
import torchsde
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, SMOOTH, gaussian, interval, mixture_1d, mixture_2d
from recorder import Alone, On
from scipy.integrate import solve_ivp
from strategies import normal, smooth_paths
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import scoresolve as ss
from scoresolve.sde import over_batch


def _variance_ode(sde: ss.SDE, start: float, times: np.ndarray) -> np.ndarray:
    """Solve v' = 2 f v + g^2 for log v from v(start) = sigma(start)^2: relative accuracy over many magnitudes."""

    def rate(t: float, log_v: np.ndarray) -> np.ndarray:
        return 2 * sde.drift_rate(t) + sde.squared_diffusion(t) * np.exp(-log_v)

    found = solve_ivp(
        rate, (start, times[-1]), [2 * math.log(sde.sigma(start))], "DOP853", times, rtol=1e-12, atol=1e-12
    )
    return np.asarray(np.exp(found.y[0]))


@pytest.mark.parametrize("name", SMOOTH)
def test_the_variance_ode_meets_sigma_squared(name: str) -> None:
    sde = PROCESSES[name]
    start = 0.01 * sde.t_max
    times = np.linspace(start, 0.99 * sde.t_max, 7)
    assert _variance_ode(sde, start, times) == pytest.approx(sde.sigma(times) ** 2, rel=1e-9)


def test_the_variance_ode_of_a_beta_table_meets_sigma_squared_between_all_indices() -> None:
    sde = ss.DiscreteVPSDE([0.01, 0.05, 0.02, 0.1, 0.3])
    for i in range(1, 5):  # beta jumps at the indices, so the ODE is solved between them
        times = np.linspace(i / 5 + 1e-12, (i + 1) / 5 - 1e-12, 4)
        assert _variance_ode(sde, times[0], times) == pytest.approx(sde.sigma(times) ** 2, rel=1e-9)


@pytest.mark.property(25)
@given(sde=smooth_paths, fraction=st.floats(1e-4, 1.0))
def test_drift_and_diffusion_are_the_rates_of_the_path(sde: ss.SDE, fraction: float) -> None:
    """f = (log alpha)' and g^2 = -2 sigma^2 lam', by a central difference; the second is not how g is computed."""
    t = fraction * 0.98 * sde.t_max
    h = 1e-4 * t
    rate = (sde.lam(t + h) - sde.lam(t - h)) / (2 * h)
    assert sde.squared_diffusion(t) == pytest.approx(-2 * sde.sigma(t) ** 2 * rate, rel=1e-5)
    log_rate = (math.log(sde.alpha(t + h)) - math.log(sde.alpha(t - h))) / (2 * h)
    assert sde.drift_rate(t) == pytest.approx(log_rate, rel=1e-5, abs=1e-6)


@pytest.mark.property(24)
@given(sde=smooth_paths, fraction=st.floats(1e-6, 1.0))
def test_time_inverts_lam(sde: ss.SDE, fraction: float) -> None:
    t = fraction * 0.999 * sde.t_max
    assert sde.time(sde.lam(t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("betas", [[0.3], [0.1, 0.2, 0.05], np.linspace(1e-4, 0.02, 1000)], ids=len)
def test_the_clock_of_a_table_inverts_at_its_indices_and_between_them(betas: list[float]) -> None:
    sde = ss.DiscreteVPSDE(betas)
    times = np.linspace(0.0, 1.0, 4 * sde.N + 1)[1:]
    assert sde.time(sde.lam(times)) == pytest.approx(times, rel=1e-11)
    lam = torch.tensor(sde.lam(0.37), dtype=torch.float64, requires_grad=True)
    (rate,) = torch.autograd.grad(sde.time(lam), lam)
    assert rate.item() == pytest.approx(2e-6 / (sde.lam(0.370001) - sde.lam(0.369999)), rel=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_lam_falls_and_rho_is_its_exponential(name: str) -> None:
    sde = PROCESSES[name]
    times = np.linspace(sde.t_eps, 0.999 * sde.t_max, 1001)
    assert (np.diff(sde.lam(times)) < 0).all()
    assert sde.rho(times) == pytest.approx(np.exp(-sde.lam(times)), rel=1e-12)


def test_closed_forms_of_the_diffusion() -> None:
    t = 0.37
    ve, vp, sub = ss.VESDE(0.02, 30.0), ss.VPSDE(0.2, 15.0), ss.SubVPSDE(0.2, 15.0)
    integral = 0.2 * t + 14.8 * t**2 / 2
    beta = 0.2 + 14.8 * t
    assert ve.diffusion(t) == pytest.approx(ve.sigma(t) * math.sqrt(2 * math.log(1500.0)), rel=1e-13)
    assert vp.squared_diffusion(t) == pytest.approx(beta, rel=1e-13)
    assert vp.drift_rate(t) == pytest.approx(-beta / 2, rel=1e-13)
    assert sub.squared_diffusion(t) == pytest.approx(beta * (1 - math.exp(-2 * integral)), rel=1e-13)
    assert sub.sigma(t) == pytest.approx(1 - math.exp(-integral), rel=1e-14)
    assert ss.EDM().diffusion(3.0) == pytest.approx(math.sqrt(6.0), rel=1e-14)


def test_the_sde_from_clean_data_adds_less_than_the_marginal_of_ve() -> None:
    """The marginal has variance sigma(t)^2; the SDE started from clean data would have sigma(t)^2 - sigma(0)^2."""
    sde = ss.VESDE()
    found = solve_ivp(lambda t, v: [sde.squared_diffusion(t)], (0, 0.1), [0.0], "DOP853", rtol=1e-12, atol=1e-16)
    assert found.y[0, -1] == pytest.approx(sde.sigma(0.1) ** 2 - sde.sigma(0.0) ** 2, rel=1e-10)


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-3, 0.1, 0.9])
def test_sigma_is_exact_down_to_the_smallest_times(t: float) -> None:
    """Against 50 digits of mpmath, relative error at most 1e-12."""
    with mpmath.workdps(50):
        x = mpmath.mpf(t)
        integral = mpmath.mpf("0.1") * x + mpmath.mpf("19.9") * x**2 / 2
        angle0 = mpmath.pi / 2 * mpmath.mpf(0.008) / (1 + mpmath.mpf(0.008))
        cosine = mpmath.cos(mpmath.pi / 2 * (x + mpmath.mpf(0.008)) / (1 + mpmath.mpf(0.008))) / mpmath.cos(angle0)
        exact = {
            ss.VPSDE(): mpmath.sqrt(1 - mpmath.exp(-integral)),
            ss.SubVPSDE(): 1 - mpmath.exp(-integral),
            ss.VESDE(): mpmath.mpf("0.01") * mpmath.mpf(5000) ** x,
            ss.CosineVPSDE(): mpmath.sqrt(1 - cosine**2),
        }
        for sde, value in exact.items():
            assert abs(sde.sigma(t) / value - 1) < 1e-12, sde
            assert abs(sde.time(sde.lam(t)) / t - 1) < 1e-9, sde


@pytest.mark.parametrize("name", PROCESSES)
def test_functions_of_time_answer_in_kind_and_compute_in_float64(name: str) -> None:
    sde = PROCESSES[name]
    t = 0.3 * sde.t_max
    for function in (sde.alpha, sde.sigma, sde.rho, sde.lam, sde.diffusion, sde.drift_rate, sde.alpha_rate):
        value = function(t)
        assert type(value) is float
        assert isinstance(function(np.array([t, t])), np.ndarray)
        assert function(np.array([t, t]))[1] == value
        assert function(torch.tensor([t], dtype=torch.float64)).item() == value
        coarse = function(np.array([t], dtype=np.float32))
        assert coarse.dtype == np.float64
        assert coarse[0] == function(float(np.float32(t)))
        single = function(torch.tensor([[t]], dtype=torch.float32))
        assert single.dtype == torch.float32
        assert single.shape == (1, 1)
        exact = function(float(torch.tensor(t, dtype=torch.float32)))
        assert single.item() == torch.tensor(exact, dtype=torch.float32).item()  # correctly rounded


def test_coefficients_are_available_under_inference_mode_and_differentiable_in_t() -> None:
    with torch.inference_mode():
        assert ss.VPSDE().drift_rate(torch.tensor(0.5)).item() == pytest.approx(-0.5 * (0.1 + 19.9 * 0.5), rel=1e-6)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: ss.VPSDE().squared_diffusion(u), t)
    assert torch.autograd.gradcheck(lambda u: ss.CosineVPSDE().time(u), t)


def test_the_ddpm_tables_are_those_of_the_papers() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    sde = ss.DiscreteVPSDE.linear()
    index = np.arange(1000)
    assert sde.alpha((index + 1) / 1000) ** 2 == pytest.approx(np.cumprod(1 - betas), rel=1e-12)
    assert sde.sigma((index + 1) / 1000) ** 2 == pytest.approx(1 - np.cumprod(1 - betas), rel=1e-10)
    assert ss.DiscreteVPSDE.scaled_linear().betas[[0, -1]] == pytest.approx([0.00085, 0.012])
    cosine = ss.DiscreteVPSDE.squared_cosine()
    assert cosine.betas.max() == 0.999
    assert cosine.alpha(0.5) ** 2 == pytest.approx(ss.CosineVPSDE().alpha(0.5) ** 2, rel=1e-3)
    # it interpolates its continuous limit, beta(t) = N (1e-4 + (0.02 - 1e-4) t), within O(1/N)
    assert sde.lam(0.5) == pytest.approx(ss.VPSDE(0.1, 20.0).lam(0.5), abs=0.02)


def test_a_user_path_equal_to_a_known_process_has_its_coefficients() -> None:
    known = ss.VPSDE()
    alpha = lambda t: torch.exp(-0.5 * (0.1 * t + 19.9 * t**2 / 2))  # noqa: E731
    path = ss.GaussianPath(alpha=alpha, sigma=lambda t: (-torch.expm1(2 * alpha(t).log())).sqrt())
    times = np.linspace(0.01, 1, 7)
    for name in ("alpha", "sigma", "lam", "drift_rate", "diffusion"):
        assert getattr(path, name)(times) == pytest.approx(getattr(known, name)(times), rel=1e-9)
    assert path.time(known.lam(times)) == pytest.approx(times, rel=1e-12)
    exploding = ss.GaussianPath(alpha=lambda t: 1.0, sigma=lambda t: t, t_min=0.002, t_max=80.0)
    assert exploding.diffusion(3.0) == pytest.approx(math.sqrt(6.0))


def test_marginal_perturb_and_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(4, 3, 2, 2, generator=generator)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    sde = ss.VPSDE()
    mean, std = sde.marginal(x0, t)
    assert std.shape == (4, 1, 1, 1)
    assert torch.allclose(mean[2], sde.alpha(0.7) * x0[2])
    noise = torch.randn(x0.shape, generator=generator)
    assert torch.allclose(sde.perturb(x0, t, noise)[1], sde.alpha(0.4) * x0[1] + sde.sigma(0.4) * noise[1])
    again = torch.Generator().manual_seed(5)
    drawn = sde.perturb(x0, 0.5, generator=again)
    expected = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(drawn, sde.alpha(0.5) * x0 + sde.sigma(0.5) * expected)
    prior = ss.VESDE().prior_sample((20000,), generator=generator, dtype=torch.float64)
    assert prior.dtype == torch.float64
    # standard error of a standard deviation is 1/sqrt(2n) = 0.5 %; 5 of them: p < 1e-6
    assert prior.std().item() == pytest.approx(50.0, rel=0.025)
    normal = torch.distributions.Normal(0.0, 50.0)
    assert torch.allclose(ss.VESDE().prior_log_prob(x0), normal.log_prob(x0).sum(dim=(1, 2, 3)), rtol=1e-5)
    assert ss.VPSDE().prior_std() == 1.0


@pytest.mark.parametrize(
    ("sde", "text", "interval"),
    [
        (ss.VESDE(), "VESDE(sigma_min=0.01, sigma_max=50.0)", (1.0, 1e-5, 1e-5)),
        (ss.VPSDE(), "VPSDE(beta_min=0.1, beta_max=20.0)", (1.0, 1e-3, 1e-3)),
        (ss.SubVPSDE(1, 5), "SubVPSDE(beta_min=1.0, beta_max=5.0)", (1.0, 1e-3, 1e-3)),
        (ss.CosineVPSDE(), "CosineVPSDE(s=0.008)", (0.9946, 1e-3, 1e-3)),
        (ss.EDM(), "EDM(sigma_min=0.002, sigma_max=80.0)", (80.0, 0.0, 0.002)),
        (ss.RectifiedFlow(), "RectifiedFlow()", (1.0, 0.0, 1e-3)),
        (ss.DiscreteVPSDE.linear(), "DiscreteVPSDE(<1000 betas, 0.0001 to 0.02, mean 0.01005>)", (1.0, 0.0, 1e-3)),
        (ss.DiscreteVPSDE([0.1, 0.3]), "DiscreteVPSDE(<2 betas, 0.1 to 0.3, mean 0.2>)", (1.0, 0.0, 0.5)),
        (ss.GaussianPath(torch.cos, torch.sin, t_min=0.02), "GaussianPath(alpha=", (1.0, 0.02, 0.02)),
        (ss.GaussianPath(torch.cos, torch.sin, t_min=0.0, t_max=0.5), "GaussianPath(alpha=", (0.5, 0.0, 5e-4)),
        (ss.GaussianPath(torch.cos, torch.sin, t_eps=0.03), "GaussianPath(alpha=", (1.0, 1e-3, 0.03)),
    ],
)
def test_a_process_says_its_parameters_and_has_the_interval_of_its_paper(
    sde: ss.SDE, text: str, interval: tuple[float, float, float]
) -> None:
    assert repr(sde).startswith(text)
    assert (sde.t_max, sde.t_min, sde.t_eps) == interval


PARAMETERS = {ss.VESDE: ("sigma_min", "sigma_max"), ss.EDM: ("sigma_min", "sigma_max"), ss.CosineVPSDE: ("s",)}
PARAMETERS |= {ss.VPSDE: ("beta_min", "beta_max"), ss.SubVPSDE: ("beta_min", "beta_max")}


@pytest.mark.parametrize("process", PARAMETERS)
def test_a_parameter_that_is_no_positive_finite_number_is_named(process: type[ss.SDE]) -> None:
    for name in PARAMETERS[process]:
        with pytest.raises(TypeError, match=f"^{name} must be a number, got '1'"):
            process(**{name: "1"})
        with pytest.raises(ValueError, match=f"^expected {name} to be a number, got nan"):
            process(**{name: math.nan})
        for bad in (-1.0, 0.0, math.inf):
            with pytest.raises(ValueError, match=rf"{name}\b.*, got .*{bad}"):
                process(**{name: bad})


def test_a_path_takes_two_functions_and_has_a_smallest_time_in_proportion() -> None:
    for functions in ((torch.cos, 0.5), (1.0, torch.sin)):
        with pytest.raises(TypeError, match="alpha and sigma must be functions of t"):
            ss.GaussianPath(*functions)  # type: ignore[arg-type]
    assert ss.GaussianPath(torch.cos, torch.sin, t_min=0.0, t_max=0.5).t_eps == 5e-4


def test_the_values_at_a_time_do_not_change() -> None:
    (point,) = ss.EDM().points(np.array([2.0]))
    assert (point.t, point.alpha, point.sigma, point.lam) == (2.0, 1.0, 2.0, -math.log(2.0))
    with pytest.raises(FrozenInstanceError):
        point.t = 1.0  # type: ignore[misc]


def test_noise_is_drawn_on_the_device_of_the_data() -> None:
    x0 = torch.empty(2, 3, device="meta")
    assert ss.VPSDE().perturb(x0, 0.5).device == x0.device
    assert ss.VPSDE().prior_sample((2, 3), device="meta").device == x0.device


class NoDoubles(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a number of float64 would be on Apple's accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.device.type == "mps" and out.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


@pytest.mark.parametrize("name", PROCESSES)
def test_times_may_be_where_there_is_no_float64(name: str) -> None:
    """On tensors without values, which need no such device."""
    sde = PROCESSES[name]
    with FakeTensorMode(allow_non_fake_inputs=True), NoDoubles():
        t = torch.empty(3, device="mps")
        for function in (sde.alpha, sde.sigma, sde.rho, sde.lam, sde.time, sde.drift_rate, sde.diffusion):
            found = function(t)
            assert (found.device, found.dtype, found.shape) == (t.device, t.dtype, t.shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_prior_of_an_image_in_half_precision(dtype: torch.dtype) -> None:
    x0 = normal(1, 3, 256, 256).to(dtype)
    for sde in (ss.VPSDE(), ss.EDM()):
        found, exact = sde.prior_log_prob(x0), sde.prior_log_prob(x0.double())
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=1e-6)


@given(st.floats() | st.integers(-9, 9), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_a_number_meets_a_state_where_that_is_rounded_once(number: float, dtype: torch.dtype) -> None:
    """To the bit as torch makes a tensor of it; nothing is copied from the host."""
    found, expected = over_batch(number, torch.empty(2, 3, dtype=dtype)), torch.tensor(number, dtype=dtype)
    assert (found.shape, found.dtype) == ((), dtype)
    assert torch.equal(found.nan_to_num(7.0, math.inf, -math.inf), expected.nan_to_num(7.0, math.inf, -math.inf))
    with Alone(), On("meta"):
        assert over_batch(number, torch.empty(2, 3, dtype=dtype, device="meta")).shape == ()


def test_tables_may_be_tensors_that_want_gradients_and_say_the_range_of_what_is_refused() -> None:
    betas = torch.linspace(0.1, 0.4, 4, dtype=torch.float64, requires_grad=True)
    sde = ss.DiscreteVPSDE(betas)
    assert sde.betas.tolist() == betas.tolist()
    assert ss.DiscreteVPSDE(np.linspace(0.1, 0.4, 4, dtype=np.float32)).betas.dtype == np.float64
    assert sde.alpha(1.0) ** 2 == pytest.approx(0.9 * 0.8 * 0.7 * 0.6, rel=1e-14)
    assert ss.DiscreteVPSDE([0.1, 0.3]).t_eps == 0.5
    for table in (ss.DiscreteVPSDE.linear(), ss.DiscreteVPSDE.scaled_linear(), ss.DiscreteVPSDE.squared_cosine()):
        assert table.N == 1000
    for table in (ss.DiscreteVPSDE.linear(), ss.DiscreteVPSDE.squared_cosine()):
        kept = np.cumprod(1 - table.betas)
        same = ss.DiscreteVPSDE.from_alphas_cumprod(kept)
        assert same.betas == pytest.approx(table.betas, rel=1e-10)
        assert same.alpha(np.arange(1, 1001) / 1000) ** 2 == pytest.approx(kept, rel=1e-12)
    with pytest.raises(TypeError, match=r"^betas must be numbers"):
        ss.DiscreteVPSDE("0.1")  # type: ignore[arg-type]
    for bad in ([0.1, 1.0], [0.0, 0.1], [], [[0.1]]):
        with pytest.raises(ValueError, match="betas"):
            ss.DiscreteVPSDE(bad)


def _half(t: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.0 * t


def test_a_path_is_known_by_the_names_of_its_functions() -> None:
    """Which a table that was saved remembers: no address of this process is in them."""
    assert repr(ss.GaussianPath(_half, ss.RectifiedFlow().sigma)) == "GaussianPath(alpha=_half, sigma=SDE.sigma)"
    assert repr(ss.GaussianPath(_half, torch.nn.Identity())) == "GaussianPath(alpha=_half, sigma=Identity())"


@pytest.mark.parametrize("t", [0.4, torch.tensor(0.4, dtype=torch.float64), torch.full((2,), 0.4, dtype=torch.float64)])
def test_states_keep_their_dtype_whatever_that_of_the_time(t: float | torch.Tensor) -> None:
    sde, x = ss.VPSDE(), torch.ones(2, 3)
    mean, std = sde.marginal(x, t)
    assert {each.dtype for each in (sde.drift(x, t), mean, std, sde.perturb(x, t, x))} == {torch.float32}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["ve", "vp", "subvp", "flow"])
def test_the_reverse_sde_has_the_marginals_of_the_process_for_every_eta(name: str, eta: float) -> None:
    """The Fokker-Planck equation of the reverse SDE, on a two-mode mixture, where its density is known exactly.

    With the clock -t: -dp/dt = d(drift p)/dx + (eta g)^2 / 2 d^2p/dx^2, all derivatives exact; residual to 1e-9.
    """
    sde, law = PROCESSES[name], mixture_1d()
    reverse = sde.reverse(law.model(sde), eta=eta)
    t0 = 0.4
    x = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64).requires_grad_()
    t = torch.tensor(t0, dtype=torch.float64, requires_grad=True)

    def density(t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        variance = alpha**2 * law.variances[:, 0] + sigma**2
        z2 = (x[:, None] - alpha * law.means[:, 0]) ** 2 / variance
        return (law.weights * torch.exp(-0.5 * z2) / (2 * math.pi * variance).sqrt()).sum(1)

    def slope(y: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    p = density(t)
    # d p_i / dt by differentiating a weighted sum in the weights: forward mode by two reverse passes
    weights = torch.ones_like(p, requires_grad=True)
    (total,) = torch.autograd.grad((weights * p).sum(), t, create_graph=True)
    (in_time,) = torch.autograd.grad(total, weights, retain_graph=True)
    drift = reverse.drift(x[:, None], t0)[:, 0]
    residual = in_time + slope(drift * p) + 0.5 * reverse.diffusion(t0) ** 2 * slope(slope(p))
    assert residual.abs().max().item() < 1e-9 * in_time.abs().max().item() * (1 + eta**2) * 10


def test_reverse_goes_straight_into_torchsde() -> None:
    """Gaussian data: mean and standard deviation of 4000 Euler-Maruyama paths; p < 1e-6 beyond 5 standard errors."""
    sde, law = ss.VPSDE(), ss.exact.Gaussian(torch.tensor([0.6, -0.4]), torch.tensor([0.09, 0.25]))
    reverse = sde.reverse(law.model(sde), eta=1.0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 2, generator=generator)
    clock = torch.linspace(-1.0, -1e-3, 2)
    motion = torchsde.BrownianInterval(t0=-1.0, t1=-1e-3, size=(4000, 2), entropy=3, dtype=torch.float32)
    out = torchsde.sdeint(reverse, x, clock, bm=motion, dt=0.004, method="euler")[-1]
    std = torch.tensor([0.3, 0.5])
    assert ((out.mean(0) - torch.tensor([0.6, -0.4])).abs() < 5 * std / math.sqrt(4000) + 0.01).all()
    assert (out.std(0) / std - 1).abs().max().item() < 5 / math.sqrt(8000) + 0.03  # step bias of order dt beside
    with pytest.raises(ValueError, match=r"increasing clock -t.*-1"):
        torchsde.sdeint(reverse, x, torch.linspace(0.1, 1.0, 2), dt=0.1, method="euler")


@pytest.mark.parametrize("name", ["ve", "vp", "subvp", "flow"])
def test_probability_flow_goes_straight_into_torchdiffeq(name: str) -> None:
    sde, law = PROCESSES[name], gaussian()
    t_max, t_min = interval(sde)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    clock = torch.tensor([t_max, t_min], dtype=torch.float64)
    out = torchdiffeq.odeint(sde.probability_flow(law.model(sde)), x, clock, rtol=1e-10, atol=1e-10)[-1]
    assert torch.allclose(out, law.flow(sde, x, t_max, t_min), rtol=1e-7, atol=1e-7)


def test_dynamics_take_a_score_function_and_models_of_other_processes() -> None:
    vp, ve, law = ss.VPSDE(), ss.VESDE(), mixture_2d()
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain = vp.reverse(lambda x, t: law.model(vp).score(x, t))
    assert torch.allclose(plain.drift(x, 0.5), vp.reverse(law.model(vp)).drift(x, 0.5))
    assert torch.allclose(ve.reverse(law.model(vp)).drift(x, 0.5), ve.reverse(law.model(ve)).drift(x, 0.5), atol=1e-8)
    drift = vp.drift(x, 0.5) - 0.5 * (1 + 0.3**2) * vp.squared_diffusion(0.5) * law.model(vp).score(x, 0.5)
    assert torch.allclose(vp.reverse(law.model(vp), eta=0.3).drift(x, 0.5), drift, rtol=1e-12)
    assert vp.reverse(law.model(vp), eta=0.3).diffusion(0.5) == pytest.approx(0.3 * vp.diffusion(0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.VESDE(1.0, 0.5), "sigma_min < sigma_max"),
        (lambda: ss.EDM(0.0, 1.0), "0 < sigma_min"),
        (lambda: ss.VPSDE(3.0, 1.0), "beta_min <= beta_max"),
        (lambda: ss.CosineVPSDE(0.0), "s > 0"),
        (lambda: ss.DiscreteVPSDE([]), "vector of betas"),
        (lambda: ss.DiscreteVPSDE([0.1, 1.0]), "between 0 and 1"),
        (lambda: ss.DiscreteVPSDE([0.9999, 0.7, 4e-05]), r"fall from 0.9999 to 4e-05: .*from_alphas_cumprod\("),
        (lambda: ss.DiscreteVPSDE([0.9, 0.5, 0.0]), r"from_alphas_cumprod\("),
        (lambda: ss.DiscreteVPSDE.from_alphas_cumprod([0.9, 0.9]), "fall strictly within"),
        (lambda: ss.DiscreteVPSDE.from_alphas_cumprod([1.0, 0.5]), "fall strictly within"),
        (lambda: ss.DiscreteVPSDE.from_alphas_cumprod([0.9, 0.0]), "ZeroTerminalVPSDE"),
        (lambda: ss.GaussianPath(lambda t: 1 - t, lambda t: 1 - t), "falls strictly"),
        (lambda: ss.GaussianPath(lambda t: t - 0.5, lambda t: t), r"alpha\(t\) > 0"),
        (lambda: ss.GaussianPath(lambda t: torch.relu(0.5 - t), lambda t: t), r"alpha\(t\) > 0"),
        (lambda: ss.GaussianPath(lambda t: 1.0, lambda t: t, t_min=2.0), "t_min < t_max"),
        (lambda: ss.VPSDE().perturb(torch.zeros(3, 2), 0.5, torch.zeros(2)), "one shape"),
        (lambda: ss.VPSDE().marginal(torch.zeros(3, 2), torch.zeros(2)), r"shape \(3,\)"),
        (lambda: ss.VPSDE().reverse(lambda x, t: x, eta=-1.0), "eta >= 0"),
    ],
)
def test_bad_arguments_say_what_was_expected(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_path_that_cannot_be_differentiated_is_refused() -> None:
    with pytest.raises(TypeError, match="torch operations"):
        ss.GaussianPath(lambda t: torch.as_tensor(np.exp(-t.detach().numpy())), lambda t: t)
