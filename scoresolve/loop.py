"""A table's run in two parts: what touches the host, done once, and the loop, which the device could do alone.

Made ready beforehand are the labels of all calls, the weights of all rows and the numbers of all draws, each copied to
the device together. The loop then is operations on tensors, the same ones whatever the values: nothing is copied to
the device nor read by the host, so that a run can be captured (``graphs.py``) and, run again, begins anew.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

from torch import Tensor

from .ahead import ahead
from .door import Questions
from .draws import drawn
from .model import ScoreModel
from .noise import SOLVER, NoiseSource
from .registers import Registers
from .row import accumulate

if TYPE_CHECKING:
    from .table import AfterStep, Table


class Loop:
    """A table made ready for a network, a source of noise and states like x.

    Args: table; model, a session's; x (batch, ...); noise, asked for draw ``number of the row``.

    Attributes: ask, the network's calls.
    """

    def __init__(self, table: Table, model: ScoreModel, x: Tensor, noise: NoiseSource) -> None:
        self._rows, self._model = table.rows, model
        self.ask = Questions(model, [row.t for row in table.rows], table.asked, x)
        self._registers = Registers(table.rows, self.ask.a, self.ask.b, x)
        noisy = [number for number, row in enumerate(table.rows) if row.draws]
        self._noise, self._kept = ahead(noise, SOLVER, noisy, x), max(row.normals for row in table.rows)

    def __call__(self, x: Tensor, after_step: AfterStep | None = None, calls: int | None = None) -> Tensor:
        """The state at the last time, of x at the first; of fewer ``calls``, the state that these lead to.

        ``after_step(step, time, x)`` may return a changed state.
        """
        model, ask, registers, noise = self._model, self.ask, self._registers, self._noise
        registers.begin(x)
        normals = cast(list[Tensor | None], [])
        y, step = x, 0
        for number, row in enumerate(islice(self._rows, calls)):
            model.at_step(step)
            registers.keep(number, ask(number, y), y)
            if row.normals:
                normals = [drawn(noise, SOLVER, number, x) if row.draws else None, *normals[: self._kept - 1]]
            moved = registers.commit(number, x)
            x = accumulate(moved, row.noise, normals, fresh=moved is not x)
            if row.s is not None:
                step += 1
                if after_step is not None:
                    x = after_step(step, row.s, x)
            y = registers.propose(number, x)
            y = accumulate(y, row.propose_noise, normals, fresh=y is not x)
        return x
