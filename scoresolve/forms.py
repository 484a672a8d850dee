r"""The forms of a step: the linear part of the dynamics solved exactly, the network's output left under an integral.

With variation of constants the reverse dynamics of noise level eta from t to s is

    x_s = gain(t, s) x_t + int_{t}^{s} kernel(v) m(v) dv + noise(t, s) z

for each way of writing the network's output m. Every fixed-grid solver is a rule for the integral. With
``score = (alpha D - x) / sigma^2 = -eps / sigma``, ``g^2 = -2 sigma^2 lam'`` and ``c = 1 + eta^2``:

    data, in lam:      gain = (sigma_s/sigma_t) e^{-eta^2 h},     kernel = alpha_s c e^{-c (lam_s - v)},
                       noise^2 = sigma_s^2 (1 - e^{-2 eta^2 h}),  h = lam_s - lam_t
    noise, in lam:     gain = alpha_s / alpha_t,                  kernel = -alpha_s c e^{-v},
                       noise^2 = eta^2 (gain^2 sigma_t^2 - sigma_s^2)
    noise, in rho:     the same with d rho = -e^{-lam} d lam:     kernel = alpha_s c
    velocity, in t:    gain = 1,                                  kernel = 1         (eta = 0)
    flow, in u:        gain = (alpha_s + sigma_s)/(alpha_t + sigma_t), kernel = alpha_s + sigma_s       (eta = 0),
                       u = sigma / (alpha + sigma) from 1 to 0: the velocity eps - D of the rectified flow at equal
                       noise levels, ``x / (alpha + sigma) = (1 - u) D + u eps``; finite at both ends of any path

(Check: the derivative in s at s = t is f x - c/2 g^2 score; the variance solves v' = 2 (linear rate) v + eta^2 g^2 run
backwards. A constant m gives the weight alpha_s - gain alpha_t, c (sigma_s - gain sigma_t) or s - t.)

The data form takes any noise level that varies with lam: write ``phi = exp(-int c d lam)``, ``phi = rho^c`` for a
constant; then ``gain = (alpha_s/alpha_t) phi_s/phi_t``, ``kernel dv = alpha_s d(phi_s/phi)`` and
``noise^2 = sigma_s^2 - (gain sigma_t)^2`` (the Extended Reverse SDE of Cui et al. 2023).

The polynomial through past outputs may live in another clock u(v) than the integral: lam itself, t ("t-AB" of DEIS) or
rho (Adams and linear multistep methods on ``d(x/alpha) = eps d rho``; the Taylor steps of ER-SDE).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from .errors import require
from .predictions import Prediction
from .quadrature import lagrange_weights
from .sde import SDE, Point

Step: TypeAlias = tuple[float, float, float]
"""Weights of x, of a constant output and of the noise."""
Clock = Literal["t", "lam", "rho", "flow"]
Profile: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""lam -> (log phi, d log phi / d lam): a noise level that varies with lam."""


@dataclass(frozen=True)
class Form:
    """One way to write a step; made by ``data_form``, ``noise_form``, ``velocity_form`` or ``flow_form``.

    Attributes:
        sde: the path.
        predicts: what the outputs m are.
        eta: multiplier of the noise's standard deviation.
        clock: the clock u of the interpolating polynomial, and of the stages inside a step.
        step: (gain, weight of a constant output, noise) between two points.
        kernel: the kernel seen from a point s, as a function of v.
        measure: the clock v of the integral.
        exact_on: the prediction for which a step with a constant output is exact, for :meth:`Table.verify`.
    """

    sde: SDE
    predicts: Prediction
    eta: float
    clock: Clock
    step: Callable[[Point, Point], Step]
    kernel: Callable[[np.ndarray, Point], np.ndarray]
    measure: Clock
    exact_on: str = ""

    def place(self, point: Point) -> float:
        """Where a point stands on the clock u."""
        return _place(point, self.clock)

    def point(self, place: float) -> Point:
        """The point at a place of the clock u."""
        match self.clock:
            case "t":
                t = place
            case "lam":
                t = self.sde.time(place)
            case "rho":
                t = self.sde.time(-math.log(place))
            case "flow":
                t = self.sde.time(math.log1p(-place) - math.log(place))
        return self.sde.points(np.array([t]))[0]

    def within(self, here: Point, there: Point) -> bool:
        """Whether the step can be of higher order: both ends at finite places."""
        return self.finite(here) and self.finite(there)

    def finite(self, point: Point) -> bool:
        """Whether a point is at a finite place of both clocks, so that an output there can be a node."""
        return all(math.isfinite(_place(point, clock)) for clock in (self.clock, self.measure))

    def weights(self, nodes: Sequence[float], here: Point, there: Point) -> np.ndarray:
        """``int kernel(v) L_j(u(v)) dv`` from here to there, for nodes at places of u; shape (len(nodes),)."""
        if len(nodes) == 1:
            return np.array([self.step(here, there)[1]])
        same = self.clock == self.measure
        return lagrange_weights(
            np.array(nodes),
            _place(here, self.measure),
            _place(there, self.measure),
            lambda v: self.kernel(v, there),
            panel=2.0 / (1 + self.eta**2) if same and self.measure == "lam" else 1.0 if not same else math.inf,
            clock=None if same else self._interpolation_clock,
        )

    def _interpolation_clock(self, lam: np.ndarray) -> np.ndarray:
        return np.exp(-lam) if self.clock == "rho" else self.sde.time(lam)


