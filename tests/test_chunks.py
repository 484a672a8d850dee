"""batch_size: a batch in chunks gives the results of one batch, to the last bit where the network lets it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies import APART, TOGETHER, named
from torch import Tensor

import scoresolve as ss

SDE = ss.VPSDE()
LABELS = torch.tensor([0.3, -0.5, 1.0, 0.0, -1.2], dtype=torch.float64)


def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """A network that treats samples, and their elements, apart."""
    return torch.tanh(x - label[:, None]) * (1 + t[:, None])


def guided() -> ss.ScoreModel:
    """With conditioning, guidance and a classifier that each have a row a sample."""
    model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS).guide(1.5, label=torch.zeros(1))
    return ss.classifier_guidance(model, lambda x, t, y: -0.1 * (x - y[:, None]).square().sum(1), y=LABELS)


def same(parts: ss.Solution, whole: ss.Solution) -> None:
    """All that is said of each sample is the same."""
    assert torch.equal(parts.samples, whole.samples)
    assert parts.nfe_per_sample.tolist() == whole.nfe_per_sample.tolist()
    assert parts.stats["network_rows"] == whole.stats["network_rows"]
    assert parts.times.tolist() == whole.times.tolist()
    assert parts.status == whole.status
    assert parts.stats.keys() == whole.stats.keys()
    if whole.trajectory is not None:
        assert parts.trajectory is not None
        assert torch.equal(parts.trajectory, whole.trajectory)


@pytest.mark.property(4, beyond=TOGETHER)
@pytest.mark.parametrize("info", APART, ids=named)
def test_every_solver_gives_the_same_in_chunks(info: ss.SolverInfo) -> None:
    """Guidance, conditioning, trajectory, and the noise of each sample; a last chunk that is smaller."""
    work: dict[str, Any] = {"rtol": 0.05, "atol": 0.05} if info.adaptive else {"nfe": 6}
    asked = {"shape": (5, 2), "solver": info.name, "seed": 4, "dtype": torch.float64, "trajectory": True, **work}
    model = guided()
    whole, before = ss.sample(model, **asked), model.nfe
    parts = ss.sample(model, **asked, batch_size=2)
    same(parts, whole)
    assert parts.nfe == model.nfe - before  # as they were made, in all chunks
    for name in ("accepted", "rejected"):
        if name in whole.stats:
            assert torch.equal(parts.stats[name], whole.stats[name])


@pytest.mark.parametrize(
    "more",
    [
        {"solver": "ddpm", "steps": 4, "corrector": "langevin"},
        {"solver": "heun", "steps": 4, "denoise": True},
        {"solver": "dpmpp_2m", "steps": 4, "log_prob": "hutchinson"},
        {"solver": "adaptive_dp5", "rtol": 0.01, "atol": 0.01, "log_prob": "exact"},
        {"solver": "adaptive_bs3", "rtol": 0.01, "atol": 0.01, "dense": True},
        {"solver": "dpmpp_2m_sde", "steps": 8, "parallel": ss.Picard(3, 1e-2, 1)},
        {"solver": "sra1", "steps": 8, "noise": ss.BrownianPath},
        {"solver": "euler_maruyama", "steps": 8, "noise": ss.Antithetic},
        {"solver": "ddpm", "steps": 4, "noise": ss.QuasiRandom},
    ],
    ids=lambda more: next(iter({"corrector", "denoise", "log_prob", "dense", "parallel", "noise"} & more.keys())),
)
def test_what_goes_along_with_a_run_does_too(more: dict[str, Any]) -> None:
    asked = {"shape": (5, 2), "seed": 4, "dtype": torch.float64, "indices": [9, 3, 1, 4, 7], **more}
    model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS)
    whole, parts = ss.sample(model, **asked), ss.sample(model, **asked, batch_size=2)
    same(parts, whole)
    if "log_prob" in more:
        for name in ("log_prob", "log_det", "standard_error"):
            assert torch.equal(getattr(parts, name).nan_to_num(), getattr(whole, name).nan_to_num())
        assert parts.stats["backward_passes"] == parts.nfe * (2 if more["log_prob"] == "exact" else 1)
    if "dense" in more:
        t = torch.linspace(0.2, 0.9, 5)
        assert torch.equal(parts.at(t), whole.at(t))


def test_the_nodes_of_a_brownian_tree_name_the_sample_of_the_batch() -> None:
    asked = {"shape": (5, 2), "solver": "adaptive_sde_sra", "rtol": 0.05, "atol": 0.05, "nodes": True, "seed": 4}
    model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS)
    whole, parts = (ss.sample(model, **asked, batch_size=size).stats["nodes"] for size in (None, 2))
    for sample in range(5):
        assert torch.equal(parts[parts[:, 0] == sample], whole[whole[:, 0] == sample])


def test_encode_and_decode() -> None:
    model, x0 = guided(), LABELS[:, None].expand(5, 2) * 0.5
    latent, parts = ss.encode(model, x0, steps=5), ss.encode(model, x0, steps=5, batch_size=3)
    same(parts, latent)
    same(ss.decode(model, latent.samples, steps=5, batch_size=3), ss.decode(model, latent.samples, steps=5))


def test_a_callback_sees_the_chunks_one_after_the_other() -> None:
    seen: list[ss.Step] = []
    model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS)
    solution = ss.sample(model, (5, 2), steps=2, solver="ddim", seed=0, batch_size=2, callback=seen.append)
    assert [(step.first, step.index, len(step.x), step.nfe) for step in seen] == [
        (0, 1, 2, 1), (0, 2, 2, 2), (2, 1, 2, 1), (2, 2, 2, 2), (4, 1, 1, 1), (4, 2, 1, 2),
    ]  # fmt: skip
    assert torch.equal(torch.cat([step.x for step in seen if step.index == 2]), solution.samples)


def test_a_callback_with_rows_keeps_those_of_the_chunk() -> None:
    """Replacement: a mask and a measurement with a row a sample, and noise of its own."""
    known = ss.operators.Mask(torch.tensor([[1, 0]] * 3 + [[0, 1]] * 2))
    measured = torch.stack([LABELS, LABELS + 1], 1)
    for indices in (None, [8, 2, 5, 1, 0]):
        put = ss.Replacement(SDE, known, measured, seed=3, indices=indices)
        model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS)
        asked = {"shape": (5, 2), "solver": "ddpm", "steps": 4, "seed": 1, "dtype": torch.float64, "callback": put}
        same(ss.sample(model, **asked, batch_size=2), ss.sample(model, **asked))


def test_failures_are_named_in_the_batch_or_the_chunk_is_said() -> None:
    def breaks(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] == -1.2, torch.nan, -x)

    model = ss.ScoreModel(breaks, SDE).condition(label=LABELS)
    masked = ss.sample(model, (5, 2), steps=3, seed=0, batch_size=2, on_error="mask")
    assert [failure.sample for failure in masked.failures] == [4]
    assert torch.isnan(masked.samples).any(1).tolist() == [False] * 4 + [True]
    with pytest.raises(ss.NonFiniteError) as caught:
        ss.sample(model, (5, 2), steps=3, seed=0, batch_size=2)
    assert "samples 4 to 4 went together" in caught.value.__notes__[0]


def test_gradients_flow_through_chunks() -> None:
    start = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = ss.ScoreModel(net, SDE, predicts="v").condition(label=LABELS)
    slopes = []
    for size in (None, 2):
        drawn = ss.sample(model, start=start, steps=3, solver="heun", grad=True, batch_size=size).samples
        slopes += torch.autograd.grad(drawn.square().sum(), start)
    assert torch.equal(*slopes)


def test_bad_requests() -> None:
    model = ss.ScoreModel(lambda x, t: -x, SDE)

    class Plain:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            return torch.zeros_like(like)

    with pytest.raises(TypeError, match=r"noise=Plain has no take\(rows\)"):
        ss.sample(model, (5, 2), steps=2, noise=Plain(), batch_size=2)
    ss.sample(model, (2, 2), steps=2, noise=Plain(), batch_size=2)  # one chunk asks for no more than ever
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        ss.sample(model, (5, 2), steps=2, batch_size=0)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        ss.encode(model, torch.zeros(2, 2), steps=2, batch_size=1.5)  # type: ignore[arg-type]
