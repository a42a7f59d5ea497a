"""From matplotlib's SVG to one that lives in a page: its colours, fonts and ids become the page's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from coordinator.experiment.report.palette import TONES

LEGEND = "legend"
"""Id of what is left out of the page."""

_VARIABLES = {tone.light: f"var({tone.variable})" for tone in TONES}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font: (?:[\w-]+ )*?(?=[\d.]+px)([\d.]+px) [^;]*")
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_LONG = re.compile(r"(\d\.\d\d)\d+")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_LEFT_OUT = {"metadata", "style"}


@dataclass(frozen=True)
class Mark:
    """What a group of the drawing is.

    Attributes:
        classes: CSS classes.
        says: shown when it is touched; empty: nothing.
    """

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
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own drawing, from memory
    used = {key for element in root.iter() for key in _referenced(element)}
    inner = "".join(_written(child, name, used, marks) for child in root)
    width, height = size
    return Markup(  # noqa: S704 - escaped piece by piece
        f'<svg class="drawing" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{inner}</svg>'
    )


def _written(element: Element, name: str, used: set[str], marks: Mapping[str, Mark]) -> str:
    tag = _local(element.tag)
    key = element.get("id", "")
    if tag in _LEFT_OUT or key == LEGEND:
        return ""
    attributes = _attributes(element, name, used)
    inner = "".join(_written(child, name, used, marks) for child in element)
    mark = marks.get(key)
    if mark is not None:
        attributes += f' class="{escape(mark.classes)}"'
        inner = (f"<title>{escape(mark.says)}</title>" if mark.says else "") + inner
    if tag == "g" and not attributes:
        return inner
    words = escape((element.text or "").strip(), quote=False)
    return f"<{tag}{attributes}>{words}{inner}</{tag}>" if words or inner else f"<{tag}{attributes}/>"


def _attributes(element: Element, name: str, used: set[str]) -> str:
    written = []
    for key, value in element.attrib.items():
        key = _local(key)
        if key == "id":
            if value not in used:
                continue
            value = f"{name}-{value}"
        elif key == "href":
            value = f"#{name}-{value.removeprefix('#')}"
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        else:
            value = _REFERENCE.sub(lambda found: f"url(#{name}-{found[1]})", " ".join(value.split()))
            value = _styled(value) if key == "style" else _LONG.sub(r"\1", value)
        written.append(f' {key}="{escape(value)}"')
    return "".join(written)


def _styled(style: str) -> str:
    style = _FAMILY.sub("", _FONT.sub(r"font-size: \1", style))
    return _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), style).replace(": ", ":").replace("; ", ";")


def _referenced(element: Element) -> list[str]:
    found = []
    for key, value in element.attrib.items():
        if _local(key) == "href":
            found.append(value.removeprefix("#"))
        found += _REFERENCE.findall(value)
    return found


def _local(name: str) -> str:
    """A name without its namespace: HTML knows SVG's by itself."""
    return name.rpartition("}")[2]
