"""log p as one more column of a solver's state: every solver, both directions, and what is refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from oracles import PROCESSES, gaussian, interval, mixture_2d, slopes
from torch import Tensor

import scoresolve as ss
from scoresolve.augmented import AugmentedModel, check_form, size_of
from scoresolve.coordinates import Clock, coordinates

ODE_TABLES = [info.name for info in ss.solvers() if info.kind == "ode" and not info.adaptive]


def flow_log_det(law: ss.exact.Gaussian, sde: ss.SDE, t: float, s: float) -> float:
    """log |det dx_s/dx_t| of the probability flow of Gaussian data: ratios of standard deviations."""
    v = law.variances[0]
    end, start = (sde.alpha(u) ** 2 * v + sde.sigma(u) ** 2 for u in (s, t))
    return float(0.5 * (end / start).log().sum())


@pytest.mark.parametrize("solver", ODE_TABLES)
def test_every_table_finds_the_log_determinant_to_its_order(solver: str) -> None:
    """On VP, where alpha, sigma and their sum all vary: the error falls with the steps as that of the state does."""
    sde, law, info = ss.VPSDE(), gaussian(), ss.get_solver(solver)
    t_max, t_min = interval(sde)
    start = law.marginal(sde, t_max).sample(2, generator=torch.Generator().manual_seed(1))
    exact = flow_log_det(law, sde, t_max, t_min)
    opening = {"start": "high"} if info.options.get("start") == "low" else {}
    errors = []
    for steps in (64, 128):
        solution = ss.sample(
            law.model(sde),
            start=start,
            solver=solver,
            steps=steps,
            t_min=t_min,
            t_max=t_max,
            log_prob="exact",
            solver_options=opening,
        )
        errors.append((solution.log_det - exact).abs().max().item())
        assert solution.nfe == solution.stats["backward_passes"] / 3
    assert slopes(errors)[0] > 0.7 * info.order
    assert errors[1] < 0.3


@pytest.mark.parametrize("solver", ["rk45", "scipy_rk45"])
@pytest.mark.parametrize("name", ["vp", "edm", "user"])
def test_adaptive_solvers_find_it_to_their_tolerance(name: str, solver: str) -> None:
    sde, law = PROCESSES[name], gaussian()
    t_max, t_min = interval(sde)
    x0 = law.marginal(sde, t_min).sample(4, generator=torch.Generator().manual_seed(2))
    found = ss.encode(
        law.model(sde), x0, solver=solver, t_min=t_min, t_max=t_max, rtol=1e-7, atol=1e-7, log_prob="exact"
    )
    assert (found.log_det - flow_log_det(law, sde, t_min, t_max)).abs().max() < 2e-6


def test_the_error_of_log_p_is_controlled_in_many_dimensions() -> None:
    """One column beside 400 has a norm of its own: without it this is off by 0.24 nats, with it by 0.002."""
    sde, d = ss.VPSDE(), 400
    law = ss.exact.Gaussian(torch.zeros(d), torch.logspace(-3, 0, d))
    x0 = law.marginal(sde, 1e-3).sample(1, generator=torch.Generator().manual_seed(2))
    probes = ss.Divergence("hutchinson")  # exact here: the Jacobian is diagonal
    found = ss.encode(law.model(sde), x0, solver="rk45", rtol=1e-10, atol=0.1, log_prob=probes)
    assert abs(found.log_det.item() - flow_log_det(law, sde, 1e-3, 1.0)) < 0.05


def test_sizes_are_those_of_the_coordinates() -> None:
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for clock in get_args(Clock):
        flow = coordinates(ss.SubVPSDE(), clock)
        assert torch.allclose(flow.size(t), size_of(ss.SubVPSDE(), flow.predicts, t))
    assert torch.allclose(size_of(ss.SubVPSDE(), "data", t), ss.SubVPSDE().sigma(t))
    with pytest.raises(ValueError, match="velocity, noise, data, flow; this one asks for 'score'"):
        size_of(ss.VPSDE(), "score", t)


@pytest.mark.property(29)
def test_samples_and_their_log_p_in_one_pass() -> None:
    """The samples are those of a run without log p, and log p is what log_likelihood says of them."""
    sde, law = ss.VPSDE(), mixture_2d()
    model = law.model(sde)
    seen: list[Tensor] = []
    asked = {"solver": "flow_abm_4", "nfe": 150, "seed": 3, "dtype": torch.float64}
    plain = ss.sample(model, (5, 2), trajectory=True, **asked)
    found = ss.sample(
        model, (5, 2), log_prob="exact", trajectory=True, callback=lambda step: seen.append(step.x), **asked
    )
    assert torch.allclose(found.samples, plain.samples, rtol=0, atol=1e-13)
    assert torch.allclose(found.trajectory, plain.trajectory, rtol=0, atol=1e-13)
    assert torch.equal(torch.stack(seen), found.trajectory[1:])
    assert found.table == plain.table
    assert found.nfe == plain.nfe
    assert torch.equal(found.standard_error, torch.zeros(5, dtype=torch.float64))
    again = ss.log_likelihood(model, found.samples, nfe=150)
    assert torch.allclose(found.log_prob, again.log_prob, atol=1e-6)
    assert torch.allclose(found.log_prob, law.marginal(sde, sde.t_min).log_prob(found.samples), atol=2e-2)  # prior
    back = ss.encode(model, found.samples, log_prob="exact", solver="flow_abm_4", nfe=150)
    assert torch.allclose(back.log_det, -found.log_det, atol=1e-6)
    with pytest.raises(ValueError, match='ask for it with log_prob="exact"'):
        _ = plain.log_prob


def test_images_in_float32_give_what_vectors_in_float64_give() -> None:
    sde = ss.VESDE()
    law = ss.exact.Empirical(torch.randn(20, 2, 3, 2, generator=torch.Generator().manual_seed(3)), 0.4)
    flat = ss.exact.Empirical(law.points, 0.4)
    x0 = law.sample(4, generator=torch.Generator().manual_seed(4))
    probes = ss.Divergence("hutchinson", probes=3)
    for method, columns in (("exact", 1), (probes, 3)):
        images = ss.encode(law.model(sde), x0.float(), steps=40, log_prob=method)
        vectors = ss.encode(flat.model(sde), x0.flatten(1), steps=40, log_prob=method)
        assert images.samples.shape == (4, 2, 3, 2)
        assert images.log_prob.dtype == torch.float64
        assert torch.allclose(images.log_prob, vectors.log_prob, atol=5e-4)  # of 12 dimensions, |log p| up to 50
        assert images.stats["backward_passes"] == images.nfe * (columns if columns > 1 else 12)


def test_each_sample_may_stand_at_a_time_of_its_own() -> None:
    """What adaptive solvers ask of the model: a time a sample, some rows only, a matrix in and out."""
    sde, law = ss.VPSDE(), mixture_2d()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    probes = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    model, times = AugmentedModel(law.model(sde), x.shape[1:], probes), torch.tensor([0.1, 0.3, 0.5, 0.7]).double()
    y = torch.cat([x, torch.zeros(4, 3)], dim=1)
    model.prepare([0.3], "flow")
    together = model.evaluate(y, times, "flow")
    rows = torch.tensor([3, 1])
    some = model.take(rows, 4).evaluate(y[rows], times[rows], "flow")
    assert torch.allclose(some, together[rows])
    assert torch.allclose(model.take(rows[1:], 4).evaluate(y[rows[1:]], 0.3, "flow"), together[1:2])
    assert model.nfe == model.tally.backward_passes / 3 == 3
    with pytest.raises(ValueError, match="one prediction throughout, got 'data' as well"):
        model.data(y, 0.3)


def test_what_has_no_log_p_says_so_before_the_network_is_called() -> None:
    model = mixture_2d().model(ss.RectifiedFlow())
    start = {"shape": (2, 2), "nfe": 10, "seed": 0, "log_prob": "exact"}
    with pytest.raises(ValueError, match=r"none at t = 0 of RectifiedFlow\(\): stop before it, with t_min=0.001"):
        ss.sample(model, **start)
    for stochastic in ({"solver": "ddpm"}, {"solver": "ddim", "eta": 0.5}, {"solver": "ddim", "corrector": "langevin"}):
        with pytest.raises(ValueError, match="take a solver of kind 'ode'"):
            ss.sample(model, t_min=0.01, **stochastic, **start)
    with pytest.raises(ValueError, match="without denoise=True"):
        ss.sample(model, denoise=True, t_min=0.01, **start)
    with pytest.raises(ValueError, match=r"its rows ask for data and noise.*t_max="):
        ss.sample(model, solver="deis_tab2", t_min=0.01, **start)
    with pytest.raises(ValueError, match=r"from 0\.99 to 0, and do not; keep away from an end without signal"):
        ss.encode(model, torch.ones(2, 2), solver="deis_tab2", nfe=10, t_min=0.01, log_prob="exact")
    rows = (ss.Row(t=1.0, s=0.5, commit=(0.9, -0.5)),)
    with pytest.raises(ValueError, match="must multiply x by the ratio of sizes of the velocity prediction"):
        check_form(ss.Table(rows, predicts="velocity", start=1.0), ss.RectifiedFlow())
    proposes = (ss.Row(t=1.0, s=0.5, commit=(1.0, -0.5), propose=(0.9,)), ss.Row(t=0.5, s=0.2, commit=(1.0, -0.3)))
    with pytest.raises(ValueError, match="must multiply x by the ratio of sizes of the velocity prediction"):
        check_form(ss.Table(proposes, predicts="velocity", start=1.0), ss.RectifiedFlow())
    assert model.nfe == 0
    with pytest.raises(ValueError, match="callback cannot change the state of a run with log_prob="):
        ss.sample(model, t_min=0.01, callback=lambda step: step.x + 1, **start)


def test_an_answer_without_a_gradient_is_not_taken_for_one_without_a_derivative() -> None:
    """The conversion from noise to data depends on x by itself, so the missing part would not be missed."""

    @torch.no_grad()
    def net(x: Tensor, t: Tensor) -> Tensor:
        return x.tanh()

    model, x0 = ss.ScoreModel(net, ss.VPSDE(), predicts="noise"), torch.ones(2, 3)
    with pytest.raises(ss.NetworkOutputError, match=r"carries no gradient.*torch\.no_grad"):
        ss.log_likelihood(model, x0)
    assert ss.sample(model, start=x0, nfe=5, grad=True).nfe == 5  # nobody differentiates: nothing to complain about


def test_log_p_is_had_where_gradients_are_off() -> None:
    model, x0 = mixture_2d().model(ss.VPSDE()), torch.ones(2, 2)
    plain = ss.encode(model, x0, steps=5, log_prob="exact")
    with torch.no_grad():
        assert torch.equal(ss.encode(model, x0, steps=5, log_prob="exact").log_prob, plain.log_prob)
    with torch.inference_mode():
        assert torch.equal(ss.encode(model, x0.clone(), steps=5, log_prob="exact").log_prob, plain.log_prob)
    assert not plain.log_prob.requires_grad


def test_a_derivative_that_is_not_finite_is_a_failure_of_its_sample() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:  # finite everywhere, its derivative is not at 0
        return torch.where(x == 0, x.abs().sqrt(), x)

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise")
    x0 = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
    assert torch.isfinite(ss.encode(model, x0, steps=5).samples).all()
    with pytest.raises(ss.NonFiniteError, match=r"the derivative of the network by x is NaN.* 1 of 3 samples \(1\)"):
        ss.encode(model, x0, steps=5, log_prob="exact")
    masked = ss.encode(model, x0, steps=5, log_prob="exact", on_error="mask")
    alone = ss.encode(model, x0[[0, 2]], steps=5, log_prob="exact")
    assert masked.ok.tolist() == [True, False, True]
    assert torch.equal(masked.log_prob[[0, 2]], alone.log_prob)
    assert np.isnan([masked.log_prob[1], masked.log_det[1], masked.samples[1, 0], masked.standard_error[1]]).all()


def test_the_prior_of_samples_is_that_of_the_time_where_they_start() -> None:
    sde, start = ss.EDM(), torch.tensor([[10.0], [60.0]], dtype=torch.float64)
    found = ss.sample(gaussian(d=1).model(sde), start=start, t_max=40.0, t_min=1.0, nfe=2, log_prob="exact")
    normal = torch.distributions.Normal(0.0, torch.tensor(40.0, dtype=torch.float64))
    assert torch.allclose(found.log_prob + found.log_det, normal.log_prob(start[:, 0]), rtol=1e-12)
