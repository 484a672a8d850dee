"""Promise 10, data only: nothing is unpickled or run, files are refused that are not what they say, outputs stay."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
import typer
from hostile import archive, npy, pickled, saved, tensors
from shard_cases import draw, model, network, tree

import scoresolve as ss
from scoresolve import manifest
from scoresolve.cli.files import check_folder, check_out, check_plot, read_tensor, write_tensor
from scoresolve.cli.options import check_solver, read_options
from scoresolve.reading import parse_arrays, parse_json, read_file

SOURCE = Path(ss.__file__).parent

# -- the source -------------------------------------------------------------------------------------------------------

MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "subprocess", "socket", "urllib",
    "http", "requests", "huggingface_hub", "ctypes", "code", "runpy",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "open"}
METHODS = {
    "torch.load", "torch.save", "np.load", "numpy.load", "np.fromfile", "os.system", "os.popen", "os.execv",
    "importlib.import_module", "torch.hub.load",
}  # fmt: skip
WRITING = {"write_text", "write_bytes", "tofile"}
"""Ways around durable.py, where links are refused and files whole."""
IMPORTING = {
    "backend_libraries.py": "importlib.import_module",  # of two libraries, whose names stand in the source
    "cli/__init__.py": "import_module",  # of COMMANDS
    "cli/network.py": "importlib.import_module",  # of module:object, which the user names on the command line
}
"""The places that import by a name."""


def found_in(source: str) -> Iterator[str]:
    """What runs code, unpickles, imports by a name, or talks to a network."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {*CALLS, *METHODS, "import_module"} or called.split(".")[-1] in WRITING:
                yield called
            for word in node.keywords:
                if (word.arg in ("shell", "allow_pickle", "trust_remote_code")) and ast.unparse(word.value) != "False":
                    yield f"{word.arg}={ast.unparse(word.value)}"


def test_the_source_runs_nothing_that_it_reads() -> None:
    found = {
        str(path.relative_to(SOURCE)): what
        for path in SOURCE.rglob("*.py")
        for what in found_in(path.read_text(encoding="utf-8"))
    }
    assert found == IMPORTING
    bad = ["import pickle", "from yaml import load", "eval('1')", "torch.load(p)", "np.load(p)", "f(shell=True)"]
    bad += [
        "import_module(name)",
        "np.savez(f, allow_pickle=True)",
        "import urllib.request",
        "__import__(name)",
        "path.write_text(x)",
        "open(name)",
    ]
    assert all(list(found_in(line)) for line in bad)


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def sentinel(tmp_path: Path) -> Iterator[None]:
    """Nothing that is read here is unpickled."""
    path = tmp_path / "sentinel"
    yield
    assert not path.exists()
    pickle.loads(pickled(tmp_path)).close()
    assert path.exists(), "the trap does not work"


def test_json_is_refused_that_two_readers_may_take_differently(tmp_path: Path) -> None:
    """Every reader of JSON, every fault: a ValueError that names the file, and no memory to speak of."""
    for name, (good, read) in hostile.readers(tmp_path).items():
        read(good)
        for fault, harm in hostile.JSON.items():
            bad = harm(good)
            if name == "scheduler" and fault == "{}":
                continue  # the configuration of a class that it does not name
            assert bad != good, (name, fault)
            with pytest.raises(ValueError, match=r"."):  # that files are named is seen to there
                read(bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(x=1), "unexpected keyword argument 'x'"),
        (lambda c: c.update(start="1.0"), "expected a number"),
        (lambda c: c.update(start=True), "expected a number"),
        (lambda c: c.update(options=[1]), "options by their names"),
        (lambda c: c.update(exact_on="luck"), "exact_on to be one of"),
        (lambda c: c.update(solver=5), "to be strings"),
        (lambda c: c.update(rows="ab"), "the fields"),
        (lambda c: c.update(rows=[]), "at least one row"),
        (lambda c: c["rows"][0].update(x=1), "the fields"),
        (lambda c: c["rows"][0].pop("noise"), "the fields"),
        (lambda c: c["rows"][0].update(commit="12"), "lists of commit"),
        (lambda c: c["rows"][0].update(commit=[True, 1.0]), "expected a number, got True"),
        (lambda c: c["rows"][0].update(asks="luck"), "asks to be one of"),
        (lambda c: c["rows"][0].update(commit=[0.0] * 10**4), "outputs already made"),
    ],
)
def test_a_table_has_what_tables_have(change: Callable[[Any], Any], said: str) -> None:
    table = ss.sample(model(), (1, 2), solver="ddpm", nfe=2, seed=0).table
    assert table is not None
    content = json.loads(table.to_json())
    change(content)
    with pytest.raises(ValueError, match=said):
        ss.Table.from_json(json.dumps(content))


