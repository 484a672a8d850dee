"""Promise 6: noise is a pure function of (seed, sample, stream, draw); the global generators are not read nor moved.

The source itself is in test_noise.py and test_noise_battery.py, refined paths and the bridge (W and its integral,
against Gaussian conditioning) in test_brownian.py and test_brownian_path.py, Langevin's stationary variance in
test_correctors.py, Hutchinson's estimator in test_divergence.py. Here: every solver and entry point on top of them.

Statistical tests have fixed seeds; a correct source fails one with probability below 1e-6, and a sabotaged one fails.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from oracles import PROCESSES, gaussian, mixture_1d, mixture_2d
from scipy import stats
from shard_cases import TINY, model
from torch import Tensor

import scoresolve as ss
from scoresolve.noise import SOLVER, START

SOLVERS = [info for info in ss.solvers() if info.name != "dpm_solver_v3"]  # that one wants statistics
STOCHASTIC = [info for info in SOLVERS if info.kind == "sde" and not info.adaptive]
TABLES = [info for info in STOCHASTIC if info.order > 0]
N = 100_000

# -- the global generators --------------------------------------------------------------------------------------------


def states() -> list[Any]:
    """Of torch's, numpy's and Python's global generator."""
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]  # noqa: NPY002


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators begun at a seed, and given back."""
    kept, numpy_state, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python)


def alone(run: Callable[[], Tensor]) -> bool:
    """Whether a run's result is the same for two seeds of the global generators, and leaves them where they are."""
    found = []
    for seed in (1, 2):
        with seeded(seed):
            before = states()
            found.append(run())
            if states() != before:
                return False
    return torch.equal(*found)


@pytest.mark.parametrize("info", SOLVERS, ids=lambda info: info.name)
def test_no_solver_reads_or_moves_a_global_generator(info: ss.SolverInfo) -> None:
    law = mixture_2d().model(ss.VPSDE())
    amount: dict[str, Any] = {"rtol": 0.1, "atol": 0.1} if info.adaptive else {"nfe": 6}
    assert alone(lambda: ss.sample(law, (2, 2), solver=info.name, seed=3, **amount).samples)


def test_no_other_entry_point_does(tmp_path) -> None:
    law = mixture_2d().model(ss.VPSDE())
    x0 = mixture_2d().sample(3, generator=torch.Generator().manual_seed(0))
    likelihood = {"nfe": 4, "divergence": "hutchinson", "probes": 2, "seed": 1}
    path, pair = ss.BrownianPath(5, range(2)), {"solver": "ddpm", "nfe": 3, "seed": 0}
    runs: list[Callable[[], Tensor]] = [
        lambda: ss.encode(law, x0, nfe=4).samples,
        lambda: ss.log_likelihood(law, x0, **likelihood).log_prob,
        lambda: ss.sample(law, (2, 2), noise=path, **{**pair, "seed": None}).samples,
        lambda: ss.sample(law, (2, 2), corrector="langevin", **pair).samples,
        lambda: ss.sample(law, (2, 2), parallel=ss.Picard(), **pair).samples,
        lambda: torch.tensor(ss.sample_to(model(), tmp_path, **TINY).count),
        lambda: torch.tensor([row.error for row in ss.compare(law, (4, 2), nfe=[4], solvers=["ddim"]).rows]),
        lambda: mixture_2d().sample(3, generator=torch.Generator().manual_seed(0)),
    ]
    for number, run in enumerate(runs):
        assert alone(run), number


def test_a_network_that_draws_from_them_is_noticed() -> None:
    law = mixture_2d().model(ss.VPSDE())
    for draw in (lambda x: torch.randn_like(x), lambda x: random.random(), lambda x: np.random.rand()):  # noqa: NPY002
        noisy = ss.ScoreModel(lambda x, t, draw=draw: law.score(x, t) + 0 * draw(x), ss.VPSDE(), time="t")
        assert not alone(lambda noisy=noisy: ss.sample(noisy, (2, 2), solver="ddim", nfe=2, seed=0).samples)


# -- what is drawn ----------------------------------------------------------------------------------------------------


