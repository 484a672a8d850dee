"""Examples of docstrings as code: Markdown takes ``>>>`` for quotations, so they are fenced before it sees them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?m)^>>> .*\n?(?:.+\n?)*")


def fenced(text: str) -> str:
    """The text with every run of lines that begins with ``>>>``, its output included, as a block of code."""
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)


class Doctests(griffe.Extension):
    """Fences the examples of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring; its indentation is gone already."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
