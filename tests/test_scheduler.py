"""``ScoreSolveScheduler`` in diffusers' pipelines: what comes out is what ``ss.sample`` gives on the same noise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")
import diffusers
from tiny import ExactNetwork, unet

from scoresolve.integrations.diffusers import ScoreSolveScheduler

SHAPE = (3, 4, 4)
LAW = ss.exact.Gaussian(0.3 * torch.ones(SHAPE), 0.04)
TABLE, FLOW = ss.DiscreteVPSDE.linear(), ss.RectifiedFlow()
SOLVERS = [
    "ddim",
    "unipc_3",
    "dpmpp_2m",
    "heun",
    "rk4",
    "pndm",
    "dpm_fast",
    "dpmpp_2m_sde",
    "ddpm",
    "dpmpp_sde",
    "sra1",
]


def exact(**how: Any) -> ExactNetwork:
    return ExactNetwork(LAW, **{"sde": TABLE, "predicts": "noise", "clock": lambda i: (i + 1) / 1000, **how})


class FromGenerator:
    """The noise that a pipeline draws, one after the other."""

    def __init__(self, seed: int, start: Tensor) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.start = torch.randn(start.shape, generator=self.generator)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


def ours(net: ExactNetwork, solver: Any, batch: int = 2, **how: Any) -> Tensor:
    model = ss.ScoreModel(lambda x, label: net(x, label).sample, TABLE, predicts="noise", time="fractional_index")
    noise = FromGenerator(0, torch.empty(batch, *SHAPE))
    return ss.sample(model, start=noise.start, solver=solver, noise=noise, **how).samples


def image(x: Tensor) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_ddpm_pipeline_gives_what_sample_gives(solver: str) -> None:
    net = exact()
    pipe = diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler())
    pipe.scheduler = ScoreSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(2, torch.Generator().manual_seed(0), num_inference_steps=6, output_type="pt").images
    calls = len(net.asked)
    expected = ours(net, solver, steps=6)
    assert len(net.asked) == 2 * calls == 2 * len(pipe.scheduler.timesteps)
    assert (out - image(expected)).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["ddim", "unipc_3", "heun", "dpmpp_2m_sde"])
def test_a_ddim_pipeline_does_too(solver: str) -> None:
    net = exact()
    pipe = diffusers.DDIMPipeline(unet=net, scheduler=diffusers.DDIMScheduler())  # which it would make of any other
    pipe.scheduler = ScoreSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(2, torch.Generator().manual_seed(0), num_inference_steps=6, output_type="np").images
    expected = ours(net, solver, steps=6)
    assert (torch.from_numpy(out).permute(0, 3, 1, 2) - image(expected)).abs().max() < 1e-5


def loop(scheduler: ScoreSolveScheduler, net: Any, x: Tensor, seed: int = 0, edit: Any = None, **step: Any) -> Tensor:
    """A pipeline's loop."""
    generator = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t).sample, t, x, generator=generator, **step)[0]
        x = x if edit is None else edit(x)
    return x


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
@pytest.mark.parametrize("solver", ["unipc_3", "rk4", "dpmpp_sde"])
def test_a_run_goes_on_in_a_copy_made_half_way(solver: str, copied: Callable[[Any], Any]) -> None:
    net, ends = exact(), []
    for copies in (False, True):
        scheduler, generator, x = ScoreSolveScheduler(solver=solver), torch.Generator().manual_seed(1), start()
        scheduler.set_timesteps(5)
        for i, t in enumerate(scheduler.timesteps):
            scheduler = copied(scheduler) if copies and i % 3 == 1 else scheduler
            x = scheduler.step(net(x, t).sample, t, x, generator=generator).prev_sample
        ends.append(x)
    assert torch.equal(*ends)


