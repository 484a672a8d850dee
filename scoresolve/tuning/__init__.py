r"""Tables made for one network: ``tune``.

At few calls the order of a solver says little: what a rule with n calls *could* give is far from what any published one
gives. So the rule is found: a student with every weight and every time label free (``student.py``), started from the
published solvers (``candidates.py``, ``lifting.py``), is moved by Gauss and Newton's method (``gauss_newton.py``) until
its ends are as close as they get to those of the converged flow of the same network (``teacher.py``), and what is
kept is what does best on starts that it was not fitted to (``search.py``). The network's weights are not touched, and
nothing is asked of it but calls (``shooting.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import call_counts, real_number, require
from ..exact import Gaussian
from ..model import ScoreModel
from ..opening import facts_of as law_facts
from ..starting import check_ends, check_model, check_shape
from ..table import Table
from .candidates import Candidate, check_candidates, published
from .laws import fourier_features
from .lesson import Asked, Lesson, prepare
from .openings import law_of, opened_at, opening_times
from .search import DIRECT, Found, Purse, Task, grown, search
from .shooting import Features, themselves
from .student import Student

__all__ = ["tune"]

MANY = 4096
"""Starts to compare laws by."""
PRELIMINARY = 0.25
"""The share of a budget that may be spent on the search for half as many calls."""


@overload
def tune(model: ScoreModel, shape: Sequence[int], nfe: int, **settings: Any) -> Table: ...
@overload
def tune(model: ScoreModel, shape: Sequence[int], nfe: Sequence[int], **settings: Any) -> dict[int, Table]: ...
def tune(  # type: ignore[misc]  # the overloads leave the keywords to this signature
    model: ScoreModel,
    shape: Sequence[int],
    nfe: int | Sequence[int],
    *,
    seed: int = 0,
    starts: int | Tensor | None = None,
    held_out: int | None = None,
    features: Features | None = None,
    data: Tensor | Gaussian | None = None,
    stochastic: bool = False,
    candidates: Sequence[Candidate] | None = None,
    budget: int | None = None,
    minutes: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Table | dict[int, Table]:
    """A solver made for this network: the table of ``nfe`` calls whose ends are closest to the converged flow's.

    Args:
        model: the network with its process; its conditioning may have a row for each start and each held-out one.
        shape: of one sample, (3, 32, 32).
        nfe: network calls; or several numbers of them, each search then begins from the result of the one before.
        seed: of the starts, which are no samples of ``ss.sample`` of the same seed.
        starts: how many the table is fitted to (default: as many as make 65536 numbers, 256 to 4096), or the states at
            t_max themselves, those held out last.
        held_out: how many more it is judged by (default: as many, 256 at least; of a tensor of starts a fifth).
        features: what errors are measured in, a function (batch, ...) -> (batch, ...), say of a perceptual distance;
            default the samples themselves.
        data: of the network, (n, *shape), or its Gaussian: tables are tried too that begin below t_max, where that
            Gaussian's flow takes the noise at no call. A table that does is run with ``opening=`` that Gaussian.
        stochastic: tune the weights, labels and noise of solvers of kind "sde", for the law of their samples: the
            maximum mean discrepancy to the converged flow's ends, whose law is the same (``laws.py``). Laws are seen
            through many samples only: 4096 starts by default.
        candidates: (solver, grid) pairs to begin from and to be held against.
        budget: the most samples the network may be given in all searches (a call on a batch of 512 is 512 of them).
        minutes: the most time they may take. Both are looked at between steps; the teacher's cost comes before, apart.
        t_min, t_max: as in ``ss.sample``.
        batch_size: how many samples the network sees at once.
        dtype, device: of the states; default float64 where the network takes it, and the device of its parameters.
        progress: show a progress bar.

    Returns: a :class:`Table`, for ``solver=``, or one for each ``nfe``. It is the best published solver itself where no
    better one was found, so that on the held-out starts it is never worse. Its options say what it was tuned on.

    Raises: ValueError or TypeError for arguments that make no sense, before the network is called.

    Cost: the teacher 192 or more calls on all starts; a descent step about n^3/6 + n^2 calls on the starts, with 12
    descents of 6 steps and 6 of 14 on a quarter of them, and 3 of up to 60 on all. More than 6 calls begin from half as
    many too, tuned first; and, where a few starts have most of the error, from two tables of fewer calls each.

    Source: the rule's form, Shaul et al. 2024, arXiv:2403.01329 (BNS) and Cohen et al. 2025, arXiv:2502.17423 (S4S);
    labels apart from the grid, Tong et al. 2025, arXiv:2405.15506 (LD3). Those take gradients through the network.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.GaussianMixture([0.5, 0.5], torch.tensor([[-1.0], [1.0]]), 0.01 * torch.eye(1).expand(2, 1, 1))
    >>> model = law.model(ss.VPSDE())
    >>> table = ss.tune(model, (1,), nfe=4, starts=512, candidates=[("ddim", "karras"), ("dpmpp_2m", "balanced")])
    >>> table.options["rmse"] < 0.3 * table.options["best_published_rmse"]
    True
    >>> ss.sample(model, shape=(8, 1), solver=table, seed=1).nfe
    4
    """
    check_model(model)
    counts = call_counts(nfe)
    ends = check_ends(model, t_min, t_max)
    starts = MANY if starts is None and stochastic else starts
    asked = Asked(check_shape(shape), seed, starts, held_out, ends, batch_size, dtype, device, stochastic)
    law = None if data is None else law_of(data, asked.shape)
    require(law is None or ends[1] == model.t_max, "data= without t_max=: an opening begins at the process' own")
    check_candidates(candidates or (), stochastic)
    for name, limit in (("budget", budget), ("minutes", minutes)):
        require(limit is None or real_number(name, limit) > 0, f"{name} > 0, got {limit}")
    lesson = prepare(model, asked, counts[-1], features or themselves)
    purse = Purse(budget, None if minutes is None else 60 * minutes)
    task = Task(
        lesson, _seen(lesson, features, seed, stochastic), stochastic, ends, labels_of(model, ends),
        published(stochastic) if candidates is None else candidates, purse,
    )  # fmt: skip
    later = [] if law is None else [opened_at(task, law, t) for t in opening_times(model, law, ends)]
    found: dict[int, Table] = {}
    result: Found | None = None
    for count in _stages(counts):
        preliminary = count not in counts
        purse.share = PRELIMINARY if preliminary else 1.0
        more = {one: _grown(result, one, count) for one in (task, *later)}
        with tqdm(desc=f"tuning {count} calls", unit="step", disable=not progress, leave=False) as bar:
            try:
                result = search(task, count, more.pop(task), bar.update, more)
            except ValueError:  # no candidate takes so few calls
                if preliminary:
                    continue
                raise
        if not preliminary:
            facts = {**facts_of(model, asked, lesson, features), "network_rows": purse.spent + lesson.taught.rows}
            found[count] = table_of(result, facts)
    return found if isinstance(nfe, Iterable) else found[counts[0]]


def _stages(counts: Sequence[int]) -> list[int]:
    """The numbers of calls asked for, ascending, and half of those which none in their upper half leads up to."""
    stages = set(counts)
    for count in counts:
        while count > DIRECT and not stages.intersection(range(count // 2, count)):
            count //= 2
            stages.add(count)
    return sorted(stages)


def _grown(shorter: Found | None, task: Task, calls: int) -> list[Student]:
    """What a search of fewer calls for the same task leads on to."""
    student = None if shorter is None or shorter.task is not task else shorter.student
    return [] if student is None else grown(student, calls)


def _seen(lesson: Lesson, features: Features | None, seed: int, stochastic: bool) -> Features:
    """What errors are measured in: the features, and for laws Fourier's of them."""
    plain = features or themselves
    if not stochastic:
        return plain
    fourier = fourier_features(plain(lesson.train.targets), seed)
    return lambda x: fourier(plain(x))


