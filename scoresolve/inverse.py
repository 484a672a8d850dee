r"""Linear inverse problems: the data given ``y = A x_0 + s n``, by any solver and an unconditional network.

**Posterior guidance.** Let D(x) = E[x_0 | x_t = x] and J = dD/dx. By Tweedie's second formula the data given x_t has
covariance ``Cov[x_0 | x_t] = (sigma^2/alpha) J``. If that law is taken for a Gaussian N(D, C), then
``p(y | x_t) = N(A D, A C A^T + s^2 I)``, and with C held fixed in the gradient the score rises by

    grad log p(y | x_t) = J^T A^T (A C A^T + s^2 I)^-1 (y - A D),

which by Tweedie's first formula is the change of the data prediction

    D' = D + (sigma^2/alpha) J^T A^T (A C A^T + s^2 I)^-1 (y - A D).

Three choices of C are three methods:

    "none"       0                                            DPS, eq. 16: Chung et al. 2023, arXiv:2209.14687
    "isotropic"  r^2 I, r^2 = v sigma^2/(alpha^2 v + sigma^2)   PiGDM, eq. 7: Song et al. 2023, openreview 9_gsMA8MRKQ
    "jacobian"   (sigma^2/alpha) J                            Boys et al. 2023, arXiv:2310.06721; Rozet et al. 2024,
                                                              arXiv:2405.13712 (by conjugate gradients, as here)

*On Gaussian data "jacobian" is exact.* If x_0 ~ N(mu, S), then J = alpha S (alpha^2 S + sigma^2 I)^-1 is symmetric and
the same for every x, x_0 given x_t is Gaussian with covariance C = (sigma^2/alpha) J, and D' is the mean of a Gaussian
N(D, C) after the measurement (Kalman's update): ``D + C A^T (A C A^T + s^2 I)^-1 (y - A D) = E[x_0 | x_t, y]``.
"isotropic" is the same where S = v I. "none" is too sure of A D: it pulls with 1/s^2 where the measurement says at most
``1/(A C A^T)``. (The experiments of DPS replace 1/s^2 by a step tuned by hand, and those of PiGDM multiply by r^2.)

**Replacement** (Song et al. 2021, arXiv:2011.13456, app. I.2, for y without noise). After each step what A sees of the
state is replaced by what it sees of a noised measurement,

    x <- x + A^+ (alpha y + sigma A z - A x),      A^+ = A^T (A A^T)^-1.

At each level the two parts are put together without regard to each other: for Gaussian data the law does not come to
the posterior, however small the steps. Resampling (RePaint: Lugmayr et al. 2022, arXiv:2201.09865) helps: it goes up in
noise again by the forward process and repeats the steps, so that the parts come to agree.

**Measured**, by the law of the second of a Gaussian pair of variances 1 and correlation 0.8 of which the first is seen
as 2 (VP; 20 000 samples, standard error 0.005; adaptive_abm, or ddpm with 200 steps):

                 s = 0.5  mean   std       s = 0.1  mean   std       s = 0  mean   std
    exact                 1.280  0.699              1.584  0.605            1.600  0.600
    "jacobian"            1.271  0.701              1.576  0.608
    "isotropic"           1.215  0.718              1.498  0.632
    "none"                2.481  0.507              2.257  0.526
    Replacement                                                             0.982  0.696
    + resampled, jump 5, repeats 2, 5, 10                                   1.259, 1.465, 1.532 (std 0.65, 0.61, 0.59)

What "jacobian" lacks is what the run itself does: at t = 1 VP still holds 1/150 of the signal, and the prior none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from .copies import on_device
from .errors import require, unknown, whole_number
from .guidance import Rowwise
from .model import ScoreModel
from .noise import REPLACEMENT, SampleStreams
from .operators import LinearOperator, check_measurement, conjugate_gradients
from .refinement import Refinement
from .row import Row
from .sde import SDE, over_batch
from .single_step import raised
from .solution import Step
from .table import Table

Covariance = Literal["none", "isotropic", "jacobian"]


def posterior_guidance(
    model: ScoreModel,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float,
    *,
    covariance: Covariance = "isotropic",
    data_std: float = 1.0,
    scale: float = 1.0,
    iterations: int = 10,
) -> ScoreModel:
    """The model of the data given ``measurement = A x_0 + noise_std n``, for any solver.

    Args:
        model: the unconditional network with its process; it must let gradients through.
        operator: A, of ``ss.operators`` or an ``ss.LinearOperator``.
        measurement: A x_0 with its noise, a row for each sample or one for all: (batch, ...) or (1, ...). Rows follow
            the samples that are still on their way.
        noise_std: standard deviation s of the measurement's noise; above 0 for "none".
        covariance: what is taken for the covariance of the data given x: "none" (DPS), "isotropic" (PiGDM) or
            "jacobian" (exact on Gaussian data).
        data_std: for "isotropic", the standard deviation sqrt(v) of an element of the data.
        scale: multiplies the change; 1 is Bayes' rule.
        iterations: of conjugate gradients, at most; as many as the measurement has elements solve exactly, a few do
            well. Each costs a backward pass for "jacobian".

    NFE: one call an evaluation, and a backward pass through the network (1 + iterations for "jacobian").
    Bias, on Gaussian data: none for "jacobian" (E[x_0 | x_t, y] is met to 1e-10 at every t). On a pair of correlation
    0.8 of which one is measured with noise 0.1, the mean of the other comes out 1.50 for "isotropic" and 2.26 for
    "none", where it should be 1.58; the module's table has more.

    Raises: TypeError, ValueError for arguments that do not fit; NetworkOutputError for a network without gradient.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])).model(ss.VPSDE())
    >>> known = ss.operators.Mask(torch.tensor([[True, False]]))
    >>> seen = ss.posterior_guidance(model, known, torch.tensor([[2.0, 0.0]]), 0.1, covariance="jacobian")
    >>> mean = ss.sample(seen, shape=(4096, 2), nfe=12, seed=0).samples.mean(0)
    >>> [round(value, 1) for value in mean.tolist()]  # 2 and 0.8 times 2, over 1.01
    [2.0, 1.6]
    """
    if covariance not in get_args(Covariance):
        raise ValueError(unknown("covariance", covariance, get_args(Covariance)))
    check_measurement(operator, measurement)
    require(noise_std >= 0, f"noise_std of at least 0, got {noise_std}")
    require(noise_std > 0 or covariance != "none", "noise_std > 0 with covariance='none', which divides by it, got 0")
    require(data_std > 0, f"data_std > 0, got {data_std}")
    count = whole_number("iterations", iterations)
    return model.refine(
        PosteriorGuidance(operator, measurement, float(noise_std), covariance, float(data_std), float(scale), count)
    )


class PosteriorGuidance(Refinement):
    """``D + (sigma^2/alpha) J^T A^T (A C A^T + s^2 I)^-1 (y - A D)``; see :func:`posterior_guidance`."""

    differentiates: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True

    def __init__(
        self,
        operator: LinearOperator,
        measurement: Tensor,
        noise_std: float,
        covariance: Covariance,
        data_std: float,
        scale: float,
        iterations: int,
    ) -> None:
        self.operator, self.measurement, self.noise_std = operator, measurement, noise_std
        self.covariance, self.data_std, self.scale, self.iterations = covariance, data_std, scale, iterations

    def __call__(self, x: Tensor, data: Tensor, t: float | Tensor, model: ScoreModel) -> Tensor:
        """The data prediction given the measurement too."""
        graph, sde = torch.is_grad_enabled(), model.sde
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = over_batch(sigma**2 / alpha, x)
        with torch.enable_grad():
            seen = self.operator(data)
        y = self.operator.reached(on_device(self.measurement, seen.device, seen.dtype))
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ValueError(
                f"the measurement has shape {tuple(y.shape)}, A x has {tuple(seen.shape)}: give it a row for each "
                "sample, or one row for all (y[None])"
            )

        def pull(u: Tensor) -> Tensor:
            """``(sigma^2/alpha) J^T A^T u``."""
            return gain * torch.autograd.grad(seen, x, u, retain_graph=True, create_graph=graph)[0]

        variance = self.data_std**2 * sigma**2 / (self.data_std**2 * alpha**2 + sigma**2)

        def spread(u: Tensor) -> Tensor:
            """``(A C A^T + s^2 I) u``."""
            if self.covariance == "jacobian":
                return self.operator(pull(u)) + self.noise_std**2 * u
            return over_batch(variance, u) * self.operator(self.operator.transpose(u)) + self.noise_std**2 * u

        residual = y - (seen if graph else seen.detach())
        if self.covariance == "none":
            return data + self.scale * pull(residual / self.noise_std**2)
        return data + self.scale * pull(conjugate_gradients(spread, residual, self.iterations))


class Replacement(Rowwise):
    """A callback of ``ss.sample`` that puts the measurement, noised, in its place in the state after each step.

    Args: sde, the process that is sampled along; operator and measurement as in :func:`posterior_guidance`, the latter
    without noise; seed and indices of its noise, as in ``ss.sample`` (indices: 0, 1, ... if not given); iterations of
    conjugate gradients, 1 for ``ss.operators`` but a matrix.

    Not for adaptive solvers, whose state cannot be changed. No network calls. An approximation: on a Gaussian pair of
    correlation 0.8 of which one is measured, the mean of the other comes out 0.98 where it should be
    1.60, its standard deviation 0.70 for 0.60; with :func:`resampled` and 10 repeats 1.53 and 0.59.

    >>> import torch, scoresolve as ss
    >>> sde, known = ss.VPSDE(), ss.operators.Mask(torch.tensor([[True, False]]))
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])).model(sde)
    >>> put = ss.Replacement(sde, known, torch.tensor([[2.0, 0.0]]), seed=1)
    >>> drawn = ss.sample(model, shape=(2, 2), solver="ddpm", steps=20, t_min=0.0, seed=0, callback=put).samples
    >>> drawn[:, 0].tolist()
    [2.0, 2.0]
    """

    def __init__(
        self,
        sde: SDE,
        operator: LinearOperator,
        measurement: Tensor,
        *,
        seed: int,
        indices: Sequence[int] | None = None,
        iterations: int = 10,
    ) -> None:
        check_measurement(operator, measurement)
        self.sde, self.operator, self.measurement = sde, operator, measurement
        self.seed, self.indices, self.iterations = seed, indices, whole_number("iterations", iterations)
        self._streams: tuple[int, SampleStreams] | None = None

    def take(self, rows: Tensor, batch: int) -> Self:
        """The same for some samples of a batch."""
        some = super().take(rows, batch)
        numbers = range(batch) if self.indices is None else self.indices
        some.indices, some._streams = [numbers[row] for row in rows.tolist()], None
        return some

    def _noise(self, batch: int) -> SampleStreams:
        """Its noise for a batch of that size: made once, as the keys of all samples are made on the host."""
        if self._streams is None or self._streams[0] != batch:
            self._streams = batch, SampleStreams(self.seed, range(batch) if self.indices is None else self.indices)
        return self._streams[1]

    def __call__(self, step: Step) -> Tensor:
        """The state with what A sees of it replaced."""
        x, operator = step.x, self.operator
        self._check_process(step)
        measurement = on_device(self.measurement, x.device, x.dtype)
        free = x - self.sde.sigma(step.time) * self._noise(len(x)).draw(REPLACEMENT, step.index, x)
        missing = self.sde.alpha(step.time) * operator.reached(measurement) - operator(free)
        require(len(missing) == len(x), f"a measurement of 1 or {len(x)} rows, got {len(self.measurement)}")
        solved = conjugate_gradients(lambda u: operator(operator.transpose(u)), missing, self.iterations)
        return x + operator.transpose(solved)

    def _check_process(self, step: Step) -> None:
        """Raise ValueError if the state stands at another noise level of the process that is sampled along."""
        own, its = ([sde.alpha(step.time), sde.sigma(step.time)] for sde in (self.sde, step.sde or self.sde))
        same = all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) for one, other in zip(own, its, strict=True))
        require(same, f"the process that is sampled along, {step.sde!r}, in ss.Replacement, got {self.sde!r}")


def resampled(table: Table, sde: SDE, *, jump: int = 10, repeats: int = 10) -> Table:
    """A table each of whose blocks of ``jump`` steps is run ``repeats`` times, going back up by the forward process.

    Args: a table of a one-step solver on sde, such as ``ss.build_table("ddpm", sde, times)``; jump and repeats, whole
    numbers of at least 1 (RePaint's j and r). Blocks are counted from the end. With :class:`Replacement` this is
    RePaint, which also replaces just before going up; the law is the same, since the known part is fresh at each step.

    NFE: ``repeats`` times that of the table. Raises: ValueError for a table that uses outputs of earlier steps.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, alg. 1 and app. B.

    >>> import scoresolve as ss
    >>> sde = ss.EDM()
    >>> table = ss.resampled(ss.build_table("euler", sde, [80.0, 1.0, 0.0]), sde, jump=1, repeats=2)
    >>> table.times.tolist()
    [80.0, 80.0, 1.0, 1.0, 0.0]
    """
    jump, repeats = whole_number("jump", jump), whole_number("repeats", repeats)
    simple = all(len(row.noise) <= 1 and not row.propose_noise for row in table.rows)
    if not (table.one_step and simple):
        raise ValueError(
            f"steps of {table.solver or 'the table'!r} use outputs or noise of earlier ones, which going up in noise "
            "makes stale: take a one-step solver such as 'ddpm', 'ddim' or 'heun'"
        )
    points = sde.points(table.times)
    ends = [number for number, row in enumerate(table.rows, start=1) if row.s is not None]
    rows: list[Row] = []
    first = 0
    for step in range((len(ends) - 1) % jump + 1, len(ends) + 1, jump):
        before = max(step - jump, 0)
        block = table.rows[first : ends[step - 1]]
        up = (*block[:-1], raised(block[-1], points[step], points[before]))
        rows += [*up * (repeats - 1), *block]
        first = ends[step - 1]
    options = {**table.options, "jump": jump, "repeats": repeats}
    return replace(table, rows=tuple(rows), solver=f"resampled {table.solver}", options=options, exact_on="")
