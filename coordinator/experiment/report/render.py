"""From values to HTML: the templates of the report, and the tables and sections that they are given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from coordinator.experiment import show
from coordinator.experiment.power import ALPHA
from coordinator.experiment.report import words
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.palette import Look
from coordinator.experiment.results import BEFORE, PIXELS
from coordinator.experiment.statistics import sentence


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: plain; escaped when it is written.
        key: what a numeric column is sorted by; None: last, whichever way it is sorted.
        look: an arm's, shown before the text.
        strong: whether it stands out.
    """

    text: str
    key: float | None = None
    look: Look | None = None
    strong: bool = False


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        title: plain text.
        numeric: aligned and sorted as numbers; otherwise as text.
    """

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each column; its first column names the rows."""

    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]


@dataclass(frozen=True)
class ReportPart:
    """A part of a section, e.g. one experiment's.

    Attributes:
        key: its id, where it has a heading.
        title: plain text.
        body: HTML.
        panels: drawn for it, for their files.
    """

    key: str
    title: str
    body: Markup
    panels: Sequence[Panel] = ()


@dataclass(frozen=True)
class ReportSection:
    """A section of the page; without parts it is left out.

    Attributes:
        key: its id.
        title: plain text.
        parts: in their order.
        headed: whether each part has a heading, and a line in the table of contents.
    """

    key: str
    title: str
    parts: Sequence[ReportPart]
    headed: bool


def render(template: str, **values: Any) -> Markup:
    """A template with its values, as HTML.

    Args:
        template: file name without `.html.j2`.
        values: by the names that the template uses; plain text is escaped.
    """
    return Markup(_environment().get_template(f"{template}.html.j2").render(values))  # noqa: S704 - autoescaped


def render_macro(template: str, macro: str, **values: Any) -> Markup:
    """One macro of a template, as HTML."""
    html: Markup = getattr(_environment().get_template(f"{template}.html.j2").module, macro)(**values)
    return html


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {
        "general": words.general,
        "on_one_line": _on_one_line,
        "verbatim": escape,
        "breakable": _breakable,
    }
    environment.globals |= {name: getattr(words, name) for name in words.FOR_TEMPLATES}
    environment.globals |= {
        "BEFORE": BEFORE,
        "PIXELS": PIXELS,
        "ALPHA": ALPHA,
        "beats": show.beats,
        "sentence": sentence,
    }
    return environment


def _unbroken(value: object) -> object:
    """Keep a number with its percent sign on one line. HTML, which is escaped already, stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.replace(" %", "\N{NO-BREAK SPACE}%")
    return value


def _on_one_line(html: Markup) -> Markup:
    """HTML without the line breaks of its template, so that it can be an attribute as well."""
    return Markup(re.sub(r"[ \n]+", " ", html).strip())  # noqa: S704 - is HTML already


def _breakable(title: str) -> Markup:
    """A title that may be broken within the key of a setting."""
    html = escape(_unbroken(title))
    return Markup(html.replace(".", ".<wbr>").replace("_", "_<wbr>")) if len(title) > 14 else html  # noqa: S704