def test_tables_of_times_that_the_process_does_not_have_are_not_run() -> None:
    rows = (ss.Row(t=1.0, s=0.5, commit=(1.0, 0.1)), ss.Row(t=0.5, s=0.0, commit=(1.0, 0.1)))
    ss.sample(model(), (1, 2), solver=ss.Table(rows, "velocity", 1.0))
    for at in (5.0, -3.0):
        wrong = (rows[0], ss.Row(t=at, s=0.0, commit=(1.0, 0.1)))
        with pytest.raises(ValueError, match=r"times within \[0, 1\], got a table from"):
            ss.sample(model(), (1, 2), solver=ss.Table(wrong, "velocity", 1.0))
        with pytest.raises(ValueError, match="expected finite times in row 0"):
            ss.Table((ss.Row(t=at, s=float("nan")),), "velocity", 1.0)


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_are_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    for kind, what, content in hostile.arrays(tmp_path):
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"expected arrays of numbers in {kind}: ."):
            parse_arrays(content, kind)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(content) + 2**21, (kind, what)
        tracemalloc.stop()
        path = tmp_path / f"x.{kind}"
        path.write_bytes(content)
        with pytest.raises(typer.BadParameter, match=path.name):
            read_tensor(path, torch.float32)


def test_arrays_that_are_well_are_read(tmp_path: Path) -> None:
    """Of either byte order and either order of axes, and NaN: it is a number of the format, told where it is used."""
    value = np.arange(6.0).reshape(2, 3)
    value[0, 0] = np.nan
    for name, one in {
        "big": value.astype(">f4"),
        "fortran": np.asfortranarray(value),
        "half": value.astype("f2"),
    }.items():
        np.save(tmp_path / f"{name}.npy", one)
        assert np.array_equal(read_tensor(tmp_path / f"{name}.npy", torch.float64).numpy(), value, equal_nan=True)
    np.savez_compressed(tmp_path / "small.npz", a=value)
    write_tensor(tmp_path / "a.safetensors", torch.from_numpy(value).bfloat16())
    for name in ("small.npz", "a.safetensors"):
        assert np.array_equal(read_tensor(tmp_path / name, torch.float64).numpy(), value, equal_nan=True)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt", ".pkl", ".json", ".png"])
def test_a_pickle_under_any_name_is_not_unpickled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    for content in (pickled(tmp_path), saved(tmp_path)):
        path.write_bytes(content)
        with pytest.raises(typer.BadParameter, match=path.name):
            read_tensor(path, torch.float32)
        with pytest.raises(ValueError, match=path.name):
            ss.Table.load(path)
    if suffix == ".json":
        with pytest.raises(typer.BadParameter, match=path.name):
            check_solver(str(path))
    if suffix in (".pt", ".pkl"):
        with pytest.raises(typer.BadParameter, match=r"pickles, which can run code; write .safetensors"):
            check_folder(path)


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_a_folder_of_samples_is_not_taken_at_its_word(tmp_path: Path, format: str) -> None:
    """A shard of another kind under the right sha256; a manifest of impossible numbers, or of a path for a format."""
    draw(tmp_path / "set", format=format)
    shard, entry = tmp_path / "set" / "samples" / f"00000.{format}", tmp_path / "set" / "manifest" / "00000.json"
    fact = json.loads(entry.read_text())
    wrong = [
        pickled(tmp_path),
        archive(("a.npy", npy("(0,)"))),
        tensors({"samples": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    ]
    for content in [*wrong, shard.read_bytes().replace(b"indices", b"indexes")]:
        shard.write_bytes(content)
        fact["files"][shard.name] = {"bytes": len(content), "sha256": manifest.hashlib.sha256(content).hexdigest()}
        entry.write_text(json.dumps(fact))
        with pytest.raises(ValueError, match=r"expected (arrays of numbers|the samples)"):
            ss.shards.load(tmp_path / "set")
    good = json.loads((tmp_path / "set" / "manifest.json").read_text())["settings"]
    for change in (
        {"count": 10**15}, {"count": "5"}, {"count": -1}, {"count": True}, {"shard_size": 0}, {"first": -1},
        {"first": 2**63}, {"format": "../../x"}, {"format": "pkl"}, {"format": 3},
        {"count": 2**60, "shard_size": 2**59, "format": "png"},
    ):  # fmt: skip
        settings = {**good, **change}
        key = manifest.hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        content = {"format": "scoresolve samples 1", "key": key, "settings": settings}
        (tmp_path / "set" / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"manifest.json, got another file|holds PNG|missing or damaged"):
            ss.shards.load(tmp_path / "set")


def test_files_without_an_end_are_not_read() -> None:
    with pytest.raises(ValueError, match="a file, got '/dev/zero', which is none"):
        read_file("/dev/zero")
    with pytest.raises(FileNotFoundError):
        read_file("no such file")
    with pytest.raises(ValueError, match="at most 16777216 bytes"):
        parse_json(b" " * (2**24 + 1))


def test_options_of_the_command_line_are_data() -> None:
    found = read_options(["a=NaN", "b=" + "[" * 10**5, "c=__import__('os')", "d=1e400", "e=0.5"])
    assert found["e"] == 0.5
    assert all(isinstance(found[name], str) for name in "abcd")


def test_a_configuration_that_names_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text("{}")
    for auto_map in ({"AutoModel": "evil--module.Class"}, None):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "auto_map": auto_map}))
        with pytest.raises(ValueError, match=r"no auto_map in .*: it names code to run"):
            ss.from_diffusers(tmp_path)


