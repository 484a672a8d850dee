"""The command line: examples of its help run as they stand, results are the library's, errors are one message."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import scoresolve as ss
from scoresolve.cli import COMMANDS, app
from scoresolve.cli.options import read_sde

NETWORKS = '''
import torch
import scoresolve as ss

law = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [1.0, 0.5]], [0.05, 0.1])
exact = law.model(ss.VPSDE())
noise = exact.noise  # called as net(x, t)
score = ss.ScoreModel(lambda x, t: -x, ss.VPSDE())


def ddpm():
    """Standard normal data."""
    return ss.ScoreModel(lambda x, t: -x, ss.VPSDE())


def mixture():
    return ss.ScoreModel(noise, ss.VPSDE(), predicts="noise")


def parts():
    return noise, ss.VPSDE(), "noise"


def bare():
    return lambda x, t: noise(x, t)


def nothing():
    return 3


def wide():
    return ss.ScoreModel(lambda x, t: torch.cat([x, x], 1), ss.VPSDE())


def bug():
    raise KeyError("weights")


def views():
    net = lambda x, t, shift: noise(x - shift, t)
    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise").condition(shift=torch.ones(5, 2))
    return ss.threshold(model.guide(2.0, shift=torch.zeros(1, 2)), -0.5, 0.5).on(ss.EDM())


def nan():
    return ss.ScoreModel(lambda x, t: torch.where(x[:, :1] > 0, torch.nan, -x), ss.VPSDE())
'''
SAMPLERS = """
def heun(denoiser, x, sigmas):
    for a, b in zip(sigmas[:-1], sigmas[1:]):
        slope = (x - denoiser(x, a.expand(len(x)))) / a
        y = x + (b - a) * slope
        if b > 0:
            y = x + (b - a) * (slope + (y - denoiser(y, b.expand(len(x)))) / b) / 2
        x = y
    return x
