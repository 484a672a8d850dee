"""The benchmark's exact errors, references and network, and runs of it from the command line."""

import csv
import json
import math
import sys

import pytest
import torch

import scoresolve as ss
from benchmarks import digits, measure, metrics, problems
from benchmarks.run import main
from scoresolve import reference

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings(tmp_path, sde: ss.SDE, samples: int = 64) -> problems.Settings:
    training = digits.Training(steps=20, width=32, blocks=1)
    return problems.Settings(sde, CPU, 0, 16, samples, training, tmp_path, lambda line: None)


# -- the exact errors of the Gaussian problem, and the references -----------------------------------------------------


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDM()], ids=["vp", "edm"])
def test_closed_form_error_is_the_one_that_sampling_estimates(tmp_path, sde: ss.SDE) -> None:
    problem = problems.gaussian(settings(tmp_path, sde, samples=16))
    law = problem.gaussian
    assert law is not None
    row = measure.measure(problem, measure.Cell("gaussian", "heun", "ode", "karras", budget=10), seed=0)
    start = law.marginal(sde, sde.t_max).sample(20_000, generator=torch.Generator().manual_seed(5))
    solution = ss.sample(problem.model, start=start, solver="heun", nfe=10, grid="karras")
    exact = law.flow(sde, start, sde.t_max, sde.t_min)
    assert row.rmse == pytest.approx(metrics.rmse(solution.samples, exact), rel=0.02)
    assert row.nfe == solution.nfe
    assert not row.sampled


def test_converged_paths_are_those_of_the_closed_form() -> None:
    for sde in (ss.VPSDE(), ss.EDM(), ss.RectifiedFlow()):
        law = ss.exact.Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([[0.5, 0.3], [0.3, 0.2]]))
        start = law.marginal(sde, sde.t_max).sample(32, generator=torch.Generator().manual_seed(0))
        found = reference.converge(law.model(sde), start, exact=True)
        assert found.consistency < 1e-6
        assert metrics.rmse(found.ends, law.flow(sde, start, sde.t_max, sde.t_min)) < 1e-7


def test_a_network_with_whole_indices_is_converged_on_a_fixed_grid() -> None:
    sde = ss.DiscreteVPSDE.linear()
    model = ss.ScoreModel(lambda x, i: x * (1 + 0 * i[:, None]), sde, predicts="noise", time="index")
    found = reference.converge(model, normal(4, 2), exact=False)
    assert found.method.startswith("dpmpp_2m")
    assert math.isfinite(found.consistency)


# -- the digits ------------------------------------------------------------------------------------------------------


def test_training_is_reproducible_and_cached(tmp_path) -> None:
    lines: list[str] = []
    config = digits.Training(steps=30, width=32, blocks=1)
    first = digits.trained(config, CPU, tmp_path / "a", lines.append)
    second = digits.trained(config, CPU, tmp_path / "b", lines.append)
    cached = digits.trained(config, CPU, tmp_path / "a", lines.append)
    assert "from digits-" in lines[-1]
    for net in (second, cached):
        assert all(torch.equal(p, q) for p, q in zip(first.parameters(), net.parameters(), strict=True))
    x, t = normal(4, 1, 8, 8), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    assert torch.allclose(first(x, t)[:1], first(x[:1], t[:1]), atol=1e-12)  # a sample does not see its batch mates


def test_a_damaged_cache_is_replaced(tmp_path) -> None:
    lines: list[str] = []
    config = digits.Training(steps=10, width=16, blocks=1)
    digits.trained(config, CPU, tmp_path, lines.append)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(b"not a tensor")
    digits.trained(config, CPU, tmp_path, lines.append)
    assert "cannot be used" in lines[-2]
    assert "trained 10 steps" in lines[-1]


# -- from the command line -------------------------------------------------------------------------------------------


