"""Files of samples outlive kills, power cuts, full disks, and processes that do the same work twice."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import timeit
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_cases import SHIFT, damage, draw, model, tree
from tqdm.auto import tqdm

import scoresolve as ss
from scoresolve import durable, manifest


class Killed(BaseException):
    """The end of the process, at a place of the test's choosing."""


class Disk(types.ModuleType):
    """The operating system, until the event of that number: then the process is killed, the power is cut (and all that
    was not made durable is lost, or any part of it), or the disk is full. Events are what changes a disk, or makes it
    durable."""

    def __init__(self, root: Path, how: str, at: int) -> None:
        super().__init__("os")
        self.root, self.how, self.left, self.events = root, how, at, 0
        self.paths: dict[int, Path] = {}
        self.promised: list[Path] = []
        self.dirty: set[int] = set()
        self.undo: list[tuple[Path, Callable[[], Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def event(self, room: bool = True) -> bool:
        """Count. Returns whether the disk refuses; raises if the process is dead."""
        self.events += 1
        over = self.events > self.left
        if over and self.how != "full":
            if self.how in ("power", "partly") and self.events == self.left + 1:
                self.lose()
            raise Killed
        return over and room

    def lose(self) -> None:
        chance = random.Random(self.left)
        for _, action in reversed(self.undo):
            if self.how == "power" or chance.random() < 0.5:
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
        if self.paths[handle].name == "manifest":
            self.promised = list(self.paths[handle].glob("*.json"))
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
    ("how", "format"), [("killed", "npz"), ("power", "safetensors"), ("partly", "safetensors"), ("full", "png")]
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
        disk, error = run_on(monkeypatch, root, how, at, **settings)
        assert all(entry.exists() for entry in disk.promised), "finished and lost"
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


def test_a_repair_that_is_cut_off_at_any_moment_is_made_up_for(tmp_path, monkeypatch) -> None:
    """On a machine with other last bits: new samples never lie under the sha256 of the old."""
    draw(tmp_path / "whole")
    monkeypatch.setitem(SHIFT, "by", 1e-3)
    damage(tmp_path / "whole" / "samples" / "00001.safetensors")
    for at in itertools.count():
        root = tmp_path / str(at)
        shutil.copytree(tmp_path / "whole", root / "set")
        with pytest.warns(UserWarning, match="shard 1 .* is made again"):
            _, error = run_on(monkeypatch, root, "power", at, verify=True)
        run_on(monkeypatch, root, "power")
        if ss.shards.check(root / "set"):
            assert tree(root / "set") == tree(tmp_path / "whole"), "the repair had not begun"
            with pytest.warns(UserWarning, match="another sha256"):
                run_on(monkeypatch, root, "power", verify=True)
        assert ss.shards.check(root / "set") == {}
        if error is None:
            break
    assert at == 12  # the old entry goes, the settings are looked at, samples and entry are written
    assert all(tree(tmp_path / str(one)) == tree(root) for one in range(at))


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(tmp_path, monkeypatch) -> None:
    disk = Disk(tmp_path, "killed", 10**6)
    monkeypatch.setattr(disk, "write", lambda handle, content: os.write(handle, content[:7]), raising=False)
    monkeypatch.setattr(durable, "os", disk)
    durable.publish({tmp_path / "file": bytes(range(100))}, tmp_path, "tag")
    assert tree(tmp_path) == {"file": bytes(range(100))}


def work(folder: Path, rank: int = 0, world: int = 1, begun: Any = None) -> None:
    """2000 samples in 40 shards, or the share of one process; begun is told when the imports are over."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a kill leaves behind
    if begun is not None:
        begun.send(rank)
    ss.sample_to(model(), folder, (2000, 8), solver="ddpm", nfe=6, batch_size=50, rank=rank, world_size=world)


def forked() -> Any:
    """Processes that begin with everything imported: a kill should find them at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scoresolve", __name__])
    return context


def finished(folder: Path) -> int:
    return len(list((folder / "manifest").glob("*.json")))


def test_random_kills_lose_nothing(tmp_path) -> None:
    """SIGKILL at random moments, to one process or two; a set that is finished is compared, and the next one begun."""
    kills, chance, context = int(os.environ.get("SCORESOLVE_KILLS", "8")), random.Random(0), forked()
    lasts = min(timeit.repeat(lambda: work(Path(tempfile.mkdtemp(dir=tmp_path))), number=1, repeat=3))
    work(tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    hit, stages = 0, [0]
    while hit < kills:
        world, folder, (heard, begun) = chance.choice((1, 2)), tmp_path / "set", context.Pipe(duplex=False)
        processes = [context.Process(target=work, args=(folder, rank, world, begun)) for rank in range(world)]
        for process in processes:
            process.start()
        for _ in processes:
            heard.recv()
        least = stages[-1] + chance.choice((0, 1, 2))
        while finished(folder) < least and any(process.is_alive() for process in processes):
            time.sleep(lasts / 400)
        time.sleep(chance.uniform(0, lasts / 20))
        for process in processes:
            process.kill()
            process.join()
            hit += process.exitcode == -signal.SIGKILL
        assert finished(folder) >= stages[-1]
        stages.append(finished(folder))
        if stages[-1] == 40 or hit >= kills:
            work(folder)
            assert tree(folder) == expected
            shutil.rmtree(folder)
            stages.append(0)
    assert len({*stages}) > 2, "the kills found nobody at work"


def test_the_same_command_given_three_times_at_once_does_no_harm(tmp_path) -> None:
    context = forked()
    processes = [context.Process(target=work, args=(tmp_path / "set",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    work(tmp_path / "whole")
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")
