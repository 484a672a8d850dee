"""What a solver is as a map from starts and noise to samples: its symmetries, for every registered solver.

Processes, grids, shapes and seeds are drawn by hypothesis; ``beyond`` says for which solvers a property does not hold.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PROCESSES, TABLES, gaussian
from strategies import (
    ADAPTIVE,
    FIXED,
    LEVELS,
    SOLVERS,
    Problem,
    Through,
    beyond,
    levels,
    named,
    normal,
    pointwise,
    problems,
    turned,
)  # fmt: skip
from torch import Tensor

import scoresolve as ss
from scoresolve.predictions import Prediction

few = settings(max_examples=1)
"""The first example is another one for each solver (strategies.turned)."""
ELEMENTS = "its tolerance is for each element by itself, which a rotation mixes"


def streams(problem: Problem) -> ss.SampleStreams:
    return ss.SampleStreams(problem.seed, range(len(problem.start)))


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return float((found - expected).abs().max()) <= tolerance * (1 + float(expected.abs().max()))


@pytest.mark.property(5)
@pytest.mark.parametrize("info", SOLVERS, ids=named)
@few
@given(data=st.data())
def test_shape(info: ss.SolverInfo, data: st.DataObject) -> None:
    """The shape of a sample is that of its numbers' table, no more: to the bit, for a network of elements."""
    problem = data.draw(problems(info))
    flat = problem.start.reshape(len(problem.start), -1)
    found = problem.run(info, pointwise)
    assert found.shape == problem.start.shape
    assert torch.equal(found.reshape(flat.shape), problem.run(info, pointwise, flat))


@pytest.mark.property(9)
@pytest.mark.parametrize("info", SOLVERS, ids=named)
@few
@given(data=st.data())
def test_sign(info: ss.SolverInfo, data: st.DataObject) -> None:
    """An odd network, the start and the noise turned round: so is the sample, to the bit."""
    problem = data.draw(problems(info))
    opposite = Through(streams(problem), torch.neg)
    found = problem.run(info, pointwise, -problem.start, noise=opposite)
    assert torch.equal(found, -problem.run(info, pointwise))


@pytest.mark.property(6, beyond=beyond(ELEMENTS, *(info for info in SOLVERS if info.adaptive)))
@pytest.mark.parametrize("info", FIXED, ids=named)
@few
@given(data=st.data())
def test_orthogonal_maps(info: ss.SolverInfo, data: st.DataObject) -> None:
    """A network that looks at the length alone, in a rotated space."""
    problem = data.draw(problems(info, shapes=((3,),)))
    Q = torch.linalg.qr(normal(3, 3, seed=problem.seed))[0]

    def net(x: Tensor, t: Tensor) -> Tensor:
        return x / (1 + x.square().sum(dim=1, keepdim=True))

    turned = problem.run(info, net, problem.start @ Q.T, noise=Through(streams(problem), lambda z: z @ Q.T))
    assert near(turned, problem.run(info, net) @ Q.T)


@pytest.mark.property(7, beyond=beyond("its tolerance is relative to x", *(info for info in SOLVERS if info.adaptive)))
@pytest.mark.parametrize("info", FIXED, ids=named)
@few
@given(data=st.data(), b=st.sampled_from([1.5, -2.0]))
def test_translation(info: ss.SolverInfo, data: st.DataObject, b: float) -> None:
    """Where alpha is one, data moved by b is the sample moved by b."""
    problem = data.draw(problems(info, sdes=(ss.VESDE(), ss.EDM())))
    moved = problem.run(info, lambda x, t: pointwise(x - b, t) + b, problem.start + b)
    assert near(moved, problem.run(info, pointwise) + b)


def without_a_unit(info: ss.SolverInfo) -> dict[str, object]:
    """The clock that knows no unit, for solvers that have a choice."""
    if info.options.get("clock") != "flow":
        return {}
    return {"clock": "t" if info.name.startswith("velocity") else "rho"}


SCALED = beyond("has a unit of noise in its formula", "er_sde_1", "er_sde_2", "er_sde_3") | beyond(
    "adds noise between two given levels", "sa_solver", "edm_euler", "edm_heun", "restart"
)
SCALED |= beyond("works on x / (alpha + sigma), for data of unit variance", *(f"flow_abm_{k}" for k in (1, 2, 3, 4)))


@pytest.mark.property(8, beyond=SCALED | beyond("atol has a unit", *(info for info in SOLVERS if info.adaptive)))
@pytest.mark.parametrize("info", [info for info in FIXED if info.name not in SCALED], ids=named)
@few
@given(data=st.data(), k=st.sampled_from([2.5, 0.3]))
def test_scale(info: ss.SolverInfo, data: st.DataObject, k: float) -> None:
    """Data and noise levels k times as large: so are the samples."""
    problem = data.draw(problems(info, sdes=(ss.EDM(),)))
    options = without_a_unit(info)
    larger = Problem(ss.EDM(k * 0.002, k * 80), k * problem.times, k * problem.start, problem.seed)
    found = larger.run(info, lambda x, t: k * pointwise(x / k, t / k), **options)
    assert near(found, k * problem.run(info, pointwise, **options), 1e-8)


@pytest.mark.property(12)
@pytest.mark.parametrize("info", SOLVERS, ids=named)
@settings(max_examples=1)
@given(data=st.data())
def test_prediction_types(info: ss.SolverInfo, data: st.DataObject) -> None:
    """One network said in six ways."""
    problem = data.draw(problems(info, steps=(3, 1, 4)))
    base = ss.ScoreModel(pointwise, problem.sde, predicts="data")
    expected = problem.run(info, base)
    for kind in get_args(Prediction):
        model = ss.ScoreModel(lambda x, t, kind=kind: base.evaluate(x, t, kind), problem.sde, predicts=kind)
        assert near(problem.run(info, model), expected, 1e-5 if info.adaptive else 1e-8), kind