def labels_of(model: ScoreModel, ends: tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest time that the network may be told."""
    low, high = ends
    return (low if model.sde.sigma(low) > 0 else min(model.t_eps, 0.5 * high)), high


def facts_of(model: ScoreModel, asked: Asked, lesson: Lesson, features: Features | None = None) -> dict[str, Any]:
    """What a tuned table says of what it was tuned on."""
    return {
        "tuned_on": getattr(model.net, "__qualname__", type(model.net).__qualname__).replace(".<locals>", ""),
        "shape": list(asked.shape),
        **({} if isinstance(asked.starts, Tensor) else {"seed": asked.seed}),
        "starts": len(lesson.train.x),
        "held_out": len(lesson.held_out.x),
        **({} if features is None else {"features": getattr(features, "__name__", type(features).__name__)}),
        "teacher_gap": lesson.taught.gap,
    }


def table_of(found: Found, facts: Mapping[str, Any]) -> Table:
    """The table of what a search found, with its errors beside those of the best published solver."""
    best = found.best
    measure = "mmd" if found.task.laws else "rmse"
    errors = {measure: found.error, **({} if found.task.laws else {"median": found.median})}
    options = {**facts, **errors, "best_published": best.name, f"best_published_{measure}": best.error}
    if found.task.opening is not None:
        options["opening"] = law_facts(found.task.opening)
    if found.student is not None:
        return found.student.table("tuned", options)
    return replace(found.lead.table, options={**found.lead.table.options, **options})
