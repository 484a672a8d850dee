"""Networks: conversions between predictions, time labels, views, guidance, counting, and what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, SMOOTH, CountingNet, mixture_2d
from recorder import Record
from torch import Tensor

import scoresolve as ss
from scoresolve.predictions import Prediction, truth
from scoresolve.watch import READ, Watch

PREDICTIONS = get_args(Prediction)


def _points(n: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _exact(kind: str, sde: ss.SDE, x: Tensor, t: float) -> Tensor:
    """Each prediction by its definition, from the exact denoiser."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    data = mixture_2d().denoise(x, alpha, sigma)
    noise = (x - alpha * data) / sigma
    return {
        "data": lambda: data,
        "noise": lambda: noise,
        "score": lambda: -noise / sigma,
        "v": lambda: alpha * noise - sigma * data,
        "flow": lambda: noise - data,
        "velocity": lambda: sde.alpha_rate(t) * data + sde.sigma_rate(t) * noise,
    }[kind]()


def _network(kind: str, sde: ss.SDE) -> ss.ScoreModel:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([_exact(kind, sde, row[None], float(u)) for row, u in zip(x, t, strict=True)])

    return ss.ScoreModel(net, sde, predicts=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("source", PREDICTIONS)
def test_every_prediction_converts_to_every_other(source: str, name: str) -> None:
    sde, x = PROCESSES[name], _points()
    model = _network(source, sde)
    for t in (0.05 * sde.t_max, 0.5 * sde.t_max, 0.99 * sde.t_max):
        for target in PREDICTIONS:
            expected = _exact(target, sde, x, t)
            scale = expected.abs().max().item()
            host = model.evaluate(x, t, target)
            tensor = model.evaluate(x, torch.full((7,), t, dtype=torch.float64), target)
            assert (host - expected).abs().max().item() < 1e-10 * scale
            assert (tensor - expected).abs().max().item() < 1e-10 * scale


def test_one_time_for_each_sample() -> None:
    sde, x = ss.SubVPSDE(), _points(3)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for kind in PREDICTIONS:
        together = getattr(_network(kind, sde), "velocity")(x, times)  # noqa: B009
        apart = torch.cat([_exact("velocity", sde, x[i : i + 1], float(times[i])) for i in range(3)])
        assert torch.allclose(together, apart, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("source", PREDICTIONS)
def test_conversions_stay_finite_at_both_ends(source: str) -> None:
    """Whatever a network determines at an end is finite there; what it does not is an error that says so."""
    net = lambda x, t: torch.full_like(x, 0.3)  # noqa: E731
    x = _points()
    flow = ss.ScoreModel(net, ss.RectifiedFlow(), predicts=source)  # type: ignore[arg-type]
    at_noise_zero = {
        "score": "data",
        "noise": "data",
        "data": "data",
        "v": "noise",
        "velocity": "noise",
        "flow": "noise",
    }[source]
    assert torch.isfinite(flow.evaluate(x, 0.0, at_noise_zero)).all()  # type: ignore[arg-type]
    assert torch.isfinite(flow.data(x, 0.0)).all()
    if source in ("noise", "score"):  # alpha = 0 at t = 1: noise says nothing about the data
        with pytest.raises(ValueError, match="does not determine the 'data' at t = 1"):
            flow.data(x, 1.0)
    else:
        assert all(torch.isfinite(flow.evaluate(x, 1.0, target)).all() for target in PREDICTIONS)
    edm = ss.ScoreModel(net, ss.EDM(), predicts=source)  # type: ignore[arg-type]
    assert torch.isfinite(edm.data(x, 0.0)).all()
    vp = ss.ScoreModel(net, ss.VPSDE(), predicts=source)  # type: ignore[arg-type]
    tiny = vp.evaluate(x.float(), 1e-6, "data")
    assert torch.isfinite(tiny).all()


@pytest.mark.property(26)
@given(
    process=st.sampled_from(SMOOTH),
    source=st.sampled_from(PREDICTIONS),
    fraction=st.floats(1e-3, 0.99),
    seed=st.integers(0, 10**6),
)
def test_score_is_tweedies_formula(process: str, source: str, fraction: float, seed: int) -> None:
    """score = (alpha data - x) / sigma^2 = grad log p, by automatic differentiation of the exact log-density."""
    sde = PROCESSES[process]
    t = fraction * sde.t_max
    law = mixture_2d().marginal(sde, t)
    x = law.sample(4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    found = _network(source, sde).score(x.detach(), t)
    assert (found - score).abs().max().item() < 1e-8 * (1 + score.abs().max().item())


@pytest.mark.parametrize("own", SMOOTH)
@pytest.mark.parametrize("other", SMOOTH)
def test_a_network_seen_along_another_process_is_the_exact_one_of_that_process(own: str, other: str) -> None:
    native, sde = PROCESSES[own], PROCESSES[other]
    view = mixture_2d().model(native).on(sde)
    exact = mixture_2d().model(sde)
    x = _points()
    for t in (view.t_eps * 1.01, 0.5 * view.t_max, view.t_max):
        for target in PREDICTIONS:
            expected = exact.evaluate(x, t, target)
            error = (view.evaluate(x, t, target) - expected).abs().max().item()
            assert error < 1e-9 * (1 + expected.abs().max().item()), (t, target)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_ve_and_vp_samples_coincide_to_1e_10(predicts: str) -> None:
    """x_vp = x_ve / sqrt(1 + sigma^2): the same samples on the same lam grid from a VE network on either path."""
    ve, vp = ss.VESDE(), ss.VPSDE()
    model = _network(predicts, ve)
    lam = np.linspace(-3.5, 3.0, 9)
    x = _points(4)
    for solver in ("ddim", "dpmpp_2m"):
        direct = ss.sample(model, start=x, solver=solver, grid=ve.time(lam)).samples
        start = x * vp.alpha(vp.time(-3.5))
        viewed = ss.sample(model.on(vp), start=start, solver=solver, grid=vp.time(lam)).samples
        assert (viewed / vp.alpha(vp.time(3.0)) - direct).abs().max().item() < 1e-10


def test_a_view_of_a_view_and_back_is_the_model() -> None:
    model, x = mixture_2d().model(ss.VPSDE()), _points()
    back = model.on(ss.EDM()).on(ss.VPSDE())
    assert torch.allclose(back.score(x, 0.4), model.score(x, 0.4), rtol=1e-9)
    assert model.on(ss.RectifiedFlow()).t_max == pytest.approx(ss.RectifiedFlow().time(ss.VPSDE().lam(1.0)))


@pytest.mark.parametrize(
    ("time", "expected", "dtype"),
    [
        ("t", 0.5, torch.float32),
        ("sigma", None, torch.float32),
        ("rho", None, torch.float32),
        ("lam", None, torch.float32),
        ("index", 499, torch.int64),
        ("fractional_index", 499.0, torch.float32),
        (lambda t: 1000 * t, 500.0, torch.float32),
    ],
)
def test_time_labels(time: object, expected: float | None, dtype: torch.dtype) -> None:
    sde = ss.DiscreteVPSDE.linear()
    seen: list[Tensor] = []
    net = lambda x, label: seen.append(label) or -x  # noqa: E731
    model = ss.ScoreModel(net, sde, predicts="noise", time=time)  # type: ignore[arg-type]
    x = torch.zeros(3, 2)
    model.score(x, 0.5)
    model.score(x, torch.full((3,), 0.5))
    expected = getattr(sde, str(time))(0.5) if expected is None else expected
    for label in seen:
        assert label.shape == (3,)
        assert label.dtype == dtype
        assert label.tolist() == pytest.approx([expected] * 3, rel=1e-6)


def test_whole_labels_of_a_function_stay_whole_and_others_do_not() -> None:
    table = torch.arange(1000.0)

    def told(time: object, x: Tensor, t: float | Tensor) -> list[torch.dtype]:
        seen: list[Tensor] = []
        model = ss.ScoreModel(lambda x, label: seen.append(label) or -x, ss.VPSDE(), time=time)  # type: ignore[arg-type]
        model.score(x, t)
        ss.sample(model, (2, 2), nfe=2, seed=0)
        ss.sample(model, (2, 2), solver="adaptive_abm", rtol=0.5, seed=0)
        assert all(label.shape == (2,) for label in seen)
        return sorted({label.dtype for label in seen}, key=str)

    x = torch.ones(2, 2)
    for t in (0.5, torch.tensor([0.5, 0.2])):
        assert told(lambda t: (999 * t).round().long(), x, t) == [torch.int64]
        assert told(lambda t: 999 * t, x, t) == [torch.float32]
        assert told(lambda t: 0, x, t) == [torch.float32]  # a number that nothing depends on
    looked_up = ss.ScoreModel(lambda x, i: table[i][:, None] * x, ss.VPSDE(), time=lambda t: (999 * t).round().long())
    assert looked_up.score(x, torch.tensor([0.5, 1.0])).tolist() == [[500.0] * 2, [999.0] * 2]


@pytest.mark.parametrize("time", [lambda t: None, lambda t: t[:, None], lambda t: t[:0], lambda t: "late"])
def test_a_function_that_gives_no_label_for_each_time_is_refused(time: object) -> None:
    with pytest.raises(TypeError, match=r"^time= must make of a float64 tensor of times \(n,\) labels \(n,\), got "):
        ss.ScoreModel(lambda x, t: -x, ss.VPSDE(), time=time)  # type: ignore[arg-type]


def test_the_note_of_a_network_that_does_not_take_its_arguments_says_how_it_is_called() -> None:
    class Labelled(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return x + label.upper()  # type: ignore[operator]

    def noted(model: ss.ScoreModel) -> str:
        with pytest.raises((TypeError, AttributeError)) as caught:
            model.score(torch.ones(2, 2), 0.5)
        return " ".join(caught.value.__notes__)

    for net in (Labelled(), Labelled().forward, lambda x: x):
        assert "called as net(x, t), t being" in noted(ss.ScoreModel(net, ss.VPSDE()))
    assert "net(x, t, lable=)" in noted(ss.ScoreModel(Labelled(), ss.VPSDE()).condition(lable=1))
    for inside in (Labelled(), lambda x, t, label: len(3)):  # type: ignore[arg-type]
        assert "called as" not in noted(ss.ScoreModel(inside, ss.VPSDE()).condition(label=torch.ones(2)))


@pytest.mark.parametrize(
    ("said", "meant"),
    [("epsilon", "noise"), ("x0", "data"), ("denoiser", "data"), ("sample", "data"), ("v_prediction", "v")],
)
def test_other_words_for_predictions_are_known(said: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"unknown prediction '{said}'; did you mean '{meant}'"):
        ss.ScoreModel(lambda x, t: x, ss.VPSDE(), predicts=said)  # type: ignore[arg-type]


def test_a_class_is_no_process() -> None:
    with pytest.raises(TypeError, match=r"such as ss.VPSDE\(\), got the class VPSDE"):
        ss.ScoreModel(lambda x, t: x, ss.VPSDE)  # type: ignore[arg-type]


def test_indices_are_no_times() -> None:
    model, x = ss.ScoreModel(lambda x, t: x, ss.DiscreteVPSDE.linear()), torch.ones(2, 2)
    told = r"t is torch.int64: give times, .* index i of a table of N is \(i \+ 1\) / N"
    indices = torch.tensor([600, 3])
    for call in (model.score, model.sde.marginal, lambda x, t: model.sde.perturb(x, t, noise=x)):
        with pytest.raises(TypeError, match=told):
            call(x, indices)  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"x0 is torch.uint8: make it floating"):
        model.sde.marginal(torch.full((2, 2), 200, dtype=torch.uint8), 0.5)


def test_at_time_zero_an_index_network_is_told_its_first_index() -> None:
    seen: list[int] = []
    model = ss.ScoreModel(
        lambda x, i: seen.append(int(i[0])) or -x, ss.DiscreteVPSDE.linear(), predicts="noise", time="index"
    )
    for t in (0.0, torch.tensor(0.0), torch.zeros(2)):
        model.noise(torch.ones(2, 2), t)
    assert seen == [0, 0, 0]


def test_index_labels_are_rounded_not_truncated() -> None:
    sde, seen = ss.DiscreteVPSDE.linear(), []
    model = ss.ScoreModel(lambda x, i: seen.append(int(i[0])) or -x, sde, predicts="noise", time="index")
    for i in range(1000):
        model.noise(torch.zeros(1, 1), (i + 1) / 1000)  # (i + 1) / 1000 * 1000 - 1 is often just below i
    assert seen == list(range(1000))
    seen.clear()
    model.noise(torch.zeros(1, 1), 0.4996)
    assert seen == [499]


def test_an_index_network_is_asked_at_whole_indices_of_exactly_its_noise_levels() -> None:
    sde, labels = ss.DiscreteVPSDE.linear(), []
    exact = mixture_2d().model(sde)

    def net(x: Tensor, index: Tensor) -> Tensor:
        labels.append(int(index[0]))
        return exact.noise(x, (index.double() + 1) / 1000)

    model = ss.ScoreModel(net, sde, predicts="noise", time="index")
    for grid in ("log_snr", "uniform"):
        labels.clear()
        solution = ss.sample(model, (4, 2), solver="dpmpp_2m", nfe=50, grid=grid, seed=0, dtype=torch.float64)
        assert labels == np.rint(solution.times[:-1] * 1000 - 1).astype(int).tolist()
        assert len(set(labels)) == 50
        # the label carries the noise level: the same as the exact network told the exact time
        same = ss.sample(exact, (4, 2), solver="dpmpp_2m", grid=solution.times, seed=0, dtype=torch.float64)
        assert torch.allclose(solution.samples, same.samples, rtol=1e-12)
    with pytest.raises(ValueError, match="do not fit on a table of 1000"):
        ss.sample(model, (1, 2), steps=1001, solver="ddim")
    assert ss.sample(model, (1, 2), nfe=2000, solver="heun", seed=0).nfe == 1999  # as many as the table has room for
    full = ss.sample(model, (1, 2), steps=1000, solver="ddpm", seed=0)
    assert np.allclose(full.times, np.arange(1000, -1, -1) / 1000)


def test_an_index_network_asked_between_its_indices_is_warned_about() -> None:
    model = ss.ScoreModel(lambda x, index: -x, ss.DiscreteVPSDE.linear(), predicts="noise", time="index")
    with pytest.warns(UserWarning, match="time='fractional_index'"):
        ss.sample(model, (1, 2), grid=[1.0, 0.5004, 0.1], seed=0)
    with pytest.warns(UserWarning, match="'rk45' asks the network at times between the indices"):
        ss.sample(model, (1, 2), solver="rk45", rtol=0.1, atol=0.1, seed=0)
    with pytest.warns(UserWarning, match="times between the indices"):
        assert ss.sample(model.on(ss.EDM()), (1, 2), nfe=4, seed=0).nfe == 4
    ss.sample(model, (1, 2), grid=[1.0, 0.5, 0.1], seed=0)  # on indices: no warning


def test_conditioning_given_after_guidance_is_that_of_both_halves() -> None:
    """But for what the unconditional half has instead; new names as well."""
    net = lambda x, t, label, size, more=0.0: x + label[:, None] + 10 * size[:, None] + more  # noqa: E731
    model = ss.ScoreModel(net, ss.VPSDE()).condition(label=torch.ones(2), size=torch.ones(2))
    given = {"label": torch.full((2,), 3.0), "size": torch.full((2,), 5.0), "more": 0.5}
    x = torch.zeros(2, 1)
    after = model.guide(2.0, label=torch.zeros(1)).condition(**given)
    assert after.score(x, 0.5).tolist() == [[2 * 53.5 - 50.5]] * 2
    assert torch.equal(model.condition(**given).guide(2.0, label=torch.zeros(1)).score(x, 0.5), after.score(x, 0.5))


def test_conditioning_in_lists_and_tuples_goes_with_its_samples_and_is_stacked() -> None:
    class Pair(NamedTuple):
        first: Tensor
        second: Tensor

    def net(x: Tensor, t: Tensor, both: Any) -> Tensor:
        assert type(both) in (list, tuple, Pair)
        return (both[0] - both[1])[:, None] * x

    rows, x = torch.arange(5.0), torch.ones(5, 1)
    for both in ([rows, 2 * rows], (rows, 2 * rows), Pair(rows, 2 * rows)):
        model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise").condition(both=both)
        for one in (model, model.guide(2.0, both=both), model.guide(3.0, both=[rows[:1], rows[:1]])):
            whole = ss.sample(one, (5, 1), nfe=3, seed=0).samples
            assert torch.equal(ss.sample(one, (5, 1), nfe=3, seed=0, batch_size=2).samples, whole)
        assert model.guide(3.0, both=[rows[:1], rows[:1]]).noise(x, 0.5).flatten().tolist() == (-3 * rows).tolist()


def test_conditioning_is_passed_through_and_guidance_combines() -> None:
    calls: list[tuple[int, dict[str, object]]] = []

    def net(x: Tensor, t: Tensor, *, label: Tensor, strength: float) -> Tensor:
        calls.append((x.shape[0], {"label": label, "strength": strength}))
        return strength * label[:, None] * torch.ones_like(x)

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise")
    x, label = torch.zeros(4, 2), torch.tensor([1.0, 2.0, 3.0, 4.0])
    conditioned = model.condition(label=label, strength=2.0)
    assert torch.equal(conditioned.noise(x, 0.5)[:, 0], 2 * label)
    for scale in (0.0, 1.0, 7.5):
        calls.clear()
        guided = conditioned.guide(scale, label=torch.tensor([0.5]))
        assert torch.allclose(guided.noise(x, 0.5)[:, 0], 2 * (0.5 + scale * (label - 0.5)))
        assert [rows for rows, _ in calls] == [8]
    each, rows = conditioned.guide(3.0, label=label.flip(0)), torch.tensor([3, 1])
    assert torch.equal(each.take(rows, 4).noise(x[rows], 0.5), each.noise(x, 0.5)[rows])
    assert model.conditioning == {}  # views do not change the model they are of
    with pytest.raises(ValueError, match="stack the conditioning 'strength'"):
        conditioned.guide(2.0, strength=0.0).noise(x, 0.5)
    with pytest.raises(ValueError, match="unconditional values for"):
        conditioned.guide(2.0, class_=0)
    with pytest.raises(ValueError, match=r"what the unconditional half is given, such as .*, got nothing"):
        conditioned.guide(2.0)
    nested = model.condition(text={"emb": label})
    with pytest.raises(ValueError, match=r"unconditional values for \['emb'\] in 'text', got \['embed'\] as well"):
        nested.guide(2.0, text={"embed": label})
    with pytest.raises(ValueError, match=r"unconditional half is given in 'text'.* got nothing"):
        nested.guide(2.0, text={})
    with pytest.raises(TypeError, match=r"^scale must be a number, got 'high'"):
        conditioned.guide("high")  # type: ignore[arg-type]


def test_calls_are_counted_once_for_the_model_and_all_its_views() -> None:
    model = mixture_2d().model(ss.VPSDE())
    x = _points()
    model.score(x, 0.5)
    model.on(ss.VESDE()).data(x, 0.5)
    solution = ss.sample(model, (3, 2), nfe=5, seed=0)
    assert solution.nfe == 5
    assert model.nfe == 7


def test_a_half_precision_network_is_cast_at_its_door_only() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
            self.seen: set[tuple[torch.dtype, torch.dtype]] = set()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.seen.add((x.dtype, t.dtype))
            return self.layer(x)

    with torch.random.fork_rng():
        net = Half()
    for dtype in (torch.float32, torch.float64):
        solution = ss.sample(ss.ScoreModel(net, ss.VPSDE(), predicts="v"), (3, 2), nfe=4, dtype=dtype, seed=0)
        assert solution.samples.dtype == dtype
    assert net.seen == {(torch.bfloat16, torch.float32)}


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x, t: x[:, :1], r"returned shape \(3, 1\) for an input of shape \(3, 2\)"),  # would broadcast
        (lambda x, t: x[0], r"returned shape \(2,\)"),
        (lambda x, t: x.mean(), r"returned shape \(\)"),
        (lambda x, t: x.long(), "torch.int64"),
        (lambda x, t: torch.complex(x, x), "complex"),
        (lambda x, t: None, "returned NoneType"),
        (lambda x, t: (x, x), "returned tuple"),
        (lambda x, t: x.mul_(2.0), "wrote into its input"),
    ],
)
def test_bad_network_outputs_are_named_with_step_and_time(net: object, message: str) -> None:
    model = ss.ScoreModel(net, ss.VPSDE(), predicts="data")  # type: ignore[arg-type]
    with pytest.raises(ss.NetworkOutputError, match=message) as caught:
        ss.sample(model, (3, 2), nfe=5, seed=0)
    assert "network call 1 (step 0, t = 1)" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ss.ScoreSolveError)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [1, 4, 7])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ddpm", "annealed_langevin", "rk45", "scipy_rk45"])
