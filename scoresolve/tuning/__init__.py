r"""Tables made for one network: ``tune``.

At few calls the order of a solver says little: what a rule with n calls *could* give is far from what any published one
gives. So the rule is found: a student with every weight and every time label free (``student.py``), started from the
published solvers (``candidates.py``, ``lifting.py``), is moved by Gauss and Newton's method (``gauss_newton.py``) until
its ends are as close as they get to those of the converged flow of the same network (``teacher.py``), and what is
kept is what does best on starts that it was not fitted to (``search.py``). The network's weights are not touched, and
nothing is asked of it but calls (``shooting.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import require, whole_number
from ..model import ScoreModel
from ..starting import check_ends, check_model
from ..table import Table
from .candidates import Candidate, check_candidates, published
from .lesson import Asked, Lesson, prepare
from .search import Found, Purse, Task, grown, search
from .shooting import Features
from .student import Student

__all__ = ["tune"]


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
        held_out: how many more it is judged by (default: a quarter as many, 256 at least).
        features: what errors are measured in, a function (batch, ...) -> (batch, ...), say of a perceptual distance;
            default the samples themselves.
        candidates: (solver, grid) pairs to begin from and to be held against.
        budget: the most samples the network may be given in all searches (a call on a batch of 512 is 512 of them).
        minutes: the most time they may take. Both are looked at between steps; the teacher's cost comes before.
        t_min, t_max: as in ``ss.sample``.
        batch_size: how many samples the network sees at once.
        dtype, device: of the states; default float64 where the network takes it, and the device of its parameters.
        progress: show a progress bar.

    Returns: a :class:`Table`, for ``solver=``, or one for each ``nfe``. It is the best published solver itself where no
    better one was found, so that on the held-out starts it is never worse. Its options say what it was tuned on.

    Raises: ValueError for arguments that make no sense, before the network is called.

    Cost: the teacher 192 or more calls on all starts; a descent step about n^3/6 + n^2 calls on the starts, with 12
    descents of 6 steps and 6 of 14 on a quarter of them, and 3 of up to 60 on all.

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
    counts = [nfe] if isinstance(nfe, int) else list(nfe)
    require(bool(counts), "nfe= a number of network calls, or several")
    counts = sorted({whole_number("nfe", count) for count in counts})
    asked = Asked(tuple(shape), seed, starts, held_out, check_ends(model, t_min, t_max), batch_size, dtype, device)
    check_candidates(candidates or ())
    purse = Purse(budget, None if minutes is None else 60 * minutes)
    lesson = prepare(model, asked, counts[-1], features or _themselves)
    task = Task(
        lesson, features or _themselves, False, asked.ends, labels_of(model, asked.ends),
        published(False) if candidates is None else candidates, purse,
    )  # fmt: skip
    found: dict[int, Table] = {}
    student: Student | None = None
    for count in counts:
        with tqdm(desc=f"tuning {count} calls", unit="step", disable=not progress, leave=False) as bar:
            more = grown(student) if student is not None and student.calls == count - 1 else []
            result = search(task, count, more, bar.update)
        student = result.student
        facts = facts_of(model, asked, lesson, features)
        found[count] = table_of(result, {**facts, "network_rows": purse.spent + lesson.taught.rows})
    return found[counts[0]] if isinstance(nfe, int) else found


def _themselves(x: Tensor) -> Tensor:
    return x


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
    errors = {"rmse": found.error, "median": found.median}
    options = {**facts, **errors, "best_published": best.name, "best_published_rmse": best.error}
    if found.student is not None:
        return found.student.table("tuned", options)
    return replace(best.table, options={**best.table.options, **options})
