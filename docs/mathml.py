"""Turn the formulas of the pages into MathML when the site is built: browsers draw it themselves, offline too."""

from __future__ import annotations

import html
import re
import unicodedata
import xml.etree.ElementTree as ET
from typing import Any

from latex2mathml.converter import convert

SPACE = "http://www.w3.org/1998/Math/MathML"
THIN = "0.167em"
ALPHABETS = {"script": "SCRIPT", "double-struck": "DOUBLE-STRUCK", "bold": "BOLD", "fraktur": "FRAKTUR"}
"""What Unicode calls the alphabets: browsers know letters of them, and no longer ``mathvariant``."""
OPERATORS = {"\N{PRIME}": "\N{PRIME}", "~": "\N{TILDE OPERATOR}"}
"""Signs that the converter takes for letters: the first would be too small to be seen, the second without space."""
_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL)
ET.register_namespace("", SPACE)


def on_page_content(content: str, **_: Any) -> str:
    """The page with every formula that arithmatex has marked replaced by its MathML."""

    def replace(found: re.Match[str]) -> str:
        return mathml(html.unescape(found["latex"]).strip(), display=found["tag"] == "div")

    return _FORMULA.sub(replace, content)


def mathml(latex: str, display: bool = False) -> str:
    """A formula of LaTeX as MathML, with what the converter leaves out: letters of alphabets, primes, space by log."""
    root = ET.fromstring(convert(latex, display="block" if display else "inline"))
    for element in list(root.iter()):
        if _tag(element) == "mi" and element.get("mathvariant") in ALPHABETS:
            element.text = _letter(element.text or "", ALPHABETS[element.attrib.pop("mathvariant")])
        if element.text in OPERATORS:
            element.tag, element.text = f"{{{SPACE}}}mo", OPERATORS[element.text]
        if _tag(element) == "mrow":
            _space_functions(element)
    return ET.tostring(root, encoding="unicode")


def _tag(element: ET.Element) -> str:
    return element.tag.removeprefix(f"{{{SPACE}}}")


def _letter(letter: str, alphabet: str) -> str:
    case = "CAPITAL" if letter.isupper() else "SMALL"
    for prefix in ("MATHEMATICAL ", ""):  # the older letters, such as the R of the reals, stand apart
        try:
            return unicodedata.lookup(f"{prefix}{alphabet} {case} {letter.upper()}")
        except KeyError:
            continue
    return letter


def _space_functions(row: ET.Element) -> None:
    """As in TeX: a thin space between a factor and ``log`` or its kin, and one after it unless a sign follows."""
    children = list(row)
    for number, child in reversed(list(enumerate(children))):
        if _tag(child) != "mi" or len(child.text or "") < 2 or child.get("mathvariant"):
            continue
        after = children[number + 1] if number + 1 < len(children) else None
        if after is not None and _tag(after) != "mo":
            row.insert(number + 1, ET.Element(f"{{{SPACE}}}mspace", width=THIN))
        if number and _tag(children[number - 1]) not in ("mo", "mspace"):
            row.insert(number, ET.Element(f"{{{SPACE}}}mspace", width=THIN))
