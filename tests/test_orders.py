"""What orders depend on: paths, clocks, correctors, starts, weights, noise levels. Each solver's own: promise 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PROCESSES, TABLES, gaussian, interval, slopes

import scoresolve as ss
from benchmarks import order_errors as measured
from benchmarks import order_paths as paths

ODE = [info for info in TABLES if info.kind == "ode"]
SDE = [info for info in TABLES if info.kind == "sde"]
CLOCKED = [info for info in ODE if "clock" in info.options]
# what depends on t and not on the noise levels alone
IN_TIME = ["deis_tab1", "deis_tab2", "deis_tab3"]
DISCRETISED = ["euler_maruyama", "reverse_diffusion"]
# solvers of the reverse SDE of level eta: their law given the start is that of the SDE, at the declared order
OF_LEVEL_ETA = [
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "seeds_1",
    "seeds_2",
    "seeds_3",
    "sra1",
    "sosra",
    *DISCRETISED,
]


@pytest.mark.parametrize("path", ["ve", "vp", "subvp", "user", "flow"])
@pytest.mark.parametrize("name", [*IN_TIME, *(f"{info.name}:t" for info in CLOCKED)])
def test_order_of_what_depends_on_time_on_every_path(name: str, path: str) -> None:
    """Where the path's own t enters, each path is measured."""
    info, options = ss.get_solver(name.split(":")[0]), {"clock": "t"} if ":" in name else {}
    errors = measured.flow_errors(info, PROCESSES[path], (256, 512) if name == "deis_tab3" else (128, 256), **options)
    # on paths that are nearly straight in t the leading term may all but vanish: faster is not refused here
    assert measured.slope(errors) > info.order - 0.25, np.array(errors)


