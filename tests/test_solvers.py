"""Identities: each solver against its published formula, written here independently."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, SMOOTH, TABLES, gaussian, mixture_2d
from scipy.integrate import quad
from torch import Tensor

import scoresolve as ss

X = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Recorded:
    """Standard normal noise, kept so that a formula can use the same."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        self.drawn.append(torch.randn(like.shape, generator=self.generator, dtype=like.dtype))
        return self.drawn[-1]


def _run(
    solver: str, sde: ss.SDE, times: np.ndarray, start: Tensor = X, **options: object
) -> tuple[Tensor, list[Tensor]]:
    noise = Recorded()
    solution = ss.sample(mixture_2d().model(sde), start=start, solver=solver, grid=times, noise=noise, **options)
    return solution.samples, noise.drawn


@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_is_the_exponential_euler_step(name: str) -> None:
    """x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^{-h}) D, to 1e-12."""
    sde = PROCESSES[name]
    for t, s in [(0.9, 0.5), (0.5, 0.499), (0.3, 0.05)]:
        t, s = t * sde.t_max, s * sde.t_max
        data = mixture_2d().denoise(X, sde.alpha(t), sde.sigma(t))
        h = sde.lam(s) - sde.lam(t)
        expected = sde.sigma(s) / sde.sigma(t) * X - sde.alpha(s) * math.expm1(-h) * data
        found, _ = _run("ddim", sde, np.array([t, s]))
        assert (found - expected).abs().max().item() < 1e-12 * (1 + X.abs().max().item())


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.5, 1.0])
def test_ddim_at_any_eta_is_the_papers_formula_on_a_subsequence(eta: float) -> None:
    """Song et al. 2021, eq. 12 and 16, with ab_t / ab_s of the subsequence and the last step to ab = 1."""
    sde = ss.DiscreteVPSDE.linear()
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    index = np.array([1000, 700, 350, 20, 1, 0])
    x, drawn = X, iter(_run("ddim", sde, index / 1000, eta=eta)[1])
    for i, j in pairwise(index):
        a_t, a_s = alpha_bar[i], alpha_bar[j]
        data = mixture_2d().denoise(x, math.sqrt(a_t), math.sqrt(1 - a_t))
        noise = (x - math.sqrt(a_t) * data) / math.sqrt(1 - a_t)
        sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
        x = math.sqrt(a_s) * data + math.sqrt(1 - a_s - sigma**2) * noise
        x = x + sigma * next(drawn) if sigma > 0 else x
    found, _ = _run("ddim", sde, index / 1000, eta=eta)
    assert torch.allclose(found, x, rtol=1e-11, atol=1e-12)


def test_ddim_at_eta_one_and_ddpm_are_the_posterior_step_on_the_full_grid() -> None:
    """Ho et al. 2020, eq. 7: beta-tilde and the two mean coefficients, for each of the 1000 steps' weights."""
    sde, betas = ss.DiscreteVPSDE.linear(), np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - betas)
    previous = np.concatenate([[1.0], bar[:-1]])
    of_data = np.sqrt(previous) * betas / (1 - bar)
    of_x = np.sqrt(1 - betas) * (1 - previous) / (1 - bar)
    variance = betas * (1 - previous) / (1 - bar)
    times = np.arange(1000, -1, -1) / 1000
    for table in (ss.build_table("ddim", sde, times, eta=1.0), ss.build_table("ddpm", sde, times)):
        found = np.array([(*row.commit, sum(row.noise) ** 2) for row in reversed(table.rows)])
        assert np.abs(found - np.stack([of_x, of_data, variance], axis=1)).max() < 1e-12
    fixed_large = ss.build_table("ddpm", sde, times, variance="forward")
    noise = np.array([sum(row.noise) ** 2 for row in reversed(fixed_large.rows)])
    assert noise[1:] == pytest.approx(betas[1:], rel=1e-10)
    assert noise[0] == 0.0


