"""Sampling into shards: the samples are those of one call, and files outlive kills, power cuts and full disks."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scoresolve as ss
from scoresolve import durable, identity, manifest, placement

TINY: dict[str, Any] = {"shape": (5, 2), "batch_size": 3, "solver": "ddpm", "nfe": 2, "seed": 7}


def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Treats its samples apart, to the bit."""
    shift = label[:, None] if isinstance(label, torch.Tensor) else label
    return torch.tanh(x) * (1 + t.reshape(-1, *[1] * (x.ndim - 1))) + shift


def model() -> ss.ScoreModel:
    return ss.ScoreModel(network, ss.VPSDE(), predicts="v")


def draw(folder: Path, **changed: Any) -> ss.SampleSet:
    return ss.sample_to(model(), folder, **{**TINY, **changed})


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder, with what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# -- the samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["safetensors", "npz"])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_the_files_hold_the_samples_of_one_call_whoever_makes_them(tmp_path, format, world) -> None:
    labels = torch.linspace(0, 1, 23)
    settings = {"solver": "ddpm", "nfe": 3, "seed": 4}
    conditioned, shape = model().condition(label=labels), (23, 2)
    for rank in range(world):
        made = ss.sample_to(
            conditioned, tmp_path / "all", shape, **settings, format=format, first=100, batch_size=3, shard_size=5,
            rank=rank, world_size=world,
        )  # fmt: skip
        assert made.complete == (rank == world - 1)
    ss.sample_to(conditioned, tmp_path / "one", shape, **settings, format=format, first=100, batch_size=3, shard_size=5)
    assert tree(tmp_path / "all") == tree(tmp_path / "one")
    found = ss.shards.load(tmp_path / "all")
    whole = ss.sample(conditioned, shape, **settings, indices=range(100, 123))
    assert torch.equal(found["samples"], whole.samples)
    assert found["indices"].tolist() == list(range(100, 123))
    assert ss.shards.check(tmp_path / "all") == {}


def test_calls_are_counted_and_the_manifest_says_what_there_is(tmp_path) -> None:
    net = model()
    made = ss.sample_to(net, tmp_path, **TINY)
    assert made.nfe == net.nfe == 2 * 2
    assert (made.count, made.shards, made.made, made.missing) == (5, 2, (0, 1), ())
    again = ss.sample_to(net, tmp_path, **TINY)
    assert (again.nfe, again.made, net.nfe) == (0, (), 4)
    entry = json.loads((tmp_path / "manifest" / "00001.json").read_text())
    assert entry["indices"] == [3, 4]
    assert entry["nfe"] == 2
    table = ss.sample(net, (1, 2), solver="ddpm", nfe=2, seed=0).table
    assert entry["table"] == identity.table_hash(table)
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings["options"] == {"nfe": 2, "solver": "ddpm"}


