"""The conformance suite finds what is wrong with a sampler, by the right check, and finds nothing in sound ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresolve as ss
from scoresolve.conformance import conform, subject_of
from scoresolve.conformance.affine import affine_maps, errors, exact_gain
from scoresolve.conformance.behaviour import Behaviour
from scoresolve.conformance.functions import Function
from scoresolve.conformance.schedulers import Scheduler
from scoresolve.conformance.subject import Oracle

Denoiser = Callable[[Tensor, Tensor], Tensor]


def slope_at(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    return (x - denoiser(x, sigma.expand(len(x)))) / sigma


def heun(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Karras et al. 2022, algorithm 1."""
    for a, b in pairwise(sigmas):
        first = slope_at(denoiser, x, a)
        y = x + (b - a) * first
        x = y if b == 0 else x + (b - a) * (first + slope_at(denoiser, y, b)) / 2
    return x


def two_step(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M)."""
    old = None
    for i, (a, b) in enumerate(pairwise(sigmas)):
        new = denoiser(x, a.expand(len(x)))
        used = new
        if old is not None and b > 0:
            r = (sigmas[i - 1] / a).log() / (a / b).log()
            used = (1 + 1 / (2 * r)) * new - old / (2 * r)
        x, old = b / a * x + (1 - b / a) * used, new
    return x


def ancestral(noise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Denoiser, Tensor, Tensor], Tensor]:
    """Euler's ancestral step; ``noise(x, std)`` is what is added."""

    def sampler(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        for a, b in pairwise(sigmas):
            up = (b**2 * (a**2 - b**2) / a**2).sqrt()
            down = (b**2 - up**2).clamp(min=0).sqrt()
            x = x + (down - a) * slope_at(denoiser, x, a)
            if b > 0:
                x = x + noise(x, up)
        return x

    return sampler


def reference(x: Tensor, std: Tensor) -> Tensor:
    return torch.randn_like(x) * std


# -- the oracle -----------------------------------------------------------------------------------------------------


def test_the_map_is_what_the_sampler_does() -> None:
    """Read off unit vectors, and applied to other states and noise; the exact gain is that of the laws of ss.exact."""
    subject, oracle = Function(ancestral(reference), "ancestral", None, None), Oracle()
    course = subject.smooth()[0]
    found = affine_maps(subject, [course], oracle)[0]
    x, z = (torch.randn(3, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2))
    out, draws = subject.run(course, oracle, x.reshape(3, 1, 2, 2), lambda k, like: (z + k).reshape(like.shape))
    noise = sum((z + k) * found.noise[k] for k in range(draws))
    assert torch.allclose(out.flatten(1), x @ found.gain.T + found.offset + noise, rtol=1e-12, atol=1e-12)
    law = ss.exact.Gaussian(oracle.mean, oracle.variance.flatten())
    unit = oracle.mean + torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)
    flow = law.flow(ss.EDM(), unit, course.start[1], course.end[1]) - oracle.mean
    assert torch.allclose(flow.flatten(1).diagonal(), exact_gain(oracle, found, 0.0), rtol=1e-12)
    assert course.steps == draws


@pytest.mark.parametrize(
    ("sampler", "order"), [(heun, 2), (two_step, 2), (ancestral(reference), 1)], ids=["heun", "2m", "ancestral"]
)
def test_nothing_is_found_in_a_sound_sampler(sampler: Any, order: int) -> None:
    found = conform(sampler, order=order)
    assert found.ok, found
    own = "ancestral" if order == 1 else ""
    wanted = {"generators": "warn"} if own else {"kept answers": "warn"} if sampler is two_step else {}
    assert {check.name: check.status for check in found.checks if check.status != "ok"} == wanted
    assert found.figures["order"] == pytest.approx(order, abs=0.05)
    assert found.figures["eta"] == (1.0 if own else 0.0)


# -- negative controls: each is found by the check that is meant for it ----------------------------------------------


