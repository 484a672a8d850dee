"""Sampling into shards: the samples are those of one call; what is damaged, other or misused is told."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shard_cases import TINY, draw, model, network, tree

import scoresolve as ss
from scoresolve import identity, placement
from scoresolve.integrations.networks import Preconditioned

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
    left = tmp_path / ".partial" / "1.0123.part"  # by a process that was killed when another had made the shard
    left.touch()
    again = ss.sample_to(net, tmp_path, **TINY)
    assert not left.exists()
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


# -- damaged, other, misused ------------------------------------------------------------------------------------------


def curved(power: int) -> ss.GaussianPath:
    return ss.GaussianPath(alpha=lambda t: 1 - 0.5 * t**power, sigma=lambda t: t)


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
        ({"shard_size": 2}, "shard_size is 3 there and 2 here"),
        ({"about": {"weights": "v2"}}, "about.weights is null there and .v2. here"),
        ({"model": ss.ScoreModel(network, ss.VPSDE(beta_max=10.0), predicts="v")}, "model.process.beta_max"),
        ({"model": ss.ScoreModel(network, ss.VPSDE(), predicts="noise")}, "model.predicts"),
        ({"model": ss.ScoreModel(network, curved(2), predicts="v")}, r"model.process.path"),
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


def test_functions_and_processes_go_by_what_they_do() -> None:
    assert identity.describe(lambda t: 999 * t) == identity.describe(lambda t: 999 * t)
    assert identity.describe(lambda t: 999 * t) != identity.describe(lambda t: 1000 * t)
    assert identity.describe(lambda t: [1 for _ in t]) == identity.describe(lambda t: [1 for _ in t])
    assert identity.describe(curved(2)) == identity.describe(curved(2)) != identity.describe(curved(3))
    itself = {"list": [1]}
    itself["list"].append(itself)
    assert identity.describe(itself)["list"][0] == 1


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


def networks(weight: float) -> dict[str, Any]:
    """What is as much of a network as its module, and is not in its ``state_dict``."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.calls = weight, 0

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.scale * x

    class Plain:
        def __init__(self, held: object) -> None:
            self._held, self._cache = held, [0]

        def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self._cache.append(len(x))
            return x

    params, count = {"deep": [torch.full((4,), weight)]}, [0]

    def closure(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return x * params["deep"][0]

    pool = torch.nn.AvgPool1d(3, stride=int(4 * weight), padding=1)
    linear = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False)
    torch.nn.init.constant_(linear.weight, weight)
    inner = Preconditioned(Ignoring(torch.nn.Identity()), weight, "noise")
    held = {"number": weight, "tensor": torch.tensor(weight), "network": linear, "function": lambda x: weight * x}
    return {
        "attribute of a module": Scaled(), "of a layer": pool, "EDM": inner, "closure": closure,
        **{f"private {name}": Plain(one) for name, one in held.items()},
    }  # fmt: skip


@pytest.mark.parametrize("name", networks(0.5))
def test_networks_are_told_apart_by_all_they_compute_with_and_by_no_count(name: str) -> None:
    one, same, other = (networks(weight)[name] for weight in (0.5, 0.5, 0.25))
    before = identity.describe(one)
    one(torch.ones(1, 4), torch.ones(1)) if name != "of a layer" else one(torch.ones(1, 4))
    assert before == identity.describe(one) == identity.describe(same) != identity.describe(other)


def called(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return net(x)


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