"""
DOCS = Path(__file__).parents[1] / "docs"
TRANSCRIPTS = {"command_line.md": "my_networks.py", "conformance.md": "my_samplers.py"}
"""Pages, and what the first code of each is saved as."""
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """``run("list --json")`` in a folder with my_networks.py and my_samplers.py."""
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    (tmp_path / "my_samplers.py").write_text(SAMPLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    runner = CliRunner()
    yield lambda line: runner.invoke(app, shlex.split(line))
    for name in ("my_networks", "my_samplers"):
        sys.modules.pop(name, None)


def found(run: Run, line: str, code: int = 0) -> Any:
    result = run(line + " --json --no-progress" if not line.startswith("list") else line + " --json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def examples() -> list[str]:
    """The lines of the docstrings that begin with the name of the program."""
    docs = [importlib.import_module(f"scoresolve.cli.{name}").command.__doc__ for name in COMMANDS]
    return [line.strip() for doc in docs for line in doc.split("\n") if line.strip().startswith("scoresolve ")]


@pytest.mark.parametrize("line", examples())
def test_the_examples_of_the_help_run(run: Run, line: str) -> None:
    np.save("images.npy", np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)))
    np.save("latents.npy", np.load("images.npy"))
    small = line.replace("50000", "2").replace("--shape 3,32,32", "--shape 3,4,4")
    if " advise " in line:
        small = small.replace("--minutes 30", "") + " --minutes 0.02 --starts 16 --held-out 16"
    result = run(small.removeprefix("scoresolve "))
    if "--predicts v" in line:  # of a network that predicts something else, on other data
        assert result.exit_code == 1, result.output
    else:
        assert result.exit_code == 0, result.output


def test_every_command_has_an_example_and_the_help_shows_it(run: Run) -> None:
    for name in COMMANDS:
        own = [line for line in examples() if line.split()[1] == name]
        assert own, name
        assert " ".join(own[0].split()[:4]) in run(f"{name} --help").stdout


def test_list_filters_and_explains(run: Run) -> None:
    everything = {row["name"] for row in found(run, "list")}
    assert everything == {info.name for info in ss.solvers()}
    third = {row["name"] for row in found(run, "list --kind ode --order 3 --fixed")}
    assert third == {i.name for i in ss.solvers() if i.kind == "ode" and i.order >= 3 and not i.adaptive}
    assert {row["name"] for row in found(run, "list --grids")} == set(ss.grids.GRIDS)
    assert {row["name"] for row in found(run, "list --aliases")} >= {"Euler a", "DDIMScheduler"}
    assert found(run, 'list "DPM++ 2M Karras"')["grid"] == "karras"
    assert "none" in run("list --search nosuchword").stdout
    assert "dpmpp_2m" in run("list").stdout


def test_sample_gives_what_the_library_gives(run: Run) -> None:
    report = found(run, "sample my_networks:mixture --shape 2 -n 5 --nfe 8 -s ddim --seed 3 --out a.npy")
    assert (report["nfe"], report["seed"], report["solver"]) == (8, 3, "ddim")
    module = importlib.import_module("my_networks")
    wanted = ss.sample(module.mixture(), (5, 2), solver="ddim", nfe=8, seed=3).samples
    assert np.array_equal(np.load("a.npy"), wanted.numpy())
    for name in ("a.npz", "a.safetensors"):
        found(run, f"sample my_networks:mixture --shape 2 -n 5 --nfe 8 -s ddim --seed 3 --out {name}")
    assert np.array_equal(np.load("a.npz")["samples"], wanted.numpy())
    assert torch.equal(load_file("a.safetensors")["samples"], wanted)
    other = (
        "sample my_networks:mixture --shape 2 -n 5 -s euler_ancestral --steps 8 -o eta=0.5 --grid karras --out b.npy"
    )
    assert found(run, f"{other} --dtype float64")["nfe"] == 8
    wanted = ss.sample(
        module.mixture(), (5, 2), solver="euler_ancestral", steps=8, eta=0.5, grid="karras", seed=0, dtype=torch.float64
    ).samples
    assert np.array_equal(np.load("b.npy"), wanted.numpy())


def test_sample_starts_and_ends_where_it_is_told(run: Run) -> None:
    line = "sample my_networks:mixture --shape 2 -n 5 --nfe 6 --t-max 0.6 --t-min 0.1 --out"
    for out in ("a.npy", "shards"):
        found(run, f"{line} {out}")
    model = importlib.import_module("my_networks").mixture()
    wanted = ss.sample(model, (5, 2), nfe=6, t_max=0.6, t_min=0.1, seed=0)
    assert wanted.times[[0, -1]].tolist() == [0.6, 0.1]
    assert np.array_equal(np.load("a.npy"), wanted.samples.numpy())
    assert np.allclose(ss.shards.load("shards")["samples"], wanted.samples, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "meant"), [("False", False), ("false", False), ("True", True), ("true", True), ("None", None)]
)
def test_truth_values_are_spelt_as_in_json_or_in_python(run: Run, said: str, meant: bool | None) -> None:
    found(
        run,
        f"sample my_networks:mixture --shape 2 -n 3 -s dpmpp_2m --nfe 8 -o lower_order_final={said} --out {said}.npy",
    )
    model = importlib.import_module("my_networks").mixture()
    runs = {
        value: ss.sample(model, (3, 2), solver="dpmpp_2m", nfe=8, lower_order_final=value, seed=0).samples.numpy()
        for value in (True, False, None)
    }
    assert np.array_equal(np.load(f"{said}.npy"), runs[meant])
    assert not np.array_equal(runs[True], runs[False])  # and None is False where noise is left at the end


def test_sample_writes_shards_and_goes_on(run: Run) -> None:
    line = "sample my_networks:mixture --shape 2 -n 50 --batch-size 16 --nfe 4 --out shards --seed 1 --first 7"
    half = found(run, f"{line} --rank 0 --world-size 2")
    assert (half["made"], half["missing"], half["nfe"]) == ([0, 2], [1, 3], 8)
    assert found(run, line)["made"] == [1, 3]
    assert found(run, f"{line} --verify")["made"] == []
    module = importlib.import_module("my_networks")
    wanted = ss.sample(module.mixture(), (50, 2), nfe=4, seed=1, indices=range(7, 57)).samples
    assert torch.allclose(torch.as_tensor(ss.shards.load("shards")["samples"]), wanted, atol=1e-6)
    refused = run(line.replace("--nfe 4", "--nfe 5"))
    assert refused.exit_code == 1
    assert "other settings" in refused.stderr


def test_samples_that_fail_are_told(run: Run) -> None:
    report = found(run, "sample my_networks:nan --shape 2 -n 8 -s euler --nfe 4 --out a.npy --mask", code=1)
    assert list(map(int, report["failed"])) == np.flatnonzero(np.isnan(np.load("a.npy")).any(axis=1)).tolist()
    assert 0 < len(report["failed"]) < 8
    assert run("sample my_networks:nan --shape 2 -n 8 -s euler --nfe 4 --out b.npy").exit_code == 1
    assert not Path("b.npy").exists()


def test_a_network_is_completed_and_corrected_by_options(run: Run) -> None:
    line = "sample {} --shape 2 -n 3 --nfe 5 --out {}.npy"
    found(run, line.format("my_networks:mixture", "a"))
    found(run, line.format("my_networks:parts", "b"))
    found(run, line.format("my_networks:bare", "c") + " --sde VPSDE() --predicts noise")
    found(run, line.format("my_networks:score", "d") + " --sde 'VPSDE(beta_max=20)'")
    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    assert np.array_equal(a, b)
    assert np.array_equal(a, c)
    assert repr(read_sde("ss.VPSDE(beta_min=0.2, beta_max=10)")) == repr(ss.VPSDE(0.2, 10))
    assert len(read_sde("DiscreteVPSDE.linear(steps=50)").betas) == 50  # type: ignore[attr-defined]


@pytest.mark.parametrize("said", ["--predicts noise", "--time t", "--sde VPSDE()", "--sde VPSDE(beta_max=10)"])
def test_an_option_leaves_guidance_refinements_and_the_view_as_they_are(run: Run, said: str) -> None:
    option, value = said.split()
    found(run, f"sample my_networks:views --shape 2 -n 5 --nfe 6 -s ddim {option} '{value}' --out a.npy")
    module = importlib.import_module("my_networks")
    model = module.views()
    if "10" in said:
        net = ss.ScoreModel(model.net, ss.VPSDE(beta_max=10), predicts="noise").condition(shift=torch.ones(5, 2))
        model = ss.threshold(net.guide(2.0, shift=torch.zeros(1, 2)), -0.5, 0.5).on(ss.EDM())
    wanted = ss.sample(model, (5, 2), solver="ddim", nfe=6, seed=0)
    assert wanted.times[0] > 2  # sigmas of EDM's path
    assert np.array_equal(np.load("a.npy"), wanted.samples.numpy())


def test_a_directory_is_read_by_from_diffusers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pipeline").mkdir()
    asked = []

    def from_diffusers(source: str) -> ss.ScoreModel:
        asked.append(source)
        return ss.exact.Gaussian([0.0, 0.0], 1.0).model(ss.VPSDE())

    monkeypatch.setattr(ss, "from_diffusers", from_diffusers, raising=False)
    found(run, "sample pipeline --shape 2 -n 3 --nfe 4 --out a.npy")
    assert asked == ["pipeline"]
    monkeypatch.delattr(ss, "from_diffusers")
    refused = run("sample pipeline --shape 2 --out b.npy")
    assert refused.exit_code == 2
    assert "reads no diffusers pipelines" in re.sub(r"[│\s]+", " ", refused.stderr)


def test_latents_and_likelihoods(run: Run) -> None:
    x0 = ss.exact.Gaussian([0.0, 0.0], 1.0).sample(4, generator=torch.Generator().manual_seed(0))
    np.save("x.npy", x0.numpy())
    found(run, "encode my_networks:mixture --data x.npy --out z.npy --dtype float64")
    found(run, "encode my_networks:mixture --data z.npy --decode --out y.npy --dtype float64")
    assert np.allclose(np.load("y.npy"), x0, atol=1e-4)
    report = found(run, "likelihood my_networks:score --data x.npy --dtype float64 --count 3")
    wanted = ss.exact.Gaussian([0.0, 0.0], 1.0).log_prob(x0[:3])
    assert torch.allclose(torch.tensor(report["per_sample"]["log_prob"], dtype=torch.float64), wanted, atol=1e-4)
    assert report["samples"] == 3
    shown = run("likelihood my_networks:score --data x.npy --divergence hutchinson --probes 2 --no-progress").stdout
    assert "bits/dim" in shown


def test_bench_marks_the_best_and_writes_rows(run: Run) -> None:
    line = "bench my_networks:mixture --shape 2 -n 8 -s ddim -s dpmpp_2m --nfe 10,40 --dtype float64"
    line += " --csv e.csv --plot e.svg"
    report = found(run, line)
    errors = {(row["solver"], row["asked"]): row["error"] for row in report["rows"]}
    assert report["reference"]["consistency"] < 1e-6
    assert (
        1.5 < errors["ddim", 10] / errors["ddim", 40] < 8 < errors["dpmpp_2m", 10] / errors["dpmpp_2m", 40]
    )  # orders 1, 2
    with open("e.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["error"]) for row in rows] == [row["error"] for row in report["rows"]]
    assert Path("e.svg").stat().st_size > 1000
    shown = run(line + " --no-progress").stdout
    assert re.search(r"dpmpp_2m +\S+ \* +\S+ \*", shown), shown
    noisy = run("bench my_networks:mixture --shape 2 -s ddpm --no-progress")
    assert noisy.exit_code == 1
    assert "'ddpm' draws noise" in noisy.stderr


def test_doctor_says_what_to_write(run: Run) -> None:
    sound = found(run, "doctor my_networks:mixture --shape 2 -n 512")
    assert sound["ok"]
    wrong = run("doctor my_networks:mixture --shape 2 -n 512 --predicts v --no-progress")
    assert wrong.exit_code == 1
    assert 'predicts="noise", time="t"' in wrong.stdout


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("sample my_networks:mixture --shape 2 --out a.npy -s heunn", 2, "did you mean"),
        ("sample my_networks:mixture --shape 2 --out a.npy --grid karas", 2, "did you mean"),
        ("sample my_networks:mixture --shape 2.5 --out a.npy", 2, "such as 3,32,32"),
        ("sample my_networks:mixture --out a.npy", 2, "--shape"),
        ("sample my_networks:none --shape 2 --out a.npy", 2, "has no 'none'"),
        ("sample no_networks:none --shape 2 --out a.npy", 2, "no module 'no_networks' here"),
        ("sample mixture --shape 2 --out a.npy", 2, "package.module:factory"),
        ("sample my_networks:nothing --shape 2 --out a.npy", 2, "gave (int)"),
        ("sample my_networks:bare --shape 2 --out a.npy --predicts v", 2, "give --sde as well"),
        ("sample my_networks:bare --shape 2 --out a.npy --sde VSDE", 2, "did you mean"),
        ("sample my_networks:mixture --shape 2 --out a.npy --sde 'VPSDE(beta_max=open)'", 2, "VPSDE(beta_min"),
        ("sample my_networks:mixture --shape 2 --out a.npy --predicts nois", 2, "did you mean 'noise'"),
        ("sample my_networks:mixture --shape 2 --out a.npy -o eta", 2, "such as eta=0.5"),
        ("sample my_networks:mixture --shape 2 --out a.npy --dtype half", 2, "float64"),
        ("encode my_networks:mixture --data no.npy --out z.npy", 2, "is not there"),
        ("encode my_networks:mixture --data x.txt --out z.npy", 2, "none of .npy"),
        ("sample my_networks:mixture --shape 2 --out a.npy -s heun --nfe 4 -o eta=1", 1, "error: unknown option 'eta'"),
        (
            "sample my_networks:mixture --shape 2 --out a.npy -s dpmpp_2m --nfe 4 -o lower_order_final=no",
            1,
            "True, False or None, without quotation marks, got 'no'",
        ),
        ("sample my_networks:mixture --shape 2 --out a.npy --nfe 4 --steps 4", 1, "not both"),
        ("conform my_samplers:none", 2, "such as my_samplers:heun"),
        ("conform dmpp_2m", 2, "did you mean 'dpmpp_2m'"),
        ("conform math:pi", 2, "got float"),
        ("conform math:sin", 2, "sampler(denoiser, x, sigmas), got sin"),
        ("conform diffusers:LCMScheduler", 2, "consistency models"),
        ("encode my_networks:mixture --data x.npy --out a.npy -s t.json", 2, "give a solver's name here"),
        ("likelihood my_networks:mixture --data x.npy -s t.json", 2, "give a solver's name here"),
        ("bench my_networks:mixture --shape 2 -s t.json", 2, "give a solver's name here"),
        ("list t.json", 2, "give a solver's name here"),
        ("sample my_networks:wide --shape 2 --out a.npy", 1, "they must be equal"),
        ("sample my_networks:bug --shape 2 --out a.npy", 1, "error: KeyError: 'weights'"),
    ],
)
def test_errors_are_one_message(run: Run, line: str, code: int, message: str) -> None:
    result = run(line)
    assert result.exit_code == code, result.output
    plain = re.sub(r"[│\s]+", " ", result.stderr)
    assert message in plain, plain
    assert "Traceback" not in result.output
    assert not Path("a.npy").exists()


def transcripts(page: str) -> list[tuple[str, str]]:
    """The commands of a page, each with what it is said to print."""
    blocks = re.findall(r"^```console\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    parts = [part.partition("\n") for block in blocks for part in block.split("$ scoresolve ")[1:]]
    return [(line, output) for line, _, output in parts]


def masked(text: str) -> str:
    """Words without their digits: the last of them are the machine's."""
    return re.sub(r"[\d.e+-]*\d", "#", " ".join(text.split()))


