"""Coefficients at extreme steps against 120 digits: rules, stages, noise; and the references against sympy.

What a step is given (lam, or the clock of the form, of its ends and nodes; alpha and sigma) counts as exact. A weight
is then right to a few units in the last place of ``int |kernel L_j|``, whatever the step: h from 1e-8 to 50, nodes a
million times nearer or farther than h, levels from 1e-20 to 1e+20.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import sympy
from mpmath import mpf
from oracles import PROCESSES

import scoresolve as ss
from scoresolve.forms import Form, data_form, exponential_step, flow_form, noise_form, sde_step, velocity_form
from scoresolve.grids import GRIDS, uniform
from scoresolve.multistep import RULES
from scoresolve.quadrature import lagrange_weights
from scoresolve.registry import build_table
from scoresolve.sde import Point
from scoresolve.single_step import FOUR_STAGE, HEUN, MIDPOINT, THREE_STAGE, TWO_STAGE, Scheme, raised, single_step_rows

EPS = float(np.finfo(float).eps)
STEPS = [1e-8, 1e-5, 1e-3, 0.1, 1.0, 9.0, 50.0]
GAPS = [(1.0, 1.0, 1.0), (1e-6, 1.0, 1e-3), (1e6, 1.0, 1.0), (0.3, 1e3, 2.0), (3.0, 1e-3, 1e-3)]
"""Of the nodes behind a step, in units of it."""
EDM = PROCESSES["edm"]


def at(lam: float) -> Point:
    """The point of a path without scale at lam, where its time is sigma."""
    sigma = math.exp(-lam)
    return Point(sigma, 1.0, sigma, lam)


def moments(count: int, h: mpf, rate: mpf | float) -> list[mpf]:
    """``int_0^h e^{-rate (h - x)} x^k dx`` for k below count: by parts, ``(h^k - k I_{k-1}) / rate``."""
    if rate == 0:
        return [h ** (k + 1) / (k + 1) for k in range(count)]
    found = [-mpmath.expm1(-rate * h) / rate]
    for k in range(1, count):
        found.append((h**k - k * found[-1]) / rate)
    return found


def basis(nodes: Sequence[mpf]) -> list[list[mpf]]:
    """Coefficients of the Lagrange basis, ascending."""
    found = []
    for j, node in enumerate(nodes):
        poly = [mpf(1)]
        for k, other in enumerate(nodes):
            if k != j:
                poly = [(low - other * high) / (node - other) for low, high in zip([0, *poly], [*poly, 0], strict=True)]
        found.append(poly)
    return found


def reference(nodes: Sequence[float], a: float, b: float, rate: float) -> tuple[list[mpf], list[mpf]]:
    """``int_a^b e^{-rate (b - v)} L_j(v) dv``, and a bound on the same of absolute values."""
    shifted = [mpf(node) - mpf(a) for node in nodes]
    each = moments(len(nodes), mpf(b) - mpf(a), rate)
    polynomials = basis(shifted)
    values = [sum((c * m for c, m in zip(poly, each, strict=True)), mpf(0)) for poly in polynomials]
    sizes = [sum((abs(c * m) for c, m in zip(poly, each, strict=True)), mpf(0)) for poly in polynomials]
    return values, sizes


def worst(found: Sequence[float], wanted: Sequence[mpf], sizes: Sequence[mpf]) -> float:
    """The largest error, in units of the last place of the sizes."""
    errors = [abs(mpf(float(one)) - two) / size for one, two, size in zip(found, wanted, sizes, strict=True)]
    return float(max(errors)) / EPS


def behind(lam: float, h: float, gaps: Sequence[float]) -> list[float]:
    """A place and those before it."""
    return [lam, *(lam - h * np.cumsum(gaps)).tolist()]


@pytest.fixture(autouse=True)
def _digits() -> object:
    with mpmath.workdps(120):
        yield


@pytest.mark.parametrize("rate", [1, -1, 2])
def test_the_reference_is_sympy_s_integral(rate: int) -> None:
    """One, two and three nodes, in closed form: rationals and exponentials."""
    x, h = sympy.Symbol("x"), sympy.Rational(3, 7)
    nodes = [sympy.Integer(0), sympy.Rational(-1, 5), sympy.Rational(-2, 3)]
    for q in (1, 2, 3):
        found, _ = reference([mpf(n.p) / n.q for n in nodes[:q]], 0.0, mpf(3) / 7, rate)
        for j in range(q):
            others = [(x - n) / (nodes[j] - n) for k, n in enumerate(nodes[:q]) if k != j]
            exact = sympy.integrate(sympy.expand(sympy.prod(others)) * sympy.exp(-rate * (h - x)), (x, 0, h))
            assert abs(found[j] - mpf(str(sympy.N(exact, 60)))) < mpf(10) ** -50


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0, 5.0, -1.0])
@pytest.mark.parametrize("h", STEPS)
def test_the_primitive_keeps_its_digits(h: float, rate: float) -> None:
    """Relative to the integral of absolute values, 16 digits less 2; near lam = 46 as near 0."""
    for lam in (-46.0, -3.3, 0.0, 5.1, 46.0):
        for gaps in GAPS:
            for q in (1, 2, 3, 4):
                end = lam + h
                nodes = behind(lam, end - lam, gaps[: q - 1])
                if len({*nodes}) < q:
                    continue  # nearer than floats are
                weights = lagrange_weights(
                    np.array(nodes), lam, end, lambda v, end=end: np.exp(-rate * (end - v)), panel=2.0 / max(1.0, rate)
                )
                assert worst(weights, *reference(nodes, lam, end, rate)) < 400 + 4 * abs(rate * lam), (lam, gaps, q)


FORMS: dict[str, tuple[Form, float]] = {
    "data": (data_form(EDM), 1.0),
    "data at eta 1": (data_form(EDM, 1.0), 2.0),
    "data at eta 0.3": (data_form(EDM, 0.3), 1.09),
    "noise": (noise_form(EDM), -1.0),
    "noise at eta 1": (noise_form(EDM, 1.0), -1.0),
}


def scale_of(form: Form, there: Point) -> mpf:
    """The factor of the kernel beside ``e^{-rate (lam_s - v)}``."""
    whole = 1 + mpf(form.eta) ** 2
    return whole if form.predicts == "data" else -whole * mpmath.exp(-mpf(there.lam))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rule", ["exact", "bh1", "bh2", "published"])
def test_rules_of_several_steps(name: str, rule: str) -> None:
    """Each by its definition. Nodes are numbers, moments are of the kernel: 13 digits of ``int |kernel L_j|``."""
    form, rate = FORMS[name]
    for h in STEPS[2:] if form.predicts == "noise" or rule == "published" else STEPS:
        for lam in (-20.0, 0.4):
            for gaps in GAPS[:3]:
                for q in (2, 3):
                    here, there = at(lam), at(lam + h)
                    h_true = mpf(there.lam) - mpf(here.lam)
                    nodes = behind(lam, float(h_true), gaps[: q - 1])
                    if min(-np.diff(nodes)) < 1e-3 * h or nodes[-1] < -300:
                        continue
                    found = RULES[rule](form, [at(node) for node in nodes], here, there)
                    scale, each = scale_of(form, there), moments(3, h_true, rate)
                    wanted, sizes = reference(nodes, lam, there.lam, rate)
                    steps = [mpf(one) - mpf(two) for one, two in pairwise(nodes)]
                    if q == 2 and rule != "exact":  # the first moment is another
                        first = each[0] / 2 * h_true if rule != "bh1" else h_true**2 / 2
                        wanted = [each[0] + first / steps[0], -first / steps[0]]
                    elif rule == "published":  # D2 lacks a factor 2
                        r0, r1 = steps[0] / h_true, steps[1] / h_true
                        newest, older = [1 / r0, -1 / r0, mpf(0)], [mpf(0), 1 / r1, -1 / r1]
                        change = [a - b for a, b in zip(newest, older, strict=True)]
                        slope = [a + r0 / (r0 + r1) * c for a, c in zip(newest, change, strict=True)]
                        wanted = [
                            each[1] / h_true * s + each[2] / h_true**2 / 2 * c / (r0 + r1)
                            for s, c in zip(slope, change, strict=True)
                        ]
                        wanted[0] += each[0]
                    sizes = [abs(scale) * max(a, abs(b)) for a, b in zip(sizes, wanted, strict=True)]
                    lost = 1 if rule == "exact" or q == 2 else 1 / h  # places inside the step are rounded
                    limit = (800 + 8 * abs(lam)) * max(1.0, lost)
                    assert worst(found, [scale * w for w in wanted], sizes) < limit, (h, lam, gaps, q)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 3.0])
def test_steps_of_first_order_and_their_noise(eta: float) -> None:
    """Data: 15 digits of each number. Noise: differences of sigma, 15 digits of the larger one."""
    data, noise, c = data_form(EDM, eta), noise_form(EDM, eta), 1 + mpf(eta) ** 2
    for h in STEPS:
        for lam in (-46.0, -2.0, 0.0, 3.0, 40.0):
            here, there = at(lam), at(lam + h)
            step = mpf(there.lam) - mpf(here.lam)
            ratio = mpf(there.sigma) / mpf(here.sigma)
            wanted = [ratio * mpmath.exp(-(mpf(eta) ** 2) * step), -mpmath.expm1(-c * step)]
            wanted.append(mpf(there.sigma) * mpmath.sqrt(-mpmath.expm1(-2 * mpf(eta) ** 2 * step)))
            assert (
                worst(data.step(here, there), wanted, [abs(one) + mpf(10) ** -400 for one in wanted]) < 8 + 500 * eta**2
            )
            gain, weight, level = noise.step(here, there)
            before, after = mpf(here.sigma), mpf(there.sigma)
            variance = before**2 - after**2
            assert gain == 1.0
            assert worst([weight], [c * (after - before)], [c * before]) < 8
            assert worst([level**2], [mpf(eta) ** 2 * variance], [(1 + mpf(eta) ** 2) * before**2]) < 8


def test_ends_without_signal_and_without_noise() -> None:
    """Both ends infinite, and levels of 1e-20 and 1e+20: finite, and the limits of the formulas."""
    empty, clean = Point(1.0, 0.0, 1.0, -math.inf), Point(0.0, 1.0, 0.0, math.inf)
    for eta in (0.0, 1.0):
        assert sde_step(empty, clean, eta) == (0.0, 1.0, 0.0)
        low, high = at(46.0), at(-46.0)
        assert sde_step(high, clean, eta) == (0.0, 1.0, 0.0)
        gain, weight, level = sde_step(high, low, eta)
        assert (gain <= 1e-39, weight) == (True, 1.0)
        assert level == pytest.approx(eta * low.sigma, rel=1e-15)
        for form in (data_form(EDM, eta), flow_form(EDM)):
            assert form.step(high, clean)[:2] == (0.0, 1.0) or form.predicts == "flow"
            assert np.isfinite(form.step(high, clean)).all()
    assert exponential_step(empty, at(2.0), -math.inf, math.inf) == pytest.approx((0.0, 1.0, math.exp(-2)))
    for sde in PROCESSES.values():
        for info in ss.solvers():
            if not info.adaptive and info.name in ("ddim", "dpmpp_2m", "unipc_3", "dpmpp_sde", "ddpm"):
                for steps in (1, 2, 40):
                    table = build_table(info.name, sde, uniform(sde, steps, sde.t_max, 0.0))
                    weights = [w for row in table.rows for w in (*row.commit, *row.noise, *row.propose)]
                    assert np.isfinite(weights).all()


@pytest.mark.parametrize("scheme", [MIDPOINT, HEUN, TWO_STAGE, THREE_STAGE, FOUR_STAGE])
@pytest.mark.parametrize("name", ["data", "data at eta 1", "noise"])
def test_stages_of_a_step(scheme: Scheme, name: str) -> None:
    """The end of every scheme by its nodes; places go by way of the clock's inverse, which rounds lam."""
    form, rate = FORMS[name]
    for h in (1e-3, 0.1, 2.0, 9.0):
        for lam in (-9.0, 0.3):
            here, there = at(lam), at(lam + h)
            rows = single_step_rows(form, scheme, here, there)
            nodes = scheme.nodes[-1]
            places = [lam + r * (there.lam - lam) for r in nodes]
            values, sizes = reference(places, lam, there.lam, rate)
            last = len(scheme) - 1
            wanted = [mpf(0)] * (last + 1)
            for value, mixture in zip(values, nodes.values(), strict=True):
                for stage, share in mixture.items():
                    wanted[last - stage] += scale_of(form, there) * value * mpf(share)
            found = [*rows[-1].commit[1:], *[0.0] * len(scheme)][: len(scheme)]
            limit = 200 + 20 * (1 + abs(lam)) / h
            assert worst(found, wanted, [abs(scale_of(form, there)) * max(sizes)] * len(wanted)) < limit
            total = sum(weight**2 for weight in rows[-1].noise)
            assert total == pytest.approx(form.step(here, there)[2] ** 2, rel=1e-12 + 1e-14 / h)


