"""Promise 9, kill -9 at any instant: every event at which a disk changes is enumerated, and killed at, one by one.

Sets of samples and every other file that is written outlive kills, power cuts, disks that refuse, processes that do the
same work twice, and what others do to the files. The control is a writer that writes in place, and fails.
"""

from __future__ import annotations

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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disk import REFUSALS, Disk, Killed, naive
from shard_cases import SHIFT, TINY, damage, draw, halve, model, network, tree
from tqdm.auto import tqdm

import scoresolve as ss
from scoresolve import durable, manifest
from scoresolve.advice_files import Record
from scoresolve.cli.files import write_tensor
from scoresolve.tuning.teacher import Converged

pytestmark = pytest.mark.slow


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
    ("how", "format"),
    [("killed", "npz"), ("power", "safetensors"), ("partly", "png"), ("full", "png"), ("broken", "safetensors")],
)
def test_whatever_write_fails_the_same_command_ends_with_the_same_bytes(tmp_path, monkeypatch, how, format) -> None:
    """Every event, one by one; then run again, and again every third time after a second failure."""
    outlives_every_event(tmp_path, monkeypatch, how, format)


@pytest.mark.parametrize("how", ["killed", "power"])
def test_a_set_that_is_written_in_place_does_not_outlive_every_event(tmp_path, monkeypatch, how) -> None:
    monkeypatch.setattr(manifest, "publish", naive)
    with (
        pytest.raises((AssertionError, ValueError), match=r"damaged|lost|at event"),
        warnings.catch_warnings(action="ignore"),
    ):
        outlives_every_event(tmp_path, monkeypatch, how, "safetensors")


def outlives_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, format: str) -> None:
    settings = {"format": format, "shape": (5, 2, 3)}
    whole, _ = run_on(monkeypatch, tmp_path / "whole", how, **settings)
    expected = tree(tmp_path / "whole" / "set")
    files = 5 if format == "png" else 2
    if manifest.publish is durable.publish:  # folders, settings, samples, their folder, entries
        assert whole.events == 2 * 4 + 5 + 4 * files + 2 * 1 + 2 * 5
    for at in range(whole.events):
        root = tmp_path / str(at)
        disk, error = run_on(monkeypatch, root, how, at, **settings)
        assert all(entry.exists() for entry in disk.promised), "finished and lost"
        assert isinstance(error, Killed) or (how in REFUSALS and error.errno == REFUSALS[how])
        finished = list((root / "set" / "manifest").glob("*.json"))
        before = {path: path.stat().st_mtime_ns for path in finished}
        assert all(ss.shards.check(root / "set").get(int(path.stem)) is None for path in finished), "damaged"
        if how in REFUSALS:
            assert not any((root / "set" / ".partial").glob("*"))  # the room is given back
        if at % 3 == 0 and at + 3 < whole.events:
            run_on(monkeypatch, root, how, 5 * at % 13, **settings)
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


def write_plan(folder: Path, version: int) -> None:
    """What advise writes: the ends, a survey, a table."""
    record = Record.open(folder, {"seed": 0})
    record.keep_taught(Converged(torch.full((4, 2), 0.5), 1e-6, 32, 128))
    choice = {"nfe": 2, "solver": "heun", "grid": "karras", "rmse": 0.5 - 0.1 * version, "median": 0.1}
    record.keep_survey(2, [choice], complete=True)
    record.keep_table(2, TABLES[version], {**choice, "solver": "tuned"}, finished=bool(version))


