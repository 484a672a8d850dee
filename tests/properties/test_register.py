"""The register: each of the 42 properties is held by a test, for every solver it concerns or with a reason why not.

A test says ``@pytest.mark.property(n, ...)``; ``beyond={name: reason}`` are solvers for which the property does not
hold, or that another test of the same property looks after; ``every=True`` if it goes through all solvers itself.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import scoresolve as ss

TESTS = Path(__file__).parent.parent
ALL = {info.name for info in ss.solvers()}
ODE = {info.name for info in ss.solvers() if info.kind == "ode"}
CONCERNED = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 34, 36, 37, 38, 41, 42), ALL),
    30: ODE,
    35: {info.name for info in ss.solvers() if info.adaptive},
    39: ALL,
}
"""Which solvers a property is about; those that are not here are about processes, noise, densities or pairs."""


def marked() -> list[Any]:
    """The test functions that carry a mark of the register; their modules are imported as pytest does."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        names = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and any("mark.property" in ast.unparse(d) for d in node.decorator_list)
        ]
        if names:
            if str(path.parent) not in sys.path:
                sys.path.insert(0, str(path.parent))
            module = importlib.import_module(path.stem)
            found += [getattr(module, name) for name in names]
    return found


def solvers_of(value: Any) -> set[str]:
    """The solvers that a parameter of a test stands for."""
    values = getattr(value, "values", value)  # those of pytest.param
    parts = values if isinstance(values, list | tuple) else [values]
    names = [part.name if isinstance(part, ss.SolverInfo) else part for part in parts]
    return {name for name in names if isinstance(name, str) and name in ALL}


@pytest.fixture(scope="module")
def register() -> dict[int, tuple[int, set[str], dict[str, str]]]:
    """Of each property the number of its tests, the solvers they go through, and those they leave out."""
    found: dict[int, tuple[int, set[str], dict[str, str]]] = defaultdict(lambda: (0, set(), {}))
    for function in marked():
        covered: set[str] = set()
        for mark in function.pytestmark:
            if mark.name == "parametrize":
                covered |= set().union(*map(solvers_of, mark.args[1]))
        for mark in function.pytestmark:
            if mark.name == "property":
                for number in mark.args:
                    count, names, reasons = found[number]
                    more = ALL if mark.kwargs.get("every") else covered
                    found[number] = count + 1, names | more, {**reasons, **mark.kwargs.get("beyond", {})}
    return found


@pytest.mark.parametrize("number", range(1, 43))
def test_each_property_is_held(number: int, register: dict[int, tuple[int, set[str], dict[str, str]]]) -> None:
    assert number in register, f"no test carries @pytest.mark.property({number})"
    _, names, reasons = register[number]
    assert all(reasons.values())
    assert reasons.keys() <= ALL, f"not solvers: {reasons.keys() - ALL}"
    missing = CONCERNED.get(number, set()) - names - reasons.keys()
    assert not missing, f"property {number} says nothing of {sorted(missing)}: test them, or give a reason in beyond="
