"""The tests themselves: each asserts something, and every promise has a module that the documentation names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
MODULES = sorted(TESTS.rglob("*.py"))
PROMISES = sorted((TESTS / "promises").glob("test_*.py"))
ASSERTING = ("raises", "warns", "fail", "assert_close", "assert_allclose", "assert_array_equal", "check_call")
"""Of pytest, torch, numpy and subprocess: what fails by itself."""


def _functions(tree: ast.AST) -> dict[str, ast.AST]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _asserts(node: ast.AST, known: dict[str, ast.AST], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a function asserts, or calls one that does."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assert):
            return True
        if isinstance(inner, ast.Call):
            called = inner.func.attr if isinstance(inner.func, ast.Attribute) else getattr(inner.func, "id", "")
            if called in ASSERTING:
                return True
            if called in known and called not in seen and _asserts(known[called], known, seen | {called}):
                return True
    return False


def _idle(source: str, known: dict[str, ast.AST]) -> Iterator[str]:
    """The tests of a module that can not fail by an assertion."""
    own = _functions(ast.parse(source))
    for name, node in own.items():
        a_test = name.startswith("test_") and isinstance(node, ast.FunctionDef)
        if a_test and not _asserts(node, {**known, **own}):
            yield name


@cache
def _shared() -> dict[str, ast.AST]:
    """The functions of the modules that tests import."""
    found: dict[str, ast.AST] = {}
    for path in MODULES:
        if not path.name.startswith("test_"):
            found |= _functions(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if p.name.startswith("test_")], ids=lambda path: path.stem)
def test_every_test_asserts_something(path: Path) -> None:
    assert list(_idle(path.read_text(), _shared())) == []


def test_a_test_without_an_assertion_is_found() -> None:
    """The control: one that calls and looks at nothing, beside one that asserts through a helper."""
    source = "def helper():\n    assert run()\n\n\ndef test_good():\n    helper()\n\n\ndef test_idle():\n    run()\n"
    assert list(_idle(source, {})) == ["test_idle"]


def test_every_promise_has_its_module_and_the_documentation_links_it() -> None:
    """Twelve, numbered, each named on the page of promises under its own number."""
    numbers = [int(path.name.split("_")[1]) for path in PROMISES]
    assert numbers == list(range(1, 13))
    page = (ROOT / "docs/promises.md").read_text()
    linked = re.findall(r"^## (\d+)\..*?`tests/promises/(test_(\d+)_\w+\.py)`", page, re.MULTILINE | re.DOTALL)
    assert [(int(heading), name) for heading, name, _ in linked] == [
        (n, p.name) for n, p in zip(numbers, PROMISES, strict=True)
    ]
