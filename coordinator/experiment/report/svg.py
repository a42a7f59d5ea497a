"""From matplotlib's SVG to one that lives in a page: its colours, fonts and ids become the page's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from markupsafe import Markup

from coordinator.experiment.report.palette import TONES

LEGEND = "legend"
"""Id of what is left out of the page, which has legends of its own; matplotlib draws it last."""

_LEGEND = re.compile(rf'<g id="{LEGEND}">.*(?=</g>(?:<defs><clipPath.*?</defs>)?$)')
_VARIABLES = {tone.light: f"var({tone.variable})" for tone in TONES}
_REWRITES = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<=>) | (?=<)"), ""),
    (re.compile(r"<!--.*?-->"), ""),
    (re.compile(r"(\d\.\d\d)\d+"), r"\1"),  # a hundredth of a point is enough
    (re.compile(r"font: (?:[\w-]+ )*?(?=[\d.]+px)([\d.]+px) [^;\"]*"), r"font-size: \1"),
    (re.compile(r"font-family: [^;\"]*;? ?"), ""),
    (re.compile(r" transform=\"rotate\(-0 [^\"]*\""), ""),
    (re.compile("xlink:href"), "href"),
)
"""What to replace by what, in this order."""


class Mark(NamedTuple):
    """What a group of the drawing is: its CSS classes, and what is shown when it is touched; empty: nothing."""

    classes: str
    says: str


def for_page(drawn: bytes, name: str, label: str, size: tuple[float, float], marks: Mapping[str, Mark]) -> Markup:
    """The drawing as an element of a page.

    Args:
        drawn: SVG as matplotlib writes it, with text as text.
        name: of the drawing; makes its ids unique in the page.
        label: what it shows, for who cannot see it.
        size: width and height that are shown; what lies below is not.
        marks: of groups, by their ids.
    """
    text = drawn.decode()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text[text.index('<g id="figure_1">') :].removesuffix("</svg>")
    text = _LEGEND.sub("", text)
    text = re.sub("#[0-9a-f]{6}\\b", lambda colour: _VARIABLES.get(colour[0], colour[0]), text)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]*)", text))
    text = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", text)
    text = re.sub(r"<g id=\"(mark\d+)\">", lambda group: _opened(marks[group[1]]), text)
    text = re.sub(r" id=\"([^\"]*)\"", lambda key: f' id="{name}-{key[1]}"' if key[1] in used else "", text)
    width, height = size
    return Markup(  # noqa: S704 - matplotlib escapes what it draws, and the rest is escaped here
        f'<svg class="drawing" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{text}</svg>'
    )


def _opened(mark: Mark) -> str:
    """The opening tag of a group that is a mark."""
    title = f"<title>{escape(mark.says)}</title>" if mark.says else ""
    return f'<g class="{escape(mark.classes)}">{title}'
