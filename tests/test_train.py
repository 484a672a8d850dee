"""Training the reference networks: what a killed run ends with, what is read back, and that the systems learn."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from scipy.special import ndtr

import scoresolve as ss
from benchmarks import checkpoints, train, training
from benchmarks.classical import SYSTEMS, ladder, system
from benchmarks.data import images, patch_images
from benchmarks.networks import NetworkConfig, initial
from benchmarks.training import Run, State

TINY = Run("ddpm", steps=4, batch=8, warmup=2, widths=(8, 16), conditional=True)
FILES = ("checkpoint.safetensors", "model.safetensors", "losses.csv", "losses.png")


class Killed(BaseException):
    """The end of the process, at a place of the test's choosing."""


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


# -- killed and started again -----------------------------------------------------------------------------------------


def test_a_run_killed_at_any_write_ends_with_the_same_bits(tmp_path, monkeypatch) -> None:
    """Every file is opened, made durable and renamed: the process dies before or after each of these, torn files
    included, and once more while it makes up for it."""
    left, count = math.inf, 0

    def dying(action, tear=None):
        def wrapped(*arguments, **named):
            nonlocal left, count
            found = None
            for moment in ("before", "after"):
                count, left = count + 1, left - 1
                if left <= 0:
                    if moment == "before" and tear is not None:
                        tear(*arguments)
                    raise Killed
                found = action(*arguments, **named) if moment == "before" else found
            return found

        return wrapped

    halve = lambda file: checkpoints.os.truncate(file, checkpoints.os.fstat(file).st_size // 2)  # noqa: E731
    monkeypatch.setattr(checkpoints.os, "fsync", dying(checkpoints.os.fsync, halve))
    monkeypatch.setattr(checkpoints.os, "replace", dying(checkpoints.os.replace))
    monkeypatch.setattr(train, "_picture", lambda losses, title: title.encode())  # the slowest part
    train.train(TINY, tmp_path / "whole", every=2)
    expected, events = contents(tmp_path / "whole"), count
    assert events == 2 * 2 * 5  # two checkpoints, the model and two files of losses
    for k in range(1, events + 1):
        folder = tmp_path / str(k)
        for lives in (k, 2) if k % 4 == 0 else (k,):
            left = lives
            with pytest.raises(Killed):
                train.train(TINY, folder, every=2)
        left = math.inf
        train.train(TINY, folder, every=2)
        assert contents(folder) == expected, f"killed at event {k}"


def test_checkpoints_leave_no_trace_in_the_weights(tmp_path) -> None:
    often = train.train(replace(TINY, conditional=False), tmp_path / "a", every=1)
    once = train.train(replace(TINY, conditional=False), tmp_path / "b", every=100)
    for one, other in zip(often.net.parameters(), once.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_run_or_another_file_is_refused(tmp_path, capsys) -> None:
    train.train(TINY, tmp_path, every=3)
    with pytest.raises(ValueError, match=r"seed 0 \(now 1\).*--out"):
        train.train(replace(TINY, seed=1), tmp_path)
    with pytest.raises(ValueError, match="is a checkpoint, not a model"):
        train.load(tmp_path / "checkpoint.safetensors")
    with pytest.raises(FileNotFoundError, match="train it with"):
        train.load(tmp_path / "nothing.safetensors")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no tensors")
    assert train.main(["--system", "ddpm", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "remove it" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_never_reaches_the_checkpoint(tmp_path) -> None:
    state = State(TINY, images("digits"), torch.device("cpu"))
    state.advance()
    state.save(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with torch.no_grad():
        state.net.enter.bias.fill_(math.nan)
    state.advance()
    with pytest.raises(ss.NonFiniteError, match=r"from step 2 on: use a lower --rate"):
        state.save(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


# -- what is read back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_loaded_model_is_the_trained_one(tmp_path, name: str) -> None:
    run = replace(TINY, system=name, steps=2)
    trained = train.train(run, tmp_path)
    loaded = train.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(trained)
    x, labels = images("digits").test[:4], torch.arange(4)
    for t in (0.01, 1.0):
        first, second = (model.condition(classes=labels).noise(x, t) for model in (trained, loaded))
        assert torch.equal(first, second)
    told = loaded.condition(classes=labels)
    guided = told.guide(3.0, classes=torch.tensor([10]))  # the null class, which is also what no classes= means
    assert torch.allclose(
        guided.noise(x, 0.5), loaded.noise(x, 0.5).lerp(told.noise(x, 0.5), 3.0), rtol=1e-4, atol=1e-6
    )


def test_settings_survive_json() -> None:
    run = replace(TINY, average=0.9, precision="bfloat16")
    assert Run.read(json.loads(json.dumps(asdict(run)))) == run
    config = NetworkConfig((3, 16, 16), "sigma", (8, 16), classes=2)
    assert NetworkConfig(**json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ValueError, match="another version"):
        Run.read({"system": "ddpm"})


# -- what a step sees --------------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_image_once_and_labels_are_dropped_at_the_rate_asked_for() -> None:
    run = replace(TINY, batch=64, drop=0.2)
    seen = torch.cat([training.batch_of(run, step, 100) for step in range(25)])  # 16 epochs, not in step with batches
    assert all(torch.equal(epoch.sort().values, torch.arange(100)) for epoch in seen.split(100))
    assert not torch.equal(seen[:100], seen[100:200])
    share = torch.stack([training.dropped(run, step) for step in range(200)]).double().mean()
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / (200 * 64))
    assert not training.dropped(replace(run, drop=0.0), 0).any()
    assert training.dropped(replace(run, drop=1.0), 0).all()


def test_a_dropped_label_is_not_seen() -> None:
    """With all labels dropped, the gradient reaches the null class alone."""
    state = State(replace(TINY, drop=1.0), images("digits"), torch.device("cpu"))
    with torch.no_grad():
        state.net.leave.weight.fill_(0.1)  # the last layer is zero at first, and lets no gradient through
        for module in state.net.modules():
            if hasattr(module, "modulate"):
                module.close.weight.fill_(0.1)
    state.advance()
    moved = state.net.null.weight.grad.abs().sum(dim=1)
    assert moved[-1] > 0
    assert (moved[:-1] == 0).all()


def test_the_ladder_has_the_ratio_of_the_paper() -> None:
    for dimension in (64, 784, 3072):
        sigmas = ss.VESDE(0.01, 50).sigma(ladder(ss.VESDE(0.01, 50), dimension))
        ratios = sigmas[1:] / sigmas[:-1]
        assert torch.allclose(ratios, ratios[0].expand(len(ratios)))
        gap, ratio = math.sqrt(2 * dimension) * (float(ratios[0]) - 1), float(ratios[0])
        assert ndtr(gap + 3 * ratio) - ndtr(gap - 3 * ratio) == pytest.approx(0.5, abs=0.05)
    assert len(ladder(ss.VESDE(0.01, 50), 3072)) == 220


def test_ladder_losses_are_taken_on_the_ladder() -> None:
    asked = []
    net = lambda x, sigma: asked.append(sigma) or x  # noqa: E731
    model = ss.ScoreModel(net, ss.VESDE(0.01, 10), predicts="noise", time="sigma")
    SYSTEMS["ncsn"].loss(model, torch.zeros(4096, 8), 0)
    times = ladder(model.sde, 8)
    level = model.sde.time(-asked[0].double().log()) * (len(times) - 1)
    assert (level - level.round()).abs().max() < 1e-5
    counts = torch.bincount(level.round().long(), minlength=len(times))
    assert (counts - 4096 / len(times)).abs().max() <= 2  # each with equal chance, evenly spread


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["index", "t", "sigma"])
def test_the_network_is_small_and_treats_every_sample_by_itself(label: str) -> None:
    net = initial(NetworkConfig.of((1, 8, 8), label, 10), 0)
    assert sum(p.numel() for p in net.parameters()) < 1e6
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02)  # away from the zeros
    x, labels, classes = images("digits").test[:4], torch.tensor([1, 3, 5, 7]), torch.tensor([0, 9, 10, 4])
    labels = labels if label == "index" else labels / 8
    together = net(x, labels, classes)
    assert torch.allclose(together[2:3], net(x[2:3], labels[2:3], classes[2:3]), atol=1e-5)
    for other in (net(x, labels.flip(0), classes), net(x, labels, classes.flip(0))):
        assert (together - other).abs().max() > 1e-4  # it does hear both


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("ncsn", 80), ("vp", 150)])
def test_a_short_training_denoises_better_than_a_gaussian_fit(tmp_path, name: str, steps: int) -> None:
    run = Run(name, steps=steps, batch=32, warmup=20, widths=(16,), learning_rate=6e-3, average=0.98)
    model, data = train.train(run, tmp_path), images("digits")
    law = ss.exact.Gaussian.fit(data.train)
    mean = ss.ScoreModel(lambda x, t: law.mean.to(x).expand_as(x), model.sde, predicts="data")
    found, fitted, guessed = (train.held_out(name, m, data) for m in (model, law.model(model.sde), mean))
    assert found < fitted < guessed


def test_half_precision_trains_nearly_the_same(tmp_path) -> None:
    runs = [replace(TINY, steps=20, precision=name) for name in ("float32", "bfloat16")]
    single, half = (train.train(run, tmp_path / run.precision) for run in runs)
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}
    first, second = (train.held_out("ddpm", model, images("digits"), repeats=1) for model in (single, half))
    assert first == pytest.approx(second, rel=0.02)
    assert first != second


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_command_writes_what_it_says(tmp_path, capsys) -> None:
    asked = ["--system", "subvp", "--quick", "--steps", "3", "--batch", "4", "--device", "cpu", "--out", str(tmp_path)]
    assert train.main(asked) == 0
    assert "a Gaussian fitted to the training images" in capsys.readouterr().out
    assert all((tmp_path / name).stat().st_size > 0 for name in FILES)
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 4
    assert isinstance(train.load(tmp_path / "model.safetensors").sde, ss.SubVPSDE)


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch) -> None:
    asked = ["--system", "vp", "--quick", "--steps", "4", "--batch", "4", "--every", "1", "--device", "cpu"]
    advance = State.advance

    def interrupted(state: State) -> None:
        if state.step == 2:
            raise KeyboardInterrupt
        advance(state)

    with monkeypatch.context() as patch:
        patch.setattr(State, "advance", interrupted)
        assert train.main([*asked, "--out", str(tmp_path)]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()
    assert train.main([*asked, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "vpp"], "did you mean 'vp'"),
        (["--system", "vp", "--data", "digit"], "did you mean 'digits'"),
        (["--system", "vp", "--steps", "0"], "steps must be a whole number of at least 1"),
        (["--system", "vp", "--rate", "-1"], "positive learning_rate"),
        (["--system", "vp", "--precision", "half"], "float32 or bfloat16"),
        (["--system", "vp", "--every", "0"], "--every must be a whole number"),
        (["--system", "vp", "--seed", "-1"], "seed must be a whole number of at least 0"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, arguments: list[str], message: str) -> None:
    assert train.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_bad_shapes_and_names_are_explained() -> None:
    with pytest.raises(ValueError, match=r"divisible by 4 .* use fewer"):
        NetworkConfig((1, 6, 6), "t", (8, 8, 8))
    with pytest.raises(ValueError, match="multiples of 8"):
        NetworkConfig((1, 8, 8), "t", (12,))
    with pytest.raises(ValueError, match="at most 160"):
        patch_images(side=200)
    with pytest.raises(ValueError, match="not trained with classes"):
        initial(NetworkConfig((1, 8, 8), "t", (8,)), 0)(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="unknown system"):
        system("ddim")
