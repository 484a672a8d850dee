"""Every Python block of the README and the documentation is executed, and the generated tables are current."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

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
    assert blocks or page.stem in ("api", "benchmarks", "derivations", "concepts", "choosing", "promises")


def test_the_code_of_other_libraries_runs_beside_ours() -> None:
    """Blocks marked ``py`` need libraries that are not dependencies: k-diffusion's is not run at all."""
    pytest.importorskip("diffusers")
    pytest.importorskip("azula")
    text = (ROOT / "docs/migration.md").read_text()
    blocks = re.findall(r"^```py(?:thon)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    namespace: dict[str, object] = {"__name__": "__docs__"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        runs = [block for block in blocks if "k_diffusion" not in block]
        for number, block in enumerate(runs):
            exec(compile(block, f"migration.md[{number}]", "exec"), namespace)
    assert any("diffusers" in block for block in runs)
    assert any("azula" in block for block in runs)


def test_the_generated_tables_are_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_on_the_reference_page() -> None:
    described = set(re.findall(r"^::: scoresolve\.(?:\w+\.)*(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert set(ss.__all__) - described == set()


def test_every_page_is_in_the_navigation() -> None:
    pages = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<a href="https://a.org">x</a> <img src="p.png"> <img src="data:image/png;base64,//x">', []),
        ('<script async src="https://a.org/x.js">', ["https://a.org/x.js"]),
        ('<link href="//fonts.org/f.css" rel="stylesheet">', ["//fonts.org/f.css"]),
        ('<link rel="canonical" href="https://a.org/">', []),
        ("@import url(https://a.org/f.css); b { background: url('http://a.org/b.png') }", 2),
        ('<video poster="http://a.org/v.png">', ["http://a.org/v.png"]),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_seen(text: str, found: list[str] | int) -> None:
    urls = _load("pages").external(text)
    assert len(urls) == found if isinstance(found, int) else urls == found


def test_examples_of_docstrings_are_code() -> None:
    pytest.importorskip("griffe")
    text = "One.\n\n>>> f(1)\n2\n>>> g()\n\nTwo.\n>>> h()\n"
    fenced = _load("doctests").fenced(text)
    assert fenced == "One.\n\n```pycon\n>>> f(1)\n2\n>>> g()\n```\n\nTwo.\n```pycon\n>>> h()\n```\n"


def test_what_the_site_adds_to_a_page() -> None:
    def page(html: str) -> str:
        return str(_load("pages").on_page_content(html))

    step = ":class:<code>Step</code>"
    assert page(step) == "<code>Step</code>"
    assert (
        page(f'<h3 id="scoresolve.Step">{step}')
        == '<h3 id="scoresolve.Step"><a href="#scoresolve.Step"><code>Step</code></a>'
    )
    moving, still = '<img alt="" src="../assets/gallery_moons.svg">', '<img src="../assets/gallery_moons_still.svg">'
    assert 'reduce)" srcset="../assets/gallery_moons_still.svg"' in page(moving)
    assert page(still) == still
    assert page('<img src="a/b.png">') == '<a href="a/b.png"><img src="a/b.png"></a>'


def test_formulas_have_letters_that_browsers_draw_and_space_around_functions() -> None:
    pytest.importorskip("latex2mathml")
    made = _load("mathml").mathml(r"\mathcal N(0) \; \mathbb{R} \; a \log p \log(x)")
    assert "\N{MATHEMATICAL SCRIPT CAPITAL N}" in made
    assert "\N{DOUBLE-STRUCK CAPITAL R}" in made
    assert 'mathvariant="' not in made
    assert "<mo>\N{TILDE OPERATOR}</mo>" in _load("mathml").mathml(r"z \sim p")
    assert "<mo>\N{PRIME}</mo>" in _load("mathml").mathml(r"\alpha'")
    thin = '<mspace width="0.167em" />'
    assert f"<mi>a</mi>{thin}<mi>log</mi>{thin}<mi>p</mi>{thin}<mi>log</mi><mo" in made


def _load(name: str) -> ModuleType:
    """A hook of the site; the folder of the documentation is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