TABLES = [ss.sample(model(), (1, 2), solver="ddpm", nfe=2, t_min=t_min, seed=0).table for t_min in (0.01, 0.02)]
WRITERS: dict[str, Callable[[Path, int], Any]] = {
    "table": lambda folder, version: TABLES[version].save(folder / "table.json"),
    "npy": lambda folder, version: write_tensor(folder / "x.npy", torch.full((5, 2), float(version))),
    "npz": lambda folder, version: write_tensor(folder / "x.npz", torch.full((5, 2), float(version))),
    "safetensors": lambda folder, version: write_tensor(folder / "x.safetensors", torch.full((5, 2), float(version))),
    "text": lambda folder, version: durable.write_file(folder / "new" / "rows.csv", b"a,b\n" * (5 + version)),
    "plan": write_plan,
}
"""Everything that is written beside samples, of one of two versions."""


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("how", ["killed", "power", "partly", "full"])
def test_every_other_file_is_whole_or_as_it_was(tmp_path, monkeypatch, name, how) -> None:
    assert broken_at(tmp_path, monkeypatch, WRITERS[name], how) == []


@pytest.mark.parametrize("how", ["killed", "power", "full"])
def test_a_file_that_is_written_in_place_is_not(tmp_path, monkeypatch, how) -> None:
    monkeypatch.setattr(durable, "publish", naive)
    assert len(broken_at(tmp_path, monkeypatch, WRITERS["table"], how)) >= 1


def broken_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Any], how: str) -> list[int]:
    """The events at which a file, changed from the first version to the second, ends as neither or stays so."""
    old, new, broken = tmp_path / "old", tmp_path / "new", []
    for folder, versions in ((old, (0,)), (new, (0, 1))):
        folder.mkdir()
        for version in versions:
            write(folder, version)
    allowed, expected = tree(old), tree(new)
    for at in itertools.count():
        root = tmp_path / str(at)
        shutil.copytree(old, root)
        disk = Disk(root, how, at)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", disk)
            try:
                write(root, 1)
            except (Killed, OSError):
                pass
            else:
                return broken if how != "full" or at == disk.events else [*broken, -1]
        seen = {path: content for path, content in tree(root).items() if not path.endswith(".part")}
        plan = seen.pop("plan.json", None)  # is written several times
        whole = all(content in (allowed.get(path), expected.get(path)) for path, content in seen.items())
        try:
            whole = whole and (plan is None or Record.open(root, {"seed": 0}).table(2) in TABLES)
            write(root, 1)
        except ValueError:
            whole = False
        broken += [] if whole and tree(root) == expected else [at]
    return broken


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
        for process in processes[: chance.choice((1, world))]:  # the other one goes on
            process.kill()
        for process in processes:
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


# -- what others do to the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "harm", "verify", "said"),
    [
        ("samples/00001.npz", damage, True, "another sha256"),
        ("samples/00001.npz", halve, False, "bytes instead of"),
        ("samples/00001.npz", Path.unlink, False, "is not there"),
        ("samples/00001.npz", lambda path: os.truncate(path, 0), False, "has 0 bytes instead of"),
        ("samples/00001.npz", lambda path: path.write_bytes(path.with_name("00000.npz").read_bytes()), False, "bytes"),
        ("manifest/00001.json", lambda path: os.truncate(path, 0), False, "00001.json is damaged"),
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


def test_settings_that_change_under_way_stop_the_run(tmp_path) -> None:
    """Two runs that are begun at the same moment, before either has written: the second to write is refused."""

    def meanwhile(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        draw(tmp_path)
        return network(x, t)

    with pytest.raises(ValueError, match="holds samples of other settings"):
        ss.sample_to(ss.ScoreModel(meanwhile, ss.VPSDE(), predicts="v"), tmp_path, **TINY)
    assert draw(tmp_path).made == ()


def test_an_entry_of_another_set_is_not_taken_for_one_s_own(tmp_path) -> None:
    draw(tmp_path / "set")
    draw(tmp_path / "other", seed=8)
    for name in ("manifest/00001.json", "samples/00001.safetensors"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "set" / name)
    with pytest.raises(ValueError, match=r"holds samples of other settings \(manifest/00001.json\)"):
        draw(tmp_path / "set")
    (tmp_path / "set" / "manifest" / "00001.json").unlink()
    draw(tmp_path / "whole")
    draw(tmp_path / "set")
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")
