"""Tables tuned for laws, and with openings: the features are the discrepancy, and what is found holds on new starts."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresolve as ss
from benchmarks.metrics import energy_distance
from scoresolve.noise import SOLVER
from scoresolve.registry import get_solver
from scoresolve.tuning.candidates import published
from scoresolve.tuning.laws import fourier_features, widths_of
from scoresolve.tuning.lesson import Asked, prepare
from scoresolve.tuning.lifting import lift
from scoresolve.tuning.openings import law_of, opening_times
from scoresolve.tuning.shooting import Shooting, Starts

TWO = ss.exact.GaussianMixture([0.3, 0.7], torch.tensor([[-1.0], [1.0]]), [0.01, 0.04])
VP = ss.VPSDE()
MODEL = TWO.model(VP)
FEW = [("ddim", "karras"), ("dpmpp_2m", "balanced")]


def drawn(n: int, seed: int) -> Tensor:
    return TWO.sample(n, generator=torch.Generator().manual_seed(seed))


def test_the_features_of_two_sets_differ_by_their_discrepancy() -> None:
    x, y = drawn(400, 0), drawn(400, 1) + 0.3
    phi = fourier_features(x, seed=3, count=8192)
    found = (phi(x).mean(dim=0) - phi(y).mean(dim=0)).square().mean()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(-0.5 * (torch.cdist(a, b) / w) ** 2).exp().mean() for w in widths_of(x)]).mean()

    torch.testing.assert_close(found, kernel(x, x) - 2 * kernel(x, y) + kernel(y, y), rtol=0.05, atol=0)
    assert phi(x.float()).dtype == torch.float32


def test_the_least_squares_problem_of_laws_is_that_of_the_means() -> None:
    """Gradient by brute force, and the same in chunks."""
    n = 64
    x = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    starts = Starts(x, drawn(n, 1), ss.SampleStreams(5, range(n)))
    table = ss.build_table("dpmpp_2m_sde", VP, ss.grids.log_snr(VP, 3, 1.0, 1e-3))
    student = lift(table, VP, (1e-3, 1.0))
    phi = fourier_features(starts.targets, 0)
    whole, parts = (Shooting(MODEL, starts, phi, laws=True, step=1e-6, size=size) for size in (n, 24))
    normal = whole.normal(student, math.inf)
    np.testing.assert_allclose(parts.normal(student, math.inf).gram, normal.gram, rtol=1e-4, atol=1e-9)
    for number in (1, 3, 10, len(student.vector()) - 2):  # weights, a label, a weight of the noise
        change = 0 * student.vector()
        change[number] = 1e-5
        up, down = (whole.squares(student.moved(sign * change)).item() for sign in (1, -1))
        slope = (up - down) / (2 * change[number]) / 2
        assert normal.gradient[number] == pytest.approx(slope, rel=1e-2, abs=1e-6)


def test_stochastic_tables_meet_the_law_of_new_samples_better() -> None:
    candidates = [("dpmpp_2m_sde", "log_snr"), ("dpmpp_2m_sde", "karras")]
    table = ss.tune(MODEL, (1,), nfe=3, starts=1024, held_out=1024, stochastic=True, candidates=candidates)
    assert table.stochastic
    assert table.options["mmd"] < 0.5 * table.options["best_published_mmd"]
    solver, grid = table.options["best_published"].split(" on ")
    truth = drawn(4000, 5)
    before, after = (
        energy_distance(ss.sample(MODEL, (4000, 1), seed=9, **asked).samples, truth)
        for asked in ({"solver": solver, "grid": grid, "nfe": 3}, {"solver": table})
    )
    assert after < 0.6 * before
    assert all(get_solver(name).kind == "sde" for name, _ in published(stochastic=True))


def test_students_for_laws_do_not_start_where_the_teacher_does() -> None:
    asked = Asked((1,), 0, 64, 32, (1e-3, 1.0), None, None, None, stochastic=True)
    lesson = prepare(MODEL, asked, 3)
    for starts in (lesson.train, lesson.held_out):
        own = ss.sample(MODEL, start=starts.x, solver="flow_abm_4", nfe=128).samples
        assert (own - starts.targets).abs().mean() > 0.3
    noise = [starts.noise.draw(SOLVER, 0, starts.x)[:32] for starts in (lesson.train, lesson.held_out)]
    assert not torch.equal(*noise)


def test_an_opening_is_taken_where_it_helps_and_holds_on_new_starts() -> None:
    law = ss.exact.Gaussian(TWO.mean, TWO.covariance)
    plain = ss.tune(MODEL, (1,), nfe=[2, 3], starts=256, candidates=FEW)
    opened = ss.tune(MODEL, (1,), nfe=[2, 3], starts=256, candidates=FEW, data=law)
    start = torch.randn(512, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    truth = ss.sample(MODEL, start=start, solver="flow_abm_4", nfe=256).samples

    def error(table: ss.Table, **more: object) -> float:
        return float((ss.sample(MODEL, start=start, solver=table, **more).samples - truth).square().mean().sqrt())

    for calls in (2, 3):
        assert opened[calls].start < 1.0
        assert opened[calls].nfe == calls
        assert error(opened[calls], opening=law) < 0.8 * error(plain[calls])
        with pytest.raises(ValueError, match="opening= the Gaussian that this table was tuned with"):
            error(opened[calls])


def test_openings_lie_between_the_ends_and_on_whole_indices() -> None:
    law = ss.exact.Gaussian(torch.zeros(1), 0.25)
    every = opening_times(law.model(VP), law, (1e-3, 1.0))
    assert opening_times(law.model(VP), law, (0.3, 1.0)) == [t for t in every if t > 0.3] != every
    betas = ss.DiscreteVPSDE.linear()
    told = ss.ScoreModel(lambda x, t: x, betas, predicts="noise", time="index")
    times = torch.tensor(opening_times(told, law, (betas.t_min, 1.0))) * 1000
    assert len(times) == 4
    torch.testing.assert_close(times, times.round())


def test_what_cannot_be_tuned_is_refused_before_the_network_is_called() -> None:
    before = MODEL.nfe
    with pytest.raises(ValueError, match=r"data of shape \(n, \*\(1,\)\), got \(8, 2\)"):
        ss.tune(MODEL, (1,), nfe=2, data=torch.zeros(8, 2))
    with pytest.raises(ValueError, match=r"at most 8192 dimensions, got 12288: their covariance would take 1 GB"):
        law_of(torch.zeros(2, 3, 64, 64), (3, 64, 64))
    with pytest.raises(ValueError, match=r"a tensor \(n, \*\(1,\)\) or an ss\.exact\.Gaussian, got str"):
        ss.tune(MODEL, (1,), nfe=2, data="network")
    with pytest.raises(ValueError, match="data= without t_max="):
        ss.tune(MODEL, (1,), nfe=2, t_max=0.9, data=drawn(64, 0))
    with pytest.raises(ValueError, match="starts= a number with stochastic=True"):
        ss.tune(MODEL, (1,), nfe=2, stochastic=True, starts=torch.zeros(600, 1))
    assert MODEL.nfe == before