def no_root(x: Tensor, std: Tensor) -> Tensor:
    return torch.randn_like(x) * std**2


def louder(x: Tensor, std: Tensor) -> Tensor:
    return torch.randn_like(x) * std * 1.02


class Stale:
    """DPM-Solver++(2M) as an object that keeps its history from run to run."""

    def __init__(self) -> None:
        self.old: Tensor | None = None

    def __call__(self, denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        for a, b in pairwise(sigmas):
            new = denoiser(x, a.expand(len(x)))
            old = new if self.old is None or self.old.shape != new.shape else self.old
            x, self.old = b / a * x + (1 - b / a) * (new + 0.1 * (new - old)), new
        return x


def batch_mean(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(lambda y, s: denoiser(y, s) + 0.01 * (denoiser(y, s) - denoiser(y, s).mean(0)), x, sigmas)


def half_weights(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun with 0.45 in place of 0.5: of order 0."""
    for a, b in pairwise(sigmas):
        first = slope_at(denoiser, x, a)
        y = x + (b - a) * first
        x = y if b == 0 else x + (b - a) * (0.55 * first + 0.45 * slope_at(denoiser, y, b))
    return x


def first_order_stage(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun whose second slope is taken at the state before the step."""
    for a, b in pairwise(sigmas):
        first = slope_at(denoiser, x, a)
        x = x + (b - a) * (first if b == 0 else (first + slope_at(denoiser, x, b)) / 2)
    return x


def euler_at_the_end(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun whose last step is Euler's wherever it ends."""
    x = heun(denoiser, x, sigmas[:-1])
    return x + (sigmas[-1] - sigmas[-2]) * slope_at(denoiser, x, sigmas[-2])


def off_by_one(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Ends one level early."""
    return heun(denoiser, x, sigmas[:-1]) if len(sigmas) > 2 else heun(denoiser, x, sigmas)


def late(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Asks at the level after that of the state."""
    for a, b in pairwise(sigmas):
        asked = b if b > 0 else a
        x = x + (b - a) * (x - denoiser(x, asked.expand(len(x)))) / a
    return x


def in_place(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    for a, b in pairwise(sigmas):
        x += (b - a) * slope_at(denoiser, x, a)
    return x


def levels_in_place(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    out = heun(denoiser, x, sigmas)
    sigmas.mul_(2)
    return out


def reseeding(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    torch.manual_seed(0)
    return heun(denoiser, x, sigmas)


def wasteful(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    torch.randn(3)
    return heun(denoiser, x, sigmas)


def clipping(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(lambda y, s: denoiser(y, s).clamp(-1, 1), x, sigmas)


def scrubbing(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(lambda y, s: denoiser(y, s).nan_to_num(), x, sigmas)


def single(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(lambda y, s: denoiser(y, s), x.float().double(), sigmas)


def narrow(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(denoiser, x, sigmas).float()


def keeping(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    return two_step(lambda y, s: denoiser(y, s), x, sigmas)


def one_step_only(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Divides by the steps that are left, none at last."""
    return heun(denoiser, x, sigmas) / (len(sigmas) - 8 != 0)


def restless(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    restless.runs += 1  # type: ignore[attr-defined]
    for _ in range(restless.runs % 2):  # type: ignore[attr-defined]
        denoiser(x, sigmas[:1].expand(len(x)))
    return heun(denoiser, x, sigmas)


restless.runs = 0  # type: ignore[attr-defined]

CONTROLS: list[tuple[Any, dict[str, Any], str, str, str]] = [
    (ancestral(louder), {}, "weak order", "fail", "variance of the noise is not"),
    (ancestral(no_root), {}, "weak order", "fail", "variance of the noise is not"),
    (Stale(), {}, "state left behind", "fail", "second run"),
    (batch_mean, {}, "samples apart", "fail", "beside wild ones"),
    (half_weights, {"order": 2}, "order", "fail", "claimed 2"),
    (first_order_stage, {"order": 2}, "order", "fail", "claimed 2"),
    (euler_at_the_end, {"order": 2}, "end of a run", "warn", "order 1"),
    (off_by_one, {}, "last step", "fail", "another level"),
    (late, {}, "levels", "fail", "first asks"),
    (in_place, {}, "input left alone", "fail", "state"),
    (levels_in_place, {}, "input left alone", "fail", "noise levels"),
    (reseeding, {}, "generators", "fail", "seeds"),
    (wasteful, {}, "generators", "fail", "without need"),
    (clipping, {}, "affine", "warn", "clips"),
    (scrubbing, {}, "NaN", "fail", "hidden"),
    (single, {}, "float64 state", "warn", "float32"),
    (narrow, {}, "shape and dtype", "warn", "float32"),
    (one_step_only, {}, "budgets", "fail", "7 steps"),
    (restless, {}, "calls", "fail", "and then"),
    (heun, {"calls": lambda n: 2 * n}, "calls", "fail", "declared 10"),
    (heun, {"order": 1}, "order", "warn", "better than claimed"),
]


@pytest.mark.parametrize(("sampler", "claims", "name", "status", "words"), CONTROLS)
def test_a_sabotaged_sampler_is_found_by_the_right_check(
    sampler: Any, claims: dict[str, Any], name: str, status: str, words: str
) -> None:
    found = conform(sampler, finest=128 if "order" in name else 16, **claims)  # 64 steps at least
    check = found[name]
    assert check.status == status, found
    assert words in f"{check.found} {check.advice}", found


# -- the three kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order", "eta"),
    [("dpmpp_3m", 2, 0.0), ("exponential_3", 3, 0.0), ("DPM++ 2M SDE", 2, 1.0), ("sra1", 2, 1.0)],
)
def test_a_registered_solver_is_what_it_declares(name: str, order: int, eta: float) -> None:
    """Published weights of order 2 under a name that says 3 declare 2."""
    found = conform(name, finest=128)
    assert found.ok, found
    assert found.figures["order"] == pytest.approx(order, abs=0.2)
    assert found.figures["eta"] == pytest.approx(eta)
    assert "claimed" in found["order" if eta == 0 else "weak order"].found
    assert found["generators"].status == found["samples apart"].status == "ok"


def test_a_solver_may_be_given_as_its_function_or_with_options() -> None:
    info = ss.get_solver("ddim")
    assert [subject_of(one, None, None, {}).name for one in (info, info.build, "ddim")] == ["ddim"] * 3
    assert conform("ddim", finest=64, eta=0.5).figures["eta"] == pytest.approx(0.5)
    assert conform("dpmpp_3m", order=3, finest=64)["order"].status == "fail"


THEIRS = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SCHEDULERS: list[tuple[str, dict[str, Any], float, float]] = [
    ("DDIMScheduler", {"clip_sample": False}, 1, 0.0),
    ("DDPMScheduler", {"clip_sample": False}, 1, 1.0),
    ("EulerAncestralDiscreteScheduler", {}, 1, 1.0),
    ("HeunDiscreteScheduler", {}, 2, 0.0),
    ("KDPM2DiscreteScheduler", {}, 2, 0.0),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, 2, 0.0),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, 2, 0.0),
    ("DPMSolverSinglestepScheduler", {"prediction_type": "sample"}, 2, 0.0),
    ("UniPCMultistepScheduler", {}, 2.7, 0.0),
    ("PNDMScheduler", {}, 2, 0.0),
    ("EDMEulerScheduler", {}, 1, 0.0),
    ("EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, 2, 0.0),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 1, 0.0),
    ("FlowMatchHeunDiscreteScheduler", {}, 2, 0.0),
]


@THEIRS
@pytest.mark.parametrize(("name", "options", "order", "eta"), SCHEDULERS)
def test_schedulers_converge_on_their_own_timesteps(
    name: str, options: dict[str, Any], order: float, eta: float
) -> None:
    """Levels, coordinates and prediction types are read right: else nothing would converge."""
    diffusers = pytest.importorskip("diffusers")
    subject, oracle = Scheduler(getattr(diffusers, name)(**options), None), Oracle()
    maps = affine_maps(subject, subject.smooth()[:3:2], oracle)
    coarse, fine = (errors(one, oracle, eta).worst for one in maps)
    assert math.log(coarse / fine) / math.log(4) == pytest.approx(order, abs=0.35)
    assert subject.labels_off() < (0.02 if "use_flow_sigmas" in options else 1e-3)


@THEIRS
def test_a_scheduler_is_checked_like_any_other() -> None:
    """On a table of 100 indices; that it keeps its numbers in float32 is told, and is no failure."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=100, beta_end=0.2)
    found = conform(scheduler, finest=100)
    assert found.ok, found
    assert {check.name for check in found.checks if check.status == "warn"} == {"generators", "float64 state"}
    rounded = Scheduler(diffusers.DPMSolverMultistepScheduler(num_train_timesteps=100, use_karras_sigmas=True), None)
    assert "off the level" in Behaviour(rounded, Oracle()).levels().found
    with pytest.raises(ValueError, match="LCMScheduler cannot be run here: its networks are consistency models"):
        conform(diffusers.LCMScheduler)


def test_an_adaptive_solver_is_checked_for_its_manners_alone() -> None:
    found = conform("adaptive_bs3")
    assert found.ok, found
    assert {found[name].status for name in ("order", "law", "last step")} == {"skip"}


# -- what is given and what is returned -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "options", "error", "words"),
    [
        (3, {}, TypeError, "got int"),
        (lambda x: x, {}, TypeError, "must be callable as sampler\\(denoiser, x, sigmas\\)"),
        ("dmpp_2m", {}, ValueError, "did you mean 'dpmpp_2m'"),
        (heun, {"eta": 1.0}, ValueError, "options with a registered solver only, got \\['eta'\\]"),
        (heun, {"finest": 0}, ValueError, "finest of at least 1, got 0"),
        ("ddim", {"calls": lambda n: n}, ValueError, "calls= with a function only"),
        (ss.build_table("ddim", ss.EDM(), [80.0, 1.0]), {}, TypeError, "give the solver that builds it"),
    ],
)
def test_what_is_no_sampler_is_refused(sampler: Any, options: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        conform(sampler, **options)


def test_what_goes_wrong_inside_is_reported() -> None:
    def broken(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        raise KeyError("sigma")

    found = conform(broken)
    assert [(check.name, check.status) for check in found.checks] == [("runs", "fail")]
    assert "KeyError" in found.checks[0].found
    nan = conform(lambda denoiser, x, sigmas: x * torch.nan)
    assert not nan.ok
    assert nan["runs"].status == "fail"
    uniform = conform(lambda denoiser, x, sigmas: heun(denoiser, x, sigmas) + 1e-3 * torch.rand_like(x))
    assert "rand_like" in uniform["runs"].found


def test_the_report_is_plain_data() -> None:
    found = conform(heun, order=2, finest=64)
    told = json.loads(found.to_json())
    assert told["ok"] is found.ok is True
    assert told["sampler"] == "heun"
    assert told["figures"]["order"] == found.figures["order"]
    assert [check["name"] for check in told["checks"]] == [check.name for check in found.checks]
    assert str(found).endswith(f"no fault found ({found.nfe} network calls)")


def test_the_published_table_covers_every_solver_and_every_setting() -> None:
    pytest.importorskip("diffusers")
    from benchmarks import conformance

    with conformance.OUT.open(newline="") as file:
        rows = {(row["sampler"], row["options"]): row for row in csv.DictReader(file)}
    assert list(rows) == conformance.keys()
    for info in ss.solvers():
        row = next(row for (name, _), row in rows.items() if name == info.name)
        one_for_all = {"samples apart"} if info.name in ("rk45", "scipy_rk45") else set()  # a step for the batch
        assert {fail.split(":")[0] for fail in row["fails"].split("; ") if fail} == one_for_all, row
