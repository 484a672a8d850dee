"""A table run one network call at a time, for loops that are not ours: the caller asks its network, and hands in.

The operations of a row are those of ``loop.py``, on the same registers, with the state kept between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..door import Questions
from ..model import ScoreModel
from ..registers import Registers
from ..row import accumulate
from ..table import Table
from ..watch import Watch
from .networks import without_variance


class Mailbox:
    """Stands for the network: what it is asked is answered by what was put in, learned variances cut off."""

    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self, x: Tensor, label: Tensor) -> Any:
        """The answer that was put in; the network's door says if it is none."""
        return without_variance(self.answer, x)


class Stepper:
    """The loop of a table with its network outside: plain data, which can be copied and pickled half way.

    Args: table; model, around a mailbox; mailbox; x (batch, ...), the state at the table's start, float32 or float64.

    Attributes: x, the base state; y, where the network is to be asked next; number, of the next call.
    """

    def __init__(self, table: Table, model: ScoreModel, mailbox: Mailbox, x: Tensor) -> None:
        self.table, self.mailbox = table, mailbox
        self.watch = Watch(on_nonfinite="raise")
        self.model = model.session(self.watch)
        rows = table.rows
        self.questions = Questions(self.model, [row.t for row in rows], table.asked, x)
        with torch.enable_grad():  # registers apart: pickled views of one buffer would come back as copies
            self.registers = Registers(rows, self.questions.a, self.questions.b, x)
        self.registers.begin(x)
        self.kept = max(row.normals for row in rows)
        self.normals: list[Tensor | None] = []
        self.x = self.y = x
        self.number = 0

    def answer(self, output: Tensor, draw: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Take the network's output at y through the row; returns the next y, and the data predicted at the old.

        Args: output, shaped as y (or with a variance beside it); draw, standard normal noise of a call, like a tensor.
        """
        number, row = self.number, self.table.rows[self.number]
        self.watch.calls = number  # what is asked below for the data is the same call
        self.model.at_step(sum(before.s is not None for before in self.table.rows[:number]))
        self.mailbox.answer = output
        try:
            answer = self.questions(number, self.y)
            data = self.model.evaluate(self.y, row.t, "data")
        finally:
            self.mailbox.answer = None
        drawn = draw(number, self.x) if row.draws else None
        # from here on nothing fails: after an error above, the same step can be taken again
        self.registers.keep(number, answer, self.y)
        if row.normals:
            self.normals = [drawn, *self.normals[: self.kept - 1]]
        moved = self.registers.commit(number, self.x)
        self.x = accumulate(moved, row.noise, cast(list[Tensor], self.normals), fresh=moved is not self.x)
        y = self.registers.propose(number, self.x)
        self.y = accumulate(y, row.propose_noise, cast(list[Tensor], self.normals), fresh=y is not self.x)
        self.number += 1
        if self.done:
            self.watch.close(self.x)
        return self.y, data

    @property
    def done(self) -> bool:
        """Whether all calls have been made."""
        return self.number == len(self.table.rows)

    def move(self, change: Tensor) -> None:
        """Add a change that was made outside to the state."""
        together = self.y is self.x
        self.x = self.x + change
        self.y = self.x if together else self.y + change