class Recorded:
    """A source that keeps what it was asked for."""

    def __init__(self, source: Any) -> None:
        self.source, self.asked = source, dict[tuple[int, int], Tensor]()
        self.twice = False

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        self.twice |= (stream, index) in self.asked
        self.asked[stream, index] = self.source.draw(stream, index, like)
        return self.asked[stream, index]


@pytest.mark.parametrize("info", STOCHASTIC, ids=lambda info: info.name)
def test_each_normal_of_a_run_is_drawn_once_and_is_that_of_its_sample(info: ss.SolverInfo) -> None:
    """No (stream, draw) is asked for twice, one for each row that adds noise, and a sample alone sees its own."""
    law = mixture_2d().model(ss.VPSDE())
    source = Recorded(ss.SampleStreams(3, range(4)))
    run = ss.sample(law, (4, 2), solver=info.name, nfe=9, noise=source)
    assert not source.twice
    drawn = sorted(index for stream, index in source.asked if stream == SOLVER)
    if run.table is not None:
        assert drawn == [number for number, row in enumerate(run.table.rows) if row.draws]
    assert source.asked
    assert len(torch.unique(torch.cat([z.flatten() for z in source.asked.values()]))) == 8 * len(source.asked)
    single = Recorded(ss.SampleStreams(3, [2]))
    ss.sample(law, (1, 2), solver=info.name, nfe=9, noise=single)
    assert source.asked.keys() == single.asked.keys()
    assert all(torch.equal(z[0], source.asked[key][2]) for key, z in single.asked.items())


# -- laws -------------------------------------------------------------------------------------------------------------


def flaws(z: Tensor) -> list[str]:
    """What says that numbers (n, d) are not independent standard normals, each at p < 1e-6, 4.9 standard errors.

    With n = 10^5 and d = 2: a mean off by 0.015, a variance by 2.2 %, a correlation (of elements, of samples that
    follow each other) of 0.015, a distance of 0.006 from the normal law (Kolmogorov and Smirnov).
    """
    n, d = z.shape
    z = z.double()
    covariance = z.T @ z / n
    bound, eye = 4.9 + 0.1 * math.log(d), torch.eye(d, dtype=torch.float64)
    found = {
        "mean": z.mean(0).abs().max() * math.sqrt(n) > bound,
        "variance": (covariance.diagonal() - 1).abs().max() * math.sqrt(n / 2) > bound,
        "elements": (covariance - covariance.diagonal() * eye).abs().max() * math.sqrt(n) > bound,
        "samples": (z[1:] * z[:-1]).mean(0).abs().max() * math.sqrt(n) > bound,
        "law": stats.kstest(z.flatten().numpy(), "norm").pvalue < 1e-6,
    }
    return [name for name, wrong in found.items() if bool(wrong)]


SABOTAGED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "noise x 1.02": (lambda z: 1.02 * z, "variance"),
    "missing root": (lambda z: 0.9 * z, "variance"),
    "shifted": (lambda z: z + 0.02, "mean"),
    "stream used again": (lambda z: torch.stack([z[:, 0], z[:, 0]], 1), "elements"),
    "correlation of elements": (lambda z: torch.stack([z[:, 0], 0.02 * z[:, 0] + z[:, 1]], 1), "elements"),
    "correlation of samples": (lambda z: (z + 0.02 * z.roll(1, 0)) / 1.0002, "samples"),
    "uniform": (lambda z: math.sqrt(3) * torch.erf(z / math.sqrt(2)), "law"),
}


@pytest.mark.parametrize("name", SABOTAGED)
def test_each_test_of_a_law_can_fail(name: str) -> None:
    z = ss.SampleStreams(1, range(N)).draw(SOLVER, 0, torch.empty(N, 2, dtype=torch.float64))
    assert flaws(z) == []
    sabotage, named = SABOTAGED[name]
    assert named in flaws(sabotage(z))


