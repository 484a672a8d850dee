"""Numbers in and out: precision follows the state, networks of any precision, and what is written is read back."""

from __future__ import annotations

import pytest
import torch
from strategies import SOLVERS, named, normal, pointwise, work
from torch import Tensor

import scoresolve as ss

SDE = ss.VPSDE()


class Half(torch.nn.Module):
    """A network of bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype == torch.bfloat16
        return self.scale * pointwise(x, t.to(x.dtype))


@pytest.mark.property(41)
@pytest.mark.parametrize("info", SOLVERS, ids=named)
def test_precision(info: ss.SolverInfo) -> None:
    """float32 beside float64: 6 calls of 1e-7 and the run's own growth (of explicit stages over long steps, 1e3); a
    network in half precision keeps a float32 state, and its samples differ by its own rounding, 2^-9 a call. Adaptive
    solvers: their tolerance beside."""
    start = normal(4, 2)
    asked = {"seed": 0, **work(info)}
    model = ss.ScoreModel(pointwise, SDE, predicts="v")
    double = ss.sample(model, start=start, **asked).samples
    single = ss.sample(model, start=start.float(), **asked).samples
    half = ss.sample(ss.ScoreModel(Half(), SDE, predicts="v"), start=start.float(), **asked).samples
    assert (double.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.float32)
    size = 1 + float(double.abs().max())
    assert float((single - double).abs().max()) < (0.1 if info.adaptive else 1e-3) * size
    assert float((half - double).abs().max()) < (0.3 if info.adaptive else 0.1) * size