def test_rules_whose_kernel_is_constant() -> None:
    """Velocity in t, noise in rho, the flow: rational weights, to the last digits; Adams' for equal steps."""
    for form, places in (
        (velocity_form(EDM), [5.0, 4.0, 3.5, 3.0]),
        (noise_form(EDM, clock="rho"), [5.0, 4.0, 3.5, 3.0]),
        (flow_form(EDM), [0.9, 0.8, 0.65, 0.6]),
    ):
        points = [form.point(place) for place in places]
        nodes = [form.place(point) for point in points[2::-1]]
        found = RULES["exact"](form, points[2::-1], points[2], points[3])
        values, sizes = reference(nodes, nodes[0], form.place(points[3]), 0.0)
        size = mpf(points[3].alpha + points[3].sigma) if form.predicts == "flow" else mpf(1)
        assert worst(found, [size * one for one in values], [size * abs(one) for one in sizes]) < 100
        equal = [form.point(place) for place in (nodes[0], nodes[0] + 0.05, nodes[0] + 0.1)]
        there = form.point(nodes[0] - 0.05)
        exact, adams = (RULES[name](form, equal, equal[0], there) for name in ("exact", "adams"))
        assert exact == pytest.approx(adams, rel=1e-11)


def test_a_step_that_is_taken_back_up_has_the_noise_of_the_forward_process() -> None:
    row = ss.Row(t=2.0, s=1.0, commit=(0.5, 0.5), noise=(0.25,))
    for below, above in ((0.5, 0.5 + 1e-8), (0.7, 3.0), (1e-20, 1e20)):
        found = raised(row, Point(below, 1.0, below, -math.log(below)), Point(above, 1.0, above, -math.log(above)))
        wanted = mpmath.sqrt(mpf(above) ** 2 - mpf(below) ** 2 + mpf("0.0625"))
        assert worst(found.noise, [wanted], [wanted]) < 8


def test_ten_thousand_steps() -> None:
    """Exact where its claim says so at every step, and the weights of the state multiply up to the whole step's."""
    sde = ss.VPSDE()
    table = build_table("dpmpp_2m_sde", sde, GRIDS["log_snr"](sde, 10_000, 1.0, 1e-3)).verify(sde)
    gain = math.fsum(math.log(row.commit[0]) for row in table.rows)
    whole = math.log(sde.sigma(1e-3) / sde.sigma(1.0)) - (sde.lam(1e-3) - sde.lam(1.0))
    assert gain == pytest.approx(whole, abs=1e-10)
