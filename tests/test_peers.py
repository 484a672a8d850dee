"""The peers of the benchmark are fed what our solvers are fed. Each library is tested where it is installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresolve as ss
from benchmarks import digits, measure, metrics, peers, problems, verdict
from benchmarks.peers import grids, rows
from benchmarks.peers.base import Network, Peer
from benchmarks.report import Report, Summary
from benchmarks.run import main

# diffusers turns tensors to arrays in ways that numpy is about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

CPU = torch.device("cpu")
FOUND, VERSIONS, _ = peers.installed()
ODE = [peer for peer in FOUND if peer.kind == "ode" and not peer.adaptive]
SDE = [peer for peer in FOUND if peer.kind == "sde"]


def problem(sde: ss.SDE, samples: int = 32) -> problems.Problem:
    training = digits.Training(steps=1, width=16, blocks=1)
    return problems.gaussian(problems.Settings(sde, CPU, 0, 32, samples, training, Path(), lambda line: None))


@pytest.fixture(scope="module")
def vp() -> problems.Problem:
    return problem(ss.VPSDE())


def peer(name: str) -> Peer:
    library = name.split()[0]
    if library not in VERSIONS:
        pytest.skip(f"{library} is not installed")
    (found,) = peers.chosen(FOUND, [name])
    return found


def ends(problem: problems.Problem, name: str, nfe: int) -> torch.Tensor:
    found, calls = peer(name).run(problem, nfe, problem.starts, seed=0)
    assert calls <= nfe
    return found


def ours(problem: problems.Problem, solver: str, grid: str, steps: int, **options: object) -> torch.Tensor:
    model = problem.model
    times = grids.GRIDS[grid](model.sde, steps, model.t_max, model.t_min)
    return ss.sample(model, start=problem.starts, solver=solver, grid=times, seed=0, **options).samples


# -- the same method on the same levels is the same numbers -----------------------------------------------------------

FLOAT64, FLOAT32 = 1e-9, 2e-5
SAME = [
    ("diffusers ddim uniform", "ddim", 7, FLOAT64),
    ("diffusers ddim uniform", "ddim", 1, FLOAT64),
    ("diffusers euler karras", "ddim", 8, FLOAT32),
    ("diffusers dpmpp_2m_full uniform", "dpmpp_2m", 9, FLOAT32),
    ("diffusers dpmpp_2m_full karras", "dpmpp_2m", 9, FLOAT32),
    ("diffusers dpmpp_2m_full log_snr", "dpmpp_2m", 9, FLOAT32),
    ("diffusers dpmpp_2m beta", "dpmpp_2m", 20, FLOAT32),
    ("azula ddim uniform", "ddim", 7, FLOAT64),
    ("azula euler karras", "ddim", 8, FLOAT64),
    ("torchdiffeq euler uniform", "euler", 8, FLOAT64),
]


@pytest.mark.parametrize(("name", "solver", "nfe", "rounding"), SAME)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(), ss.SubVPSDE()], ids=["vp", "ve", "subvp"])
def test_equals_ours(name: str, solver: str, nfe: int, rounding: float, sde: ss.SDE) -> None:
    there = problem(sde)
    scale = float(there.starts.abs().max()) if rounding == FLOAT32 else 1.0
    options = {"clock": "t"} if name.startswith("torchdiffeq") else {}
    expected = ours(there, solver, name.split()[2], nfe, **options)
    assert torch.allclose(ends(there, name, nfe), expected, atol=rounding * scale)


@pytest.mark.parametrize("name", ["diffusers ddim uniform", "diffusers dpmpp_2m karras", "azula ddim uniform"])
def test_equals_ours_where_the_last_step_jumps_to_noise_zero(name: str) -> None:
    there = problem(ss.EDM())
    method = "ddim" if "ddim" in name else "dpmpp_2m"
    options = {} if method == "ddim" else {"lower_order_final": True}
    expected = ours(there, method, name.split()[2], 12, **options)
    assert torch.allclose(ends(there, name, 12), expected, atol=1e-4)


def test_default_lower_order_final_is_that_option_of_ours(vp: problems.Problem) -> None:
    expected = ours(vp, "dpmpp_2m", "karras", 9, lower_order_final=True)
    assert torch.allclose(ends(vp, "diffusers dpmpp_2m karras", 9), expected, atol=FLOAT32)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("diffusers deis_3_full karras", "azula zeab_3 karras"),
        ("diffusers deis_2 log_snr", "azula zeab_2 log_snr"),
        ("diffusers heun karras", "azula heun karras"),
    ],
)
def test_two_libraries_agree(vp: problems.Problem, name: str, other: str) -> None:
    assert torch.allclose(ends(vp, name, 20), ends(vp, other, 20), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("diffusers ddpm uniform", "ddpm"),
        ("azula ddpm karras", "ddpm"),
        ("diffusers euler_a karras", "ddpm"),
        ("diffusers dpmpp_2m_sde_full log_snr", "dpmpp_2m_sde"),
    ],
)
def test_the_law_of_a_stochastic_one_equals_ours(vp: problems.Problem, name: str, solver: str) -> None:
    found = rows.measure(vp, cell(peer(name), 12), peer(name), seed=0)
    expected = measure.measure(vp, measure.Cell("gaussian", solver, "sde", name.split()[2], 12), seed=0)
    assert found.w2 == pytest.approx(expected.w2, rel=1e-4)
    assert found.std_error == pytest.approx(expected.std_error, rel=1e-4)


@pytest.mark.parametrize("name", ["diffusers sa_34 log_snr", "diffusers dpm2_a karras", "azula pc uniform"])
def test_the_law_found_without_sampling_is_that_of_samples(name: str) -> None:
    many = problem(ss.VPSDE(), samples=4000)
    found = rows.measure(many, cell(peer(name), 8), peer(name), seed=0)
    mean, covariance = metrics.moments(ends(many, name, 8))
    law = many.gaussian
    assert law is not None
    truth = law.marginal(many.model.sde, many.model.t_min)
    assert not found.sampled
    assert found.w2 == pytest.approx(
        metrics.gaussian_wasserstein(mean, covariance, truth.mean, truth.covariance), rel=0.04
    )


# -- what holds for every one of them ---------------------------------------------------------------------------------


def cell(peer: Peer, budget: int | None, tolerance: float | None = None) -> measure.Cell:
    return measure.Cell("gaussian", peer.solver, peer.kind, peer.grid, budget, tolerance, peer.library)


@pytest.mark.parametrize("one", [*ODE, *SDE], ids=lambda peer: peer.name)
def test_approaches_the_truth_within_its_budget(vp: problems.Problem, one: Peer) -> None:
    few, many = (rows.measure(vp, cell(one, nfe), one, seed=0) for nfe in (15, 90))
    for row, budget in ((few, 15), (many, 90)):
        assert row.status == "ok", row.message
        assert budget - 4 < (row.nfe or 0) <= budget
    assert few.error is not None
    assert many.error is not None
    if one.grid != "beta":  # whose levels crowd at the ends: the error falls, but not at every number of steps
        assert many.error < 0.7 * few.error


def test_every_one_ends_at_noise_zero_where_the_process_does() -> None:
    edm = problem(ss.EDM())
    for one in FOUND:
        row = rows.measure(edm, cell(one, *((None, 1e-3) if one.adaptive else (30,))), one, seed=0)
        assert row.status == "ok", f"{one.name}: {row.message}"
        assert one.adaptive or 27 <= (row.nfe or 0) <= 30


@pytest.mark.parametrize("one", [peer for peer in FOUND if peer.adaptive], ids=lambda peer: peer.name)
def test_an_adaptive_one_gains_from_its_tolerance(vp: problems.Problem, one: Peer) -> None:
    loose, tight = (rows.measure(vp, cell(one, None, tolerance), one, seed=0) for tolerance in (1e-2, 1e-5))
    assert tight.status == "ok", tight.message
    assert (tight.rmse or 1) < 1e-3
    assert (loose.nfe or 0) < (tight.nfe or 0)


def test_a_budget_below_the_cost_is_left_out(vp: problems.Problem) -> None:
    one = peer("diffusers pndm uniform")
    assert rows.measure(vp, cell(one, 12), one, seed=0).status == "left out"
    assert rows.measure(vp, cell(one, 13), one, seed=0).nfe == 13


def test_the_seed_decides_and_noise_is_drawn_apart_from_torchs_generator(vp: problems.Problem) -> None:
    for one in SDE:
        first, again, other = (one.run(vp, 8, vp.starts[:4], seed)[0] for seed in (0, 0, 1))
        assert torch.equal(first, again), one.name
        assert not torch.allclose(first, other), one.name


def test_the_network_is_asked_at_the_level_that_is_meant() -> None:
    law, sde = ss.exact.Gaussian([0.3], 0.04), ss.VPSDE()
    network = Network(law.model(sde), limit=2)
    x, rho = torch.tensor([[0.7]], dtype=torch.float64), 1.7
    exact = law.model(ss.EDM())  # whose time is rho
    scaled = x * (1 + rho**2) ** 0.5
    assert torch.allclose(network.at_rho(x, rho, "noise"), exact.noise(scaled, rho), atol=1e-9)
    unit = (exact.noise(scaled, rho) - rho * exact.data(scaled, rho)) / (1 + rho**2) ** 0.5
    assert torch.allclose(network.at_rho(x, rho, "v"), unit, atol=1e-9)
    assert network.calls == 2
    with pytest.raises(ss.BudgetError):
        network.at_rho(x, rho, "data")


# -- the grids are diffusers' own -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "method"),
    [("karras", "_convert_to_karras"), ("log_snr", "_convert_to_exponential"), ("beta", "_convert_to_beta")],
)
def test_the_grids_are_those_of_diffusers(grid: str, method: str) -> None:
    schedulers = pytest.importorskip("diffusers").schedulers
    sde, steps = ss.VPSDE(), 9
    rho = sde.rho(grids.GRIDS[grid](sde, steps, sde.t_max, sde.t_min))
    convert = getattr(schedulers.DPMSolverMultistepScheduler(), method)
    levels = convert(in_sigmas=rho[[0, -1]], num_inference_steps=steps + 1)
    assert np.allclose(rho, levels, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_beta_grid_has_a_grids_ends(steps: int) -> None:
    for sde in (ss.VPSDE(), ss.EDM()):
        times = grids.beta(sde, steps, sde.t_max, sde.t_min)
        assert (times[0], times[-1], len(times)) == (sde.t_max, sde.t_min, steps + 1)
        assert (np.diff(times) < 0).all()


# -- from the command line --------------------------------------------------------------------------------------------


def run(tmp_path: Path, *options: str) -> tuple[int, dict]:
    code = main([*options, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--threads", "1"])
    path = tmp_path / "out" / "results.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


def test_a_run_with_peers_gives_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--peers", "--peer-names", "euler", "ddpm", "--solvers", "ddim", "ddpm", "--nfe", "5", "10"]
    small = ["--problems", "gaussian", "mixture", "--paths", "8", "--samples", "16"]
    code, found = run(tmp_path, *asked, *small, "--default", "dpmpp_2m@karras", "ddpm")
    assert code == 0
    libraries = {row["library"] for row in found["rows"]}
    assert libraries == {"scoresolve", *VERSIONS}
    assert found["versions"].keys() >= VERSIONS.keys()
    if VERSIONS:
        best = {(duel["problem"], duel["kind"], duel["budget"]) for duel in found["verdict"]["best"]}
        assert ("mixture", "ode", 10) in best
        assert {line["default"] for line in found["verdict"]["fixed"]} >= {"dpmpp_2m @ karras"}
        assert "theirs / ours" in capsys.readouterr().out
        assert "| calls |" in (tmp_path / "out" / "verdict.md").read_text()
        assert len((tmp_path / "out" / "verdict.csv").read_text().splitlines()) == 1 + len(found["verdict"]["best"])
        assert "Against the peers" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(library: str) -> str:
        if library != "torchdiffeq":
            raise PackageNotFoundError(library)
        return "0"

    monkeypatch.setattr(peers, "version", version)
    asked = ["--peers", "--solvers", "ddim", "--nfe", "5", "--samples", "16", "--problems", "gaussian"]
    _, found = run(tmp_path, *asked)
    assert {row["library"] for row in found["rows"]} == {"scoresolve", "torchdiffeq"}
    assert [line.split()[0] for line in found["missing"]] == ["diffusers", "azula"]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (["--peers", "--peer-names", "dpmsolver"], "fits no peer"),
        (["--peer-names", "euler"], "add it"),
        (["--peers", "--default", "dpmp_2m"], "did you mean 'dpmpp_2m'"),
        (["--peers", "--default", "dpmpp_2m@karas"], "did you mean 'karras'"),
    ],
)
def test_bad_options_say_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], hint: str
) -> None:
    code, found = run(tmp_path, *asked)
    assert code == 2
    assert not found
    assert hint in capsys.readouterr().err


# -- the verdict ------------------------------------------------------------------------------------------------------


def row(library: str, solver: str, budget: int, error: float | None, kind: str = "ode") -> measure.Row:
    there = measure.Cell("p", solver, kind, "karras", budget, None, library)
    name = "rmse" if kind == "ode" else "sliced_w2"
    return measure.Row(there, "ok" if error else "failed", nfe=budget, **{name: error})


def test_the_verdict_compares_the_best_and_the_fixed() -> None:
    summary = Summary("p", "P", {"sliced_w2": 0.5}, "somehow", 1e-6)
    found = (
        row("scoresolve", "a", 5, 0.2), row("scoresolve", "b", 5, 0.1), row("scoresolve", "a", 10, 0.01),
        row("diffusers", "c", 5, 0.4), row("diffusers", "c", 10, 0.005), row("azula", "d", 5, 0.3),
        row("azula", "d", 10, None), row("scoresolve", "e", 5, 0.3, "sde"), row("azula", "f", 5, 0.1, "sde"),
    )  # fmt: skip
    judged = verdict.judge(Report({}, (summary,), found), [("a", "karras")])
    assert [(d.budget, d.ours, d.theirs, round(d.ratio, 9)) for d in judged.duels] == [
        (5, "b @ karras", "azula: d, karras", 3.0),
        (10, "a @ karras", "diffusers: c, karras", 0.5),
        (5, "e @ karras", "azula: f, karras", 1.0),  # both below the noise floor
    ]
    assert [(s.theirs, round(s.ratio, 9), s.cells, s.ahead, s.failed) for s in judged.standings] == [
        ("diffusers: c, karras", 1.0, 2, 1, 0),
        ("azula: d, karras", 1.5, 1, 1, 1),
    ]
