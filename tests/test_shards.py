"""Sampling into shards: the samples are those of one call, and files outlive kills, power cuts and full disks."""

from __future__ import annotations

import errno
import io
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
from scoresolve import durable, identity, manifest, placement, shard_formats

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
    images = {"shape": (5, 4, 6), "format": "png", "on_error": "mask", **settings}
    assert ss.sample_to(broken, tmp_path / "png", **images).failed == {3: "nonfinite"}
    assert [path.name[5] for path in sorted((tmp_path / "png" / "samples").iterdir())] == ["0", "1", "2", "4"]
    assert ss.sample_to(broken, tmp_path / "png", **images).nfe == 0


@pytest.mark.parametrize("shape", [(5, 7), (1, 4, 9), (3, 8, 8), (4, 3, 5)])
def test_png_are_read_by_others_as_the_rounded_samples(tmp_path, shape) -> None:
    ss.sample_to(model(), tmp_path, (3, *shape), nfe=2, format="png", value_range=(-0.5, 2.0), first=8)
    samples = ss.sample(model(), (3, *shape), nfe=2, seed=0, indices=range(8, 11)).samples
    levels = np.clip(np.rint((samples.double().numpy() + 0.5) * 102), 0, 255)
    assert len({*levels.flatten()} - {0.0, 255.0}) > 10
    for name, image in zip(("000008.png", "000009.png", "000010.png"), levels, strict=True):
        seen = np.asarray(Image.open(io.BytesIO((tmp_path / "samples" / name).read_bytes())), dtype=float)
        expected = image if len(shape) == 2 else np.moveaxis(image, 0, -1)
        assert np.abs(seen.reshape(expected.shape) - expected).max() <= 1e-9 or np.abs(seen - expected).max() <= 1
        assert (seen.reshape(expected.shape) == expected).mean() > 0.99


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
        os.fsync(handle)
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


@pytest.mark.parametrize("how", ["killed", "power", "full"])
@pytest.mark.parametrize("format", ["safetensors", "png"])
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
        finished = [path for path in (root / "set" / "manifest").glob("*.json")]
        before = {path: path.stat().st_mtime_ns for path in finished}
        assert all(ss.shards.check(root / "set").get(int(path.stem)) is None for path in finished)
        if how == "full":
            assert not any((root / "set" / ".partial").glob("*"))  # the room is given back
        if at % 3 == 0 and at + 3 < whole.events:
            run_on(monkeypatch, root, how, 3 if at > 10 else 0, **settings)
        again = draw(root / "set", **settings)
        assert again.complete
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
        draw(root / "set", verify=False)  # what is damaged is known by now, or has the old entry
        if tree(root / "set") != expected:
            with pytest.warns(UserWarning):
                draw(root / "set", verify=True)
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