def test_ancestral_sampling_on_ve_is_smlds() -> None:
    """Song et al. 2021, app. F: x + (v_t - v_s) score, noise of variance v_s (v_t - v_s) / v_t, with v = sigma^2."""
    sde, times = ss.VESDE(), np.array([0.8, 0.6, 0.3])
    x, drawn = X, iter(_run("ancestral", sde, times)[1])
    for t, s in pairwise(times):
        score = mixture_2d().model(sde).score(x, t)
        added = sde.sigma(t) ** 2 - sde.sigma(s) ** 2
        x = x + added * score + sde.sigma(s) * math.sqrt(added) / sde.sigma(t) * next(drawn)
    assert torch.allclose(_run("ancestral", sde, times)[0], x, rtol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_reverse_diffusion_is_score_sdes_on_vp_and_ve(eta: float) -> None:
    """VP on a beta table: (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z; VE: x + G^2 score + G z."""
    table, n = ss.DiscreteVPSDE([0.1, 0.2, 0.3, 0.4]), 4
    x = X
    score = mixture_2d().model(table).score(x, 3 / n)
    z = _run("reverse_diffusion", table, np.array([3, 2]) / n)[1][0]
    vp = (2 - math.sqrt(1 - 0.3)) * x + 0.5 * (1 + eta**2) * 0.3 * score + eta * math.sqrt(0.3) * z
    assert torch.allclose(_run("reverse_diffusion", table, np.array([3, 2]) / n, eta=eta)[0], vp, rtol=1e-12)
    sde = ss.VESDE()
    g2 = sde.sigma(0.6) ** 2 - sde.sigma(0.5) ** 2
    ve = x + 0.5 * (1 + eta**2) * g2 * mixture_2d().model(sde).score(x, 0.6) + eta * math.sqrt(g2) * z
    assert torch.allclose(_run("reverse_diffusion", sde, np.array([0.6, 0.5]), eta=eta)[0], ve, rtol=1e-11)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_euler_maruyama_is_the_step_of_the_reverse_sde(name: str, eta: float) -> None:
    sde, model = PROCESSES[name], mixture_2d().model(PROCESSES[name])
    t, s = 0.7 * sde.t_max, 0.65 * sde.t_max
    reverse = sde.reverse(model, eta)
    z = _run("euler_maruyama", sde, np.array([t, s]))[1][0]
    expected = X - reverse.drift(X, t) * (t - s) + reverse.diffusion(t) * math.sqrt(t - s) * z
    assert torch.allclose(_run("euler_maruyama", sde, np.array([t, s]), eta=eta)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMOOTH)
def test_euler_and_heun_are_the_textbook_methods(name: str) -> None:
    sde = PROCESSES[name]
    flow = sde.probability_flow(mixture_2d().model(sde))
    times = np.array([0.8, 0.5, 0.3]) * sde.t_max
    by_euler = by_heun = X
    for t, s in pairwise(times.tolist()):
        by_euler = by_euler + (s - t) * flow(t, by_euler)
        slope = flow(t, by_heun)
        by_heun = by_heun + 0.5 * (s - t) * (slope + flow(s, by_heun + (s - t) * slope))
    assert torch.allclose(_run("euler", sde, times, clock="t")[0], by_euler, rtol=1e-12)
    assert torch.allclose(_run("heun", sde, times, clock="t")[0], by_heun, rtol=1e-12)


def _k_diffusion_2m(x: Tensor, sigmas: np.ndarray, eta2: float, drawn: list[Tensor]) -> Tensor:
    """DPM-Solver++(2M) and its SDE as they are usually written in the noise level, after Lu et al. 2022."""
    law, previous, last_h = mixture_2d(), None, 0.0
    noise = iter(drawn)
    for i in range(len(sigmas) - 1):
        here, there = sigmas[i], sigmas[i + 1]
        denoised = law.denoise(x, 1.0, float(here))
        if there == 0:
            x, h = denoised, 0.0
        else:
            h = math.log(here / there)
            x = there / here * math.exp(-h * eta2) * x + (1 - math.exp(-h * (1 + eta2))) * denoised
            if previous is not None:
                x = x + 0.5 * (1 - math.exp(-h * (1 + eta2))) * (h / last_h) * (denoised - previous)
            if eta2 > 0:
                x = x + there * math.sqrt(1 - math.exp(-2 * h * eta2)) * next(noise)
        previous, last_h = denoised, h
    return x


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("last", [0.0, 0.05])
def test_dpmpp_2m_and_its_sde_equal_an_independent_implementation(eta: float, last: float) -> None:
    sigmas = np.array([20.0, 9.0, 3.0, 1.7, 0.4, 0.1, last])
    options = {"eta": eta} if eta else {}
    solver = "dpmpp_2m_sde" if eta else "dpmpp_2m"
    found, drawn = _run(solver, ss.EDM(), sigmas, 20 * X, **options)
    assert torch.allclose(found, _k_diffusion_2m(20 * X, sigmas, eta**2, drawn), rtol=1e-12)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_exponential_solvers_depend_on_the_path_only_through_lam(solver: str) -> None:
    lam = np.linspace(-2.5, 2.5, 8)
    ends = []
    for name in SMOOTH:
        sde = PROCESSES[name]
        start = X * sde.alpha(sde.time(-2.5))
        ends.append(_run(solver, sde, sde.time(lam), start)[0] / sde.alpha(sde.time(2.5)))
    assert all(torch.allclose(end, ends[0], rtol=1e-9, atol=1e-10) for end in ends)


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_every_solver_ends_at_noise_zero_with_the_denoised_estimate(info: ss.SolverInfo) -> None:
    """A last step to sigma = 0 of a point mass returns the point, at any number of steps; VE has no such time."""
    point = ss.exact.Gaussian([0.7, -1.3], 0.0)
    exact = info.name in ["ddim", "dpmpp_2m", "dpmpp_2m_sde", "ddpm", "reverse_diffusion", "euler_maruyama"]
    for name, sde in PROCESSES.items():
        assert (sde.sigma(0.0) > 0) == (name == "ve")
        for steps in (1, 2, 3, 20) if name != "ve" else ():
            solution = ss.sample(
                point.model(sde), (3, 2), solver=info.name, steps=steps, t_min=0.0, seed=0, dtype=torch.float64
            )
            assert torch.isfinite(solution.samples).all(), (name, steps)
            if exact:
                target = torch.tensor([0.7, -1.3], dtype=torch.float64)
                assert torch.allclose(solution.samples, target, rtol=1e-12), (name, steps)


@given(steps=st.integers(1, 60), name=st.sampled_from(sorted(PROCESSES)), info=st.sampled_from(TABLES))
def test_every_number_of_steps_is_finite(steps: int, name: str, info: ss.SolverInfo) -> None:
    sde = PROCESSES[name]
    solution = ss.sample(gaussian().model(sde), (2, 3), solver=info.name, steps=steps, seed=0)
    assert torch.isfinite(solution.samples).all()


def test_a_start_at_alpha_zero_takes_a_closed_form_first_step() -> None:
    """RectifiedFlow at t = 1: lam is -inf, the drift diverges, and every solver still converges."""
    sde, law = ss.RectifiedFlow(), gaussian()
    for info in TABLES:
        table = ss.build_table(info.name, sde, ss.grids.log_snr(sde, 400, 1.0, 0.02))
        basis_start = ss.exact.Gaussian(law.mean * 0, torch.eye(3, dtype=torch.float64))
        basis_start.bases = law.bases
        out = ss.exact.push(table, law, sde, basis_start)
        exact = law.marginal(sde, 0.02)
        assert float((out.covariance - exact.covariance).norm()) < 0.06 * float(exact.covariance.norm()), info.name
        assert float((out.mean - exact.mean).norm()) < 0.03, info.name


@pytest.mark.parametrize(
    ("solver", "options", "error", "message"),
    [
        ("ddim", {"eta": -0.1}, ValueError, "eta >= 0"),
        ("ddim", {"eta": 2.0}, ValueError, "use eta=1 or less"),
        ("dpmpp_2m", {"weights": "exakt"}, ValueError, "weights= to be one of exact"),
        ("dpmpp_2m", {"eta": 1.0}, TypeError, "unknown option 'eta'"),
        ("dpmpp_2m_sde", {"etta": 1.0}, TypeError, "did you mean 'eta'"),
        ("ddpm", {"variance": "big"}, ValueError, "posterior"),
        ("heun", {"first": 3}, ValueError, r"first= to be one of \[1, 2\], got 3"),
        ("heun", {"clock": "sigma"}, ValueError, 'clock="rho", "log_rho", "flow" or "t"'),
        ("dpmpp_2m", {"start": "hot"}, ValueError, 'start="low" or "high"'),
        ("dpmpp_2m", {"unic": "bh3"}, ValueError, "unic= to be one of exact, bh1, bh2"),
        ("unipc_2", {"predicts": "score"}, ValueError, 'predicts="data" or "noise"'),
        ("sa_solver", {"corrector_order": 5}, ValueError, "corrector_order= from 0 to 4, got 5"),
        ("sa_solver", {"between": (1.0, 0.1)}, ValueError, "levels of rho"),
        ("er_sde_3", {"weights": "bh1"}, ValueError, 'weights="published" or "exact"'),
        ("edm_heun", {"s_churn": -1.0}, ValueError, "s_churn and s_noise of at least 0"),
        ("restart", {"low": 0.5}, ValueError, "0 < low < high"),
        ("dpm_fast", {"ends": (4,)}, ValueError, "orders 1 to 3"),
        ("sra1", {"eta": 0.0}, ValueError, "eta > 0"),
        ("pndm", {"start": "high"}, ValueError, 'start="heun"'),
        ("rk45", {"rtol": 0.0}, ValueError, "rtol > 0"),
        ("annealed_langevin", {"corrections": 0}, ValueError, "at least one correction"),
        ("reverse_diffusion", {"eta": -1.0}, ValueError, "eta >= 0"),
        ("euler_maruyama", {"eta": -1.0}, ValueError, "eta >= 0"),
    ],
)
def test_bad_options_are_refused_before_the_network_is_called(
    solver: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(error, match=message):
        ss.sample(model, (2, 2), solver=solver, steps=3, **options)
    assert model.nfe == 0


def test_sa_solvers_noise_level_is_a_window_or_a_function_of_time() -> None:
    sde = ss.VPSDE()
    times = ss.grids.log_snr(sde, 12, 1.0, 1e-3)
    window = ss.build_table("sa_solver", sde, times, tau=0.7, between=(0.05, 1.0))
    noisy = [0.05 <= sde.rho(row.t) <= 1.0 for row in window.rows]
    assert [row.draws for row in window.rows] == noisy
    assert any(noisy)
    assert not all(noisy)
    by_time = ss.build_table("sa_solver", sde, times, tau=lambda t: 0.7 if 0.05 <= sde.rho(t) <= 1.0 else 0.0)
    assert by_time.rows == window.rows
    assert ss.Table.from_json(by_time.to_json()).rows == window.rows


def test_er_sde_3_is_the_published_taylor_step() -> None:
    """Cui et al. 2023, alg. 3, on EDM, its integrals by adaptive quadrature in place of a sum of 100 terms."""
    sde, rho = ss.EDM(), np.array([5.0, 3.5, 2.2, 1.5])

    def phi(u: float) -> float:
        return u * (np.exp(u**0.3) + 10)

    row = ss.build_table("er_sde_3", sde, rho).rows[2]
    step, ratio = rho[3] - rho[2], phi(rho[3]) / phi(rho[2])
    first = step + phi(rho[3]) * quad(lambda u: 1 / phi(u), rho[3], rho[2])[0]
    second = step**2 / 2 + phi(rho[3]) * quad(lambda u: (u - rho[2]) / phi(u), rho[3], rho[2])[0]
    slope = np.array([1.0, -1.0, 0.0]) / (rho[2] - rho[1])
    older = np.array([0.0, 1.0, -1.0]) / (rho[1] - rho[0])
    curvature = 2 * (slope - older) / (rho[2] - rho[0])
    of_outputs = np.array([1 - ratio, 0.0, 0.0]) + first * slope + second * curvature
    assert row.commit == pytest.approx((ratio, *of_outputs), rel=1e-9)
    assert sum(row.noise) == pytest.approx(np.sqrt(rho[3] ** 2 - rho[2] ** 2 * ratio**2), rel=1e-12)


def test_restart_goes_up_as_often_as_it_is_told_and_down_on_the_grids_own_times() -> None:
    sde = ss.EDM()
    grid = ss.grids.karras(sde, 14, 80.0, 0.002)
    inside = [t for t in grid if t <= 0.3]
    low = next(i for i, t in enumerate(inside) if t <= 0.06)
    for repeats in (0, 1, 3):
        table = ss.build_table("restart", sde, grid, repeats=repeats)
        assert table.nfe == 2 * 14 - 1 + repeats * 2 * low
        assert sum(row.draws for row in table.rows) == repeats
        assert sum(t == pytest.approx(inside[0]) for t in table.times) == 1 + repeats
    assert not ss.build_table("restart", sde, np.array([80.0, 1.0, 0.01])).stochastic  # it steps over the interval


@pytest.mark.parametrize("name", ["lms_3", "ipndm_4", "dpm_solver_2s", "seeds_2", "deis_tab2"])
def test_noise_prediction_starts_without_signal_by_the_data(name: str) -> None:
    """From alpha = 0 the first step is that of the data prediction: at eta = 0 DDIM's."""
    sde = ss.RectifiedFlow()
    model, times = mixture_2d().model(sde), np.array([1.0, 0.8])
    options = {"eta": 0.0} if name == "seeds_2" else {}
    found = ss.sample(model, start=X, solver=name, grid=times, seed=0, **options).samples
    assert torch.allclose(found, ss.sample(model, start=X, solver="ddim", grid=times).samples, rtol=1e-12)


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_a_table_says_which_solver_it_is_of_and_at_what_noise_level(info: ss.SolverInfo) -> None:
    sde = ss.VPSDE()
    eta = {"eta": 0.7} if "eta" in info.options else {}
    table = info.build(sde, sde.time(np.linspace(-2.0, 2.0, 4)), **eta)
    assert table.solver == info.name
    assert {**table.options, **eta} == table.options


def test_solvers_are_each_other_where_they_are_said_to_be() -> None:
    sde = ss.VPSDE()
    times = sde.time(np.linspace(-2.0, 2.0, 6))
    build = lambda name, **options: ss.get_solver(name).build(sde, times, **options)  # noqa: E731
    assert build("midpoint", clock="log_rho").rows == build("dpm_solver_2s").rows
    assert build("edm_euler", s_churn=0.0).rows == build("euler", clock="rho").rows
    assert build("edm_heun", s_churn=0.0).rows == build("heun", clock="rho").rows
    assert build("sa_solver").options["between"] == [0.05, 1.0]
    assert build("flow_abm_2").rows == build("flow_abm_2", unic="exact").rows
    for name in ("dpm_2_ancestral", "dpmpp_2s_ancestral"):
        assert build(name, first=2).rows == build(name).rows
        with pytest.raises(ValueError, match="first= to be 1 or 2"):
            build(name, first=3)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ancestral_steps_go_down_by_their_solver_and_up_by_noise(name: str) -> None:
    """rho_up = eta rho_s sqrt(1 - (rho_s / rho_t)^2), rho_down^2 = rho_s^2 - rho_up^2, on EDM, where t is rho."""
    sde, (t, s), plain = ss.EDM(), (3.0, 1.2), {"dpm_2_ancestral": "dpm_solver_2s", "dpmpp_2s_ancestral": "dpmpp_2s"}
    for eta in (0.0, 0.6, 1.0):
        up = eta * s * math.sqrt(1 - (s / t) ** 2)
        found = ss.build_table(name, sde, np.array([t, s]), eta=eta).rows
        step = ss.build_table(plain.get(name, "ddim"), sde, np.array([t, math.sqrt(s**2 - up**2)])).rows
        assert sum(found[-1].noise) == pytest.approx(up)
        for row, other in zip(found, step, strict=True):
            assert (row.t, *row.commit, *row.propose) == pytest.approx((other.t, *other.commit, *other.propose))
    to_zero = ss.build_table(name, sde, np.array([t, 0.0]))
    assert not to_zero.stochastic
    with pytest.raises(ValueError, match="eta >= 0"):
        ss.build_table(name, sde, np.array([t, s]), eta=-0.1)


def test_sa_solver_without_noise_is_exponential_adams_or_unipc() -> None:
    """Its corrector is the exact one, of as many nodes as are asked for; below two there is none."""
    sde = ss.VPSDE()
    build = lambda name, **options: ss.build_table(name, sde, sde.time(np.linspace(-2.0, 2.0, 8)), **options)  # noqa: E731
    for order in (1, 2, 3, 4):
        plain = build(f"exponential_{order}", start="low").rows
        for nodes in (0, 1):
            assert build("sa_solver", tau=0.0, predictor_order=order, corrector_order=nodes).rows == plain
        corrected = build("sa_solver", tau=0.0, predictor_order=order, corrector_order=order + 1).rows
        assert corrected == build(f"unipc_{order}", variant="exact").rows != plain
    assert build("sa_solver").rows == build("sa_solver", predictor_order=3, corrector_order=4, tau=1.0).rows
    assert build("sa_solver", tau=0.0).options["predictor_order"] == 3
    assert build("sa_solver", predictor_order=2, corrector_order=2) != build("sa_solver")