def test_half_precision_keeps_its_state_and_takes_edits() -> None:
    net = exact()
    scheduler = ScoreSolveScheduler(solver="ddim")
    scheduler.set_timesteps(50)
    half = loop(scheduler, net, start(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    rounded = start(torch.bfloat16).float()  # the network sees rounded states, the state itself is not rounded
    answers: list[Tensor] = []
    scheduler.set_timesteps(50)
    x = rounded.bfloat16()
    for t in scheduler.timesteps:
        answers.append(net(x, t).sample)
        x = scheduler.step(answers[-1], t, x).prev_sample
    scheduler.set_timesteps(50)
    wide = rounded
    for t, answer in zip(scheduler.timesteps, answers, strict=True):
        wide = scheduler.step(answer.float(), t, wide).prev_sample
    assert (half.float() - wide).abs().max() <= 0.5 * 2**-8 * wide.abs().max()
    for edit in (lambda x: x + 0.25, lambda x: x.add_(0.25), lambda x: x.clone() + 0.25):
        scheduler.set_timesteps(3)
        edited = loop(scheduler, net, start(), edit=edit)
        sampled = ours(net, "ddim", steps=3, callback=lambda step: step.x + 0.25)
        assert (edited - sampled).abs().max() < 1e-5


def test_saved_schedulers_come_back_and_tables_with_them(tmp_path: Path) -> None:
    table = ss.build_table("dpmpp_2m", TABLE, np.array([1.0, 0.5, 0.1, 0.0]))
    table.save(tmp_path / "tuned.json")
    for solver in (table, str(tmp_path / "tuned.json")):
        pipe = diffusers.DDPMPipeline(unet=unet(), scheduler=diffusers.DDPMScheduler())
        pipe.scheduler = ScoreSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(tmp_path / "pipe")
        again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "pipe")
        again.set_progress_bar_config(disable=True)
        assert isinstance(again.scheduler, ScoreSolveScheduler)
        assert again.scheduler.table == table
        how: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}
        images = [p(2, torch.Generator().manual_seed(0), **how).images for p in (pipe, again)]
        assert torch.equal(*images)
    with pytest.raises(ValueError, match="num_inference_steps=3"):
        pipe.scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="a table made for"):
        ScoreSolveScheduler(solver=table, beta_schedule="scaled_linear", beta_end=0.012)
    named = ScoreSolveScheduler(solver="DPM++ 2M Karras", solver_options={"start": "high"}, clip=1.0)
    named.save_pretrained(tmp_path / "named")
    assert ScoreSolveScheduler.from_pretrained(tmp_path / "named").table == named.table
    assert ScoreSolveScheduler.from_config(named.config).table == named.table


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers', of numpy
def test_what_a_class_has_by_default_is_taken_over_and_typing_errors_are_not() -> None:
    scheduler = ScoreSolveScheduler.from_config(diffusers.HeunDiscreteScheduler().config, solver="heun")
    assert repr(scheduler.model.sde) == "DiscreteVPSDE(<1000 betas, 0.00085 to 0.012, mean 0.006425>)"
    with pytest.raises(TypeError, match="did you mean 'solver'"):
        ScoreSolveScheduler.from_config(diffusers.DDIMScheduler().config, sovler="heun")
    for solver in ("adaptive_abm", "rk45", "adaptive_sde_sra"):
        with pytest.raises(ValueError, match="wants its timesteps before"):
            ScoreSolveScheduler(solver=solver)
    with pytest.raises(ValueError, match="decides as it runs"):
        ScoreSolveScheduler(solver="annealed_langevin")
    with pytest.raises(TypeError, match="unknown option 'etta'"):
        ScoreSolveScheduler(solver="ddim", solver_options={"etta": 1.0})
    with pytest.raises(ValueError, match="is an option of the solver"):
        ScoreSolveScheduler(solver="ddim").step(start(), 999, start(), eta=1.0)


def test_the_default_is_that_of_sample_at_every_number_of_steps() -> None:
    scheduler, net = ScoreSolveScheduler(), exact()
    for steps in (5, 20):
        scheduler.set_timesteps(steps)
        assert scheduler.table.solver == ss.default_solver(steps)
        assert (loop(scheduler, net, start()) - ours(net, None, steps=steps)).abs().max() < 1e-5
    scheduler.set_timesteps(20)
    scheduler.set_begin_index(15)  # the rest of 20 steps, not a run of 5
    scheduler.step(start(), scheduler.timesteps[15], start())
    assert scheduler._stepper.table.solver == ss.default_solver(20)


