"""Where diffusers' schedulers are wrong, and why: each fault is shown on their side, beside our counterpart of it.
One that fails with a version later than 0.42 may say no more than that the fault is mended there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import gaussian
from parity import MARKS, difference, dpm, grid, ours, sa, setting, theirs
from torch import Tensor

import scoresolve as ss
from scoresolve.forms import Form, data_form, noise_form
from scoresolve.multistep import RULES

pytest.importorskip("diffusers")

from diffusers import schedulers

from benchmarks.peers import from_diffusers
from benchmarks.peers.base import Network, Task
from benchmarks.peers.diffusers_settings import Setting
from benchmarks.peers.noise import Probe

pytestmark = MARKS

VP, TABLE = ss.VPSDE(), ss.DiscreteVPSDE.linear()
POINT = ss.exact.Gaussian([0.3], 0.25**2)
BETAS: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02}


def slope(errors: list[float]) -> float:
    """The order seen when the steps are halved."""
    return math.log2(errors[0] / errors[1])


# -- the third order of multistep DPM-Solver --------------------------------------------------------------------------


def moments(algorithm: str, sigmas: Tensor) -> list[float]:
    """What their step from level 2 to level 3 adds for the outputs 1, u and u^2 of u = lam - lam_2."""
    known: Any = {"algorithm_type": algorithm, "final_sigmas_type": "sigma_min"}
    scheduler = schedulers.DPMSolverMultistepScheduler(solver_order=3, **known)
    scheduler.sigmas, scheduler._step_index = sigmas, 2
    u, zero = -(sigmas[:3] / sigmas[2]).log(), torch.zeros((), dtype=torch.float64)
    step = scheduler.multistep_dpm_solver_third_order_update
    return [float(step(list(u**k), sample=zero, noise=zero)) for k in range(3)]


def integrals(form: Form, rule: str, sigmas: Tensor) -> list[float]:
    """The same for one of our rules; "exact" is what it should be."""
    points = VP.points(np.asarray(VP.time(-np.log(sigmas.numpy()))))
    nodes = points[2::-1]
    places = np.array([point.lam - points[2].lam for point in nodes])
    return [float(RULES[rule](form, nodes, points[2], points[3]) @ places**k) for k in range(3)]


@pytest.mark.parametrize(("algorithm", "form"), [("dpmsolver++", data_form(VP)), ("dpmsolver", noise_form(VP))])
def test_3m_counts_half_of_the_second_difference(algorithm: str, form: Form) -> None:
    """``D2 = (D1_0 - D1_1) / (r0 + r1)`` is half of ``h^2 D''`` and is weighted as if it were the whole.

    The step is exact for outputs 1 and u, and has half of the integral of u^2. So it was published, and so it is
    offered here as ``dpmpp_3m`` and ``dpm_solver_3m``, of order 2; the whole is ``exponential_3``.
    """
    sigmas = torch.tensor([3.0, 2.2, 1.5, 0.9], dtype=torch.float64)
    exact = integrals(form, "exact", sigmas)
    assert np.divide(moments(algorithm, sigmas), exact) == pytest.approx([1, 1, 0.5], abs=1e-9)
    assert np.divide(integrals(form, "published", sigmas), exact) == pytest.approx([1, 1, 0.5], abs=1e-9)


def test_3m_is_of_order_two() -> None:
    """Even from an exact history, here that of Gaussian data; the exact weights are of order 3."""
    law, model, found, mine = gaussian(), gaussian().model(VP), [], []
    for steps in (96, 192):
        times = grid(VP, steps, "log_snr")
        x = law.marginal(VP, float(times[0])).sample(8, generator=torch.Generator().manual_seed(0))
        path = [law.flow(VP, x, float(times[0]), float(t)) for t in times[:3]]
        config: dict[str, Any] = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
        scheduler = schedulers.DPMSolverMultistepScheduler(solver_order=3, **config)
        scheduler.set_timesteps(steps)
        scheduler.sigmas = torch.as_tensor(VP.rho(times))
        scheduler.set_begin_index(2)
        scheduler.model_outputs = [None, *(model.data(path[i], float(times[i])) for i in (0, 1))]
        scheduler.lower_order_nums, end = 2, path[2]
        for t in times[2:-1]:
            end = scheduler.step(model.noise(end, float(t)), 0, end).prev_sample
        exact = law.flow(VP, x, float(times[0]), float(times[-1]))
        found.append(difference(end, exact))
        mine.append(difference(ss.sample(model, start=x, solver="exponential_3", grid=times).samples, exact))
    assert slope(found) == pytest.approx(ss.get_solver("dpmpp_3m").order, abs=0.2)
    assert slope(mine) > 2.75


def test_sde_3m_subtracts_the_half_it_should_add() -> None:
    """With H = 2h the weight of D2 is ``(1 - e^-H - H) / H^2 - 1/2``, where the integral gives ``... + 1/2``.

    The second is of size h, the first near -1 however small h is: an error of h^2 in every step.
    """
    for h in (0.1, 0.01):
        sigmas = torch.exp(-h * torch.arange(4, dtype=torch.float64))
        exact, found = integrals(data_form(VP, 1.0), "exact", sigmas), moments("sde-dpmsolver++", sigmas)
        alpha = float((1 + sigmas[3] ** 2) ** -0.5)
        assert np.divide(found, exact)[:2] == pytest.approx([1, 1], abs=1e-8)
        assert (found[2] - 0.5 * exact[2]) / (alpha * h**2) == pytest.approx(-1, abs=1e-9)


# -- laws of stochastic ones ------------------------------------------------------------------------------------------


def variance_error(gain: float, variance: float, times: np.ndarray) -> float:
    """Error of the variance given the start, against that of the reverse SDE (its gain is exact for these methods)."""
    at_u, at_t = (float(POINT.marginal(VP, float(t)).variances[0, 0]) for t in (times[0], times[-1]))
    exact = at_t / at_u * VP.alpha(float(times[0])) / VP.alpha(float(times[-1]))
    assert gain == pytest.approx(exact, abs=1e-6)
    return abs(variance - (at_t - exact**2 * at_u))


def their_variance_error(setting: Setting, times: np.ndarray) -> float:
    """The response to the start and to each draw by itself; the map is affine on Gaussian data."""
    x = torch.zeros(2 + len(times), 1, dtype=torch.float64)
    x[1] = 1.0
    task = Task(Network(POINT.model(VP), None), x, times, seed=0)
    with torch.no_grad(), Probe(torch.ones(1), first=2):
        ends = from_diffusers._Sigmas(setting, task).run().double()[:, 0]
    ends = ends - ends[0]
    return variance_error(float(ends[1]), float(ends[2:].square().sum()), times)


def our_variance_error(solver: str, times: np.ndarray) -> float:
    gain, _, noise = ss.exact.affine_map(ss.get_solver(solver).build(VP, times), POINT, VP)
    return variance_error(float(gain[0]), float(noise.square().sum()), times)


def order(error: Callable[[np.ndarray], float]) -> float:
    """Of the variance."""
    return slope([error(grid(VP, n, "log_snr")) for n in (120, 240)])


def test_sde_3m_is_of_order_one() -> None:
    """What the wrong sign above comes to; ours is of order 2, as past outputs allow."""
    assert order(lambda times: their_variance_error(dpm(3, "sde-dpmsolver++"), times)) == pytest.approx(1, abs=0.15)
    assert order(lambda times: our_variance_error("dpmpp_3m_sde", times)) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("stages", [2, 3])
def test_single_step_sde_is_of_order_one(stages: int) -> None:
    """The middle of a step and its end each draw a noise of their own; on a path, the end has seen that of the middle.

    Whole steps start again at the state before the middle, whose noise is thus thrown away. Ours carry it on.
    """
    config = {"solver_order": stages, "algorithm_type": "sde-dpmsolver++"}
    single = setting("DPMSolverSinglestepScheduler", says_end=True, **config)
    assert order(lambda times: their_variance_error(single, times)) == pytest.approx(1, abs=0.25)
    assert order(lambda times: our_variance_error("dpmpp_sde", times[::2])) == pytest.approx(2, abs=0.2)


def test_churn_comes_after_the_network() -> None:
    """EDM adds noise, then asks; the scheduler is handed an output for the state without it, and uses it as if with."""
    times, at = grid(VP), 3
    rho = torch.as_tensor(VP.rho(times))
    scheduler = schedulers.EulerDiscreteScheduler()
    scheduler.set_timesteps(len(rho) - 1)
    scheduler.sigmas, scheduler._step_index, scheduler.is_scale_input_called = rho, at, True
    model, x = POINT.model(ss.EDM()), torch.ones(1, 1, dtype=torch.float64)
    seeded, again = (torch.Generator().manual_seed(0) for _ in range(2))
    asked = model.noise(x, float(rho[at]))
    found = scheduler.step(asked, torch.tensor(0.0), x, s_churn=2.0, generator=seeded).prev_sample
    high = rho[at] * (1 + 2.0 / len(rho[1:]))
    noise = torch.randn(1, 1, dtype=torch.float64, generator=again)
    raised = x + (high**2 - rho[at] ** 2).sqrt() * noise
    assert difference(found, raised + (rho[at + 1] - high) * asked) < 1e-5
    assert difference(found, raised + (rho[at + 1] - high) * model.noise(raised, float(high))) > 1e-2


# -- time steps -------------------------------------------------------------------------------------------------------


def spread(scheduler: Any, steps: int) -> float:
    """Standard deviation of their samples, in units of the law's: a pipeline's loop, on their own time steps."""
    scheduler.set_timesteps(steps)
    model = POINT.model(TABLE)
    x = torch.tensor([[0.0], [float(scheduler.init_noise_sigma)]], dtype=torch.float64)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        x = scheduler.step(model.noise(seen, float((t + 1) / 1000)), t, x).prev_sample
    return float(x[1] - x[0]) / 0.25


def our_spread(solver: str, **options: Any) -> float:
    ends = ss.sample(POINT.model(TABLE), start=torch.tensor([[0.0], [1.0]]).double(), solver=solver, **options).samples
    return float(ends[1] - ends[0]) / 0.25


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"])
def test_a_thousand_steps_are_not_a_number(name: str) -> None:
    """1001 rounded points between 0 and 999 hold one of them twice: a step of length zero divides 0 by 0."""
    scheduler = getattr(schedulers, f"{name}Scheduler")(**BETAS)
    assert math.isnan(spread(scheduler, 1000))
    assert len(scheduler.timesteps.unique()) == 999
    assert our_spread("dpmpp_2m", steps=1000) == pytest.approx(1, abs=0.005)


def test_deis_loses_its_weights_to_rounding() -> None:
    """Differences of antiderivatives at neighbouring levels, divided by their distances, all in float32."""
    assert abs(spread(schedulers.DEISMultistepScheduler(solver_order=3, **BETAS), 800) - 1) > 0.2
    times = grid(VP, 800)
    deis = setting("DEISMultistepScheduler", solver_order=3)
    single = theirs(deis, VP, times, lambda scheduler, _: setattr(scheduler, "sigmas", scheduler.sigmas.float()))
    double = theirs(deis, VP, times)
    assert difference(single, double) > 0.1
    assert difference(double, ours("deis_log_rho2", VP, times, lower_order_final=True)) < 1e-5


def test_ddim_walks_to_times_it_does_not_ask_at() -> None:
    """With "linspace" the steps are 999 / (n - 1) apart and ``step`` goes down by 1000 // n: at 499, asked at 0."""
    scheduler = schedulers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False, **BETAS)
    assert spread(scheduler, 2) == pytest.approx(3.83, abs=0.01)
    assert scheduler.timesteps.tolist() == [999, 0]
    assert our_spread("ddim", grid=np.array([1.0, 0.001, 0.0])) < 1