@pytest.mark.property(10, 11)
@pytest.mark.parametrize("path", ["ve", "subvp", "cosine", "edm", "flow", "user"])
@pytest.mark.parametrize(
    "info", [i for i in TABLES if i.name not in (*IN_TIME, *DISCRETISED)], ids=lambda info: info.name
)
def test_the_path_does_not_matter(info: ss.SolverInfo, path: str) -> None:
    """What is built on noise levels gives the same result on every path, so that one path's order is that of all."""
    results = []
    for sde in (PROCESSES["vp"], PROCESSES[path]):
        times = ss.grids.log_snr(sde, 12, *interval(sde))
        start = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * sde.sigma(times[0])
        model = measured.mixture().model(sde)
        out = ss.sample(model, start=start, solver=info.name, grid=times, seed=0).samples
        results.append(out / sde.alpha(times[-1]))
    assert torch.allclose(*results, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clock", ["rho", "log_rho"])
@pytest.mark.parametrize("info", [i for i in CLOCKED if "ab" not in i.name], ids=lambda info: info.name)
def test_the_other_clocks_have_the_same_order(info: ss.SolverInfo, clock: str) -> None:
    errors = measured.flow_errors(info, ss.VPSDE(), clock=clock)
    assert measured.slope(errors) == pytest.approx(info.order, abs=0.25)


@pytest.mark.parametrize("variant", ["exact", "bh1", "bh2"])
@pytest.mark.parametrize("predicts", ["data", "noise"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_gains_an_order_from_its_corrector(order: int, predicts: str, variant: str) -> None:
    info = ss.get_solver(f"unipc_{order}")
    with_it, without = (
        measured.slope(measured.flow_errors(info, ss.VPSDE(), (128, 256), predicts=predicts, variant=variant, unic=on))
        for on in (True, False)
    )
    assert with_it == pytest.approx(order + 1, abs=0.25)
    assert without == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["dpmpp_2m", "exponential_3", "deis_tab2", "lms_3", "velocity_ab3"])
def test_a_corrector_adds_an_order_to_any_multistep_method(name: str) -> None:
    info = ss.get_solver(name)
    errors = measured.flow_errors(info, ss.VPSDE(), (256, 512), unic="exact")
    assert measured.slope(errors) == pytest.approx(info.order + 1, abs=0.25)


@pytest.mark.parametrize("name", ["exponential_3", "lms_4", "deis_tab3"])
def test_a_low_start_caps_the_order_at_two(name: str) -> None:
    info = ss.get_solver(name)
    low = measured.flow_errors(info, ss.VPSDE(), (128, 256, 512), start="low")
    high = measured.flow_errors(info, ss.VPSDE(), (128, 256, 512), start="high")
    assert low[-1] > 3 * high[-1]
    assert measured.slope(low) < info.order - 0.4


@pytest.mark.parametrize(("name", "exact"), [("dpmpp_3m", 3), ("dpm_solver_3m", 3), ("dpmpp_2m", 2)])
def test_published_weights_have_order_two_and_exact_ones_their_own(name: str, exact: int) -> None:
    info = ss.get_solver(name)
    published = measured.slope(measured.flow_errors(info, ss.VPSDE(), (256, 512)))
    corrected = measured.slope(measured.flow_errors(info, ss.VPSDE(), (256, 512), weights="exact"))
    assert published == pytest.approx(2, abs=0.1)
    assert corrected == pytest.approx(exact, abs=0.1)


def test_equal_step_weights_have_order_one_on_a_rough_grid_and_ipndm_v_two() -> None:
    """Steps that alternate in length: iPNDM drops to order 1, and the sums of iPNDM_v-4's weights are off."""
    sde = ss.VPSDE()
    rough: dict[str, list[float]] = {"ipndm_4": [], "lms_4": [], "ipndm_v_4": []}
    law, (first, last) = measured.mixture(), measured.ends(sde)
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = measured.quantile_flow(law, start, sde, first, last)
    for steps in (128, 256, 512):
        lam = np.linspace(*measured.LAM, steps + 1)
        lam[1:-1:2] += 0.3 * (lam[1] - lam[0])
        times = np.array([first, *sde.time(lam[1:-1]), last])
        for name, errors in rough.items():
            table = ss.build_table(name, sde, times, start="high")
            out = ss.sample(law.model(sde), start=start[:, None], solver=table).samples[:, 0]
            errors.append(float((out - exact).square().mean().sqrt()))
    assert measured.slope(rough["ipndm_4"]) == pytest.approx(1, abs=0.1)
    assert measured.slope(rough["ipndm_v_4"]) < 2.1
    assert measured.slope(rough["lms_4"]) == pytest.approx(4, abs=0.25)


# -- stochastic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["ve", "vp", "subvp", "user"])
@pytest.mark.parametrize("name", DISCRETISED)
def test_weak_order_of_what_depends_on_time_on_every_path(name: str, path: str) -> None:
    errors = measured.exact_errors(ss.get_solver(name), PROCESSES[path], (512, 1024))
    assert measured.slope(errors) == pytest.approx(1, abs=0.25)


def test_the_path_that_is_given_is_the_one_that_is_followed() -> None:
    """With the noise of another path the results part: the strong errors above are no accident."""
    info, sde = ss.get_solver("sra1"), ss.VPSDE()
    path, other = paths.BrownianPath(6 * 256, 256, seed=0), paths.BrownianPath(6 * 256, 256, seed=1)
    start = (
        measured.mixture().marginal(sde, measured.ends(sde)[0]).sample(256, generator=torch.Generator().manual_seed(1))
    )
    fine, coarse, foreign = (paths.on_path(info, sde, n, p, start) for n, p in ((256, path), (64, path), (64, other)))
    assert float((coarse - fine).abs().mean()) < 0.01 < 0.3 < float((foreign - fine).abs().mean())


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_sde", "seeds_3", "sosra", "ddpm"])
def test_solvers_of_one_sde_converge_to_one_solution(name: str) -> None:
    """On the same path they have the same limit as SRA1."""
    sde = ss.VPSDE()
    path = paths.BrownianPath(6 * 256, 256)
    start = (
        measured.mixture().marginal(sde, measured.ends(sde)[0]).sample(256, generator=torch.Generator().manual_seed(1))
    )
    distances = []
    for n in (32, 256):
        pair = [paths.on_path(ss.get_solver(which), sde, n, path, start) for which in ("sra1", name)]
        distances.append(float((pair[0] - pair[1]).abs().mean()))
    assert distances[1] < 0.3 * distances[0] < 0.1


@pytest.mark.parametrize("eta", [0.4, 1.0, 1.5])
@pytest.mark.parametrize("name", OF_LEVEL_ETA)
def test_the_law_given_the_start_is_that_of_the_sde(name: str, eta: float) -> None:
    """Gain, offset and noise on Gaussian data against those of the reverse SDE of level eta, each by itself."""
    info, sde, law = ss.get_solver(name), ss.VPSDE(), gaussian()
    errors = [measured.gaussian_error(measured.table(info, sde, n, eta=eta), law, sde, eta) for n in (256, 512)]
    assert slopes(errors)[-1] > info.order - 0.15
    assert errors[-1] < 0.05


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", ["ddim", "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ddims_eta_agrees_with_the_sde_as_steps_shrink(name: str, eta: float) -> None:
    info, sde, law = ss.get_solver(name), ss.VPSDE(), gaussian()
    errors = [measured.gaussian_error(measured.table(info, sde, n, eta=eta), law, sde, eta) for n in (256, 512)]
    assert slopes(errors)[-1] == pytest.approx(1, abs=0.15)


def test_the_forward_variance_of_ddpm_converges_at_order_one() -> None:
    info, sde, law = ss.get_solver("ddpm"), ss.VPSDE(), gaussian()
    errors = [
        measured.gaussian_error(measured.table(info, sde, n, variance="forward"), law, sde, 1.0) for n in (256, 512)
    ]
    assert slopes(errors)[-1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "info", [i for i in SDE if "eta" in i.options and i.name not in ("sra1", "sosra")], ids=lambda info: info.name
)
def test_without_noise_a_stochastic_solver_is_deterministic(info: ss.SolverInfo) -> None:
    assert not measured.table(info, ss.VPSDE(), 8, eta=0.0).stochastic


laws = st.tuples(st.lists(st.floats(-3, 1), min_size=1, max_size=3), st.floats(-2, 2))


@settings(max_examples=40)
@given(drawn=laws, info=st.sampled_from(TABLES), grid=st.sampled_from(["log_snr", "karras", "balanced"]))
def test_errors_fall_on_any_gaussian(drawn: tuple[list[float], float], info: ss.SolverInfo, grid: str) -> None:
    """Hypothesis draws the Gaussian and the grid; the law's error falls at least at the declared order, less 0.3."""
    logs, mean = drawn
    variances = torch.tensor(logs, dtype=torch.float64).mul(math.log(10)).exp()
    law, sde = ss.exact.Gaussian(torch.full((len(logs),), mean, dtype=torch.float64), variances), ss.VPSDE()
    exact = law.marginal(sde, measured.ends(sde)[1])
    errors = []
    for steps in (32, 256):
        out = ss.exact.push(measured.table(info, sde, steps, grid), law, sde)
        errors.append(float((out.covariance - exact.covariance).norm() + (out.mean - exact.mean).norm()))
    assert math.log2(errors[0] / errors[1]) / 3 > min(info.order, 4) - 0.5 or errors[1] < 1e-8


# -- the records ----------------------------------------------------------------------------------------------------
