"""Mutation testing: how many small faults of the core do its tests find?

    make mutate                                    every mutant of every module
    make mutate ARGS="--sample 100 quadrature"     a hundred of one module, drawn with a fixed seed
    make mutate ARGS="--hand"                      the numerical faults of hand.py instead

A mutant (``finder.py``) never touches the disk. One process collects the tests and forks (``session.py``); each child
swaps the code of the functions that changed and runs the tests that execute the changed line, the quickest first,
until one fails. What runs at import (tables of weights, registrations) is then imported anew, mutated, in a child of
its own. The score is the share that is found: a test fails, or its time is up.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from children import ROOT, Imported, place_of, pool
from session import OPTIONS, preload, run

if TYPE_CHECKING:
    from finder import Mutant

Key: TypeAlias = tuple[str, str, str]
SURVIVORS = Path(__file__).with_name("survivors.csv")
SEED = 0
GROUPS = {
    "sde": ["sde", "processes", "custom"],
    "table": ["row", "table", "loop", "registers"],
    "quadrature": ["quadrature"],
    "grids": ["grids", "grid_clocks"],
    "solvers": ["forms", "multistep", "single_step", "solvers/*"],
    "noise": ["noise"],
    "model": ["model", "predictions", "labels"],
    "likelihood": ["likelihood", "divergence", "augmented"],
}
"""The files of each module."""
TESTS = {
    "sde": ["sde"],
    "table": ["table", "operations", "multistep"],
    "quadrature": ["quadrature", "multistep"],
    "grids": ["grids", "grid_tables", "optimised"],
    "solvers": [
        "multistep", "solvers", "registry", "dpm_solver_v3", "adaptive_sde", "adaptive_flow", "correctors",
        "promises/01_order::test_order_and_constant_on_a_gaussian",
        "promises/01_order::test_the_records_agree_with_what_is_declared",
    ],
    "noise": ["noise"],
    "model": ["model", "sde"],
    "likelihood": ["likelihood", "divergence", "augmented"],
}  # fmt: skip
"""The tests of each module, ``tests/test_*.py`` or of ``promises/``, some by name, beside its docstrings' examples."""
VERDICTS = ("equivalent", "words", "speed", "memory", "device", "defence", "open")
"""Of survivors: no behaviour differs; only a text does; only speed, or memory; only on a device that is not here; only
where a check refuses what is refused elsewhere too; or nothing is known yet but that it survived some tests.
"""


def drawn(paths: Sequence[str], sample: int | None) -> tuple[int, list[Mutant]]:
    """How many mutants some files have, and those to run: a larger sample holds a smaller one."""
    from finder import File

    files = [File(path, (ROOT / path).read_text()) for path in paths]
    places = [(file, number) for file in files for number in range(len(file))]
    picked = random.Random(SEED).sample(places, len(places))[:sample]
    return len(places), [mutant for file, number in picked if (mutant := file.mutant(number)) is not None]


def survived(path: Path) -> set[Key]:
    """The mutants of a csv of outcomes that survived."""
    with path.open(newline="") as file:
        return {
            (row["file"], row["before"], row["after"]) for row in csv.DictReader(file) if row["outcome"] == "survived"
        }


def judged() -> dict[Key, str]:
    """The verdict on each survivor that was looked at."""
    with SURVIVORS.open(newline="") as file:
        return {(row["file"], row["before"], row["after"]): row["verdict"] for row in csv.DictReader(file)}


def score(name: str, total: int, mutants: Sequence[Mutant], outcomes: Sequence[str]) -> list[object]:
    """A line of the table of scores."""
    left = [mutant.key for mutant, outcome in zip(mutants, outcomes, strict=True) if outcome == "survived"]
    verdicts = judged()
    harmless = sum(verdicts.get(key, "open") != "open" for key in left)
    found = len(mutants) - len(left)
    return [name, total, len(mutants), found, len(left), harmless, f"{100 * found / len(mutants):.1f}"]