@pytest.mark.parametrize("name", PROCESSES)
def test_starts_have_the_law_of_the_prior(name: str) -> None:
    """Those of ``sample`` by seed, and ``prior_sample`` by a generator, in units of prior_std."""
    sde = PROCESSES[name]
    like = torch.empty(N, 2)
    seen: list[Tensor] = []

    def look(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    ss.sample(ss.ScoreModel(look, sde, predicts="data"), (N, 2), solver="ddim", steps=1, seed=11)
    made = sde.prior_sample((N, 2), generator=torch.Generator().manual_seed(4))
    for x in (seen[0], made):
        assert flaws(x / sde.prior_std()) == []
    assert torch.allclose(seen[0] / sde.prior_std(), ss.SampleStreams(11, range(N)).draw(START, 0, like), atol=1e-6)


def test_exact_laws_draw_their_own_law() -> None:
    """By the probability transform (a mixture in one dimension) and by whitening; other laws' samples fail."""
    law = mixture_1d()

    def uniforms(x: Tensor) -> Tensor:
        parts = zip((0.7, 0.3), (-1.0, 1.2), (0.3, 0.5), strict=True)
        return torch.stack([w * torch.special.ndtr((x - m) / s) for w, m, s in parts]).sum(0)

    x = law.sample(N, generator=torch.Generator().manual_seed(1)).double()
    assert flaws(torch.special.ndtri(uniforms(x)).reshape(-1, 2)) == []
    near = ss.exact.GaussianMixture([0.72, 0.28], [[-1.0], [1.2]], [[0.09], [0.25]])
    wrong = near.sample(N, generator=torch.Generator().manual_seed(1)).double()
    assert flaws(torch.special.ndtri(uniforms(wrong)).reshape(-1, 2)) != []
    normal = gaussian(d=3)
    root = torch.linalg.cholesky(normal.covariance)
    x = normal.sample(N, generator=torch.Generator().manual_seed(2)).double() - normal.mean
    assert flaws(torch.linalg.solve_triangular(root, x.T, upper=False).T) == []
    points = ss.exact.Empirical(torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), 0.5)
    x = points.sample(N, generator=torch.Generator().manual_seed(3))
    distance, nearest = torch.cdist(x, points.points.to(x)).min(1)
    counts = torch.bincount(nearest, minlength=3)
    assert float(((counts - N / 3) ** 2 / (N / 3)).sum()) < stats.chi2.isf(1e-6, 2)
    assert stats.kstest((distance / 0.5).numpy(), stats.rayleigh.cdf).pvalue > 1e-6


class Changed:
    """A source whose normals are changed on their way."""

    def __init__(self, change: Callable[[int, Tensor, Tensor], Tensor]) -> None:
        self.source, self.change, self.last = ss.SampleStreams(1, range(N)), change, torch.zeros(())

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        z = self.source.draw(stream, index, like)
        out = self.change(index, z, self.last if self.last.ndim else z)
        self.last = z
        return out


def whitened(name: str, noise: Any) -> Tensor:
    """Samples of a solver through ``sample``, whitened by the mean and covariance that ``ss.exact.push`` gives it."""
    sde, law = ss.SubVPSDE(), gaussian(d=2)
    times = ss.grids.log_snr(sde, 4, 1.0, 0.01)
    exact = ss.exact.push(ss.build_table(name, sde, times), law, sde)
    start = law.marginal(sde, 1.0).sample(N, generator=torch.Generator().manual_seed(0))
    x = ss.sample(law.model(sde), start=start, solver=name, grid=times, noise=noise).samples
    root = torch.linalg.cholesky(exact.covariance)
    return torch.linalg.solve_triangular(root, (x - exact.mean).T, upper=False).T


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_samples_have_the_law_that_the_table_says(info: ss.SolverInfo) -> None:
    """The solver's own moments, not those of the data: few steps, and no bias of the steps in the way."""
    assert flaws(whitened(info.name, ss.SampleStreams(1, range(N)))) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda index, z, last: 1.02 * z,
        lambda index, z, last: last,  # the draw before, again
        lambda index, z, last: z + 0.1 * last,
        lambda index, z, last: z if index else z.flip(1),
    ],
    ids=["x 1.02", "used again", "steps correlated", "other order"],
)
def test_a_sabotaged_source_does_not(change: Callable[[int, Tensor, Tensor], Tensor], request: Any) -> None:
    """But for an order of elements that nobody can tell: it has the same law."""
    found = flaws(whitened("ddpm", Changed(change)))
    assert (found == []) == ("order" in request.node.name)
