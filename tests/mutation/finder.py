"""Mutants of a source file: mutmut's operators applied everywhere, to tables of modules and decorated functions too.

``mutmut run`` itself leaves out whatever is decorated or runs at import, among it most builders of solvers; here
a mutant is a new text of the file, and how it is put in place is the business of ``session.py``.

Left out, because no promise is at stake: annotations, imports and type aliases; what only words an error or a
warning (``raise``, the text of ``require``, ``warnings.warn``) or the documentation (``reference=``, sentences,
``__all__``); assertions (``assert``, ``strict=`` of zip, ``cast``); and what mutmut leaves out itself (docstrings,
``len``, ``isinstance``).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from itertools import accumulate

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

SKIPPED_CALLS = {"len", "isinstance", "cast", "TypeVar"}
SKIPPED_KEYWORDS = {"reference", "stacklevel", "strict"}
ALIAS = m.AnnAssign(annotation=m.Annotation(m.Name("TypeAlias"))) | m.Assign(value=m.Subscript(value=m.Name("Literal")))
EXPORTS = m.Assign(targets=[m.AssignTarget(m.Name("__all__"))])
SKIPPED = m.Annotation() | m.Import() | m.ImportFrom() | m.Raise() | m.Assert() | ALIAS | EXPORTS
REQUIRE = m.Call(func=m.Name("require"))
WARN = m.Call(func=m.Attribute(value=m.Name("warnings")))


@dataclass(frozen=True)
class Mutant:
    """One changed place of a file. Attributes: first and last line of the place, the changed line before and after,
    and the text of the whole file.
    """

    path: str
    first: int
    last: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is called in ``survivors.csv``: line numbers change."""
        return self.path, self.before, self.after


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, WhitespaceInclusivePositionProvider)

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []
        self.spoken: set[cst.CSTNode] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if node in self.spoken or m.matches(node, SKIPPED) or m.matches(node, WARN):
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in SKIPPED_CALLS:
            return False
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in SKIPPED_KEYWORDS:
            return False
        if m.matches(node, REQUIRE):  # its condition is code, its text is not
            self.spoken.update(node.args[1:])
            node.args[0].visit(self)
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, new) for new in operator(node) if not _only_words(node, new, operator)]
        return True


def _only_words(node: cst.CSTNode, new: cst.CSTNode, operator: object) -> bool:
    """Whether the change is one of a text, or of an argument that is left out where it stands."""
    if operator is operator_string:
        return " " in node.value.strip()  # a sentence, not a name
    if isinstance(node, cst.Call):
        kept = set(map(id, new.args)) if isinstance(new, cst.Call) else set()
        gone = [arg for arg in node.args if id(arg) not in kept]
        words = (cst.FormattedString, cst.ConcatenatedString)
        return any(
            (arg.keyword is not None and arg.keyword.value in SKIPPED_KEYWORDS) or isinstance(arg.value, words)
            for arg in gone
        )
    return False


class File:
    """The mutants of a file, by number: a text is made when it is asked for."""

    def __init__(self, path: str, text: str) -> None:
        wrapper, finder = MetadataWrapper(cst.parse_module(text)), _Finder()
        wrapper.visit(finder)
        self.path, self.text, self.module, self._found = path, text, wrapper.module, finder.found
        self._places = wrapper.resolve(PositionProvider)
        self._spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
        self._starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]

    def __len__(self) -> int:
        return len(self._found)

    def mutant(self, number: int) -> Mutant | None:
        """One of them; None if it is not Python."""
        node, new = self._found[number]
        if isinstance(node, cst.Match):
            source = self.module.deep_replace(node, new).code
        else:
            span = self._spans[node]
            first, last = (self._starts[end.line - 1] + end.column for end in (span.start, span.end))
            source = self.text[:first] + self.module.code_for_node(new) + self.text[last:]
        if not _is_code(source):
            return None
        place = self._places.get(node, self._spans[node])
        return Mutant(self.path, place.start.line, place.end.line, *_changed(self.text, source), source)


def _is_code(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _changed(text: str, source: str) -> tuple[str, str]:
    """The lines in which two texts differ, each as one line."""
    old, new = text.splitlines(), source.splitlines()
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    lines = (text_lines[first : len(text_lines) - last] for text_lines in (old, new))
    before, after = (" ".join(line.strip() for line in part) for part in lines)
    return before, after
