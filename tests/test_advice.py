"""``advise``: what it finds is what runs give, it keeps to its time, and goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import scoresolve as ss
from scoresolve.cli import app
from scoresolve.tuning.teacher import converge

SETTING = {"nfe": [3, 4, 14], "starts": 64, "held_out": 64, "seed": 5}
runner = CliRunner()


def network() -> ss.ScoreModel:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    law = ss.exact.GaussianMixture([0.4, 0.6], means, 0.02 * torch.eye(2).expand(2, 2, 2))
    return law.model(ss.VPSDE())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("advice")
    ss.advise(network(), (2,), minutes=5, out=out, **SETTING)
    return out


def test_the_errors_are_those_of_runs(folder: Path) -> None:
    model = network()
    found = ss.advise(model, (2,), minutes=5, out=folder, **SETTING)
    assert found.complete
    assert found.nfe == [3, 4, 14]
    x = ss.noise.SampleStreams(5, range(2**40, 2**40 + 128)).draw(0, 0, torch.empty(128, 2, dtype=torch.float64))[64:]
    x = x * model.sde.prior_std(1.0)
    truth = converge(model, x, 1.0, model.t_min, goal=1e-8).ends
    for choice in found.choices:
        solver = {"solver": found.tables[choice.nfe]} if choice.tuned else {
            "solver": choice.solver, "grid": choice.grid, "nfe": choice.nfe}  # fmt: skip
        run = ss.sample(model, start=x, **solver)
        assert run.nfe == choice.nfe
        assert float((run.samples - truth).square().mean().sqrt()) == pytest.approx(choice.rmse, rel=1e-5)
    for nfe in found.nfe:
        assert found.best(nfe).rmse == min(choice.rmse for choice in found.choices if choice.nfe == nfe)
        assert ss.sample(model, start=x, **found.use(nfe)).nfe == nfe
    assert found.best(4).tuned
    assert not found.best(14).tuned  # not tuned beyond 12 calls
    assert found.best(4).rmse < 0.6 * found.best(4, tuned=False).rmse
    with pytest.raises(ValueError, match=r"\[3, 4, 14\], got nfe=6"):
        found.best(6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nfe": "8"}, "nfe must be a whole number of at least 1, got '8'"),
        ({"nfe": []}, "at least one number of calls"),
        ({"minutes": "x"}, "minutes must be a number, got 'x'"),
        ({"starts": torch.zeros(64, 2)}, "starts must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_said_before_the_network_is_called(given: dict[str, object], message: str) -> None:
    model = network()
    with pytest.raises((ValueError, TypeError), match=message):
        ss.advise(model, (2,), **{"nfe": 4, "minutes": 1, "starts": 64, "held_out": 64, **given})  # type: ignore[arg-type]
    assert model.nfe == 0


def test_what_is_known_is_not_measured_again(folder: Path) -> None:
    first, model = json.loads((folder / "plan.json").read_text()), network()
    found = ss.advise(model, (2,), minutes=5, out=folder, **SETTING)
    assert model.nfe < 40  # the checks of the network alone
    again = json.loads((folder / "plan.json").read_text())
    assert again == first
    assert again["advice"]["advice"]["4"]["rmse"] == found.best(4).rmse
    assert ss.Table.load(folder / "tuned-4.json") == found.tables[4]


def test_a_run_that_was_stopped_goes_on(folder: Path, tmp_path: Path) -> None:
    for name in ("plan.json", "ends.safetensors", "tuned-3.json", "tuned-4.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["advice"], plan["tuned"]["4"], plan["surveys"]["3"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    model = network()
    found = ss.advise(model, (2,), minutes=5, out=tmp_path, **SETTING)
    assert model.nfe > 1000
    whole = json.loads((folder / "plan.json").read_text())
    assert json.loads((tmp_path / "plan.json").read_text())["surveys"] == whole["surveys"]
    assert found.complete
    assert found.best(4).tuned


def test_the_plan_of_another_request_is_not_touched(folder: Path, tmp_path: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(ValueError, match="differs in seed"):
        ss.advise(network(), (2,), minutes=5, out=folder, **{**SETTING, "seed": 6})
    other = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
    with pytest.raises(ValueError, match="differs in network"):
        ss.advise(other, (2,), minutes=5, out=folder, **SETTING)
    assert (folder / "plan.json").read_bytes() == before
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="another file"):
        ss.advise(network(), (2,), minutes=5, out=tmp_path, **SETTING)


def test_it_ends_within_its_time() -> None:
    slow, began = network(), time.monotonic()
    inner = slow.net

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time.sleep(1e-3)
        return inner(x, t)

    found = ss.advise(ss.ScoreModel(net, slow.sde, predicts="data"), (2,), nfe=[6, 8], minutes=0.05, starts=32)
    assert time.monotonic() - began < 30  # 3 seconds, the converged flow, and one step more
    assert not found.complete
    assert found.nfe == [6, 8]
    assert "run the same again" in str(found)


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch, scoresolve as ss\n"
        "def two():\n"
        "    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])\n"
        "    law = ss.exact.GaussianMixture([0.4, 0.6], means, 0.02 * torch.eye(2).expand(2, 2, 2))\n"
        "    return law.model(ss.VPSDE())\n"
    )
    monkeypatch.chdir(tmp_path)
    given = "advise nets:two --shape 2 --nfe 3 --starts 64 --held-out 64 --out plan --no-progress"
    ran = runner.invoke(app, given)
    assert ran.exit_code == 0, ran.output
    assert "at 3 calls use the tuned table" in ran.output
    assert (tmp_path / "plan" / "advice.png").stat().st_size > 5000
    shown = json.loads(runner.invoke(app, f"{given} --json").output)
    assert shown["advice"]["3"]["solver"] == "tuned"
    sampled = runner.invoke(app, "sample nets:two --shape 2 -s plan/tuned-3.json --out x.npy --no-progress")
    assert sampled.exit_code == 0, sampled.output
    assert "3 network calls" in sampled.output
    wrong = runner.invoke(app, f"{given} --seed 1")
    assert wrong.exit_code == 1
    assert "choose another folder" in wrong.output
