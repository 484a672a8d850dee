"""The Gaussian start: exact on a Gaussian, at no call, and asked for by the tables that were tuned with it."""

import math
from dataclasses import replace

import pytest
import torch

import scoresolve as ss
from scoresolve.opening import facts_of

MIXTURE = ss.exact.GaussianMixture([0.4, 0.6], torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), [0.02, 0.05])
LAW = ss.exact.Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([[0.5, 0.2], [0.2, 0.3]]))


def tuned_with(law: ss.exact.Gaussian, sde: ss.SDE) -> ss.Table:
    table = ss.build_table("flow_abm_2", sde, ss.grids.balanced(sde, 5, 0.6, sde.t_min))
    return replace(table, options={**table.options, "opening": facts_of(law)})


@pytest.mark.parametrize(
    "sde", [ss.VPSDE(), ss.RectifiedFlow(), ss.EDM(), ss.VESDE()], ids=lambda sde: type(sde).__name__
)
def test_the_opening_of_a_gaussian_is_its_flow_and_costs_nothing(sde: ss.SDE) -> None:
    middle = float(sde.time(-1.0))
    run = ss.sample(
        LAW.model(sde),
        (6, 2),
        solver="ddim",
        nfe=3,
        seed=4,
        t_max=middle,
        opening=LAW,
        trajectory=True,
        dtype=torch.float64,
    )
    plain = ss.sample(LAW.model(sde), (6, 2), solver="ddim", nfe=1, seed=4, trajectory=True, dtype=torch.float64)
    assert run.nfe == 3
    assert run.times[0] == middle
    torch.testing.assert_close(
        run.trajectory[0], LAW.flow(sde, plain.trajectory[0], sde.t_max, middle), rtol=1e-13, atol=0
    )
    again = ss.sample(LAW.model(sde), solver="ddim", nfe=3, start=plain.trajectory[0], t_max=middle, opening=LAW)
    assert torch.equal(again.samples, run.samples)
    chunks = ss.sample(
        LAW.model(sde),
        (6, 2),
        solver="ddim",
        nfe=3,
        seed=4,
        t_max=middle,
        opening=LAW,
        batch_size=4,
        dtype=torch.float64,
    )
    assert torch.equal(chunks.samples, run.samples)


def test_the_error_of_an_opening_is_of_third_order_in_the_signal() -> None:
    sde = ss.VPSDE()
    model = MIXTURE.model(sde)
    law = ss.exact.Gaussian(MIXTURE.mean, MIXTURE.covariance)
    ends = [float(sde.time(lam)) for lam in (-2.5, -3.0)]
    x = sde.prior_std(1.0) * torch.randn(512, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for end in ends:
        truth = ss.sample(model, start=x, solver="flow_abm_4", nfe=200, t_min=end).samples
        errors.append(float((law.flow(sde, x, 1.0, end) - truth).square().mean().sqrt()))
    assert 2.8 < math.log(errors[0] / errors[1]) / 0.5 < 3.2


def test_a_table_tuned_with_an_opening_is_not_run_without_it() -> None:
    sde = ss.VPSDE()
    model, table = LAW.model(sde), tuned_with(LAW, sde)
    with pytest.raises(
        ValueError,
        match=r"opening= the Gaussian .* starts at t = 0\.6, and\s+sample\(\.\.\., solver=table, opening=law\)",
    ):
        ss.sample(model, (4, 2), solver=table)
    with pytest.raises(ValueError, match="got one of mean"):
        ss.sample(model, (4, 2), solver=table, opening=ss.exact.Gaussian(torch.zeros(2), 1.0))
    with_it = ss.sample(model, (4, 2), solver=ss.Table.from_json(table.to_json()), opening=LAW, seed=0)
    by_hand = ss.sample(model, (4, 2), solver="flow_abm_2", steps=5, t_max=0.6, grid="balanced", opening=LAW, seed=0)
    assert with_it.nfe == 5
    assert torch.equal(with_it.samples, by_hand.samples)


def test_openings_that_make_no_sense() -> None:
    model = LAW.model(ss.VPSDE())
    with pytest.raises(ValueError, match="a first time below 1, where the opening begins, got 1: give t_max="):
        ss.sample(model, (4, 2), solver="ddim", nfe=3, opening=LAW)
    with pytest.raises(ValueError, match=r"a Gaussian of samples of shape \(3,\), got \(2,\)"):
        ss.sample(model, (4, 3), solver="ddim", nfe=3, t_max=0.5, opening=LAW)
    with pytest.raises(TypeError, match=r"got Tensor: ss\.exact\.Gaussian\.fit\(data\)"):
        ss.sample(model, (4, 2), solver="ddim", nfe=3, t_max=0.5, opening=torch.zeros(8, 2))
    with pytest.raises(ValueError, match="log_prob= without opening="):
        ss.sample(model, (4, 2), solver="heun", nfe=4, t_max=0.5, opening=LAW, log_prob="exact")
    assert model.nfe == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_opening_stays_on_its_device() -> None:
    run = ss.sample(LAW.model(ss.VPSDE()), (4, 2), solver="ddim", nfe=3, t_max=0.5, opening=LAW, seed=0, device="cuda")
    host = ss.sample(LAW.model(ss.VPSDE()), (4, 2), solver="ddim", nfe=3, t_max=0.5, opening=LAW, seed=0)
    torch.testing.assert_close(run.samples.cpu(), host.samples, rtol=1e-5, atol=1e-6)
