"""The benchmark of tuned tables: what its lines are made of, that nothing is measured twice, and its own problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import scoresolve as ss
from benchmarks import tabular, tuning
from benchmarks.digits import CACHE, Training
from benchmarks.problems import Settings, _from_law
from benchmarks.tuning_problems import JUDGED, STARTS, UNSEEN, Made, _moons, make


def settings(paths: int) -> Settings:
    return Settings(ss.VPSDE(), torch.device("cpu"), 0, paths, paths, Training(), CACHE, lambda line: None)


@pytest.fixture(scope="module")
def made() -> Made:
    law = ss.exact.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.1])
    problem = _from_law(settings(64), law, "two", "Two modes", stream=90)
    return Made(problem, 64, 32)


def test_untuned_is_the_best_of_all_that_were_run(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "GRIDS", ("balanced", "karras"))
    found, problem = tuning.untuned(made.problem, 4), made.problem
    errors = {}
    for info in ss.solvers():
        for grid in tuning.GRIDS:
            if info.kind == "ode" and not info.adaptive:
                try:
                    run = ss.sample(problem.model, start=problem.starts, solver=info.name, grid=grid, nfe=4)
                except ValueError:
                    continue
                errors[info.name, grid] = (run.samples - problem.reference.ends).square().mean().sqrt().item()
    assert found["tried"] > len(errors) > 40
    assert found["rmse"] <= min(errors.values()) * (1 + 1e-9)
    solver, _, grid = found["best"].partition(" on ")
    if (solver, grid) in errors:
        assert found["rmse"] == pytest.approx(errors[solver, grid], rel=1e-9)


def test_a_tuned_cell_has_the_errors_of_its_own_table(made: Made) -> None:
    found, problem = tuning.tuned(made, 3, seed=1), made.problem
    table = ss.Table.from_json(json.dumps(found["table"]))
    each = (ss.sample(problem.model, start=problem.starts, solver=table).samples - problem.reference.ends).square()
    assert found["rmse"] == pytest.approx(each.mean().sqrt().item(), rel=1e-9)
    assert found["median"] == pytest.approx(each.mean(dim=1).sqrt().median().item(), rel=1e-9)
    assert table.options["seed"] == 1
    assert (table.options["starts"], table.options["held_out"]) == (64, 32)


def test_a_cell_is_measured_once_and_only_what_is_known_is_written(tmp_path: Path, monkeypatch) -> None:
    measured: list[tuple[int, ...]] = []

    def bare(problem: object, calls: int) -> dict[str, object]:
        measured.append((calls,))
        return {"tried": 7, "best": "ddim on karras", "rmse": 2.0, "best_by_median": "heun on beta", "median": 1.0}

    def run(made: object, calls: int, seed: int) -> dict[str, object]:
        measured.append((calls, seed))
        if len(measured) == 4:
            raise KeyboardInterrupt
        options = {"starts": 5, "network_rows": 10**6 * (seed + 1)}
        return {"rmse": 1.0 + seed, "median": 0.5, "minutes": 1.0 + seed, "table": {"options": options}}

    monkeypatch.setattr(tuning, "untuned", bare)
    monkeypatch.setattr(tuning, "tuned", run)
    monkeypatch.setattr(tuning, "make", lambda name: Made(None, 5, 5))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        tuning.rows(tmp_path, ["moons"], [4, 5], [0, 1, 2])
    assert measured == [(4,), (4, 0), (4, 1), (4, 2)]
    (line,) = tuning.rows(tmp_path, ["moons", "unet"], [4, 5], [0, 1, 2], known=True)
    assert len(measured) == 4  # what is known needs no measurement
    assert (line["seeds"], line["tuned_rmse"], line["ratio"], line["worst_ratio"]) == (2, 1.5, 0.75, 1.0)
    four, five = tuning.rows(tmp_path, ["moons"], [4, 5], [0, 1, 2])
    assert measured[4:] == [(4, 2), (5,), (5, 0), (5, 1), (5, 2)]
    assert (four["seeds"], four["ratio"], four["worst_ratio"], four["million_samples_seen"]) == (3, 1.0, 1.5, 2.0)
    assert (five["calls"], five["median_ratio"]) == (5, 0.5)


def test_the_table_and_the_picture_are_of_what_is_known(tmp_path: Path, capsys) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    bare = {"tried": 7, "best": "ddim on karras", "rmse": 0.04, "best_by_median": "heun on beta", "median": 0.02}
    table = {"options": {"starts": 256, "network_rows": 2 * 10**6}}
    for calls in (4, 8):
        (cells / f"unet-{calls}-untuned.json").write_text(json.dumps(bare))
        run = {"rmse": 0.08 / calls, "median": 0.01, "minutes": 12.0, "table": table}
        (cells / f"unet-{calls}-0.json").write_text(json.dumps(run))
    assert tuning.main(["--known", "--out", str(tmp_path)]) == 0
    head, four, eight = (tmp_path / "tuning.csv").read_text().splitlines()
    assert head.startswith("problem,calls,seeds,untuned,of,untuned_rmse,tuned_rmse,ratio,worst_ratio,median_ratio")
    assert four == "unet,4,1,ddim on karras,7,0.04,0.02,0.5,0.5,0.5,256,2,12"
    assert eight == "unet,8,1,ddim on karras,7,0.04,0.01,0.25,0.25,0.5,256,2,12"
    assert eight in capsys.readouterr().out
    assert (tmp_path / "tuning.png").read_bytes()[1:4] == b"PNG"


def test_every_problem_has_its_starts_and_enough_of_them_to_judge_by() -> None:
    assert set(STARTS) == set(JUDGED) == {"gaussian", "mixture", "digits", "network", *UNSEEN}
    assert min(JUDGED.values()) >= 256
    with pytest.raises(KeyError):
        make("unheard-of")


def test_the_moons_are_two_half_circles_in_eight_dimensions() -> None:
    problem = _moons(settings(8))
    points = torch.cat(problem.exact)  # data with noise 0.07 about the two arcs, in a plane
    plane = torch.linalg.svd(points - points.mean(dim=0)).S / len(points) ** 0.5
    assert points.shape == (16, 8)
    assert plane[1] > 0.2 > 0.12 > plane[2]


@pytest.mark.slow
def test_the_network_of_the_table_learns_and_is_the_same_each_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tabular, "STEPS", 300)
    model = tabular.model(tmp_path)
    x = torch.randn(16, 30, generator=torch.Generator().manual_seed(0))
    first = model.data(x, 1.0)
    assert torch.equal(tabular.model(tmp_path).data(x, 1.0), first)  # from its file
    (tmp_path / "tabular.safetensors").write_bytes(b"not whole")
    assert torch.equal(tabular.model(tmp_path).data(x, 1.0), first)  # trained again
    data = tabular.table()
    assert data.mean(dim=0).abs().max() < 1e-5
    x0, noise = data[:256], torch.randn(256, 30, generator=torch.Generator().manual_seed(1))
    gaussian = ss.exact.Gaussian.fit(data).model(ss.EDM())
    errors = [float((net.data(x0 + noise, 1.0) - x0).square().mean()) for net in (model, gaussian)]
    assert errors[0] < 1.1 * errors[1]  # after a few hundred steps about as good as the best linear guess
    assert ss.doctor(model, tuple(x0.shape), data=x0)["told the time"].status == "ok"
