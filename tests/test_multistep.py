"""Order conditions on the host: tables run on outputs that are polynomials of the clock, without a network."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import PROCESSES, interval
from scipy.integrate import quad

import scoresolve as ss
from scoresolve.forms import Form, data_form, flow_form, noise_form, velocity_form
from scoresolve.multistep import RULES, Corrector, Multistep
from scoresolve.sde import Point
from scoresolve.single_step import (
    BOGACKI,
    EULER,
    FOUR_STAGE,
    HEUN,
    KUTTA,
    MIDPOINT,
    THREE_STAGE,
    TWO_STAGE,
    Scheme,
    single_step_rows,
)
from scoresolve.solvers.sa import er_profile

VP = PROCESSES["vp"]
FORMS = {
    "data": data_form(VP),
    "data at eta 1": data_form(VP, 1.0),
    "data at eta 0.4": data_form(VP, 0.4),
    "data of a profile, in rho": data_form(VP, clock="rho", profile=er_profile),
    "noise": noise_form(VP),
    "noise at eta 0.4": noise_form(VP, 0.4),
    "noise at eta 1": noise_form(VP, 1.0),
    "noise in rho": noise_form(VP, clock="rho"),
    "noise in t": noise_form(VP, clock="t"),
    "velocity": velocity_form(VP),
    "flow": flow_form(VP),
}


def _grid(steps: int = 9, sde: ss.SDE = VP) -> np.ndarray:
    """Uneven steps."""
    lam = np.linspace(-2.0, 2.0, steps + 1)
    lam[1:-1] += 0.08 * np.sin(3.0 * np.arange(1, steps))
    return np.asarray(sde.time(lam))


def _integral(form: Form, here: Point, there: Point, function: object) -> float:
    """``int kernel(v) f(u(v)) dv`` by adaptive quadrature, written from the definitions and not by ``Form.weights``."""

    def places(v: float) -> Point:
        lam = {"lam": lambda: v, "rho": lambda: -math.log(v), "flow": lambda: math.log((1 - v) / v)}
        t = v if form.measure == "t" else VP.time(lam[form.measure]())
        return VP.points(np.array([t]))[0]

    places_of = {"t": lambda p: p.t, "lam": lambda p: p.lam, "rho": lambda p: p.sigma / p.alpha}
    places_of["flow"] = lambda p: p.sigma / (p.alpha + p.sigma)
    limits = [places_of[form.measure](p) for p in (here, there)]
    value, _ = quad(
        lambda v: float(form.kernel(np.array([v]), there)[0]) * function(form.place(places(v))),  # type: ignore[operator]
        *limits,
        epsabs=1e-13,
        epsrel=1e-12,
    )
    return float(value)


def _propagate(form: Form, times: np.ndarray, function: object) -> float:
    """The exact end of ``x = gain x + int kernel f`` from x = 0, step by step."""
    x = 0.0
    for here, there in pairwise(VP.points(times)):
        x = form.step(here, there)[0] * x + _integral(form, here, there, function)
    return x


def _run(rows: list[ss.Row], form: Form, function: object) -> float:
    """The rows on outputs f(u) that depend on the time alone, from x = 0 and without noise."""
    x, outputs = 0.0, []
    for row in rows:
        outputs.insert(0, function(form.place(VP.points(np.array([row.t]))[0])))  # type: ignore[operator]
        x = sum(w * r for w, r in zip(row.commit, [x, *outputs], strict=False))
    return x


@pytest.mark.parametrize("name", FORMS)
def test_the_step_of_a_constant_output_is_the_kernels_integral(name: str) -> None:
    form = FORMS[name]
    here, there = VP.points(_grid())[2:4]
    gain, whole, noise = form.step(here, there)
    assert whole == pytest.approx(_integral(form, here, there, lambda u: 1.0), rel=1e-11)
    if "data" in name:  # what keeps x = alpha D + sigma eps at its level
        assert gain * here.alpha + whole == pytest.approx(there.alpha, rel=1e-12)
        assert (gain * here.sigma) ** 2 + noise**2 == pytest.approx(there.sigma**2, rel=1e-12) or form.eta == 0
    middle = VP.points(np.array([0.5 * (here.t + there.t)]))[0]
    first, second = form.step(here, middle), form.step(middle, there)
    assert first[0] * second[0] == pytest.approx(gain, rel=1e-12)
    assert (second[0] * first[2]) ** 2 + second[2] ** 2 == pytest.approx(noise**2, rel=1e-11, abs=1e-30)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FORMS)
def test_exact_rules_integrate_polynomials_exactly(name: str, order: int) -> None:
    """Steps with a full history reproduce the integral of u^k, k below the order, to 1e-11; not that of u^order."""
    form, times = FORMS[name], _grid()
    points = VP.points(times)
    here, there = points[5], points[6]
    nodes = [points[5 - j] for j in range(order)]
    weights = RULES["exact"](form, nodes, here, there)
    for k in range(order + 1):
        exact = _integral(form, here, there, lambda u, k=k: u**k)
        found = sum(w * form.place(node) ** k for w, node in zip(weights, nodes, strict=True))
        scale = max(1.0, max(abs(form.place(node)) for node in nodes) ** k)
        assert (abs(found - exact) < 1e-11 * scale) == (k < order), (k, found - exact)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_whole_table_reproduces_the_integral(order: int, corrected: bool) -> None:
    """With a history that is right from the first step on (constant before it), all degrees below the order."""
    form, times = FORMS["data"], _grid(12)
    corrector = Corrector(RULES["exact"], order + 1) if corrected else None
    rows = Multistep.started(lambda _: form, order, RULES["exact"], corrector).rows(VP, times)
    later = 2 * order  # the first steps, of lower order, end here: the rest starts from their end
    for k in range(order):
        function = lambda lam, k=k: (lam / 2) ** k  # noqa: E731
        at = float(_run(rows[:later], form, function))
        exact = at
        for here, there in list(pairwise(VP.points(times)))[later:]:
            exact = form.step(here, there)[0] * exact + _integral(form, here, there, function)
        # (what a corrector adds is zero at these degrees)
        assert _run(rows, form, function) == pytest.approx(exact, abs=2e-11)


@pytest.mark.parametrize("name", ["data", "noise", "noise in rho", "velocity"])
def test_a_high_start_keeps_the_order_and_a_low_one_spoils_it(name: str) -> None:
    """On an output that is no polynomial: three outputs, order 3; from a low start the error is larger."""
    form, errors = FORMS[name], {"low": [], "high": []}
    function = lambda u: math.sin(2 * u + 0.3)  # noqa: E731
    for steps in (64, 128):
        times = np.asarray(VP.time(np.linspace(-1.0, 0.2, steps + 1)))
        for start, found in errors.items():
            method = Multistep.started(lambda _: form, 3, RULES["exact"], start=start)  # type: ignore[arg-type]
            found.append(abs(_run(method.rows(VP, times), form, function) - _propagate(form, times, function)))
    assert math.log2(errors["high"][0] / errors["high"][1]) == pytest.approx(3, abs=0.35)
    assert errors["low"][1] > 3 * errors["high"][1]


@pytest.mark.parametrize("name", ["bh1", "bh2", "published"])
@pytest.mark.parametrize("form", ["data", "data at eta 1", "noise"])
def test_named_rules_are_exact_for_a_constant_and_one_order_short_after_it(name: str, form: str) -> None:
    """Two nodes: O(h^3) off for u. Three: bh1 and bh2 are the exact rule, the published one is O(h^3) off for u^2."""
    chosen = FORMS[form]
    errors: dict[int, list[float]] = {2: [], 3: []}
    for h in (0.2, 0.1):
        lam = np.array([1.4, 1.3, 1.0, 0.0]) * h + 0.3
        there, *nodes = VP.points(np.asarray(VP.time(lam)))
        for count, found in errors.items():
            weights = RULES[name](chosen, nodes[:count], nodes[0], there)
            assert weights.sum() == pytest.approx(chosen.step(nodes[0], there)[1], rel=1e-12)
            exact = RULES["exact"](chosen, nodes[:count], nodes[0], there)
            values = np.array([(node.lam - nodes[0].lam) ** (count - 1) for node in nodes[:count]])
            found.append(float(abs((weights - exact) @ values)))
    assert math.log2(errors[2][0] / errors[2][1]) == pytest.approx(3, abs=0.2)
    if name == "published":
        assert math.log2(errors[3][0] / errors[3][1]) == pytest.approx(3, abs=0.2)
    else:
        assert errors[3][0] < 1e-15


def test_published_weights_of_three_outputs_are_the_papers() -> None:
    """DPM-Solver++(3M) as printed, on uneven steps: D_1 by the differences' differences, D_2 without its factor 2."""
    third, second, first, there = VP.points(_grid())[2:6]
    h, last, before = (b.lam - a.lam for a, b in ((first, there), (second, first), (third, second)))
    r0, r1 = last / h, before / h
    newest, older = np.array([1.0, -1.0, 0.0]) / r0, np.array([0.0, 1.0, -1.0]) / r1
    slope, curvature = newest + r0 / (r0 + r1) * (newest - older), (newest - older) / (r0 + r1)
    phi = np.expm1(-h)
    expected = there.alpha * (
        -phi * np.array([1.0, 0.0, 0.0]) + (phi / h + 1) * slope - ((phi + h) / h**2 - 0.5) * curvature
    )
    found = RULES["published"](FORMS["data"], [first, second, third], first, there)
    assert found == pytest.approx(expected, rel=1e-11)