def run(tmp_path, *options: str) -> tuple[int, dict]:
    code = main([*options, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--threads", "1"])
    path = tmp_path / "out" / "results.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


def test_a_run_writes_everything(tmp_path, capsys) -> None:
    asked = ["--solvers", "dpmpp_2m", "heun", "ddpm", "rk45", "--nfe", "1", "5", "10", "20", "40"]
    small = ["--paths", "8", "--samples", "32"]
    code, found = run(tmp_path, *asked, *small, "--problems", "gaussian", "mixture", "digits")
    assert code == 0
    assert found["versions"]["scoresolve"] == ss.__version__
    assert found["seed"] == 0
    assert found["device"]
    rows = found["rows"]
    by = {(r["problem"], r["solver"], r["budget"]): r for r in rows if r["budget"]}
    assert all(by["gaussian", "dpmpp_2m", n]["nfe"] == n for n in (1, 5, 10, 20, 40))
    for problem in ("gaussian", "mixture"):
        errors = [by[problem, "dpmpp_2m", n]["rmse"] for n in (5, 10, 20, 40)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.2 * errors[0]
    assert by["gaussian", "ddpm", 20]["w2"] > 0
    assert not by["gaussian", "ddpm", 20]["sampled"]
    assert by["mixture", "ddpm", 20]["sliced_w2"] > 0
    assert by["mixture", "ddpm", 20]["energy"] > 0
    tolerances = [r for r in rows if r["solver"] == "rk45" and r["problem"] == "mixture"]
    assert len(tolerances) == len(measure.TOLERANCES)
    assert all(r["nfe"] > 5 for r in tolerances)
    assert {p["name"]: p["consistency"] < 1e-6 for p in found["problems"]} == dict.fromkeys(
        ("gaussian", "mixture", "digits"), True
    )
    with (tmp_path / "out" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (tmp_path / "out" / "nfe.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert 'class="samples"' in page
    assert "http" not in page
    assert "dpmpp_2m" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_numbers(tmp_path) -> None:
    asked = ["--solvers", "ddpm", "ddim", "--nfe", "5", "--paths", "8", "--samples", "16", "--problems", "mixture"]
    (_, first), (_, second) = run(tmp_path / "a", *asked), run(tmp_path / "b", *asked)
    _, other = run(tmp_path / "c", *asked, "--seed", "1")

    def numbers(found: dict) -> list:
        return [(row["rmse"], row["sliced_w2"], row["energy"]) for row in found["rows"]]

    assert numbers(first) == numbers(second) != numbers(other)


@pytest.mark.parametrize("process", problems.PROCESSES)
def test_every_process_runs(tmp_path, process: str) -> None:
    asked = ["--solvers", "dpmpp_2m", "ddpm", "--grids", "uniform", "karras", "--nfe", "30", "--problems", "gaussian"]
    code, found = run(tmp_path, *asked, "--process", process, "--samples", "16")
    assert code == 0
    assert {row["grid"] for row in found["rows"]} == {"uniform", "karras"}
    assert all(row["status"] == "ok" and row["nfe"] == 30 for row in found["rows"])


def test_a_solver_that_fails_is_a_row(tmp_path) -> None:
    @ss.solver("broken_for_this_test", order=1)
    def build(sde: ss.SDE, times: object) -> ss.Table:
        """A solver that cannot be built."""
        raise ZeroDivisionError("there is nothing to divide by")

    try:
        asked = ["--solvers", "broken_for_this_test", "ddim", "--nfe", "5", "--samples", "16"]
        code, found = run(tmp_path, *asked, "--problems", "gaussian")
    finally:
        ss.registry.unregister("broken_for_this_test")
    broken, fine = found["rows"]
    assert code == 0
    assert broken["status"] == "failed"
    assert "nothing to divide by" in broken["message"]
    assert fine["status"] == "ok"


def test_a_budget_below_the_cost_is_left_out(tmp_path) -> None:
    @ss.solver("two_calls_for_this_test", order=1, evaluations=2)
    def build(sde: ss.SDE, times: object) -> ss.Table:
        """Heun's method, which is never shorter than two calls."""
        return ss.build_table("heun", sde, times)

    try:
        asked = ["--solvers", "two_calls_for_this_test", "--nfe", "1", "5", "--samples", "16", "--problems", "gaussian"]
        _, found = run(tmp_path, *asked)
    finally:
        ss.registry.unregister("two_calls_for_this_test")
    assert [(row["status"], row["nfe"]) for row in found["rows"]] == [("left out", None), ("ok", 4)]


FACTORY = """
import torch, scoresolve as ss

def load():
    return ss.exact.Gaussian(torch.zeros(3), torch.tensor([0.1, 1.0, 2.0])).model(ss.VPSDE())

def with_shape():
    return load(), (3,)

def float32():
    weight = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.9]])
    return ss.ScoreModel(lambda x, t: x @ weight, ss.VPSDE(), predicts="noise"), (3,)

def broken():
    return ss.ScoreModel(lambda x, t: x[:, :2], ss.VPSDE(), predicts="noise"), (3,)

def wrong():
    return 7
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "user_nets"
    sys.modules.pop("user_nets", None)


@pytest.mark.parametrize("extra", [["with_shape"], ["load", "--shape", "3"]], ids=["tuple", "option"])
def test_a_network_of_the_users(tmp_path, user_module: str, extra: list[str]) -> None:
    factory, *shape = extra
    asked = ["--solvers", "dpmpp_2m", "ddpm", "--nfe", "5", "20", "--paths", "8", "--samples", "32"]
    code, found = run(tmp_path, "--model", f"{user_module}:{factory}", *shape, *asked)
    assert code == 0
    assert [p["name"] for p in found["problems"]] == ["model"]
    assert found["problems"][0]["consistency"] < 1e-6
    errors = {(row["solver"], row["nfe"]): row["rmse"] for row in found["rows"]}
    assert errors["dpmpp_2m", 20] < 0.3 * errors["dpmpp_2m", 5]


def test_a_network_that_takes_float32_only(tmp_path, user_module: str) -> None:
    asked = ["--solvers", "ddim", "--nfe", "20", "--paths", "8", "--samples", "16"]
    code, found = run(tmp_path, "--model", f"{user_module}:float32", *asked)
    assert code == 0
    assert found["problems"][0]["consistency"] < 1e-3


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (["--solvers", "dpmp_2m"], "did you mean 'dpmpp_2m'"),
        (["--problems", "gausian"], "did you mean 'gaussian'"),
        (["--grids", "karas"], "did you mean 'karras'"),
        (["--process", "vpp"], "'vp'"),
        (["--nfe", "0"], "at least 1"),
        (["--samples", "2"], "at least 8"),
        (["--seed", "-1"], "--seed"),
        (["--shape", "3"], "--model"),
        (["--device", "toaster"], "--device toaster"),
        (["--model", "user_nets"], "package.module:factory"),
        (["--model", "user_nets:lod"], "no function 'lod'"),
        (["--model", "user_nots:load"], "cannot import"),
        (["--model", "user_nets:wrong"], "returned int"),
        (["--model", "user_nets:broken"], "the network returned shape (2, 2)"),
        (["--model", "user_nets:load"], "--shape 3,32,32"),
        (["--model", "user_nets:load", "--shape", "a,b"], "--shape takes"),
    ],
)
def test_bad_options_say_what_to_write(tmp_path, user_module: str, capsys, asked: list[str], hint: str) -> None:
    code, found = run(tmp_path, *asked)
    assert code == 2
    assert not found
    assert hint in capsys.readouterr().err