def test_non_finite_outputs_are_named_with_call_time_and_samples(solver: str, at: int, bad: float) -> None:
    calls = 0

    def net(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = -x.clone()
        if calls == at:
            out[1, 0] = bad
        return out

    budget = {} if solver.endswith("rk45") else {"nfe": 8}
    with pytest.raises(ss.NonFiniteError, match=rf"network call {at} \(step \d+, t = .*1 of 3 samples \(1\)"):
        ss.sample(ss.ScoreModel(net, ss.VPSDE()), (3, 2), solver=solver, seed=0, **budget)
    assert calls <= at + READ  # little work after it


def test_a_solution_that_ran_away_is_told_from_a_network_that_is_wrong() -> None:
    """A cubic network feeds on its own answers, until they overflow; the same one, thresholded, does not."""
    model = ss.ScoreModel(lambda x, t: -50 * x**3, ss.VPSDE())
    with pytest.raises(ss.NonFiniteError, match=r"4 of 4 .*had grown to \S+ the call before, so the solution ran away"):
        ss.sample(model, (4, 3), solver="euler", nfe=12, seed=0)
    assert ss.sample(ss.threshold(model), (4, 3), solver="euler", nfe=12, seed=0).samples.isfinite().all()
    with pytest.raises(ss.NonFiniteError, match="check the network at that time"):
        ss.sample(ss.ScoreModel(lambda x, t: x / 0, ss.VPSDE()), (4, 3), solver="euler", nfe=12, seed=0)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_on_a_device_the_check_is_deferred_and_names_the_first_bad_call(at: int) -> None:
    """What an accelerator does: nothing is read on the way, and the end names call, time and sample."""
    calls = 0

    def net(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where((torch.arange(4) == 2) & (calls >= at), torch.nan, -x)

    watch = Watch(on_nonfinite="raise", deferred=True)
    model = ss.ScoreModel(net, ss.VPSDE()).session(watch)
    table = ss.build_table("ddim", ss.VPSDE(), np.linspace(1.0, 0.01, 6))
    final, _ = table.run(model, torch.zeros(4), ss.SampleStreams(0, range(4)))
    assert calls == 5
    with pytest.raises(ss.NonFiniteError, match=rf"network call {at} \(step {at - 1}, t = .*1 of 4 samples \(2\)"):
        watch.close(final)
    watch.close(torch.zeros(4))  # read once


def test_a_guided_sample_that_goes_wrong_is_named_by_its_own_index() -> None:
    def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where((label == 9)[:, None] & (torch.arange(len(x)) == 4)[:, None], torch.nan, -x)

    model = ss.ScoreModel(net, ss.VPSDE()).condition(label=torch.zeros(3)).guide(2.0, label=torch.tensor([9.0]))
    with pytest.raises(ss.NonFiniteError, match=r"1 of 3 samples \(1\)"):  # row 4 of the doubled batch of 6
        ss.sample(model, (3, 2), nfe=2, seed=0)


def test_samples_may_be_single_numbers() -> None:
    model = ss.ScoreModel(lambda x, t: -x, ss.VPSDE())
    for solver in ("dpmpp_2m", "ddpm", "rk45", "scipy_rk45", "annealed_langevin"):
        budget = {} if solver.endswith("rk45") else {"nfe": 6}
        assert ss.sample(model, (5,), solver=solver, seed=0, **budget).samples.shape == (5,)
    assert ss.sample(model, (5,), solver="ddpm", nfe=6, corrector="langevin", seed=0).samples.shape == (5,)


def test_a_sum_that_overflows_is_not_mistaken_for_an_infinity() -> None:
    """Answers in half precision have sums beyond its range."""
    model = ss.ScoreModel(lambda x, t: torch.full_like(x, 6e4).half(), ss.RectifiedFlow(), predicts="velocity")
    assert torch.isfinite(ss.sample(model, (4, 8), solver="euler", steps=2, clock="t", seed=0).samples).all()


def test_an_infinite_answer_that_leaves_no_trace_in_the_end_is_named() -> None:
    """The first answer of a step says where the second is asked, and a bounded network is finite there."""
    answers = iter([math.inf, 0.0])
    model = ss.ScoreModel(lambda x, t: torch.tanh(x) + next(answers), ss.VPSDE(), predicts="noise")
    with pytest.raises(ss.NonFiniteError, match="network call 1"):
        ss.sample(model, (4, 8), solver="dpm_solver_2s", steps=1, seed=0)


def test_a_network_with_other_arguments_is_told_how_it_is_called() -> None:
    model = ss.ScoreModel(lambda x: -x, ss.VPSDE()).condition(label=1)
    with pytest.raises(TypeError, match=r"positional argument|keyword argument") as caught:
        ss.sample(model, (2, 2), nfe=2, seed=0)
    assert "net(x, t, label=)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda net: ss.ScoreModel(net, ss.VPSDE(), predicts="eps"), ValueError, "unknown prediction 'eps'"),
        (lambda net: ss.ScoreModel(net, ss.VPSDE(), predicts="velocty"), ValueError, "did you mean 'velocity'"),
        (lambda net: ss.ScoreModel(net, ss.VPSDE(), time="sgima"), ValueError, "did you mean 'sigma'"),
        (lambda net: ss.ScoreModel(net, ss.VPSDE(), time="index"), ValueError, "needs a table of betas"),
        (lambda net: ss.ScoreModel(3, ss.VPSDE()), TypeError, "net must be callable"),
        (lambda net: ss.ScoreModel(net, 0.5), TypeError, "forward process"),
    ],
)
def test_bad_models_are_refused(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(lambda x, t: x)  # type: ignore[operator]


@pytest.mark.property(34, every=True)
def test_the_reported_nfe_is_what_a_counting_network_sees() -> None:
    """For every solver, with and without corrector and guidance; guidance doubles the rows, not the calls."""
    sde, law = ss.VPSDE(), mixture_2d()
    exact = law.model(sde)
    for info in ss.solvers():
        one_step = info.name in ("ddim", "ddpm", "reverse_diffusion", "euler_maruyama", "euler", "heun")
        for corrector in (None, "langevin") if one_step else (None,):
            for guided in (False, True):
                net = CountingNet(lambda x, t, label: exact.data(x, t))
                model = ss.ScoreModel(net, sde, predicts="data").condition(label=torch.zeros(3))
                model = model.guide(1.5, label=torch.ones(1)) if guided else model
                budget = {} if info.adaptive else {"nfe": 13}
                solution = ss.sample(model, (3, 2), solver=info.name, corrector=corrector, seed=0, **budget)
                assert solution.nfe == len(net.rows) == model.nfe
                rows = int(solution.nfe_per_sample.sum()) * (1 + guided)
                assert solution.stats["network_rows"] == sum(net.rows) == rows
                assert info.adaptive or rows == 3 * (1 + guided) * len(net.rows)
                assert info.adaptive or solution.nfe <= 13


@pytest.mark.parametrize("name", PROCESSES)
def test_a_law_of_one_point_is_answered_with_the_truth(name: str) -> None:
    """Every prediction by its method, and the training's target, at a time for each sample."""
    sde, x0, noise = PROCESSES[name], _points(5, 1), _points(5, 2)
    t = sde.t_max * torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    x = sde.perturb(x0, t, noise)
    model = ss.ScoreModel(lambda y, label: x0, sde, predicts="data")
    for kind in ("score", "noise", "data", "v", "velocity"):
        torch.testing.assert_close(getattr(model, kind)(x, t), truth(kind, sde, t, x0, noise), rtol=1e-9, atol=1e-9)


def test_a_model_tells_what_its_network_is_asked_and_is_called() -> None:
    """On another process: its own x, and the label of its own time in at least float32."""
    seen: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, label: Tensor) -> Tensor:
        seen.append((x, label))
        return x

    model = ss.ScoreModel(net, ss.EDM(), predicts="data", time="rho")
    assert repr(model) == "ScoreModel(net, EDM(sigma_min=0.002, sigma_max=80.0), predicts='data', time='rho')"
    view, x = model.on(ss.VPSDE()), _points(3)
    for t in (0.4, torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)):
        view.data(x, t)
        for told, was in zip(view.asked(x, t), seen.pop(), strict=True):
            assert told.dtype == was.dtype == torch.float64
            assert torch.equal(told, was)