def test_heun_in_two_steps_is_as_bad_as_it_should_be() -> None:
    """Three hundred times the spread is no fault of the code: one trapezoid from rho = 157 to 0.01. So is ours in rho.

    In the flow's clock, our default, the same three calls stay at twice the spread, and DDIM's below it.
    """
    found, grid = spread(schedulers.HeunDiscreteScheduler(**BETAS), 2), np.array([1.0, 0.001, 0.0])
    assert found == pytest.approx(our_spread("heun", grid=grid, clock="rho"), rel=1e-3)
    assert found > 300
    assert our_spread("heun", grid=grid) < 3
    assert our_spread("ddim", nfe=3) < 1


def test_labels_of_karras_levels_are_rounded_and_the_levels_are_not() -> None:
    """The network is told a whole index whose noise is up to 20 % off that of its input; ours moves the level to it."""
    for steps, off in ((20, 0.045), (100, 0.2)):
        scheduler = schedulers.DPMSolverMultistepScheduler(use_karras_sigmas=True, **BETAS)
        scheduler.set_timesteps(steps)
        told = TABLE.rho((scheduler.timesteps.double() + 1) / 1000)
        assert float((told / scheduler.sigmas[:-1] - 1).abs().max()) == pytest.approx(off, rel=0.1)
    labels: list[float] = []

    def net(x: Tensor, label: Tensor) -> Tensor:
        labels.append(float(label[0]))
        return x

    model = ss.ScoreModel(net, TABLE, predicts="noise", time="index")
    found = ss.sample(model, shape=(2, 1), steps=20, grid="karras", seed=0)
    assert labels == pytest.approx((1000 * found.times[:-1] - 1).tolist(), abs=1e-9)