def test_log_densities_and_failures_are_kept(tmp_path) -> None:
    settings = {"solver": "heun", "nfe": 4, "batch_size": 2, "seed": 1}
    ss.sample_to(model(), tmp_path / "density", (5, 2), **settings, log_prob="exact")
    expected = ss.sample(model(), (5, 2), **settings, log_prob="exact")
    assert torch.equal(ss.shards.load(tmp_path / "density")["log_prob"], expected.log_prob)

    def breaks(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.where(label.reshape(-1, *[1] * (x.ndim - 1)) > 0, torch.nan, network(x, t))

    broken = ss.ScoreModel(breaks, ss.VPSDE(), predicts="v").condition(label=torch.tensor([0.0, 0, 0, 1, 0]))
    made = ss.sample_to(broken, tmp_path / "nan", (5, 2), **settings, on_error="mask", first=10)
    again = ss.sample_to(broken, tmp_path / "nan", (5, 2), **settings, on_error="mask", first=10)
    assert made.failed == again.failed == {13: "nonfinite"}
    assert torch.isnan(ss.shards.load(tmp_path / "nan")["samples"]).all(dim=1).tolist() == [False] * 3 + [True, False]
    settings |= {"shape": (5, 4, 6), "format": "png", "on_error": "mask"}
    assert ss.sample_to(broken, tmp_path / "png", **settings).failed == {3: "nonfinite"}
    images = (tmp_path / "png" / "samples").iterdir()
    assert sorted(path.name for path in images) == [f"00000{i}.png" for i in (0, 1, 2, 4)]
    assert ss.sample_to(broken, tmp_path / "png", **settings).nfe == 0


@pytest.mark.parametrize("shape", [(5, 7), (1, 4, 9), (3, 8, 8), (4, 3, 5)])
def test_png_are_read_by_others_as_the_rounded_samples(tmp_path, shape) -> None:
    ss.sample_to(model(), tmp_path, (3, *shape), nfe=2, format="png", value_range=(-0.5, 2.0), first=8)
    samples = ss.sample(model(), (3, *shape), nfe=2, seed=0, indices=range(8, 11)).samples
    levels = np.clip(np.rint((samples.double().numpy() + 0.5) * 102), 0, 255)
    assert len({*levels.flatten()} - {0.0, 255.0}) > 10
    for name, image in zip(("000008.png", "000009.png", "000010.png"), levels, strict=True):
        seen = np.asarray(Image.open(tmp_path / "samples" / name), dtype=float)
        expected = image if len(shape) == 2 else np.moveaxis(image, 0, -1)
        off = np.abs(seen.reshape(expected.shape) - expected)
        assert off.max() <= 1  # where rounding in float32 and in float64 part
        assert (off == 0).mean() > 0.98


# -- killed, cut off, out of room -------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of the process, at a place of the test's choosing."""


class Disk(types.ModuleType):
    """The operating system, until the event of that number: then the process is killed, the power is cut (and what
    was not made durable is lost), or the disk is full. Events are all that changes a disk, or makes it durable."""

    def __init__(self, root: Path, how: str, at: int) -> None:
        super().__init__("os")
        self.root, self.how, self.left, self.events = root, how, at, 0
        self.paths: dict[int, Path] = {}
        self.dirty: set[int] = set()
        self.undo: list[tuple[Path, Callable[[], Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def event(self, room: bool = True) -> bool:
        """Count. Returns whether the disk refuses; raises if the process is dead."""
        self.events += 1
        over = self.events > self.left
        if over and self.how != "full":
            if self.how == "power" and self.events == self.left + 1:
                self.lose()
            raise Killed
        return over and room

    def lose(self) -> None:
        for _, action in reversed(self.undo):
            action()
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.dirty:
                os.truncate(path, path.stat().st_size // 2)

    def refuse(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and self.event():
            self.refuse()
        handle = os.open(path, flags, mode)
        self.paths[handle] = Path(path)
        return handle

    def write(self, handle: int, content: memoryview) -> int:
        half = content[: max(1, len(content) // 2)]
        self.dirty.add(os.fstat(handle).st_ino)
        try:
            refused = self.event()
        except Killed:
            if self.how == "killed" and self.events == self.left + 1:
                os.write(handle, half)
            raise
        if refused and self.events == self.left + 1:
            return os.write(handle, half)  # the last there is room for
        return self.refuse() or 0 if refused else os.write(handle, content)

    def fsync(self, handle: int) -> None:
        if self.event():
            self.refuse()
        self.dirty.discard(os.fstat(handle).st_ino)
        self.undo = [(folder, action) for folder, action in self.undo if folder != self.paths[handle]]

    def replace(self, source: Path, target: Path) -> None:
        if self.event():
            self.refuse()
        before = target.read_bytes() if target.exists() else None
        os.replace(source, target)

        def back() -> None:
            os.replace(target, source)
            if before is not None:
                target.write_bytes(before)

        self.undo.append((target.parent, back))

    def mkdir(self, folder: Path) -> None:
        if self.event():
            self.refuse()
        os.mkdir(folder)
        self.undo.append((folder.parent, lambda: shutil.rmtree(folder)))

    def unlink(self, path: Path) -> None:
        self.event(room=False)
        before = Path(path).read_bytes()
        os.unlink(path)
        self.undo.append((Path(path).parent, lambda: Path(path).write_bytes(before)))


def run_on(
    monkeypatch: pytest.MonkeyPatch, root: Path, how: str, at: int = 10**6, **settings: Any
) -> tuple[Disk, BaseException | None]:
    """Draw into ``root / "set"`` on a disk that fails at that event. Returns the disk, and the error it ended with."""
    root.mkdir(exist_ok=True)
    disk = Disk(root, how, at)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", disk)
        patch.setattr(manifest, "os", disk)
        try:
            draw(root / "set", **settings)
        except (Killed, OSError) as error:
            return disk, error
    return disk, None


@pytest.mark.parametrize(
    ("how", "format"), [("killed", "npz"), ("power", "safetensors"), ("power", "png"), ("full", "png")]
)
def test_whatever_write_fails_the_same_command_ends_with_the_same_bytes(tmp_path, monkeypatch, how, format) -> None:
    """Every event, one by one; then run again, and again every third time after a second failure."""
    settings = {"format": format, "shape": (5, 2, 3)}
    whole, _ = run_on(monkeypatch, tmp_path / "whole", how, **settings)
    expected = tree(tmp_path / "whole" / "set")
    files = 5 if format == "png" else 2
    assert whole.events == 2 * 4 + 5 + 4 * files + 2 * 1 + 2 * 5  # folders, settings, samples, their folder, entries
    for at in range(whole.events):
        root = tmp_path / str(at)
        _, error = run_on(monkeypatch, root, how, at, **settings)
        assert isinstance(error, Killed) or (how == "full" and error.errno == errno.ENOSPC)
        finished = list((root / "set" / "manifest").glob("*.json"))
        before = {path: path.stat().st_mtime_ns for path in finished}
        assert all(ss.shards.check(root / "set").get(int(path.stem)) is None for path in finished)
        if how == "full":
            assert not any((root / "set" / ".partial").glob("*"))  # the room is given back
        if at % 3 == 0 and at + 3 < whole.events:
            run_on(monkeypatch, root, how, 3 if at > 10 else 0, **settings)
        run_on(monkeypatch, root, how, **settings)
        assert tree(root / "set") == expected, f"{how} at event {at}"
        assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "made twice"


def test_a_repair_that_is_killed_at_any_moment_is_made_up_for(tmp_path, monkeypatch) -> None:
    draw(tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    for at in itertools.count():
        root = tmp_path / str(at)
        shutil.copytree(tmp_path / "whole", root / "set")
        damage(root / "set" / "samples" / "00001.safetensors")
        with pytest.warns(UserWarning, match="shard 1 .* is made again"):
            _, error = run_on(monkeypatch, root, "power", at, verify=True)
        run_on(monkeypatch, root, "power")  # what is damaged is known by now, or has the old entry
        if tree(root / "set") != expected:
            with pytest.warns(UserWarning, match="another sha256"):
                run_on(monkeypatch, root, "power", verify=True)
        assert tree(root / "set") == expected
        if error is None:
            break
    assert at == 12


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def endless(folder: str, rank: int, world: int) -> None:
    ss.sample_to(
        model(), folder, (2000, 8), solver="ddpm", nfe=4, batch_size=50, shard_size=100, rank=rank, world_size=world
    )


def test_random_kills_lose_nothing(tmp_path) -> None:
    """Processes ended by SIGKILL at random moments, one or two at a time; ``SCORESOLVE_KILLS=50`` for more of them."""
    kills, random_ = int(os.environ.get("SCORESOLVE_KILLS", "6")), random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scoresolve", __name__])
    started = time.monotonic()
    endless(str(tmp_path / "whole"), 0, 1)
    lasts = time.monotonic() - started
    hit, shards = 0, 0
    while hit < kills:
        world = random_.choice((1, 2))
        processes = [context.Process(target=endless, args=(str(tmp_path / "set"), k, world)) for k in range(world)]
        for process in processes:
            process.start()
        while not (tmp_path / "set").exists():
            time.sleep(0.001)  # the first one still imports
        time.sleep(random_.uniform(0, lasts / 8))
        for process in processes:
            process.kill()
            process.join()
            hit += process.exitcode == -signal.SIGKILL
        now = len(list((tmp_path / "set" / "manifest").glob("*.json")))
        assert now >= shards
        shards = now
        if shards == 20:
            assert tree(tmp_path / "set").keys() >= tree(tmp_path / "whole").keys()
            endless(str(tmp_path / "set"), 0, 1)
            assert tree(tmp_path / "set") == tree(tmp_path / "whole")
            shutil.rmtree(tmp_path / "set")
            shards = 0
    endless(str(tmp_path / "set"), 0, 1)
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")


def test_the_same_command_given_three_times_at_once_does_no_harm(tmp_path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scoresolve", __name__])
    processes = [context.Process(target=endless, args=(str(tmp_path / "set"), 0, 1)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    endless(str(tmp_path / "whole"), 0, 1)
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")


# -- damaged, other, misused ------------------------------------------------------------------------------------------


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "harm", "verify", "said"),
    [
        ("samples/00001.npz", damage, True, "another sha256"),
        ("samples/00001.npz", halve, False, "bytes instead of"),
        ("samples/00001.npz", Path.unlink, False, "is not there"),
        ("manifest/00001.json", halve, False, "00001.json is damaged"),
        ("manifest/00001.json", lambda path: path.write_text('{"files": {}}'), False, "00001.json is damaged"),
    ],
)
def test_a_damaged_shard_is_reported_and_made_again(tmp_path, name, harm, verify, said) -> None:
    draw(tmp_path, format="npz")
    expected = tree(tmp_path)
    harm(tmp_path / name)
    assert list(ss.shards.check(tmp_path)) == [1]
    with pytest.raises(ValueError, match=f"1 of 2 shards .* .shard 1: .*{said}"):
        ss.shards.load(tmp_path)
    if verify:
        assert draw(tmp_path, format="npz").made == ()
    with pytest.warns(UserWarning, match=f"shard 1 .* is made again: .*{said}"):
        repaired = draw(tmp_path, format="npz", verify=verify)
    assert (repaired.made, repaired.repaired, repaired.nfe) == ((1,), (1,), 2)
    assert tree(tmp_path) == expected


def test_lost_settings_are_written_again_and_damaged_ones_are_refused(tmp_path) -> None:
    draw(tmp_path)
    expected = tree(tmp_path)
    halve(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest.json, got another file or a damaged one"):
        draw(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "samples" / "00001.safetensors").unlink()
    with pytest.warns(UserWarning, match="is made again"):
        draw(tmp_path)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 8}, "seed is 7 there and 8 here"),
        ({"nfe": 3}, "options.nfe is 2 there and 3 here"),
        ({"eta": 0.5}, "options.eta is null there and 0.5 here"),
        ({"shape": (6, 2)}, "count is 5 there and 6 here"),
        ({"shape": (5, 3)}, "shape"),
        ({"format": "npz"}, "format"),
        ({"batch_size": 2}, "batch_size"),
        ({"about": {"weights": "v2"}}, "about.weights is null there and .v2. here"),
        ({"model": ss.ScoreModel(network, ss.VPSDE(beta_max=10.0), predicts="v")}, "model.process.beta_max"),
        ({"model": ss.ScoreModel(network, ss.VPSDE(), predicts="noise")}, "model.predicts"),
        ({"model": ss.ScoreModel(lambda x, t: x, ss.VPSDE(), predicts="v")}, "model.network"),
        ({"model": model().condition(label=torch.arange(5.0))}, "model.conditioning.label"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path, changed, named) -> None:
    draw(tmp_path)
    before = tree(tmp_path)
    net = changed.pop("model", model())
    with pytest.raises(ValueError, match=f"holds samples of other settings .*{named}"):
        ss.sample_to(net, tmp_path, **{**TINY, **changed})
    assert tree(tmp_path) == before


def test_other_weights_are_other_settings_wherever_the_network_is_held(tmp_path) -> None:
    def held(weight: float) -> list[ss.ScoreModel]:
        net = torch.nn.utils.skip_init(torch.nn.Linear, 2, 2, bias=False)
        torch.nn.init.constant_(net.weight, weight)
        nets = [Ignoring(net), lambda x, t: net(x), Ignoring(net).forward, functools.partial(called, net)]
        return [ss.ScoreModel(one, ss.VPSDE(), predicts="v") for one in nets]

    for number, (one, same, other) in enumerate(zip(held(0.5), held(0.5), held(0.25), strict=True)):
        first = ss.sample_to(one, tmp_path / str(number), **TINY)
        assert first.nfe > ss.sample_to(same, tmp_path / str(number), **TINY).nfe == 0
        with pytest.raises(ValueError, match=r"model.network.*sha256"):
            ss.sample_to(other, tmp_path / str(number), **TINY)


class Ignoring(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def called(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return net(x)


def test_settings_that_change_under_way_stop_the_run(tmp_path) -> None:
    """Two runs that are begun at the same moment, before either has written: the second to write is refused."""

    def meanwhile(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        draw(tmp_path)
        return network(x, t)

    with pytest.raises(ValueError, match="holds samples of other settings"):
        ss.sample_to(ss.ScoreModel(meanwhile, ss.VPSDE(), predicts="v"), tmp_path, **TINY)
    assert draw(tmp_path).made == ()


def test_a_request_that_makes_no_sense_leaves_no_settings_behind(tmp_path) -> None:
    for wrong in (
        {"nfee": 3}, {"solver": "no_such"}, {"format": "jpg"}, {"format": "png"}, {"shape": ()}, {"batch_size": 0},
        {"start": torch.zeros(5, 2)}, {"indices": range(5)}, {"noise": ss.SampleStreams(0, range(5))}, {"seed": -1},
        {"first": 2**63 - 4}, {"value_range": (1.0, 1.0)}, {"rank": 1}, {"rank": 2, "world_size": 2},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            draw(tmp_path, **wrong)
    assert draw(tmp_path, noise=ss.Antithetic, start="low", solver="dpmpp_2m").complete


def test_nothing_is_written_over_or_outside_the_folder(tmp_path) -> None:
    (tmp_path / "mine" / "samples").mkdir(parents=True)
    (tmp_path / "mine" / "samples" / "00000.safetensors").write_text("mine")
    with pytest.raises(ValueError, match=r"got 00000.safetensors: choose another folder"):
        draw(tmp_path / "mine")
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="links that lead elsewhere: samples"):
        draw(tmp_path / "set")
    assert not any((tmp_path / "elsewhere").iterdir())
    for read in (ss.shards.check, ss.shards.load):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


def test_a_process_knows_its_place(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert placement.place() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="got 2 of None"):
        placement.place()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert placement.place() == (2, 4)
    assert placement.place(0, 1) == (0, 1)
