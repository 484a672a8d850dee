"""Fuzzing: mutated tables, options, configurations and command lines end in a valid run or in an error of ours.

Nothing else: no other exception, no NaN without a warning, not longer than 5 seconds, no memory beyond 200 MB. What
was found once is an ``@example``.
"""

from __future__ import annotations

import copy
import json
import math
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shard_cases import model
from typer.testing import CliRunner

import scoresolve as ss
from scoresolve.cli import app
from scoresolve.cli.options import PROCESSES, check_device, read_numbers, read_options, read_sde, read_time
from scoresolve.errors import ScoreSolveError
from scoresolve.integrations.schedules import REFUSED, schedule_of

OURS = (ValueError, TypeError, ScoreSolveError, ImportError, typer.BadParameter)
quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))
known = st.sampled_from(["data", "noise", "karras", "mask", ""])
wild = st.sampled_from([10**400, -(10**30), 2**63, 10**9, 1e-300, 1e300, math.nan, math.inf, -math.inf, -0.0, 1e-9])
leaves = st.one_of(st.integers(-3, 60), st.floats(), wild, wild, st.none(), st.booleans(), st.text(max_size=6), known)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)


values = leaves | leaves | st.recursive(leaves, nested, max_leaves=6)


@contextmanager
def bounded() -> Iterator[list[warnings.WarningMessage]]:
    """Lets through what is ours, in time and memory; gives the warnings."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield told
    except OURS as error:
        if not str(error):
            raise AssertionError("an error without words") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - begun < 5
    assert peak < 200e6


def finite(samples: torch.Tensor, told: list[Any]) -> bool:
    return bool(torch.isfinite(samples).all()) or bool(told)


def test_what_is_not_ours_comes_through() -> None:
    for wrong in (RuntimeError("x"), KeyError("x"), OverflowError("x"), ValueError("")):
        with pytest.raises((type(wrong), AssertionError)), bounded():
            raise wrong
    with pytest.raises(AssertionError), bounded():
        np.zeros(30_000_000)


MODEL = model()
TABLES = [
    json.loads(ss.sample(MODEL, (1, 2), solver=name, nfe=3, seed=0).table.to_json())  # type: ignore[union-attr]
    for name in ("ddpm", "unipc_3", "heun")
]


def mutated(content: Any, path: list[int], value: Any, how: str) -> Any:
    """A deep copy, changed at the place where a path of numbers leads."""
    whole = copy.deepcopy(content)
    parent: Any = None
    key: Any = None
    here = whole
    for step in path:
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        if not keys:
            break
        parent, key = here, keys[step % len(keys)]
        here = here[key]
    if parent is None:
        return value
    if how == "remove":
        del parent[key]
    elif how == "again" and isinstance(parent, list):
        parent.insert(key, here)
    else:
        parent[key] = value
    return whole


places = st.lists(st.integers(0, 40), min_size=1, max_size=4)
mutations = st.lists(
    st.tuples(places, values, st.sampled_from(["set", "set", "set", "remove", "again"])), min_size=1, max_size=2
)


@quick
@given(which=st.integers(0, 2), changes=mutations)
@example(which=0, changes=[([0, 0], 10**400, "set")])
def test_tables(which: int, changes: list[Any]) -> None:
    content = TABLES[which]
    for path, value, how in changes:
        content = mutated(content, path, value, how)
    with bounded() as told:
        table = ss.Table.from_json(json.dumps(content))
        assert finite(ss.sample(MODEL, (2, 2), solver=table, seed=0).samples, told)
        assert ss.Table.from_json(table.to_json()) == table


ARGUMENTS = ["nfe", "steps", "grid", "t_min", "t_max", "seed", "batch_size", "on_error", "denoise", "dtype", "noise"]
ARGUMENTS += ["start", "eta", "order", "rtol", "atol", "clock", "variance", "indices", "callback", "corrector"]
NAMES = [info.name for info in ss.solvers()]


@quick
@given(solver=st.sampled_from(NAMES), given=st.dictionaries(st.sampled_from(ARGUMENTS), values, min_size=1, max_size=2))
@example(solver="heun", given={"nfe": 10**9})
@example(solver="unipc_3", given={"steps": 10**12})
@example(solver="heun", given={"t_max": 10**400})
@example(solver="heun", given={"t_min": 10**400})
@example(solver="ddpm", given={"shape": [2**62, 2**62]})
def test_arguments_of_a_run(solver: str, given: dict[str, Any]) -> None:
    whole = {"shape": (2, 2), "nfe": 4, "seed": 0, **given}
    shape = whole.pop("shape")
    if "steps" in given:
        whole.pop("nfe")
    if solver.startswith("adaptive"):
        whole["nfe"] = 40  # an end to all tolerances
    with bounded() as told:
        assert finite(ss.sample(MODEL, shape, solver=solver, **whole).samples, told)


OPTIONS = [(info.name, name) for info in ss.solvers() for name in info.options]


@quick
@given(option=st.sampled_from(OPTIONS), value=values)
@example(option=("adaptive_sde_ggf", "rtol"), value=10**400)
@example(option=("sosra", "eta"), value=22)
@example(option=("adaptive_sde_sra", "eta"), value=10**400)
def test_options_of_solvers(option: tuple[str, str], value: Any) -> None:
    solver, name = option
    with bounded() as told:
        assert finite(ss.sample(MODEL, (2, 2), solver=solver, seed=0, nfe=40, **{name: value}).samples, told)


CLASSES = ["DDIMScheduler", "EulerDiscreteScheduler", "EDMEulerScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler"]
CLASSES += ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "utils"]
BETAS = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace", "x"]
ANY = ["num_train_timesteps", "beta_start", "beta_end", "trained_betas", "sigma_min", "sigma_max", "sigma_data", "snr"]
ANY += ["shift", "flow_shift", "beta_min", "beta_max", "rescale_betas_zero_snr", "snr_shift_scale", "use_flow_sigmas"]
ANY += ["invert_sigmas", "timestep_spacing", "timestep_type"]
KEYS: dict[str, Any] = {
    "_class_name": st.sampled_from([*CLASSES, *REFUSED]),
    "beta_schedule": st.sampled_from(BETAS),
    "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction", "flow_prediction", "x"]),
    **dict.fromkeys(ANY, values),
}
BASES: list[dict[str, Any]] = [
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 50},
    {"snr": 0.1, "sigma_min": 0.01, "sigma_max": 50.0},
    {"beta_min": 0.1, "beta_max": 20.0},
    {"sigma_data": 0.5, "sigma_min": 0.01, "sigma_max": 80.0},
    {"shift": 3.0},
]


changed = st.sampled_from([*KEYS]).flatmap(lambda key: st.tuples(st.just(key), KEYS[key] | values))


@quick
@given(base=st.sampled_from(BASES), changes=st.lists(changed, max_size=3))
@example(base=BASES[0], changes=[("num_train_timesteps", 10**9)])
@example(base={}, changes=[("trained_betas", [0.1, 10**400])])
@example(base={"snr": 0.1}, changes=[])
def test_configurations_of_schedulers(base: dict[str, Any], changes: list[tuple[str, Any]]) -> None:
    with bounded():
        sde = schedule_of({**base, **dict(changes)}).sde
        times = np.linspace(sde.t_eps, sde.t_max, 9)
        assert np.isfinite([sde.alpha(times), sde.sigma(times)]).all()


words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["3,32,32", "1e9", "-1", "VPSDE()", "EDM(sigma_max=1e400)", "1000*t", "1..2*t", "eta=NaN"]),
    st.builds("{}({})".format, st.sampled_from([*PROCESSES]), st.text("0123456789.,-=()[]e_abtmx* ", max_size=14)),
)
flags = st.sampled_from(["--shape", "--nfe", "-s", "--grid", "--sde", "--out", "no:where", "a:b", "--data"])


@quick
@given(text=words)
@example(text="VPSDE(" + "(" * 5000 + ")")
@example(text="VPSDE(beta_max=1" + "0" * 5000 + ")")
@example(text="VPSDE(beta_max=10**400)")
@example(text="VPSDE(beta_max=1" + "0" * 400 + ")")
@example(text="VPSDE(**{'beta_min': 1})")
@example(text="VPSDE(" + "-" * 3000 + "1)")
@example(text="DiscreteVPSDE.linear(1000000000)")
@example(text="1.2.3*t")
@example(text="9" * 5000)
def test_words_of_the_command_line(text: str) -> None:
    for read in (read_sde, read_time, read_numbers, check_device, lambda word: read_options([word])):
        with bounded():
            read(text)


COMMANDS = ["sample", "list", "encode", "likelihood", "doctor", "bench", "advise"]


@settings(quick, max_examples=12)
@given(command=st.sampled_from(COMMANDS), line=st.lists(words | flags, max_size=5))
def test_command_lines(command: str, line: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        with bounded():
            result = CliRunner().invoke(app, [command, *line])
            assert result.exit_code in (0, 1, 2)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            assert result.output