NO_CLAIM = beyond("published weights, whose sum is not that of the step", *(f"ipndm_v_{k}" for k in (1, 2, 3, 4)))
NO_CLAIM |= beyond(
    "Euler's step of the SDE, or a chain of them", "reverse_diffusion", "euler_maruyama", "annealed_langevin"
)
NO_CLAIM |= beyond("goes up between its steps down, or beyond them", "edm_euler", "edm_heun", "restart")
NO_CLAIM |= beyond("two solutions in one table", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpm_solver_v3")
NO_CLAIM |= beyond("noise prediction with a gain of its own", "seeds_1", "seeds_2", "seeds_3")


@pytest.mark.property(13, beyond=NO_CLAIM | beyond("to its tolerance only", *(i for i in SOLVERS if i.adaptive)))
@pytest.mark.parametrize("info", [info for info in TABLES if info.name not in NO_CLAIM], ids=named)
@few
@given(data=st.data())
def test_what_is_constant_is_solved_exactly(info: ss.SolverInfo, data: st.DataObject) -> None:
    """A point mass for solvers of the data prediction; for the others what is constant in theirs. At any number of
    steps: data m has the solution alpha m, noise m has sigma m, and flow m, of data -m and noise 0, -alpha m."""
    problem = data.draw(problems(info, shapes=((2,),)))
    sde, m = problem.sde, torch.tensor([0.7, -1.3], dtype=torch.float64)
    table = ss.build_table(info.name, sde, problem.times)
    claim = table.exact_on
    assert claim in ("data", "noise", "flow", "velocity"), "a table that claims nothing belongs to NO_CLAIM"
    alpha, sigma = sde.alpha(table.times), sde.sigma(table.times)
    size = {"data": alpha, "noise": sigma, "flow": -alpha, "velocity": table.times}[claim]
    model = ss.ScoreModel(lambda x, t: m.expand(x.shape), sde, predicts=claim)  # type: ignore[arg-type]
    none = Through(ss.SampleStreams(0, [0]), torch.zeros_like)
    found = ss.sample(model, start=float(size[0]) * m[None], solver=table, noise=none).samples[0]
    assert near(found, float(size[-1]) * m)


@pytest.mark.property(14, beyond=beyond("its steps are those of a chain at each level", "annealed_langevin"))
@pytest.mark.parametrize("info", [info for info in SOLVERS if info.name != "annealed_langevin"], ids=named)
def test_zero_step(info: ss.SolverInfo) -> None:
    """A time that comes twice is refused; as the step goes to zero the map goes to the identity, noise as its root."""
    sde = ss.VPSDE()
    model, x = ss.ScoreModel(pointwise, sde, predicts="data"), normal(3, 2)
    t, s = sde.time(-0.5), sde.time(-0.5 + 1e-6)
    found = ss.sample(model, start=x, solver=info.name, grid=[t, s], seed=0).samples
    assert float((found - x).abs().max()) < (1e-5 if info.kind == "ode" else 1e-2)
    with pytest.raises(ValueError, match="repeats"):
        ss.sample(model, start=x, solver=info.name, grid=[t, t], seed=0)


@pytest.mark.property(15)
@given(lam=levels(), name=st.sampled_from(["ddim", "ddpm"]), sde=st.sampled_from(list(PROCESSES.values())))
@settings(max_examples=10)
def test_the_mean_of_ancestral_steps_is_exact(lam: np.ndarray, name: str, sde: ss.SDE) -> None:
    """eta = 1: the deviation from the mean is multiplied by (alpha_t/alpha_u) R_t/R_u, at any number of steps."""
    law, options = gaussian(), {"eta": 1.0} if name == "ddim" else {}
    times = sde.time(lam)
    gain, _, _ = ss.exact.affine_map(ss.build_table(name, sde, times, **options), law, sde)
    ratio = (law.variances[0] + sde.rho(times[-1]) ** 2) / (law.variances[0] + sde.rho(times[0]) ** 2)
    exact = sde.alpha(times[-1]) / sde.alpha(times[0]) * ratio
    assert torch.allclose(gain, exact, rtol=1e-9)


TIMED = ("adaptive_sde_ggf", "rk45", "scipy_rk45", "euler_maruyama", "reverse_diffusion")
IN_TIME = beyond("steps in t", *TIMED) | beyond("polynomials in t", "deis_tab1", "deis_tab2", "deis_tab3")
IN_TIME |= beyond("a chain", "annealed_langevin")


@pytest.mark.property(10, 11, beyond=IN_TIME)
@pytest.mark.parametrize("info", [info for info in ADAPTIVE if info.name not in IN_TIME], ids=named)
@few
@given(data=st.data())
def test_adaptive_steps_know_the_path_by_its_noise_levels_only(info: ss.SolverInfo, data: st.DataObject) -> None:
    """VP, and another path or another time at equal lam: x' = (alpha' / alpha) x. Tables: test_orders.py."""
    other = data.draw(turned(["ve", "edm", "subvp", "user", "flow"], info))
    own, lam, ends = ss.VPSDE(), np.array(LEVELS), []
    model = ss.ScoreModel(pointwise, own, predicts="data")
    for sde in (own, PROCESSES[other]):
        times = np.asarray(sde.time(lam))
        start = sde.sigma(times[0]) * normal(3, 2, seed=5)
        ends.append(Problem(sde, times, start, 1).run(info, model.on(sde)) / sde.alpha(times[-1]))
    assert near(*ends, 1e-6)
