"""Every Python block of the README and the documentation is executed, and the generated tables are current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scoresolve as ss

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of one page run in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = {info.name for info in ss.solvers()}
    namespace: dict[str, object] = {"__name__": "__docs__"}
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    with torch.random.fork_rng():
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page.name}[{number}]", "exec"), namespace)
    assert {info.name for info in ss.solvers()} == before
    assert blocks or page.name in ("api.md", "benchmarks.md", "derivations.md", "concepts.md", "choosing.md")


def test_the_generated_tables_are_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
