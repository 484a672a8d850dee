"""Turn the formulas of the pages into MathML when the site is built: browsers draw it themselves, offline too."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """The page with every formula that arithmatex has marked replaced by its MathML."""

    def replace(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return convert(html.unescape(found["latex"]).strip(), display=display)

    return _FORMULA.sub(replace, content)