# -- outputs ----------------------------------------------------------------------------------------------------------

NAMES = ["nul\0.npy", "x" * 300 + ".npy", "file.txt/x.npy", "folder.npy", "link.npy", "dangling.npy", "device.npy"]


def test_outputs_stay_where_they_are_named_or_are_refused_before_any_work(tmp_path: Path) -> None:
    """Links are not followed; what is there and no file is left; a folder's name leads nowhere else."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (inside / "file.txt").write_text("mine")
    (inside / "folder.npy").mkdir()
    (inside / "link.npy").symlink_to(outside / "mine")
    (inside / "dangling.npy").symlink_to(outside / "new")
    (inside / "device.npy").symlink_to("/dev/null")
    before = tree(tmp_path)
    table = ss.sample(model(), (1, 2), solver="ddpm", nfe=2, seed=0).table
    assert table is not None
    for name in NAMES:
        path = inside / name
        for write in (table.save, lambda path: write_tensor(path, torch.zeros(2))):
            with pytest.raises(ValueError, match="expected a name for a file"):
                write(path)
        for check in (check_out, check_folder):
            with pytest.raises(typer.BadParameter):
                check(path)
    with pytest.raises(typer.BadParameter):
        check_plot(inside / "x.exe")
    assert tree(tmp_path) == before
    for name in ("~", "new\nline.json", "%2e%2e", "CON.json", "x" * 250):
        table.save(inside / name)
    assert tree(outside) == {"mine": b"mine"}
    assert not [name for name in tree(inside) if name.endswith(".part")]


def test_a_set_of_samples_asks_for_no_name_that_cannot_be(tmp_path: Path) -> None:
    def never(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network was called")

    (tmp_path / "file").write_text("mine")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "manifest.json").symlink_to(tmp_path / "elsewhere")
    for name in ("nul\0", "x" * 300, "file", "file/below", "links"):
        with pytest.raises(ValueError, match="expected a name for a file, got"):
            ss.sample_to(ss.ScoreModel(never, ss.VPSDE(), predicts="v"), tmp_path / name, (5, 2), nfe=2)
    assert not (tmp_path / "elsewhere").exists()
    draw(tmp_path / "set")
    said = b"".join(content or b"" for content in tree(tmp_path / "set").values())
    for place in (tmp_path, Path.home(), Path.cwd(), SOURCE, Path(network.__code__.co_filename)):
        assert str(place).encode() not in said


OFFLINE = """
import sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "os.system"):
        raise RuntimeError(f"{event} {args}")
sys.addaudithook(refuse)
import torch, scoresolve as ss
model = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
ss.sample(model, (2, 2), nfe=2, seed=0)
try:
    ss.from_diffusers("google/ddpm-cifar10-32")
except ValueError as error:
    print(error)
"""


def test_nothing_is_fetched() -> None:
    """At import, in a run, or for a name that might be one of a hub."""
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=120, check=False)
    assert "no directory 'google/ddpm-cifar10-32'" in done.stdout, done.stderr