def test_adams_weights_are_the_exact_ones_of_equal_steps() -> None:
    form = FORMS["noise in rho"]
    there, *nodes = VP.points(np.asarray(VP.time(-np.log(np.array([1.0, 1.2, 1.4, 1.6, 1.8])))))
    for count in (1, 2, 3, 4):
        found = RULES["adams"](form, nodes[:count], nodes[0], there)
        assert found == pytest.approx(RULES["exact"](form, nodes[:count], nodes[0], there), rel=1e-9)


# -- single steps ---------------------------------------------------------------------------------------------------

CLASSICAL = {
    "euler": (EULER, [[]], [1]),
    "midpoint": (MIDPOINT, [[], [1 / 2]], [0, 1]),
    "heun": (HEUN, [[], [1]], [1 / 2, 1 / 2]),
    "two stages": (TWO_STAGE, [[], [1 / 2]], [0, 1]),
    "heun 3": (THREE_STAGE, [[], [1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4]),
    "kutta 3": (KUTTA, [[], [1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6]),
    "bogacki shampine": (BOGACKI, [[], [1 / 2], [0, 3 / 4]], [2 / 9, 1 / 3, 4 / 9]),
    "rk4": (FOUR_STAGE, [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


@pytest.mark.parametrize("form", ["noise in rho", "velocity"])
@pytest.mark.parametrize("name", CLASSICAL)
def test_schemes_are_the_classical_tableaus_where_the_kernel_is_constant(name: str, form: str) -> None:
    scheme, stages, ends = CLASSICAL[name]
    here, there = VP.points(np.array([0.7, 0.6]))
    chosen = FORMS[form]
    rows = single_step_rows(chosen, scheme, here, there)
    assert len(rows) == len(scheme) == len(ends)
    _, whole, _ = chosen.step(here, there)
    reached = [*(VP.alpha(row.t) for row in rows[1:]), there.alpha]  # a step in rho is one of x / alpha
    for row, weights, alpha in zip(rows, [*stages[1:], ends], reached, strict=True):
        found = (row.propose if row.s is None else row.commit)[1:][::-1]
        found = (*[0.0] * (len(weights) - len(found)), *found)
        scale = whole * alpha / there.alpha if form != "velocity" else whole
        assert found == pytest.approx([w * scale for w in weights], abs=1e-12 * abs(whole))


@pytest.mark.parametrize("scheme", [TWO_STAGE, THREE_STAGE, MIDPOINT], ids=["2", "3", "midpoint"])
def test_the_noise_of_a_stochastic_step_is_that_of_one_path(scheme: Scheme) -> None:
    """Variances at each stage and covariances between stages are those of the linear SDE's own noise."""
    form = FORMS["data at eta 1"]
    here, there = VP.points(np.array([0.7, 0.5]))
    rows = single_step_rows(form, scheme, here, there)
    reached = [*(VP.points(np.array([row.t]))[0] for row in rows[1:]), there]
    drawn = [np.zeros(len(rows)) for _ in rows]
    for k, row in enumerate(rows):
        for age, weight in enumerate(row.noise or row.propose_noise):
            drawn[k][k - age] = weight
    for k, (a, point) in enumerate(zip(drawn, reached, strict=True)):
        assert a @ a == pytest.approx(form.step(here, point)[2] ** 2, rel=1e-12)
        for b, later in zip(drawn[k:], reached[k:], strict=True):
            assert a @ b == pytest.approx(form.step(point, later)[0] * form.step(here, point)[2] ** 2, rel=1e-12)


def test_res_fulfils_the_stiff_order_conditions() -> None:
    """sum b = phi_1, sum b c = phi_2, and sum b c^2 = 2 phi_3 in the limit; rows of weights sum to their own phi_1."""
    for h in (0.01, 2.0):
        here, there = (VP.points(np.array([VP.time(lam)]))[0] for lam in (0.2, 0.2 + h))
        table = ss.build_table("res_3s", VP, np.array([here.t, there.t]))
        b3, b2, b1 = (w / (there.alpha * h) for w in table.rows[2].commit[1:])
        phi1 = -math.expm1(-h) / h
        phi2 = (1 - phi1) / h  # of -h: int_0^1 e^{-(1-s)h} s ds
        phi3 = (0.5 - phi2) / h
        assert b1 + b2 + b3 == pytest.approx(phi1, rel=1e-10)
        assert 0.5 * b2 + b3 == pytest.approx(phi2, rel=1e-9)
        if h < 0.1:
            assert 0.25 * b2 + b3 == pytest.approx(2 * phi3, rel=0.01)


@pytest.mark.parametrize("sde", [PROCESSES["edm"], PROCESSES["flow"]], ids=["edm", "flow"])
def test_a_form_has_no_higher_order_where_its_clock_is_infinite(sde: ss.SDE) -> None:
    first, last = sde.points(np.array([sde.t_max, 0.0]))
    inner = sde.points(np.array([sde.time(0.0)]))[0]
    assert not data_form(sde).within(inner, last)
    assert noise_form(sde, clock="rho").within(inner, last)
    assert velocity_form(sde).within(first, last)
    assert data_form(sde).within(first, inner) == (first.alpha > 0)


def test_a_start_without_signal_asks_for_the_data_and_forgets_it() -> None:
    sde = PROCESSES["flow"]
    times = ss.grids.uniform(sde, 6, 1.0, 0.0)
    table = ss.build_table("lms_3", sde, times)
    assert [row.asks for row in table.rows] == ["data", *[None] * 5]
    assert [len(row.commit) for row in table.rows] == [2, 2, 3, 4, 4, 2]
    full = ss.build_table("lms_3", sde, times, lower_order_final=False)
    assert len(full.rows[-1].commit) == 4  # in rho the step to noise zero may keep its order
    assert [len(row.commit) for row in ss.build_table("lms_3", sde, times[:-1], lower_order_final=True).rows] == [
        2,
        2,
        3,
        3,
        2,
    ]


@pytest.mark.parametrize("name", ["exponential_4", "unipc_3", "deis_tab2", "lms_4", "pndm", "velocity_ab4"])
def test_multistep_tables_are_stable_when_printed_and_as_long_as_their_history(name: str) -> None:
    sde = PROCESSES["vp"]
    table = ss.build_table(name, sde, ss.grids.log_snr(sde, 8, *interval(sde)), start="low")
    assert table.nfe == 8
    outputs = {"exponential_4": 4, "unipc_3": 4, "deis_tab2": 3, "lms_4": 4, "pndm": 4, "velocity_ab4": 4}[name]
    assert table.history == outputs
    assert torch.isfinite(torch.tensor([w for row in table.rows for w in row.commit])).all()
