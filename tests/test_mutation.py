"""Faults written by hand stay where they were written, and mutants are what they are said to be."""

from __future__ import annotations

import ast
import csv
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "mutation"))
import children  # noqa: E402
import hand  # noqa: E402
import mutate  # noqa: E402


@pytest.mark.parametrize("path", sorted({fault.path for fault in hand.FAULTS}))
def test_the_place_of_every_fault_is_there_once(path: str) -> None:
    text = (ROOT / path).read_text()
    for fault in hand.FAULTS:
        if fault.path == path:
            ast.parse(fault.source(text))
            assert fault.source(text) != text


def test_every_fault_names_tests_that_are_there() -> None:
    assert not [what for what, times in Counter(fault.what for fault in hand.FAULTS).items() if times > 1]
    for fault in hand.FAULTS:
        assert fault.tests
        for path, _, name in (children.place_of(test).partition("::") for test in fault.tests):
            text = (ROOT / path).read_text()
            assert f"def {name.partition('[')[0]}(" in text, f"{fault.what!r} names {name} of {path}"


def test_a_fault_whose_place_is_gone_or_twice_says_so() -> None:
    fault = hand.Fault("what", "file.py", "a", "b", ("sde::test",))
    assert fault.source("a c") == "b c"
    for text, times in (("c", 0), ("a a", 2)):
        with pytest.raises(ValueError, match=f"occurs {times} times"):
            fault.source(text)


def test_every_survivor_has_a_verdict_and_its_line_is_there() -> None:
    with mutate.SURVIVORS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        text = " ".join(line.strip() for line in (ROOT / row["file"]).read_text().splitlines())
        assert row["before"] in text, row
        assert row["verdict"] in mutate.VERDICTS, row


def test_code_is_swapped_in_living_functions_and_what_runs_at_import_is_not() -> None:
    old = "LIMIT = 3\ndef outer(x):\n    def inner(y):\n        return y + 1\n    return inner\n"
    space: dict[str, object] = {}
    exec(compile(old, "", "exec"), space)
    outer = space["outer"]
    inner = outer(0)  # made before: the code of a function that lives already
    for _ in range(100):  # run until the interpreter has made its own of it
        inner(0)
    functions = {children.identity(function.__code__): [function] for function in (outer, inner)}
    assert children.swap(functions, old, old.replace("y + 1", "y - 1"))
    assert (inner(0), outer(0)(0)) == (-1, -1)
    assert not children.swap({}, old, old.replace("y + 1", "y - 1"))
    assert not children.swap(functions, old, old.replace("LIMIT = 3", "LIMIT = 4"))
    assert not children.swap(functions, old, old.replace("(x)", "(x=1)"))


def test_mutants_are_found_in_tables_and_decorated_functions_and_not_in_words() -> None:
    finder = pytest.importorskip("finder", reason="needs the extra 'mutate'", exc_type=ImportError)
    text = '"""Doc."""\nWEIGHTS = (0.5,)\n\n\n@name("heun", order=2)\ndef f(x: int = 1) -> int:\n'
    text += '    require(x > 0, f"x > 0, got {x + 1}")\n    if x > 9:\n'
    text += '        raise ValueError("no" + str(x))\n    return x - 1\n'
    file = finder.File("file.py", text)
    found = {file.mutant(number).after for number in range(len(file))}
    assert {"WEIGHTS = (1.5,)", '@name("heun", order=3)', "return x + 1", "if x >= 9:"} <= found
    assert 'require(x >= 0, f"x > 0, got {x + 1}")' in found
    assert not [line for line in found if "raise" in line or "x - 1}" in line or "Doc" in line.replace("Doc.", "")]
