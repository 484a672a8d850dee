"""Processes and grids of diffusers' configurations against diffusers' own tables, which are float32."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import scoresolve as ss
from scoresolve.integrations.networks import Preconditioned
from scoresolve.integrations.schedules import betas_of, schedule_of
from scoresolve.integrations.timesteps import flow_times, grid_of, sequence_mu
from scoresolve.presets import resolve

pytest.importorskip("diffusers")
import diffusers

from benchmarks.diffusers_schedules import classes_with, flows, preconditioned, tables
from scoresolve.integrations.loading import config_of


@pytest.mark.parametrize("name", classes_with("beta_schedule"))
def test_every_table_of_betas_is_theirs_to_their_rounding(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside diffusers
        found = list(tables(name))
    assert found
    assert max(row.error for row in found) < 1e-6, found


def test_the_times_of_flows_and_of_edm_are_theirs_to_their_rounding() -> None:
    found = [*flows(), *preconditioned()]
    assert len(found) == 9
    assert max(row.error for row in found) < 1e-6, found


def test_defaults_that_a_saved_configuration_leaves_out_are_those_of_its_class() -> None:
    config = config_of({"_class_name": "HeunDiscreteScheduler"})
    assert (config["beta_start"], config["beta_end"], config["beta_schedule"]) == (0.00085, 0.012, "linear")
    assert config_of({"beta_start": 0.1}) == {"beta_start": 0.1}
    built = diffusers.DDIMScheduler(beta_end=0.03)
    assert config_of(built)["beta_end"] == 0.03
    assert config_of(built)["_class_name"] == "DDIMScheduler"


EULER = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "timestep_type": "continuous"}


@pytest.mark.parametrize(
    ("config", "sde", "predicts", "label"),
    [
        ({"beta_schedule": "linear"}, ss.DiscreteVPSDE, "noise", 499.0),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, ss.ZeroTerminalVPSDE, "noise", 499.0),
        ({"beta_schedule": "linear", "prediction_type": "sample"}, ss.DiscreteVPSDE, "data", 499.0),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0}, ss.RectifiedFlow, "flow", 500.0),
        ({"beta_schedule": "linear", "use_flow_sigmas": True, "flow_shift": 3.0}, ss.RectifiedFlow, "flow", 500.0),
        ({"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}, ss.EDM, "noise", 0.25 * np.log(0.5)),
        ({**EULER, "prediction_type": "v_prediction", "sigma_max": 700.0}, ss.EDM, "v", 0.25 * np.log(0.5)),
        ({"snr": 0.15, "sigma_min": 0.01, "sigma_max": 1348.0}, ss.VESDE, "score", ss.VESDE(0.01, 1348.0).sigma(0.5)),
        ({"beta_min": 0.1, "beta_max": 20, "num_train_timesteps": 2000}, ss.VPSDE, "noise", 999.5),
    ],
)
def test_process_prediction_and_label(config: dict[str, Any], sde: type, predicts: str, label: float) -> None:
    schedule = schedule_of(config)
    assert (type(schedule.sde), schedule.predicts) == (sde, predicts)
    half = np.array([0.5])
    assert schedule.labels(half)[0] == pytest.approx(label, rel=1e-12)
    if schedule.kind not in ("ve", "vp"):
        assert schedule.times(schedule.labels(half))[0] == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "SCMScheduler"}, "consistency model"),
        ({"prediction_type": "epsilom"}, "did you mean 'epsilon'"),
        ({"num_train_timesteps": 1000}, "expected a schedule among the keys"),
        ({"beta_schedule": "cosine"}, "unknown beta_schedule 'cosine'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas"),
        ({"sigma_data": 1.0, "prediction_type": "sample", "sigma_min": 0.1, "sigma_max": 1.0}, "EDM network"),
    ],
)
def test_what_is_not_known_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_of(config)


@pytest.mark.parametrize("predicts", ["noise", "v"])
def test_the_preconditioning_is_that_of_diffusers(predicts: str) -> None:
    said = {"noise": "epsilon", "v": "v_prediction"}[predicts]
    theirs = diffusers.EDMEulerScheduler(prediction_type=said, sigma_data=0.5)
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    seen: list[torch.Tensor] = []

    def inner(y: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.extend([y, label])
        return y.sin()

    out = Preconditioned(inner, 0.5, predicts)(x, sigma)
    scaled = theirs.precondition_inputs(x, sigma[:, None])
    assert torch.equal(seen[1], theirs.precondition_noise(sigma))
    assert (seen[0] - scaled).abs().max() < 1e-15
    assert (out - theirs.precondition_outputs(x, scaled.sin(), sigma[:, None])).abs().max() < 1e-14


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, with numpy 2
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
     "SASolverScheduler"],
)  # fmt: skip
def test_spacings_are_those_of_the_class(name: str, spacing: str) -> None:
    scheduler = getattr(diffusers, name)(timestep_spacing=spacing)
    grid: Any = grid_of(scheduler)
    for steps in (5, 7, 10, 20):
        scheduler.set_timesteps(steps)
        times = grid(ss.DiscreteVPSDE(betas_of(scheduler.config)), steps, 1.0, 0.0)
        assert (times[:-1] * 1000 - 1).round().tolist() == scheduler.timesteps.tolist()
    own_spacing = type(scheduler)().config.timestep_spacing
    if spacing == own_spacing:  # what the name alone stands for
        grid_name = resolve(name).grid
        assert grid_name is not None
        own = ss.grids.make_grid(grid_name, ss.DiscreteVPSDE.linear(), 7, 1.0, 0.0)
        scheduler.set_timesteps(7)
        assert (own[:-1] * 1000 - 1).round().tolist() == scheduler.timesteps.tolist()


def test_grids_of_configurations() -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(7)
    sde = ss.DiscreteVPSDE(betas_of(scheduler.config))
    grid: Any = grid_of(scheduler)
    assert ((grid(sde, 7, 1.0, 0.0)[:-1] * 1000 - 1).round() == scheduler.timesteps.numpy()).all()
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "base_shift": 0.4}
    times = flow_times(ss.RectifiedFlow(), 4, 1.0, 0.0, config=flow, mu=sequence_mu(flow, 256))
    assert times[1] == pytest.approx(np.exp(0.4) * 0.75 / (1 + (np.exp(0.4) - 1) * 0.75))
    by_length: Any = grid_of(flow, length=256)
    assert (by_length(ss.RectifiedFlow(), 4, 1.0, 0.0) == times).all()
    ends = flow_times(ss.RectifiedFlow(), 5, 1.0, 0.0, config={"shift": 2.0, "shift_terminal": 0.1}, mu=None)
    assert ends[[0, -2, -1]] == pytest.approx([1.0, 0.1, 0.0])
    assert flow_times(ss.RectifiedFlow(), 1, 1.0, 0.0, config={"shift_terminal": 0.1}, mu=None).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="expected mu="):
        flow_times(ss.RectifiedFlow(), 4, 1.0, 0.0, config=flow, mu=None)