def test_times_that_a_pipeline_asks_for() -> None:
    scheduler = ScoreSolveScheduler(solver="dpmpp_2m")
    scheduler.set_timesteps(timesteps=[900, 500, 100])
    assert scheduler.timesteps.tolist() == [900, 500, 100]
    assert scheduler.table.times.tolist() == [0.901, 0.501, 0.101, 0.0]
    rho = TABLE.rho(np.array([0.9, 0.3]))
    scheduler.set_timesteps(sigmas=[*rho, 0.0])
    assert scheduler.table.times == pytest.approx([0.9, 0.3, 0.0])
    assert scheduler.sigmas.numpy() == pytest.approx([*rho, 0.0], rel=1e-6)
    whole = ScoreSolveScheduler(solver="heun", whole_timesteps=True)
    whole.set_timesteps(4)
    assert whole.timesteps.dtype == torch.int64
    theirs = diffusers.DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(7)
    config = ScoreSolveScheduler.from_config(theirs.config, solver="ddim", grid="config")
    config.set_timesteps(7)
    assert torch.equal(config.timesteps.round().long(), theirs.timesteps)
    noised = config.add_noise(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([10, 900]))
    assert (noised - theirs.add_noise(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([10, 900]))).abs().max() < 1e-6
    for each in (torch.tensor([900]), torch.tensor(900)):  # of a whole batch, as inpainting pipelines give it
        one = config.add_noise(torch.ones(3, 1), 2 * torch.ones(3, 1), each)
        assert (one - theirs.add_noise(torch.ones(3, 1), 2 * torch.ones(3, 1), each)).abs().max() < 1e-6
        assert torch.equal(one, config.scale_noise(torch.ones(3, 1), each, 2 * torch.ones(3, 1)))
    v = config.get_velocity(start(), start(), torch.tensor([10, 900]))
    assert (v - theirs.get_velocity(start(), start(), torch.tensor([10, 900]))).abs().max() < 1e-5


def test_runs_begin_in_the_middle_where_steps_are_alike() -> None:
    orders = {"ddim": 1, "heun": 2, "rk4": 4, "pndm": 1, "dpm_fast": 1}
    for solver, order in orders.items():
        scheduler = ScoreSolveScheduler(solver=solver)
        scheduler.set_timesteps(7)
        assert scheduler.order == order
        scheduler.set_begin_index(2 * order)
        if solver in ("pndm", "dpm_fast"):
            with pytest.raises(ValueError, match="only if each step has as many"):
                scheduler.step(start(), None, start())
        else:
            scheduler.step(start(), None, start())
            assert scheduler._stepper.table.times.tolist() == scheduler.table.times[2:].tolist()
        found = ScoreSolveScheduler(solver=solver)
        found.set_timesteps(7)
        assert found._row(found.timesteps[found._starts[3]]) == found._starts[3]
    with pytest.raises(ValueError, match="expected one of the timesteps"):
        found._row(987.0)


def test_the_data_prediction_is_handed_out_and_clipped() -> None:
    scheduler, net = ScoreSolveScheduler(solver="ddim", clip=0.5), exact()
    scheduler.set_timesteps(4)
    t, x = scheduler.timesteps[0], 3 * start()
    out = scheduler.step(net(x, t).sample, t, x)
    assert (out.pred_original_sample - LAW.model(TABLE).data(x, 1.0).clamp(-0.5, 0.5)).abs().max() < 1e-4
    scheduler.set_timesteps(4)
    clipped = loop(scheduler, net, start())
    assert clipped.abs().max() <= 0.5
    with pytest.raises(ValueError, match="the run is over"):
        scheduler.step(start(), 0, start())


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_edm_networks_keep_their_own_state(predicts: str) -> None:
    theirs = diffusers.EDMEulerScheduler(prediction_type=predicts, sigma_data=0.5)
    scheduler = ScoreSolveScheduler.from_config(
        theirs.config, solver="euler", solver_options={"clock": "rho"}, grid="config"
    )
    assert scheduler.init_noise_sigma == 80.0
    sde, law = ss.EDM(), ss.exact.Gaussian(0.3 * torch.ones(2), 0.04)
    sign = 1 if predicts == "epsilon" else -1

    def inner(y: Tensor, label: Tensor) -> Any:  # F of the exact denoiser
        sigma = (4 * label.double()).exp()
        total = (sigma**2 + 0.25).sqrt()
        x = y.double() * total
        out = (law.model(sde).data(x, sigma.expand(len(x))) - 0.25 / total**2 * x) * total / (0.5 * sigma)
        return type("Out", (), {"sample": (sign * out).to(y.dtype)})

    ends = []
    for each in (scheduler, theirs):
        each.set_timesteps(12)
        x = 80 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        for t in each.timesteps:
            x = each.step(inner(each.scale_model_input(x, t), t).sample, t, x).prev_sample
        ends.append(x)
    assert (ends[0] - ends[1]).abs().max() < 1e-4
