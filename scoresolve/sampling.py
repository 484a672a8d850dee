"""``sample`` and ``encode``: from noise to data and back, with any registered solver, grid and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from .augmented import AugmentedRunner
from .backends import Backend
from .brownian_path import BrownianPath
from .correctors import CorrectorLike
from .defaults import REVERSIBLE_TOLERANCE, chosen
from .divergence import Divergence, Method
from .errors import require, whole_number
from .exact import Gaussian
from .graphs import Capture, captured
from .grids import GridLike
from .model import ScoreModel
from .noise import SampleStreams
from .opening import check_opened, opened
from .parallel import ParallelRunner, Picard
from .planning import Request, check_begins, check_table, plan, times_given
from .presets import resolve
from .registry import Runner, SolverInfo, get_solver
from .running import Course, OnError, View, solve
from .solution import Callback, Solution
from .starting import NoiseLike, check_ends, check_indices, check_network, check_noisy_ends, check_state, start_state
from .table import Table


def sample(
    model: ScoreModel,
    shape: Sequence[int] | None = None,
    *,
    solver: str | SolverInfo | Table | Backend | None = None,
    nfe: int | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    seed: int | None = None,
    indices: Sequence[int] | None = None,
    start: Tensor | str | None = None,
    opening: Gaussian | None = None,
    corrector: CorrectorLike | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    denoise: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    noise: NoiseLike | None = None,
    batch_size: int | None = None,
    parallel: Picard | None = None,
    capture: bool | Capture = False,
    log_prob: Method | Divergence | None = None,
    trajectory: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
    on_error: OnError = "raise",
    solver_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Solution:
    """Draw samples from a score network.

    Args:
        model: the network with its process.
        shape: (batch, ...) of the samples; drawn from the prior at t_max. Or give ``start``.
        solver: one of ``ss.solvers()`` or its name, one that other libraries use ("DPM++ 2M Karras"), a ``Table``, or a
            method of another library (``ss.backend``). Default: the one that does best at that number of calls
            (``ss.default_solver``), or "adaptive_abm" where rtol= or atol= are given or no amount of work is.
        nfe: the budget of network calls, met exactly where the solver allows and never exceeded; or ``steps``.
        grid: a name of ``ss.grids.GRIDS`` ("balanced", "log_snr", "karras", "trailing", ...), a function with their
            signature, or an array of times (decreasing; it then says where to start and end). Default: the solver's
            own.
        seed: whole number. Sample i of a seed is the same whatever the batch; from the operating system if not given.
        indices: which samples of the seed, one for each of the batch (default 0, 1, ...).
        start: the state at the first time, float32 or float64; it is not written to. Beside t_max= the grid must begin
            there ("leading" does not). Or a word, "low" or "high": how a multistep solver begins (its own option).
        opening: the Gaussian of the data, ``ss.exact.Gaussian.fit(data)``: the start, drawn or given at the process'
            t_max, is moved along that law's exact flow to the first time (``t_max=``, or the table's) at no call.
        corrector: "langevin", "annealed_langevin" or an instance, run after each step of a one-step solver.
        t_max, t_min: where to start and end (default: the process'); t_min=0 ends at noise zero where there is none.
        denoise: return the denoised estimate at the last time, one more network call.
        dtype: torch.float32 or torch.float64 (default: that of ``start``, or torch's default).
        device: default that of ``start``, or of the network's parameters.
        generator: draws the seed, if none is given.
        noise: ``ss.Antithetic`` (pairs of opposite noise), ``ss.QuasiRandom`` (evenly spread starts) or
            ``ss.BrownianPath`` (one path a sample on every grid), made of seed and indices; or a source of one's own.
        batch_size: how many samples the network sees at once; all by default. The results are the same: each chunk
            is a run by itself, and ``nfe=`` its budget. A callback sees the chunks one after the other.
        parallel: ``ss.Picard()`` solves for many times at once, in far fewer calls of larger batches; for tables.
        capture: capture the run of a table on a CUDA device, and replay it as one launch: for all chunks of
            ``batch_size=``; for batch after batch see ``ss.capture``, which says what it costs and where it cannot be.
        log_prob: "exact", "hutchinson" or a :class:`Divergence`: log p of each sample in the same pass, with the start
            under the prior N(0, prior_std^2); the solver must be of kind "ode", and there must be noise at the end.
        trajectory: keep the state at every time.
        callback: called with a :class:`Step` after each step; may return a changed state, but not to adaptive solvers,
            to other libraries' and with log_prob=, which show it the times of the grid.
        progress: show a progress bar of network calls.
        grad: keep the graph, so that gradients flow to ``start`` and to the network's parameters.
        on_error: "raise" if any sample fails, or "mask": the others are returned as they are, those that failed as
            NaN; ``solution.ok`` and ``solution.failures`` tell them apart. (An adaptive method of another library has
            one step for all, and raises.)
        options: the solver's own options, such as eta= or rtol=.
        solver_options: the same as a mapping, for an option of a name that is taken here (``start`` beside a state).

    Returns: a :class:`Solution`. Cost: ``solution.nfe`` network calls, counted.

    Raises: ValueError or TypeError, before the network is called, for a request that makes no sense;
    NetworkOutputError, NonFiniteError, StepUnderflowError or BudgetError (all ScoreSolveError) for what goes wrong on
    the way.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.Gaussian(torch.tensor([1.0, -1.0]), 0.25 * torch.eye(2))
    >>> solution = ss.sample(law.model(ss.VPSDE()), shape=(4096, 2), solver="dpmpp_2m", nfe=10, seed=0)
    >>> solution.nfe, [round(value, 1) for value in solution.samples.mean(0).tolist()]
    (10, [1.0, -1.0])
    """
    check_network(model)
    if not isinstance(solver_options, Mapping | None):
        raise TypeError(f"solver_options must be a mapping such as {{'start': 'low'}}, got {solver_options!r}")
    if not isinstance(capture, bool | Capture):
        raise TypeError(f"capture must be True or False, got {capture!r}")
    if isinstance(start, str):
        options, start = {**options, "start": start}, None
    twice = sorted(options.keys() & (solver_options or {}).keys())
    require(not twice, f"each option once, got {', '.join(twice)} both as an argument and in solver_options=")
    options = {**(solver_options or {}), **options}
    with torch.set_grad_enabled(grad):  # the copy of a start, too, keeps a graph only if that is asked for
        x, seed, streams = start_state(model, shape, start, seed, indices, generator, noise, dtype, device)
    steps, nfe = _counts(steps, nfe)
    if solver is None:
        solver, options = chosen(nfe or steps or _steps_of(grid), options)
    if isinstance(solver, Table):
        given = {"steps": steps, "grid": grid, "corrector": corrector, "t_min": t_min, "t_max": t_max, **options}
        runner: Runner = check_table(solver, model, nfe, given, denoise)
        check_opened(solver, opening)
        times = solver.times
    else:
        last, first = check_ends(model, t_min, t_max)
        request = Request(model, *_asked(solver, grid, first, last, options), corrector, floor=t_min or 0.0)
        closing = denoise and request.ends_noisy
        if closing and nfe == 1:
            raise ValueError("nfe must be at least 2 with denoise=True, which takes one network call; got nfe=1")
        runner, times = plan(request, steps, nfe if nfe is None else nfe - closing)
        if start is not None and opening is None and t_max is not None:
            check_begins(request, float(times[0]))
    if isinstance(streams, BrownianPath):
        streams = streams.along(runner, model.sde)
    if start is None:
        x = x * model.sde.prior_std(float(times[0]) if opening is None else model.t_max)
    if opening is not None:
        with torch.set_grad_enabled(grad):
            x = opened(opening, model, x, float(times[0]))
    closes = denoise and model.sde.sigma(float(times[-1])) > 0
    view = View(trajectory, callback, progress, grad, on_error, closes, batch_size)
    if parallel is not None:
        runner = ParallelRunner.of(runner, parallel, grad=grad, log_prob=log_prob is not None)
    if log_prob is not None:
        require(opening is None, "log_prob= without opening=, whose change of density is not counted")
        require(not denoise, "log_prob= without denoise=True, whose last jump has no inverse")
        runner = AugmentedRunner(runner, Divergence.of(log_prob), model.sde, times)
    if capture:
        kept = capture if isinstance(capture, Capture) else Capture()
        runner = captured(runner, kept, model, x, streams, callback=callback is not None, grad=grad)
    name = solver.solver if isinstance(solver, Table) else _name(solver)
    return solve(model, x, streams, Course(runner, times, nfe, {"solver": name, "seed": seed}), view)


def encode(
    model: ScoreModel,
    x0: Tensor,
    *,
    solver: str | SolverInfo | Backend | None = None,
    nfe: int | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    log_prob: Method | Divergence | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    trajectory: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
    on_error: OnError = "raise",
    **options: Any,
) -> Solution:
    """Take data to its latent along the probability flow; ``decode`` with the same arguments brings it back.

    Args:
        model, solver, nfe, steps, grid, t_max, trajectory, callback, progress, grad, on_error, options: as in
            :func:`sample`, the solver deterministic; a grid is given decreasing, as for sampling, and walked upwards.
            Where no amount of work is named it is adaptive, with tolerances of 1e-6.
        x0: the data, shape (batch, ...), float32 or float64: the state at t_min.
        t_min: where to start; default the process' ``t_min``, or ``t_eps`` where that is noise zero.
        log_prob: as in :func:`sample`: log p of x0; ``log_likelihood`` says what that means, and has more to offer.
        seed, indices: of the probes of ``log_prob="hutchinson"``, as in :func:`sample`.
        batch_size: how many samples the network sees at once, as in :func:`sample`.

    Returns: a :class:`Solution` whose ``samples`` are the latents, at ``times[-1] = t_max``. Raises as ``sample``.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
    >>> x0 = torch.randn(5, 2, dtype=torch.float64)
    >>> latent = ss.encode(model, x0, solver="heun", steps=50).samples  # the flow of N(0, I) moves nothing
    >>> torch.allclose(latent, x0, atol=1e-2)
    True
    """
    check_network(model)
    with torch.set_grad_enabled(grad):
        x = check_state(x0, "x0").clone()  # the network may write into what it is given
    first, last = check_noisy_ends(model, t_min, t_max)
    steps, nfe = _counts(steps, nfe)
    if solver is None:
        solver, options = chosen(nfe or steps or _steps_of(grid), options, REVERSIBLE_TOLERANCE)
    request = Request(model, *_asked(solver, grid, last, first, options), floor=t_min or 0.0, upwards=True)
    require(request.ends_noisy, f"noise where encoding starts, there is none at t = 0: use t_min={model.t_eps:g}")
    runner, times = plan(request, steps, nfe)
    if t_max is not None:
        check_begins(request, float(times[-1]))
    if log_prob is not None:
        runner = AugmentedRunner(runner, Divergence.of(log_prob), model.sde, times)
    view = View(trajectory, callback, progress, grad, on_error, batch_size=batch_size)
    streams = SampleStreams(seed, check_indices(indices, len(x)))
    return solve(model, x, streams, Course(runner, times, nfe, {"solver": _name(solver)}), view)


def _name(solver: str | SolverInfo | Backend) -> str:
    return solver if isinstance(solver, str) else solver.name


def _asked(
    solver: str | SolverInfo | Backend, grid: GridLike | None, t_max: float, t_min: float, options: Mapping[str, Any]
) -> tuple[SolverInfo, GridLike | None, float, float, dict[str, Any]]:
    """What a name stands for, as a request has it; a grid and options given beside the name go first."""
    grid = times_given(grid)
    if isinstance(solver, Backend):
        return solver.info, grid, t_max, t_min, dict(options)
    preset = resolve(solver)
    own = preset.grid if grid is None else grid
    return get_solver(preset.solver), own, t_max, t_min, {**preset.options, **options}


def _counts(steps: int | None, nfe: int | None) -> tuple[int | None, int | None]:
    """The two ways to say how much work, checked."""
    if steps is not None and nfe is not None:
        raise ValueError(f"give steps= or nfe=, not both (got steps={steps}, nfe={nfe})")
    return (
        None if steps is None else whole_number("steps", steps),
        None if nfe is None else whole_number("nfe", nfe),
    )


def _steps_of(grid: GridLike | None) -> int | None:
    """The steps of an array of times; 1 for another grid, which wants a number of them; None without one."""
    if grid is None:
        return None
    return len(grid) - 1 if isinstance(grid, Sized) and not isinstance(grid, str) else 1