def test_labels_are_where_the_state_is() -> None:
    x, model = torch.empty(3, 2, device="meta"), ss.ScoreModel(lambda x, t: x, ss.VPSDE())
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.1, 0.5, 0.9])):
        assert {told.device.type for told in model.asked(x, t)} == {"meta"}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_view_along_an_equal_process_has_its_interval_exactly(name: str) -> None:
    sde, same = PROCESSES[name], copy.copy(PROCESSES[name])
    view = ss.ScoreModel(lambda x, t: x, sde).on(same)
    assert (view.t_max, view.t_min, view.t_eps) == (sde.t_max, sde.t_min, sde.t_eps)


class Shift(ss.Refinement):
    """Adds numbers of each sample's own."""

    needs_signal = True

    def __init__(self, by: Tensor) -> None:
        self.by = by

    def __call__(self, x: Tensor, data: Tensor, t: float | Tensor, model: ss.ScoreModel) -> Tensor:
        return data + self.by


def test_refinements_follow_their_samples_and_end_where_there_is_signal() -> None:
    model, x, by = mixture_2d().model(ss.RectifiedFlow()), _points(4), _points(4, 1)
    view = model.refine(Shift(by))
    assert view.t_max == pytest.approx(1000 / 1001, rel=1e-12)
    assert model.refine(Shift(by)).refine(Shift(by)).t_max == view.t_max
    assert mixture_2d().model(ss.VPSDE()).refine(Shift(by)).t_max == 1.0
    path = ss.GaussianPath(lambda t: 1 - t, lambda t: t)
    for sde in (ss.RectifiedFlow(), path):  # whichever comes first
        assert view.on(sde).t_max == model.on(sde).refine(Shift(by)).t_max == pytest.approx(view.t_max, rel=1e-12)
    rows = torch.tensor([3, 1])
    assert torch.allclose(view.take(rows, 4).data(x[rows], 0.5), model.data(x[rows], 0.5) + by[rows])


