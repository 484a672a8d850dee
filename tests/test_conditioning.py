"""Classifier guidance and thresholds, against exact conditional scores; refinements in general."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from oracles import PROCESSES, CountingNet, mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve.predictions import Prediction

PREDICTIONS = get_args(Prediction)


def _points(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _component(k: int) -> ss.exact.Gaussian:
    law = mixture_2d()
    return ss.exact.Gaussian(law.means[k], law.bases[k] @ torch.diag(law.variances[k]) @ law.bases[k].T)


def _classifier(sde: ss.SDE):
    """log p(component y | x_t), the exact classifier of the mixture, told t."""

    def log_prob(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t.double())[:, None], sde.sigma(t.double())[:, None]
        _, _, log_weight = mixture_2d()._spread(x, alpha, sigma)
        return log_weight.log_softmax(1).gather(1, y[:, None])[:, 0]

    return log_prob


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_classifier_gives_the_exact_conditional_score(name: str) -> None:
    """p(x) p(y | x) is that of the component y: every prediction, at host times and at tensors, seen along others."""
    sde, x, y = PROCESSES[name], _points(), torch.tensor([0, 1, 2, 2, 1, 0])
    model = ss.classifier_guidance(mixture_2d().model(sde), _classifier(sde), y=y)
    for along in (sde, ss.VPSDE()):
        view, laws = model.on(along) if along is not sde else model, [_component(k).model(along) for k in range(3)]
        for t in (0.1 * along.t_max, 0.6 * along.t_max, view.t_max):
            for target in PREDICTIONS:
                expected = torch.stack([laws[k].evaluate(x[i : i + 1], t, target)[0] for i, k in enumerate(y)])
                scale = 1 + expected.abs().max().item()
                for time in (t, torch.full((6,), t, dtype=torch.float64)):
                    found = view.evaluate(x, time, target)
                    assert (found - expected).abs().max().item() < 1e-10 * scale * max(1, along.rho(t)), (t, target)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ddpm", "adaptive_abm", "adaptive_sde_sra"])
def test_labels_follow_the_samples_and_the_network_is_counted_once(solver: str) -> None:
    """Each sample is the one it would be alone, with its own label; adaptive solvers drop those that have arrived."""
    sde, y = ss.VPSDE(), torch.tensor([0, 1, 2, 1])
    net = CountingNet(lambda x, t: mixture_2d().denoise(x, sde.alpha(t.double()), sde.sigma(t.double())))
    base = ss.ScoreModel(net, sde, predicts="data")
    how = {"rtol": 1e-2, "atol": 1e-2} if "adaptive" in solver else {"nfe": 8}

    def run(label: Tensor, **more: object) -> ss.Solution:
        model = ss.classifier_guidance(base, _classifier(sde), y=label)
        return ss.sample(model, solver=solver, seed=3, dtype=torch.float64, **how, **more)  # type: ignore[arg-type]

    together = run(y, shape=(4, 2))
    assert together.nfe == len(net.rows)
    assert together.stats["network_rows"] == sum(net.rows)
    for i in range(4):
        alone = run(y[i : i + 1], shape=(1, 2), indices=[i])
        assert torch.allclose(together.samples[i], alone.samples[0], atol=1e-9)


def test_a_rectified_flow_starts_where_there_is_signal() -> None:
    sde = ss.RectifiedFlow()
    model = ss.classifier_guidance(mixture_2d().model(sde), _classifier(sde), y=torch.zeros(512, dtype=torch.int64))
    samples = ss.sample(model, shape=(512, 2), nfe=24, seed=0, dtype=torch.float64).samples
    assert (samples.mean(0) - _component(0).mean).abs().max().item() < 0.1
    for time in (1.0, torch.ones(512)):
        with pytest.raises(ValueError, match=r"start before, such as with t_max=0.999"):
            model.score(samples, time)


def test_log_p_of_a_guided_model_is_that_of_the_conditional_law() -> None:
    sde, x = ss.VPSDE(), _component(1).sample(3, generator=torch.Generator().manual_seed(0))
    model = ss.classifier_guidance(mixture_2d().model(sde), _classifier(sde), y=torch.ones(3, dtype=torch.int64))
    settings = {"divergence": "exact", "rtol": 1e-6, "atol": 1e-6}
    found = ss.log_likelihood(model, x, **settings).log_prob
    expected = ss.log_likelihood(_component(1).model(sde), x, **settings).log_prob
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("quantile", [None, 0.9])
def test_a_threshold_changes_nothing_where_the_data_lie_inside(quantile: float | None) -> None:
    law, x = (
        ss.exact.GaussianMixture([0.5, 0.5], [[0.5, 0.0], [-0.5, 0.2]], [0.0, 0.0]),
        _points(),
    )  # inside [-0.5, 0.5]
    for name, sde in PROCESSES.items():
        model = law.model(sde)
        for target in PREDICTIONS:
            for t in (0.3 * sde.t_max, torch.full((6,), 0.3 * sde.t_max)):
                kept = ss.threshold(model, -0.7, 1.0, quantile=quantile).evaluate(x, t, target)
                assert torch.equal(kept, model.evaluate(x, t, target)), name


@pytest.mark.parametrize("source", PREDICTIONS)
def test_every_prediction_follows_from_the_data_that_were_kept(source: str) -> None:
    sde, x, t = ss.SubVPSDE(), 3 * _points(), 0.4
    net = lambda x, t: 2 * torch.sin(x)  # noqa: E731
    model = ss.ScoreModel(net, sde, predicts=source)  # type: ignore[arg-type]
    data = model.data(x, t).clamp(-0.5, 2.0)
    kept = ss.ScoreModel(lambda x, t: data, sde, predicts="data")
    for target in PREDICTIONS:
        found = ss.threshold(model, -0.5, 2.0).evaluate(x, t, target)
        assert torch.allclose(found, kept.evaluate(x, t, target), rtol=1e-11, atol=1e-11)


def test_dynamic_threshold_is_that_of_the_paper_for_each_sample() -> None:
    data = 3 * torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    data[0] /= 20  # one that lies inside
    found = ss.threshold(ss.ScoreModel(lambda x, t: data, ss.EDM(), predicts="data"), quantile=0.93).data(data, 1.0)
    for one, kept in zip(data, found, strict=True):
        s = max(1.0, one.abs().quantile(0.93).item())
        assert torch.allclose(kept, one.clamp(-s, s) / s, rtol=1e-13)
    shifted = ss.ScoreModel(lambda x, t: 0.5 * data + 0.5, ss.EDM(), predicts="data")
    assert torch.allclose(ss.threshold(shifted, 0, 1, quantile=0.93).data(data, 1.0), 0.5 * found + 0.5, rtol=1e-12)


def test_samples_that_are_single_numbers() -> None:
    data = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
    model = ss.ScoreModel(lambda x, t: data if x.ndim == 1 else data[:, None], ss.EDM(), predicts="data")
    for quantile in (None, 0.9):
        found = ss.threshold(model, quantile=quantile)
        assert torch.equal(found.data(data, 1.0), found.data(data[:, None], 1.0)[:, 0])


def test_what_makes_no_sense_is_refused() -> None:
    model, x = mixture_2d().model(ss.VPSDE()), _points()
    with pytest.raises(ValueError, match="low < high"):
        ss.threshold(model, 1.0, -1.0)
    with pytest.raises(ValueError, match=r"a quantile in \[0, 1\]"):
        ss.threshold(model, quantile=99.5)
    with pytest.raises(TypeError, match="refinement must be"):
        model.refine(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"log_prob returned shape \(6, 2\)"):
        ss.classifier_guidance(model, lambda x, t: x).score(x, 0.5)
    with pytest.raises(ValueError, match="differentiable in x"):
        ss.classifier_guidance(model, lambda x, t: x.detach().sum(1)).score(x, 0.5)
    with pytest.raises(ValueError, match="noise where data changes the velocity"):
        ss.threshold(ss.ScoreModel(lambda x, t: x, ss.RectifiedFlow(), predicts="velocity")).velocity(x, 0.0)
