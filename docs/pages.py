"""What the site adds to pages, links for roles of docstrings and stills of animations; what it forbids: the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|exc|data):(?P<code><code[^>]*>(?P<name>[^<]*)</code>)")
_IMAGE = re.compile(r'<img [^>]*?src="(?P<folder>[^"]*?)(?P<name>[\w-]+)\.(?P<ending>svg|webp|png)"[^>]*>')
_ASSETS = Path(__file__).resolve().parent / "assets"
_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|use|input)\b[^>]*?\b(?:src|srcset|data|href|poster)=["']?
        (?P<page>(?:https?:)?//[^"'\s>]+)
      | <link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|modulepreload|dns-prefetch))
        [^>]*?\bhref=["']?(?P<link>(?:https?:)?//[^"'\s>]+)
      | (?:url\(|@import)\s*["']?(?P<style>(?:https?:)?//[^"')\s]+)""",
    re.VERBOSE | re.IGNORECASE,
)


def on_page_content(content: str, **_: Any) -> str:
    """``:class:`Step``` becomes a link if the page has Step; an animation gets its still, a plot its full size."""

    def link(found: re.Match[str]) -> str:
        name = found["name"].lstrip("~.")
        anchor = f"scoresolve.{name.removeprefix('scoresolve.')}"
        return f'<a href="#{anchor}">{found["code"]}</a>' if f'id="{anchor}"' in content else found["code"]

    def picture(found: re.Match[str]) -> str:
        if found["ending"] == "png":
            return f'<a href="{found["folder"]}{found["name"]}.png">{found[0]}</a>'
        name = f"{found['name']}_still.{found['ending']}"
        if not (_ASSETS / name).exists():
            return found[0]
        source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{found["folder"]}{name}">'
        return f"<picture>{source}{found[0]}</picture>"

    return _IMAGE.sub(picture, _ROLE.sub(link, content))


def on_post_build(config: Any, **_: Any) -> None:
    """Fail if a page or a style loads anything from elsewhere. Links that a reader may follow are no such thing."""
    from mkdocs.exceptions import PluginError  # here, so that the tests need no mkdocs

    site = Path(config["site_dir"])
    files = [path for ending in ("html", "css", "svg") for path in site.rglob(f"*.{ending}")]
    found = [f"{path.relative_to(site)}: {url}" for path in files for url in external(path.read_text("utf-8"))]
    if found:
        raise PluginError(
            "pages must not load anything from the network; keep a copy in docs/assets:\n" + "\n".join(found)
        )


def external(text: str) -> list[str]:
    """The addresses of other machines from which a page or a style sheet would load something.

    >>> external('<a href="https://example.org">a link</a><img src="plot.png"><script src="//example.org/x.js">')
    ['//example.org/x.js']
    """
    return [next(url for url in found.groups() if url) for found in _LOADS.finditer(text)]