def test_every_command_has_a_transcript() -> None:
    assert {line.split()[0] for page in TRANSCRIPTS for line, _ in transcripts(page)} == set(COMMANDS)


@pytest.mark.parametrize("page", TRANSCRIPTS)
def test_the_transcripts_of_a_page_are_what_is_printed(run: Run, page: str) -> None:
    code = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)[0]
    Path(TRANSCRIPTS[page]).write_text(code)
    for line, output in transcripts(page):
        result = run(line + ("" if line.startswith("list") else " --no-progress"))
        failed = output.startswith("error:") or "something is wrong" in output
        assert result.exit_code == failed, result.output
        shown = result.stderr if output.startswith("error:") else result.stdout
        assert masked(shown) == masked(output), f"{line}\n{shown}"


def test_only_commands_that_run_tables_offer_them(run: Run) -> None:
    for name in COMMANDS:
        assert ("table.json" in run(f"{name} --help").stdout) == (name == "sample")


def test_debug_shows_the_traceback(run: Run) -> None:
    assert isinstance(run("sample my_networks:bug --shape 2 --out a.npy --debug").exception, KeyError)


def test_as_a_program(run: Run) -> None:
    """Results alone on stdout, progress on stderr; the library does not import what only the program needs."""
    root = {"PYTHONPATH": str(Path(ss.__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    line = "sample my_networks:mixture --shape 2 --nfe 5 --out a.npy --json"
    done = subprocess.run(
        [sys.executable, "-m", "scoresolve", *line.split()], capture_output=True, text=True, env=root, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nfe"] == 5
    assert "5/5" in done.stderr
    code = "import sys, scoresolve; sys.exit('typer' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=root, timeout=120).returncode == 0