@pytest.mark.parametrize("name", PROCESSES)
def test_a_network_is_told_the_times_of_its_own_process_as_they_are(name: str) -> None:
    """To the bit, not by way of lam and back; a function of them is asked once for host times, and kept as numbers."""
    seen: list[Tensor] = []
    net = lambda x, label: seen.append(label) or x  # noqa: E731
    for t in PROCESSES[name].t_max * np.linspace(0.1, 0.9, 7):
        ss.ScoreModel(net, PROCESSES[name], predicts="data").data(_points(2), float(t))
        assert seen.pop().tolist() == [t, t]
    told = ss.ScoreModel(net, PROCESSES[name], predicts="data", time=lambda t: 2 * t).planned(0.3, "data")
    assert told[3] == 0.6
    assert all(isinstance(value, float) for value in told)


def test_a_label_that_is_a_number_keeps_its_digits() -> None:
    seen: list[Tensor] = []
    model = ss.ScoreModel(lambda x, label: seen.append(label) or x, ss.VPSDE(), time=lambda t: 0.1)
    model.score(_points(3), 0.5)
    assert torch.equal(seen[0], torch.full((3,), 0.1, dtype=torch.float64))


def test_a_view_along_a_scaled_path_asks_at_the_networks_own_scale_and_levels() -> None:
    """On x' = c x: at c = 1/2 the network sees 2 x'. Where it ends is a matter of sigma / alpha, whatever c is."""
    edm, x = mixture_2d().model(ss.EDM()), _points()
    half = ss.GaussianPath(lambda t: 0.5, lambda t: 0.5 * t, t_min=0.0, t_max=80.0)
    assert torch.allclose(edm.on(half).data(x / 2, 2.0), edm.data(x, 2.0), rtol=1e-12)
    assert torch.allclose(edm.on(half).data(x / 2, torch.full((7,), 2.0)), edm.data(x, 2.0), rtol=1e-12)
    assert edm.on(half).t_min == 0.0  # not the root of a search
    ends_at_1 = ss.ScoreModel(lambda x, t: x, ss.GaussianPath(lambda t: 1.0, lambda t: t, t_min=1.0, t_max=80.0))
    assert ends_at_1.on(half).t_min == pytest.approx(1.0, rel=1e-12)
    ten = ss.GaussianPath(lambda t: 10.0, lambda t: 10 * t, t_min=0.002)
    view = ss.ScoreModel(lambda x, t: x, ss.VESDE()).on(ten)
    assert view.t_min == view.t_eps == pytest.approx(ss.VESDE().rho(1e-5), rel=1e-12)  # sigma is 0.02 at 0.002


def test_what_the_network_itself_predicts_costs_no_arithmetic() -> None:
    answer, x = _points(), _points(seed=1)
    for predicts in get_args(Prediction):
        model = ss.ScoreModel(lambda x, t: answer, ss.VPSDE(), predicts=predicts).session(Watch())
        model.prepare([0.5], predicts)
        with Record() as recorded:
            found = model.evaluate(x, 0.5, predicts)
        assert torch.equal(found, answer)
        assert not [func for func, *_ in recorded.steps if str(func).startswith(("aten.mul", "aten.add"))]