def run_mutants(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run what is asked for, module after module; write after each."""
    rows: list[list[object]] = []
    scores: list[list[object]] = []
    for name, paths in paths_of(arguments.modules).items():
        total, mutants = drawn(paths, arguments.sample)
        if arguments.only:
            left = survived(arguments.only)
            mutants = [mutant for mutant in mutants if mutant.key in left]
        if not mutants:
            continue
        say(f"{name}: {len(mutants)} of {total} mutants")
        group = next(group for group, patterns in GROUPS.items() if name in (group, *patterns) or "/" in name)
        outcomes = run(mutants, arguments.tests or TESTS[group], arguments.jobs, lambda line: say(f"  {line}"))
        scores.append(score(name, total, mutants, outcomes))
        say(f"  {scores[-1][-1]} % found")
        rows += [[name, m.path, m.first, o, m.before, m.after] for m, o in zip(mutants, outcomes, strict=True)]
        if arguments.out:
            write(arguments.out, ["module", "file", "line", "outcome", "before", "after"], rows)
        if arguments.scores:
            write(arguments.scores, ["module", "mutants", "run", "found", "survived", "harmless", "score"], scores)


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A csv."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def run_hand(words: Sequence[str], jobs: int, say: Callable[[str], None]) -> None:
    """The faults of ``hand.py`` whose name has one of the words (all without any): none may survive."""
    import pytest
    from hand import FAULTS

    preload()
    faults = [fault for fault in FAULTS if not words or any(word in fault.what + fault.path for word in words)]
    named = list(dict.fromkeys(test for fault in faults for test in fault.tests))

    def task(tests: Sequence[str], plugins: Sequence[object]) -> Callable[[], bool]:
        names = [place_of(test) for test in tests]
        return lambda: pytest.main([*OPTIONS, "-x", *names], plugins=plugins) != 0

    def tasks() -> Iterator[tuple[int, Callable[[], bool], float]]:
        for number, fault in enumerate(faults):
            yield (
                number,
                task(fault.tests, [Imported(fault.path, fault.source((ROOT / fault.path).read_text()))]),
                100.0,
            )
        yield len(faults), task(named, []), 600.0

    survivors = []
    for number, result in pool(tasks(), jobs):
        if number < len(faults):
            say(f"{result:9} {faults[number].path:36} {faults[number].what}")
            survivors += [faults[number].what] if result == "survived" else []
        elif result != "survived":
            raise SystemExit("the tests that hand.py names fail without any fault")
    raise SystemExit(f"{len(survivors)} of {len(faults)} faults survive: {survivors}" if survivors else 0)


def paths_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each module asked for: a name of ``GROUPS``, or of a file."""
    wanted = {name: patterns for name, patterns in GROUPS.items() if not names or name in names}
    wanted |= {name: [name] for name in names if name not in GROUPS}
    files = {
        name: [str(path.relative_to(ROOT)) for p in patterns for path in sorted((ROOT / "scoresolve").glob(f"{p}.py"))]
        for name, patterns in wanted.items()
    }
    unknown = [name for name, found in files.items() if not found]
    if unknown:
        raise SystemExit(f"no module {unknown[0]!r}: take some of {', '.join(GROUPS)}, or a file such as solvers/sa")
    return files


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"some of {', '.join(GROUPS)}, or files; all if none is given")
    parser.add_argument("--sample", type=int, help="at most so many mutants of each module, drawn with a fixed seed")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time")
    parser.add_argument("--tests", nargs="+", help="the test modules to run, such as solvers; default those of TESTS")
    parser.add_argument("--only", type=Path, help="the mutants of a csv written by --out that survived, again")
    parser.add_argument("--out", type=Path, help="write every mutant and its outcome there, as csv")
    parser.add_argument("--scores", type=Path, help="write the share of each module that is found there, as csv")
    parser.add_argument("--hand", action="store_true", help="the faults of hand.py; modules are words of their names")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing here wants a device, and its threads do not survive a fork
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)

    def say(line: str) -> None:
        print(line, file=sys.__stdout__, flush=True)

    if arguments.hand:
        run_hand(arguments.modules, arguments.jobs, say)
    else:
        run_mutants(arguments, say)


if __name__ == "__main__":
    main()
