"""Work in children of this process, some at a time, and changed code in them: in place, or at import."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

ROOT = Path(__file__).parents[2]


def place_of(test: str) -> str:
    """The file of a test called ``file`` or ``file::name``, or of ``promises/file``, from the root of the project."""
    file, colons, name = test.partition("::")
    folder, slash, stem = file.rpartition("/")
    return f"tests/{folder}{slash}test_{stem}.py{colons}{name}"


def fork(work: Callable[[], bool], seconds: float) -> int:
    """A child that says whether the work found a fault, in bounded time and without a word; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        signal.setitimer(signal.ITIMER_REAL, 100 * seconds)  # of the wall: others may have the machine
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        status = int(work())
    finally:
        os._exit(status)


def outcome(status: int) -> str:
    """What became of a mutant, from the exit status of its child."""
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else "killed"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def pool(tasks: Iterator[tuple[int, Callable[[], bool], float]], jobs: int) -> Iterator[tuple[int, str]]:
    """Run tasks (number, work, seconds) in children, some at a time; yield (number, outcome)."""
    running: dict[int, int] = {}

    def reaped() -> tuple[int, str]:
        child, status = os.wait()
        return running.pop(child), outcome(status)

    for number, work, seconds in tasks:
        if len(running) >= jobs:
            yield reaped()
        running[fork(work, seconds)] = number
    while running:
        yield reaped()


def changed_code(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The code objects of functions that differ, outer before inner. Raises ValueError if other code differs."""
    if _own(old) != _own(new) and not old.co_flags & 0x2:  # not optimised: the body of a module or a class
        raise ValueError("code that runs at import")
    inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    if len(inner[0]) != len(inner[1]):
        raise ValueError("functions come and go")
    if old.co_flags & 0x2:
        yield old, new
    for a, b in zip(*inner, strict=True):
        if a != b:
            yield from changed_code(a, b)


def _own(code: CodeType) -> tuple[object, ...]:
    constants = tuple((type(c), repr(c)) for c in code.co_consts if not isinstance(c, CodeType))
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars


def identity(code: CodeType) -> tuple[object, ...]:
    """What a code object is known by: code that has run is not equal to itself freshly compiled."""
    return code.co_qualname, code.co_firstlineno, *_own(code)


Living = Mapping[tuple[object, ...], Sequence[FunctionType]]


def swap(functions: Living, old: str, new: str, act: bool = True) -> bool:
    """Put the code of a changed source into the living functions; False if that does not make all the difference.

    Args: functions by the identity of their code; ``act``, or else only say so.
    """
    try:
        pairs = list(changed_code(compile(old, "", "exec"), compile(new, "", "exec")))
    except ValueError:
        return False
    alive = [(function, after) for before, after in pairs for function in functions.get(identity(before), ())]
    if not alive or any(function.__code__.co_freevars != after.co_freevars for function, after in alive):
        return False
    for function, after in alive if act else ():
        function.__code__ = after
    return True


class Imported:
    """A pytest plugin that imports one module from another source than that on disk."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.name = path.removesuffix(".py").replace("/", ".")

    def pytest_sessionstart(self) -> None:
        """Come before all others that find modules, pytest's own among them."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec, if it is the one."""
        if name != self.name:
            return None
        return spec_from_loader(name, self, origin=str(ROOT / self.path))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """By default."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        module.__file__ = str(ROOT / self.path)
        exec(compile(self.source, module.__file__, "exec"), vars(module))
