"""Bad and unusual arguments of the public functions: each is a valid run, or refused by a message that names it.

Each case is a word of the message, "" where the request is a valid if unusual one, and what is asked for.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults import SDE, answer

import scoresolve as ss

MODEL = ss.ScoreModel(answer, SDE, predicts="noise")
X = torch.linspace(-1, 1, 8).reshape(4, 2)
GOOD: dict[str, Any] = {"shape": (4, 2), "solver": "dpmpp_2m", "nfe": 3, "seed": 0}
LAW = ss.exact.Gaussian(torch.zeros(2), torch.eye(2))
TABLE = ss.sample(MODEL, **GOOD).table
NAN, INF = math.nan, math.inf


def _sample(**changes: Any) -> Callable[[], object]:
    return lambda: ss.sample(MODEL, **{**GOOD, **changes})


def _start(start: Any, **changes: Any) -> Callable[[], object]:
    return _sample(**{"shape": None, "start": start, **changes})


def _encode(x0: Any = X, **changes: Any) -> Callable[[], object]:
    return lambda: ss.encode(MODEL, x0, **{"solver": "heun", "nfe": 4, **changes})


def _log_p(x0: Any = X, **changes: Any) -> Callable[[], object]:
    return lambda: ss.log_likelihood(MODEL, x0, **{"nfe": 3, **changes})


def _adaptive(**changes: Any) -> Callable[[], object]:
    return _sample(**{"solver": "adaptive_abm", "nfe": None, "rtol": 0.1, "atol": 0.1, **changes})


def _to(**changes: Any) -> Callable[[], object]:
    asked = {
        "directory": Path(tempfile.gettempdir()) / "scoresolve-refused",
        "solver": "ddim",
        "nfe": 2,
        "shape": (4, 2),
        **changes,
    }
    return lambda: ss.sample_to(MODEL, **asked)


def _tune(**changes: Any) -> Callable[[], object]:
    return lambda: ss.tune(MODEL, **{"shape": (2,), "nfe": 2, "starts": 4, **changes})


def _net(**changes: Any) -> Callable[[], object]:
    return lambda: ss.ScoreModel(**{"net": answer, "sde": SDE, **changes})


SAMPLE: list[tuple[str, Callable[[], object]]] = [
    *(("nfe", _sample(nfe=nfe)) for nfe in (0, -1, True, 2.5, NAN, INF, "5", [5], 10**9, 10**30)),
    *(("steps", _sample(nfe=None, steps=steps)) for steps in (0, -1, True, 2.5, NAN, "5", 10**9)),
    *(("shape", _sample(shape=shape)) for shape in ((), (0, 2), (4, -1), (4, 2.0), (True, 2), 4, "42", (4, None))),
    *(("seed", _sample(seed=seed)) for seed in (-1, 2.5, NAN, True, "0", 2**63)),
    *(("", _sample(seed=seed)) for seed in (None, 2**63 - 1)),
    *(("ind", _sample(indices=i)) for i in ([-1, 0, 1, 2], [0], [0.5, 1, 2, 3], [2**63, 1, 2, 3], 7, "abcd")),
    ("", _sample(indices=[3, 3, 3, 3])),
    *(("t_m", _sample(t_min=t)) for t in (-0.1, 1.0, 2.0, NAN, INF, "0", [0.1])),
    *(("t_m", _sample(t_max=t)) for t in (0.0, -1.0, 1.5, NAN, INF, "1")),
    *(("grid", _sample(nfe=None, grid=g)) for g in (
        [], [1.0], [0.1, 1.0], [1.0, 0.5, 0.5, 0.1], [1.0, NAN, 0.1], [2.0, 0.1], [1.0, -0.1], [[1.0, 0.1]],
        ["a", "b"], [1.0, None], [1.0, INF], {"a": 1}, 5, True, [1 + 0j, 0.1],
    )),
    *(("grid", _sample(grid=g)) for g in ("karas", lambda *_: [1.0], lambda *_: None, lambda *_: np.zeros(4))),
    *(("solver", _sample(solver=s)) for s in ("", "nosuch", 3, ["ddim"], ss.sample)),
    *(("start", _start(start)) for start in (
        X.long(), X.half(), X.bool(), X.to(torch.complex64), X[:0], X[:, :0], torch.tensor(1.0), X / 0, X * NAN,
        X.to("meta"), X.to_sparse(), X.numpy(), [[0.0, 1.0]], 0.5,
    )),
    *(("", _start(start)) for start in (X.clone().requires_grad_(), X.T.contiguous().T, X[:1].expand(4, 2), X[::2])),
    ("start", _start(X, shape=(3, 2))),
    ("dtype", _sample(dtype=torch.float16)), ("dtype", _sample(dtype="float32")), ("dtype", _sample(dtype=float)),
    ("device", _sample(device="nosuch")), ("device", _sample(device="meta")),
    *(("batch_size", _sample(batch_size=b)) for b in (0, -1, 2.5, True, "2")), ("", _sample(batch_size=10**9)),
    ("generator", _sample(solver="ddpm", seed=None, generator=5)), ("noise", _sample(noise=5)),
    ("noise", _sample(noise="white")), ("callback", _sample(callback=5)), ("on_error", _sample(on_error="ignore")),
    ("parallel", _sample(parallel=True)), ("corrector", _sample(corrector="nosuch")),
    ("corrector", _sample(corrector=5)), ("opening", _sample(opening=5)), ("divergence", _sample(log_prob="nosuch")),
    ("divergence", _sample(log_prob=True)), ("capture", _sample(capture="yes")), ("eta", _sample(eta=1.0)),
    *(("eta", _sample(solver="ddim", eta=eta)) for eta in (-1.0, NAN, INF, "1", None)),
    *(("lower_order_final", _sample(lower_order_final=v)) for v in ("False", "false", "", 0, 1, 0.0)),
    *(("", _sample(lower_order_final=v)) for v in (True, False, None)),
    *(("unic", _sample(solver="unipc_2", unic=v)) for v in ("False", None, "exact")),
    ("solver_options", _sample(solver_options=5)),
    ("eta both as", _sample(solver="ddim", eta=0.5, solver_options={"eta": 0.3})),
    ("start both as", _sample(start="low", solver_options={"start": "high"})),
    ("solver=table", _sample(solver=TABLE, nfe=None, steps=3)),
    ("nfe", _sample(solver=TABLE, nfe=4)), ("model", lambda: ss.sample(answer, **GOOD)),
]  # fmt: skip
OTHERS: list[tuple[str, Callable[[], object]]] = [
    *((name, _adaptive(**{name: v})) for name in ("rtol", "atol") for v in (0.0, -1.0, NAN, INF, "1", True)),
    ("nfe", _adaptive(nfe=0)), ("clock", _adaptive(clock="nosuch")), ("order", _adaptive(order=0)),
    ("order", _adaptive(order=2.5)), ("dense", _adaptive(dense="False")),
    *(("snr", _sample(solver="annealed_langevin", snr=v)) for v in (0.0, -1.0, NAN, INF, "1")),
    *(("correct", _sample(solver="annealed_langevin", corrections=v)) for v in (0, 1.5, NAN, True)),
    *(("window", lambda v=v: ss.Picard(window=v)) for v in (0, -1, 2.5, NAN)),
    *(("tolerance", lambda v=v: ss.Picard(tolerance=v)) for v in (-1.0, NAN, INF, "1")),
    *(("x0", _encode(x)) for x in (X.long(), X / 0, X[:0], X.to("meta"), None)),
    ("t_min", _encode(t_min=0.0)), ("indices", _encode(indices=[0], log_prob="hutchinson")), ("seed", _encode(seed=-1)),
    ("x0", _log_p(X.half())), ("probes", _log_p(divergence="hutchinson", probes=0)),
    ("divergence", _log_p(divergence=5)),
    ("indices", _log_p(indices=[0])), ("levels", _log_p(levels=1, data_range=(0, 1))), ("levels", _log_p(levels=256)),
    ("data_range", _log_p(levels=256, data_range=(1, 0))), ("data_range", _log_p(levels=256, data_range=5)),
    ("prior", _log_p(prior=5)), ("prior", _log_p(prior=lambda x: x)),
    ("net", _net(net=5)), ("sde", _net(sde="vp")), ("prediction", _net(predicts=None)), ("time", _net(time=5)),
    ("scale", lambda: MODEL.guide(NAN)), ("scale", lambda: MODEL.guide("2")),
    *(("beta_m", lambda v=v: ss.VPSDE(beta_min=v)) for v in (-1.0, NAN, 30.0, "1", None)),
    *(("beta_m", lambda v=v: ss.VPSDE(beta_max=v)) for v in (NAN, INF)),
    *(("sigma_m", lambda k=k, v=v: k(sigma_max=v)) for k in (ss.VESDE, ss.EDM) for v in (0.0, NAN, INF, -1.0, "80")),
    *(("s", lambda v=v: ss.CosineVPSDE(s=v)) for v in (-1.0, NAN, "0")),
    *(("betas", lambda v=v: ss.DiscreteVPSDE(v)) for v in ([], [0.1, 2.0], [0.1, NAN], [-0.1], 5, "ab", [[0.1]])),
    ("alpha", lambda: ss.GaussianPath(alpha=1.0, sigma=lambda t: t)),
    *(("t", lambda t=t: MODEL.score(X, t)) for t in (NAN, torch.zeros(3))),
    *(("covariance", lambda c=c: ss.exact.Gaussian(torch.zeros(2), c)) for c in (
        -torch.eye(2), torch.eye(3), torch.eye(2) * NAN, torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "unit")),
    ("mean", lambda: ss.exact.Gaussian([NAN, 0.0], torch.eye(2))),
    *(("weights", lambda w=w: ss.exact.GaussianMixture(w, [[0.0], [1.0]], [1.0, 1.0])) for w in (
        [-0.5, 1.5], [0.0, 0.0], [NAN, 1.0])),
    *(("bandwidth", lambda b=b: ss.exact.Empirical(X, b)) for b in (-1.0, NAN, "1")),
    ("data", lambda: ss.exact.Empirical(X[:0], 0.1)), ("data", lambda: ss.exact.Gaussian.fit(X[:0])),
    *(("n", lambda n=n: LAW.sample(n)) for n in (-1, 2.5, "3")),
    *(("table", lambda text=text: ss.Table.from_json(text)) for text in (
        "", "{}", "[]", "null", "NaN", '{"format": "scoresolve table 2"}', TABLE.to_json().replace("0.", "1e400."),
        TABLE.to_json().replace('"data"', '"nosuch"'), TABLE.to_json().replace('"rows": [', '"rows": [5, '))),
    ("row", lambda: ss.Table((), "data", 1.0)), ("finite", lambda: ss.Table((ss.Row(1.0, 0.5, (NAN,)),), "data", 1.0)),
    *(("nfe", _tune(nfe=n)) for n in (0, -1, 2.5, [], [2, 0], "4")),
    *(("shape", _tune(shape=s)) for s in ((0,), (2.5,), "2", 2)), ("starts", _tune(starts=0)),
    *(("budget", _tune(budget=b)) for b in (0, -1, NAN)), *(("minutes", _tune(minutes=m)) for m in (0, -1.0, NAN)),
    ("seed", _tune(seed=-1)), ("nosuch", _tune(candidates=[("nosuch", "karras")])),
    ("nfe", lambda: ss.compare(MODEL, (2, 2), nfe=[])), ("nfe", lambda: ss.compare(MODEL, (2, 2), nfe=[0])),
    ("solver", lambda: ss.compare(MODEL, (2, 2), solvers=["nosuch"])),
    ("nfe", lambda: ss.advise(MODEL, (2,), nfe=[0])), ("shape", lambda: ss.advise(MODEL, (0,))),
    *(("batch_size", _to(batch_size=b)) for b in (0, 2.5)), *(("shard_size", _to(shard_size=b)) for b in (0, 2.5)),
    *(("shape", _to(shape=s)) for s in ((), (0, 2), 4)), ("format", _to(format="pickle")), ("first", _to(first=-1)),
    ("value_range", _to(value_range=(1, 0))), ("rank", _to(rank=3, world_size=2)), ("nosuch", _to(nosuch=1)),
    ("start", _to(start=X)),
    ("a and b", lambda: ss.interpolate(X, X[:2], 0.5)), ("weight", lambda: ss.interpolate(X, X, "half")),
    ("library", lambda: ss.backend("jax", "euler")), ("method", lambda: ss.backend("scipy", "RK46")),
    *(("rtol", lambda v=v: ss.backend("scipy", "RK45", rtol=v)) for v in (0.0, NAN, "1")),
    ("images", lambda: ss.dequantise(X)), ("levels", lambda: ss.dequantise(X.long(), levels=1)),
]  # fmt: skip
