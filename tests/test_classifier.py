"""The classifiers of images: what they learn in a moment, what is read back, and what judges and guides are asked."""

import dataclasses
import math

import pytest
import torch

import scoresolve as ss
from benchmarks import classifier
from benchmarks.classical import system
from benchmarks.classifier import Classifier, Settings, initial, train, trained
from benchmarks.data import images, patch_images
from benchmarks.fidelity import fidelity, floors

TINY = Settings(steps=120, batch=32, widths=(8, 16), learning_rate=6e-3)
DIGITS = images("digits")


def accuracy(logits: torch.Tensor, labels: torch.Tensor = DIGITS.test_labels) -> float:
    return float((logits.argmax(1) == labels).double().mean())


@pytest.fixture(scope="module")
def judge() -> Classifier:
    return train(TINY, DIGITS)


@pytest.fixture(scope="module")
def guide() -> Classifier:
    return train(dataclasses.replace(TINY, system="ddpm", shift=0, seed=1), DIGITS)


# -- the judge --------------------------------------------------------------------------------------------------------


def test_a_short_training_tells_digits_apart(judge: Classifier) -> None:
    assert accuracy(judge.logits(DIGITS.test)) > 0.9
    assert not any(p.requires_grad for p in judge.parameters())


def test_features_are_the_last_hidden_layer_of_each_image_by_itself(judge: Classifier, monkeypatch) -> None:
    x = DIGITS.test[:9]
    features = judge.features(x)
    assert (features.shape, features.dtype) == ((9, 64), torch.float64)
    assert torch.allclose(judge.leave(features.float()), judge.logits(x), atol=1e-5)
    assert torch.allclose(features[4:5], judge.features(x[4:5]), atol=1e-5)
    monkeypatch.setattr(classifier, "BLOCK", 4)
    assert torch.allclose(features, judge.features(x.double()), atol=1e-5)


def test_real_images_are_nearer_than_a_gaussian_fit(judge: Classifier) -> None:
    real = floors(DIGITS, judge)
    gaussian = ss.exact.Gaussian.fit(DIGITS.train).sample(297, generator=torch.Generator().manual_seed(0))
    made = fidelity(gaussian.reshape(-1, 1, 8, 8), DIGITS, judge, labels=DIGITS.test_labels)
    assert real["halves"].frechet < real["test"].frechet < made.frechet / 2
    assert abs(real["halves"].kernel) < 4 * real["halves"].kernel_error
    assert made.kernel > 2 * made.kernel_error
    assert made.precision < 0.6 < min(real[name].precision for name in real)
    assert made.recognised < 0.2 < 0.9 < real["test"].recognised
    copies = fidelity(DIGITS.train, DIGITS, judge, labels=DIGITS.train_labels)
    assert (copies.precision, copies.recall) == (1, 1)
    assert copies.frechet < 1e-12
    assert copies.kernel < 0  # of copies it is: each has itself among the others


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_what_was_trained_is_read_back_to_the_bit(tmp_path, monkeypatch) -> None:
    settings, said = dataclasses.replace(TINY, steps=3), []
    before = torch.random.get_rng_state()
    first = trained(settings, cache=tmp_path, log=said.append)
    (path,) = tmp_path.iterdir()
    again = train(settings, DIGITS)
    monkeypatch.setattr(classifier, "train", None)
    second = trained(settings, cache=tmp_path, log=said.append)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(said) == 1
    assert path.name in said[0]
    for net in (second, again):
        assert all(torch.equal(one, net.state_dict()[name]) for name, one in first.state_dict().items())
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:-8])
    third = trained(settings, cache=tmp_path, log=said.append)
    assert "cannot be used" in said[1]
    assert torch.equal(third.logits(DIGITS.test), first.logits(DIGITS.test))
    trained(dataclasses.replace(settings, system="vp"), cache=tmp_path, log=said.append)
    assert len(list(tmp_path.iterdir())) == 2  # other settings, another file


# -- guides -----------------------------------------------------------------------------------------------------------


def test_a_guide_is_sure_without_noise_and_knows_nothing_at_the_end(guide: Classifier) -> None:
    model = system("ddpm").model(guide, DIGITS.span)
    noise = torch.randn(DIGITS.test.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for t in (0.001, 0.2, 1.0):
        x, label = model.asked(model.sde.perturb(DIGITS.test, t, noise), t)
        assert guide(x, label).logsumexp(1).isfinite().all()
        log_prob = torch.stack([guide.log_prob(x, label, torch.full_like(label, y)) for y in range(10)], 1)
        assert torch.allclose(log_prob.exp().sum(1), torch.ones(len(x)), atol=1e-5)
        found.append((accuracy(log_prob), -float(log_prob.gather(1, DIGITS.test_labels[:, None]).mean())))
    x = system("ddpm").process(1.0).perturb(DIGITS.test, 0.2, noise)
    early, late = (guide(x, torch.full((297,), index)) for index in (0, 999))
    assert (early - late).abs().max() > 0.1  # it hears the time
    assert found[0][0] > 0.85
    assert found[0][1] < 0.7 * math.log(10)
    assert found[1][0] > 0.4
    assert abs(found[2][1] - math.log(10)) < 0.1


@pytest.mark.parametrize("name", ["ddpm", "ve", "vp"])
def test_guidance_adds_the_gradient_of_the_guide(name: str) -> None:
    """At each kind of label, and on a state of float64, as samplers have it."""
    net = initial(dataclasses.replace(TINY, system=name), DIGITS).requires_grad_(False)
    kind = system(name)
    model = ss.ScoreModel(lambda x, label: x, kind.process(DIGITS.span), predicts="noise", time=kind.label)
    x, y = DIGITS.test[:3].double(), torch.tensor([1, 2, 3])
    guided = ss.classifier_guidance(model, net.log_prob, scale=2.0, y=y)
    state = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net.log_prob(*model.asked(state, 0.5), y).sum(), state)
    assert gradient.abs().max() > 0
    assert torch.allclose(guided.score(x, 0.5) - model.score(x, 0.5), 2 * gradient, atol=1e-6)


# -- other images, and what is asked for wrongly ----------------------------------------------------------------------


@pytest.mark.parametrize(("side", "colour", "widths"), [(28, False, (8, 8, 16)), (9, True, (8, 16))])
def test_other_shapes(side: int, colour: bool, widths: tuple[int, ...]) -> None:
    data = patch_images(side=side, train=16, test=4, colour=colour)
    net = train(dataclasses.replace(TINY, steps=2, batch=4, widths=widths, system="ve"), data)
    assert net(data.test, torch.full((4,), 0.5)).shape == (4, 2)
    assert train(dataclasses.replace(TINY, steps=2, batch=4, widths=widths), data).features(data.test).shape == (4, 64)


def test_wrong_questions_are_named(judge: Classifier, guide: Classifier) -> None:
    with pytest.raises(ValueError, match="no time label: this classifier judges"):
        judge(DIGITS.test, torch.zeros(297))
    with pytest.raises(ValueError, match=r"the time label \(index\) of each image"):
        guide.features(DIGITS.test)
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        judge.logits(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="unknown system"):
        Settings(system="ddim")
    with pytest.raises(ValueError, match="multiples of 8"):
        Settings(widths=(12,))