def _place(point: Point, clock: Clock) -> float:
    if clock == "t":
        return point.t
    if clock == "lam":
        return point.lam
    if clock == "flow":
        return point.sigma / (point.alpha + point.sigma)
    return point.sigma / point.alpha if point.alpha > 0 else math.inf


# -- data ------------------------------------------------------------------------------------------------------


def data_form(sde: SDE, eta: float = 0.0, clock: Clock = "lam", profile: Profile | None = None) -> Form:
    """Data prediction at noise level eta, or at the varying one of a profile."""
    require(eta >= 0, f"eta >= 0, got {eta}")
    rate = 1 + eta**2
    if profile is None:
        return Form(
            sde,
            "data",
            eta,
            clock,
            step=lambda here, there: sde_step(here, there, eta),
            kernel=lambda v, there: there.alpha * rate * np.exp(-rate * (there.lam - v)),
            measure="lam",
            exact_on="data",
        )

    def step(here: Point, there: Point) -> Step:
        if not (math.isfinite(here.lam) and math.isfinite(there.lam)):
            return exponential_step(here, there, -math.inf, math.inf)
        logs, _ = profile(np.array([here.lam, there.lam]))
        change = float(logs[1] - logs[0])
        return exponential_step(here, there, change + there.lam - here.lam, -change)

    def kernel(v: np.ndarray, there: Point) -> np.ndarray:
        logs, slopes = profile(v)
        return np.asarray(-there.alpha * slopes * np.exp(profile(np.array([there.lam]))[0] - logs))

    # eta > 0 marks it as stochastic; its value sets only the width of the quadrature's panels
    return Form(sde, "data", 1.0, clock, step, kernel, measure="lam", exact_on="data")


def exponential_step(here: Point, there: Point, log_q: float, data_rate: float) -> Step:
    """The first-order step between two points, ``(sigma_s/sigma_t) q x + alpha_s (1 - e^{-data_rate}) D + noise``.

    Finite at both ends. Args: ``log_q`` the logarithm of q = e^{-eta^2 h} (or of another choice of it);
    ``data_rate`` the exponent h - log q, given by itself because h may be infinite.
    """
    ratio = there.sigma / here.sigma
    noise = there.sigma * math.sqrt(-math.expm1(2 * log_q))
    if data_rate == -math.inf:  # up to alpha_s = 0, where 0 * inf stands for
        return ratio, there.alpha - here.alpha * ratio, noise
    return ratio * math.exp(log_q), -there.alpha * math.expm1(-data_rate), noise


def sde_step(here: Point, there: Point, eta: float) -> Step:
    """The exact step for constant D at noise level eta: q = e^{-eta^2 h}."""
    h = there.lam - here.lam
    log_q = -(eta**2) * h if eta else 0.0  # not 0 * inf
    return exponential_step(here, there, log_q, (1 + eta**2) * h)


# -- noise and velocity ----------------------------------------------------------------------------------------


def noise_form(sde: SDE, eta: float = 0.0, clock: Clock = "lam") -> Form:
    """Noise prediction at noise level eta; the integral in rho if that is the clock, else in lam."""
    require(eta >= 0, f"eta >= 0, got {eta}")
    rate = 1 + eta**2

    def step(here: Point, there: Point) -> Step:
        gain = there.alpha / here.alpha
        variance = (gain * here.sigma) ** 2 - there.sigma**2
        return gain, rate * (there.sigma - gain * here.sigma), eta * math.sqrt(max(variance, 0.0)) if eta else 0.0

    def in_rho(v: np.ndarray, there: Point) -> np.ndarray:
        return np.full_like(v, rate * there.alpha)

    def in_lam(v: np.ndarray, there: Point) -> np.ndarray:
        return np.asarray(-rate * there.alpha * np.exp(-v))

    straight = clock == "rho"
    exact_on = "" if eta else "noise"
    form = Form(sde, "noise", eta, clock, step, in_lam, measure="lam", exact_on=exact_on)
    return replace(form, kernel=in_rho, measure="rho") if straight else form


def velocity_form(sde: SDE) -> Form:
    """The probability flow ``dx/dt = velocity``, in t."""
    return Form(
        sde,
        "velocity",
        0.0,
        "t",
        step=lambda here, there: (1.0, there.t - here.t, 0.0),
        kernel=lambda v, there: np.ones_like(v),
        measure="t",
        exact_on="velocity",
    )


def flow_form(sde: SDE) -> Form:
    """The probability flow as that of the rectified flow at equal noise levels, in u = sigma / (alpha + sigma)."""

    def step(here: Point, there: Point) -> Step:
        size = there.alpha + there.sigma
        gain = size / (here.alpha + here.sigma)
        return gain, there.sigma - gain * here.sigma, 0.0

    return Form(
        sde,
        "flow",
        0.0,
        "flow",
        step=step,
        kernel=lambda v, there: np.full_like(v, there.alpha + there.sigma),
        measure="flow",
        exact_on="flow",
    )
