"""The classical systems' table: each sampler samples what it is given, and what is written is what was found."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresolve as ss
from benchmarks import systems, train
from benchmarks.classical import SYSTEMS, ladder
from benchmarks.classifier import Settings, trained
from benchmarks.findings import findings
from benchmarks.samplers import Sampler, guided, langevin_snr, samplers
from benchmarks.systems_report import write
from benchmarks.systems_results import Bits, Mean, Results, Row

SIDE = 8
GUIDES = list(guided(lambda x, label, y: (y[:, None] * x.flatten(1)).sum(1), "", null=10))


# -- samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "steps"), [(1.36, 5), (1.36, 40), (1.1, 3)])
def test_langevin_snr_is_the_best_for_a_point(ratio: float, steps: int) -> None:
    """The variance of the chain itself, step by step, at the snr found and beside it."""

    def variance(snr: float) -> float:
        v, size = ratio**2, 2 * snr**2  # at sigma = 1 the score of a point is -x
        for _ in range(steps):
            v = (1 - size) ** 2 * v + 2 * size
        return v

    best = langevin_snr(ratio, steps)
    assert 1 < variance(best) < min(variance(0.9 * best), variance(1.1 * best))


def calls_of(sampler: Sampler) -> int | None:
    """What a title says of network calls, beside the denoising step."""
    kind, _, rest = sampler.name.partition("-")
    match kind:
        case "langevin":
            levels = len(sampler.settings["grid"])
            return (levels - 1) * int(rest) + 1  # none at the first level, which is drawn
        case "predictor" | "corrector" | "pair":
            return int(rest) + 1
        case "ours" | "flow":
            return int(rest) if rest.isdigit() else None
    return int(rest.split("-")[0])


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_sampler_samples_the_law_it_is_given_with_the_calls_it_says(system: str) -> None:
    """On a Gaussian, whose network is exact: the variance found, over the law's.

    DDIM's error falls as 1 / steps; Langevin chains are too wide by their step, a corrector alone above all.
    """
    d = SIDE * SIDE
    law = ss.exact.Gaussian(torch.linspace(-0.5, 0.5, d), torch.linspace(0.05, 0.6, d).diag())
    sde = SYSTEMS[system].process(13.0)
    found = samplers(system, sde, d)
    assert len({one.name for one in found}) == len(found)
    ratio = {}
    for sampler in found:
        if sampler.name.endswith("-500"):
            continue  # the same with more steps
        solution = ss.sample(law.model(sde), (400, d), seed=1, dtype=torch.float64, **sampler.settings)
        expected = calls_of(sampler)
        assert expected is None or solution.nfe == expected, (sampler, solution.nfe)
        x = solution.samples
        ratio[sampler.name] = float((x.var(dim=0) / law.covariance.diagonal()).mean())
        if not sampler.name.startswith("corrector"):
            assert float((x.mean(dim=0) - law.mean).abs().max()) < 0.15, sampler
    for name, value in ratio.items():
        match name.split("-"):
            case "ours", "10" | "20":
                assert abs(value - 1) < 0.01, name
            case ["ddim", "100", eta]:
                assert 0.1 < (1 - value) / (1 - ratio[f"ddim-10-{eta}"]) < 0.25, name
            case ["ours" | "flow" | "ancestral", *_]:
                assert abs(value - 1) < 0.02, name
            case ["predictor" | "pair", *_]:
                assert 1 < value < 1.15, name
            case ["corrector" | "langevin", *_]:
                assert 0.95 < value < 1.6, name
    assert system != "ncsn" or ratio["langevin-40"] < ratio["langevin-5"]


def test_samplers_of_the_papers() -> None:
    """The corner cases of DDIM: with eta 1 on all levels it is DDPM; without noise it is a map of the start."""
    sde = ss.DiscreteVPSDE.linear()
    named = {one.name: one.settings for one in samplers("ddpm", sde, 64)}
    model = ss.exact.Gaussian(torch.zeros(4), torch.eye(4)).model(sde)
    ancestral = ss.sample(model, (3, 4), seed=0, dtype=torch.float64, **named["ancestral-1000"])
    ddim = ss.sample(model, (3, 4), seed=0, dtype=torch.float64, **(dict(named["ddim-10-1"]) | {"steps": 1000}))
    assert torch.allclose(ancestral.samples, ddim.samples, atol=1e-9)
    assert np.array_equal(np.sort(ancestral.times)[1:], np.arange(1, 1001) / 1000)
    start = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = [ss.sample(model, start=start, seed=seed, **named["ddim-20-0"]).samples for seed in (1, 2)]
    assert torch.equal(*ends)


def test_the_ladder_is_walked_down_level_by_level() -> None:
    sde = SYSTEMS["ncsn"].process(13.0)
    asked = []

    def net(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append(float(sigma[0]))
        return torch.zeros_like(x)

    model = ss.ScoreModel(net, sde, predicts="noise", time="sigma")
    sampler = samplers("ncsn", sde, 64)[0]
    ss.sample(model, (2, 64), seed=0, **sampler.settings)
    levels = [float(sde.sigma(float(t))) for t in ladder(sde, 64).flip(0)]
    assert asked == pytest.approx([level for level in levels[1:] for _ in range(5)] + levels[-1:], rel=1e-6)


@pytest.mark.parametrize("sampler", GUIDES, ids=lambda one: one.name)
def test_guided_samplers_ask_for_the_classes(sampler: Sampler) -> None:
    """A network, and a classifier, that move towards the class asked for: with the scale they go further."""

    def net(x: torch.Tensor, label: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        told = torch.zeros(len(x)) if classes is None else torch.where(classes == 10, 0, classes).float()
        return x - 0.1 * told[:, None]

    model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), predicts="noise", time="index")
    assert sampler.told is not None
    classes = torch.tensor([0, 1, 2, 3])
    scale = float(sampler.name.split("-")[1].replace("threshold", "4"))
    x, t = torch.zeros(4, 5), 0.5
    moved = sampler.told(model, classes).noise(x, t)
    sigma = float(model.sde.sigma(t))
    size = 0.1 if sampler.name.startswith("free") else sigma  # noise = -sigma * score; the classifier's slope is y
    assert torch.allclose(moved, -scale * size * classes[:, None] * torch.ones(4, 5), rtol=1e-4, atol=1e-6) or (
        sampler.name == "free-threshold" and float(sampler.told(model, classes).data(x, t).abs().max()) <= 1
    )


# -- cells -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> systems.Plan:
    folder = tmp_path_factory.mktemp("systems")
    tiny = {"steps": 3, "batch": 8, "widths": (8, 16), "warmup": 1}
    made = systems.Plan((0, 1), 12, folder / "networks", folder / "cells", torch.device("cpu"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "HARDLY", tiny)
        systems.network(made, "ve")
    made.cells.mkdir()
    return made


def few(plan: systems.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "judge", lambda *_: trained(Settings(steps=3), cache=plan.cells, log=lambda _: None))
    wanted = ("ours-10", "pair-100")
    monkeypatch.setattr(systems, "samplers", lambda *a: [one for one in samplers(*a) if one.name in wanted])


def test_a_second_run_reads_what_the_first_wrote(plan: systems.Plan, monkeypatch) -> None:
    few(plan, monkeypatch)
    first = systems.run(plan, ["ve"], progress=False)
    with monkeypatch.context() as patch:
        for name in ("sample", "variational_bound"):
            patch.setattr(systems.ss, name, lambda *_, **__: pytest.fail("asked again"))
        again = systems.run(plan, ["ve"], progress=False)
    assert again.rows == first.rows
    assert again.bits == first.bits
    assert {row.seed for row in first.rows} == {0, 1}
    more = systems.run(
        dataclasses.replace(plan, count=13, seeds=(0,)), ["ve"], progress=False
    )  # other settings: made anew
    assert {key: len(value) for key, value in more.shown.items() if key[0] == "ve"} == {
        ("ve", "ours-10"): 13, ("ve", "pair-100"): 13,
    }  # fmt: skip


def test_what_is_written_is_what_was_found(plan: systems.Plan, monkeypatch, tmp_path: Path, capsys) -> None:
    few(plan, monkeypatch)
    results = systems.run(plan, ["ve"], progress=False)
    write(results, tmp_path)
    lines = list(csv.DictReader((tmp_path / "systems.csv").read_text().splitlines()))
    assert [line["NFE"] for line in lines] == ["101", "10", "", "", ""]
    mean = results.mean("ve", "ours-10", "frechet")
    own = [row.frechet for row in results.rows if row.sampler == "ours-10"]
    assert mean is not None
    assert (mean.value, mean.spread) == (pytest.approx(np.mean(own)), pytest.approx(np.std(own, ddof=1)))
    assert lines[1]["Frechet"] == f"{mean.value:.3f} ± {mean.spread:.3f}"
    page = (tmp_path / "systems.html").read_text()
    assert lines[1]["Frechet"] in page
    assert page.count("<img") == len(lines)
    assert "predictor-corrector, 50 + 50: " in page.split("</svg>")[0]
    assert "http" not in page
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        "ve-ours-10.png", "ve-pair-100.png", "real-again.png", "real-test.png", "real-gaussian.png",
    }  # fmt: skip
    assert "predictor-corrector" in capsys.readouterr().out


def test_options_that_cannot_be_followed(capsys) -> None:
    for asked, answer in (
        (["--systems", "vpp"], "did you mean 'vp'"),
        (["--seeds", "-1"], "--seeds"),
        (["--count", "2"], "--count"),
        (["--device", "tpu9"], "--device"),
    ):
        assert systems.main(asked) == 2
        assert answer in capsys.readouterr().err


def test_a_trained_network_gives_the_same_samples_along_any_path(plan: systems.Plan) -> None:
    """The noise network of VE along VP, EDM and cosine: from the same start, scaled, at the same noise levels."""
    model = train.load(systems.network(plan, "ve"))
    model.net.double()  # type: ignore[attr-defined]
    times = np.linspace(1.0, 0.0, 9)
    start = 13 * torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = ss.sample(model, start=start, solver="dpmpp_2m", grid=times).samples
    for sde in (ss.VPSDE(), ss.EDM(), ss.CosineVPSDE()):
        seen = model.on(sde)
        same = np.array([float(sde.time(model.sde.lam(float(t)))) for t in times])
        scaled = start * float(sde.alpha(same[0]))
        found = ss.sample(seen, start=scaled, solver="dpmpp_2m", grid=same).samples / float(sde.alpha(same[-1]))
        assert (found - there).abs().max() < 1e-8 * there.abs().max(), sde


# -- findings --------------------------------------------------------------------------------------------------------


def row(system: str, sampler: str, seed: int, **values: float) -> Row:
    good = {"frechet": 1.0, "kernel": 1.0, "precision": 0.5, "recall": 0.5} | values
    return Row(system, sampler, sampler, seed, 10.0, 1.0, **good)


def results(rows: list[Row], bits: list[Bits] | None = None) -> Results:
    return Results(systems.images("digits"), 10, rows, bits or [])


def test_findings_are_those_of_the_numbers() -> None:
    def ddim(few: float) -> bool:
        rows = [row("ddpm", "ddim-50-0", seed, frechet=few + 0.1 * seed) for seed in range(3)]
        rows += [row("ddpm", "ancestral-1000", seed, frechet=1.0 - 0.1 * seed) for seed in range(3)]
        (found,) = findings(results(rows))
        return found.holds

    error = 2 * math.hypot(0.1, 0.1) / math.sqrt(3)
    assert ddim(0.5)
    assert ddim(0.8 + error - 0.01)  # the means are few + 0.1 and 0.9
    assert not ddim(0.8 + error + 0.01)

    def guidance(precision: float, recall: float) -> list[bool]:
        rows = [row("guided", "free-1", 0, recognised=0.94), row("guided", "free-2", 0, recognised=0.96)]
        rows += [row("guided", "free-4", 0, precision=precision, recall=recall, recognised=1.0)]
        return [one.holds for one in findings(results(rows))]

    assert guidance(0.6, 0.4) == [True, True, False, True, True]
    assert guidance(0.4, 0.6) == [False, False, False, True, True]
    rows = [row("ve", "pair-100", 0, frechet=2.0), row("ve", "predictor-100", 0, frechet=3.0)]
    assert [one.holds for one in findings(results(rows))] == [True]
    bits = [Bits("vp", 0, 2.0, 2.1), Bits("subvp", 0, 1.9, 1.8)]
    assert [one.holds for one in findings(results([], bits))] == [True, True, True, False]


def test_means_and_spreads() -> None:
    assert Mean.of([1.0, 2.0, 3.0]) == Mean(2.0, 1.0, 3)
    assert Mean.of([1.0, 2.0, 3.0]).text(1) == "2.0 ± 1.0"
    assert Mean.of([1.0, 2.0, 3.0]).error == pytest.approx(3**-0.5)
    assert Mean.of([1.0]).text(2) == "1.00"