def test_flow_levels_are_shifted_twice() -> None:
    """``sigma_min`` is shifted at construction already, and ``set_timesteps`` shifts all between the ends again."""
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    once = 3 * 1e-3 / (1 + 2 * 1e-3)
    assert scheduler.sigma_min == pytest.approx(once, rel=1e-5)
    assert float(scheduler.sigmas[3]) == pytest.approx(3 * once / (1 + 2 * once), rel=1e-5)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])  # given ones are shifted once
    mine = ss.grids.flow_shift(ss.RectifiedFlow(), 4, 1.0, 0.0, shift=3.0)
    assert scheduler.sigmas.tolist() == pytest.approx(mine.tolist(), abs=1e-6)


def test_ipndm_takes_betas_for_noise_levels() -> None:
    """The first n of the table are its levels, whatever they cumulate to: it starts at sigma = 1e-4."""
    scheduler = schedulers.IPNDMScheduler(trained_betas=TABLE.betas.tolist())
    scheduler.set_timesteps(10)
    assert float(scheduler.betas[0]) == pytest.approx(1e-4)
    assert TABLE.sigma(1.0) > 0.999


# -- options ----------------------------------------------------------------------------------------------------------


def test_an_order_that_there_is_not_is_another() -> None:
    """Order 5 is order 3, silently; ours has no such name."""
    assert torch.equal(theirs(dpm(5), VP, grid(VP)), theirs(dpm(3), VP, grid(VP)))
    with pytest.raises(ValueError, match="dpmpp_5m"):
        ss.get_solver("dpmpp_5m")


def test_branches_that_are_not_there() -> None:
    """No branch of the third order for "sde-dpmsolver" and for EDM's SDE; no predictor alone for SA-Solver."""
    times = grid(VP)
    with pytest.raises(UnboundLocalError):
        theirs(dpm(3, "sde-dpmsolver"), VP, times)
    with pytest.raises(AssertionError):
        theirs(sa(2, 0, 1.0), VP, times)
    assert bool(ours("sa_solver", VP, times, predictor_order=2, corrector_order=0).isfinite().all())
    scheduler = schedulers.EDMDPMSolverMultistepScheduler(solver_order=3, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(9)
    scheduler.set_begin_index(2)
    scheduler.model_outputs, scheduler.lower_order_nums = [torch.ones(1, 1)] * 3, 2
    with pytest.raises(UnboundLocalError):
        scheduler.step(torch.ones(1, 1), 0, torch.ones(1, 1), generator=torch.Generator())
