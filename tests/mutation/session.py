"""Mutants under the tests: a session of pytest that forks a child for each, its tests chosen by what they execute."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

from children import ROOT, Imported, identity, place_of, pool, swap

if TYPE_CHECKING:
    import coverage
    import pytest
    from finder import Mutant

OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
LONGEST, TOGETHER, PATIENCE = 5.0, 5.0, 30.0
"""Seconds of a test that is run at all; of those that run first; of all others, on the mutants that survive these."""


@dataclass(frozen=True)
class Plan:
    """The tests of a mutant: those that run first, their seconds, the others; whether its line runs at import too."""

    quick: list[str]
    seconds: float
    slow: list[str]
    early: bool


def passes(items: Sequence[pytest.Item]) -> bool:
    """Whether all tests pass, run until the first that does not."""
    from _pytest.runner import runtestprotocol

    for item, following in pairwise([*items, None]):
        if any(report.failed for report in runtestprotocol(item, nextitem=following, log=False)):
            return False
    return True


def tracer() -> coverage.Coverage:
    """What sees the lines of the library that are executed."""
    import coverage

    found = coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT}/scoresolve/*"])
    found.start()
    return found


def traced(found: coverage.Coverage) -> dict[str, list[int]]:
    """The lines of each file that were executed until now."""
    found.stop()
    data = found.get_data()
    return {str(Path(file).relative_to(ROOT)): data.lines(file) or [] for file in data.measured_files()}


class Session:
    """A pytest plugin that collects as ever, and then runs mutants in place of tests.

    Attributes: results, the outcome of each mutant by its number; again, those that want an import, with their tests.
    """

    def __init__(self, mutants: Sequence[Mutant], jobs: int, report: Callable[[str], None]) -> None:
        self.mutants, self.jobs, self.report = mutants, jobs, report
        self.results: dict[int, str] = {}
        self.again: dict[int, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}
        self.imports = tracer()

    def pytest_internalerror(self, excrepr: object) -> None:
        """Say what is wrong here: pytest's own report goes nowhere."""
        self.report(str(excrepr))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Everything, once the tests are collected."""
        import gc

        self.items = {item.nodeid: item for item in session.items}
        self.add("", traced(self.imports))
        self.measure()
        functions: dict[tuple[object, ...], list[FunctionType]] = {}
        for function in gc.get_objects():
            if type(function) is FunctionType and str(function.__module__).startswith("scoresolve"):
                functions.setdefault(identity(function.__code__), []).append(function)
        plans = [self.plan(mutant) for mutant in self.mutants]
        sources = {path: (ROOT / path).read_text() for path in {mutant.path for mutant in self.mutants}}

        def task(number: int, names: Sequence[str]) -> Callable[[], bool]:
            mutant, tests = self.mutants[number], [self.items[name] for name in names]

            def work() -> bool:
                swap(functions, sources[mutant.path], mutant.source)
                return not passes(tests)

            return work

        began, quick = time.monotonic(), []
        for n, mutant in enumerate(self.mutants):
            quick += [n] if swap(functions, sources[mutant.path], mutant.source, act=False) else []
        quick.sort(key=lambda n: plans[n].seconds)
        for n, result in pool(((n, task(n, plans[n].quick), 3 + 3 * plans[n].seconds) for n in quick), self.jobs):
            self.results[n] = result
            if len(self.results) % 100 == 0:
                self.report(f"{len(self.results)} of {len(plans)} mutants, {time.monotonic() - began:.0f} s")
        left = [n for n in quick if self.results[n] == "survived" and plans[n].slow]
        for n, result in pool(((n, task(n, plans[n].slow), PATIENCE) for n in left), self.jobs):
            if result == "killed":  # a slow test whose time is up has found nothing
                self.results[n] = result
        for n, plan in enumerate(plans):
            if n not in self.results or (plan.early and self.results[n] == "survived"):
                self.again[n] = plan.quick
        return True

    def measure(self) -> None:
        """Run every test once, each in a child: which lines it executes, how long it takes."""
        names = list(self.items)
        with tempfile.TemporaryDirectory() as folder:

            def task(number: int) -> Callable[[], bool]:
                def work() -> bool:
                    began, found = time.process_time(), tracer()
                    passed = passes([self.items[names[number]]])
                    (Path(folder) / str(number)).write_text(json.dumps([time.process_time() - began, traced(found)]))
                    return not passed

                return work

            for number, result in pool(((n, task(n), LONGEST) for n in range(len(names))), self.jobs):
                if result == "survived":
                    self.seconds[names[number]], lines = json.loads((Path(folder) / str(number)).read_text())
                    self.add(names[number], lines)
        missing = len(names) - len(self.seconds)
        self.report(f"{len(self.seconds)} tests pass in {sum(self.seconds.values()):.0f} s, {missing} take too long")

    def add(self, name: str, lines: dict[str, list[int]]) -> None:
        """Note which lines a test executes; without a name, the import and the collection of the tests."""
        for path, numbers in lines.items():
            for number in numbers:
                self.lines.setdefault(path, {}).setdefault(number, set()).add(name)

    def plan(self, mutant: Mutant) -> Plan:
        """The tests of a mutant: those that execute its line, or if none does (a table) those that execute the file."""
        lines = self.lines.get(mutant.path, {})
        found = set().union(*(lines.get(n, set()) for n in range(mutant.first, mutant.last + 1)))
        names = (found or set().union(*lines.values())) - {""} or set().union(*lines.values()) - {""}
        names = sorted(names, key=lambda name: (self.seconds[name], name))
        total, quick = 0.0, []
        for name in names:
            if total + self.seconds[name] > TOGETHER:
                break
            total += self.seconds[name]
            quick.append(name)
        return Plan(quick, total, names[len(quick) :], "" in found or not found)


def preload() -> None:
    """Import what the library imports, so that children have it."""
    for name in ("torch", "numpy", "scipy.integrate", "scipy.interpolate", "scipy.optimize", "scipy.special"):
        __import__(name)
    for name in ("scipy.stats", "hypothesis", "pytest", "safetensors.torch", "rich.console", "torchdiffeq", "torchsde"):
        __import__(name)


def run(mutants: Sequence[Mutant], tests: Sequence[str], jobs: int, report: Callable[[str], None]) -> list[str]:
    """The outcome of each mutant under some test modules."""
    import pytest

    preload()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        found = Path(folder) / "found.json"
        child = os.fork()
        if not child:
            files = [str(ROOT / place_of(name)) for name in tests]
            files += sorted({str(ROOT / mutant.path) for mutant in mutants})
            session = Session(mutants, jobs, report)
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                code = pytest.main([*OPTIONS, *files], plugins=[session])
            found.write_text(json.dumps([code, session.results, session.again]))
            os._exit(0)
        os.waitpid(child, 0)
        code, results, again = json.loads(found.read_text())
        if code not in (0, 5):
            raise SystemExit(f"the tests cannot be collected: pytest's exit status is {code}")
        report(f"{len(again)} mutants of what runs at import")

        def task(number: int) -> Callable[[], bool]:
            mutant, tests = mutants[number], again[str(number)]

            def work() -> bool:
                changed = [Imported(mutant.path, mutant.source)]
                code = pytest.main([*OPTIONS, "-x", *tests], plugins=changed)
                if code == 4:  # a test of a name that is gone: those of the names that are there
                    names = dict.fromkeys(name.split("[")[0] for name in tests)
                    code = pytest.main([*OPTIONS, "-x", *names], plugins=changed)
                return code != 0

            return work

        outcomes = {int(number): result for number, result in results.items()}
        for done, (number, result) in enumerate(pool(((int(n), task(int(n)), 60.0) for n in again), jobs), 1):
            outcomes[number] = result
            if done % 50 == 0:
                report(f"{done} of {len(again)} mutants at import")
    return [outcomes[number] for number in range(len(mutants))]
