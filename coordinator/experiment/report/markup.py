"""HTML by small functions: everything that comes from a file is escaped here, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.palette import Dash, Look
from coordinator.experiment.report.words import NONE

_SHAPES = {
    "o": '<circle cx="13" cy="7" r="3.6"/>',
    "s": '<path d="M9.7 3.7h6.6v6.6h-6.6z"/>',
    "^": '<path d="M13 2.6l4 7.6h-8z"/>',
    "D": '<path d="M13 2.4l4.2 4.6-4.2 4.6-4.2-4.6z"/>',
    "v": '<path d="M13 11.4l4-7.6h-8z"/>',
    "P": '<path d="M11.4 2.8h3.2v2.6h2.6v3.2h-2.6v2.6h-3.2v-2.6h-2.6v-3.2h2.6z"/>',
    "X": '<path d="M11 3l2 2 2-2 2 2-2 2 2 2-2 2-2-2-2 2-2-2 2-2-2-2z"/>',
    "<": '<path d="M8.6 7l7.6-4v8z"/>',
    ">": '<path d="M17.4 7l-7.6-4v8z"/>',
    "*": '<path d="M13 2l1.3 3.4 3.6.2-2.8 2.3.9 3.5-3-2-3 2 .9-3.5-2.8-2.3 3.6-.2z"/>',
    "_": '<path d="M9 6h8v2h-8z"/>',
}


@dataclass(frozen=True)
class Entry:
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
class Column:
    """A column of a table.

    Attributes:
        title: plain text.
        numeric: aligned and sorted as numbers; otherwise as text.
    """

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its id.
        title: plain text.
        body: HTML.
        children: id and title of its own parts, for the table of contents; they stand in `body` already.
        panels: drawn for it, for their files.
    """

    key: str
    title: str
    body: str
    children: Sequence[tuple[str, str]] = ()
    panels: Sequence[Panel] = ()


def text(value: object) -> str:
    """Plain text as HTML; a number stays with its percent sign."""
    return verbatim(value).replace(" %", "\N{NO-BREAK SPACE}%")


def verbatim(value: object) -> str:
    """Plain text as HTML, letter by letter."""
    return escape(str(value), quote=True)


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_kind(kind)}>{text(value)}</p>"


def bullets(items: Iterable[str], kind: str = "") -> str:
    """A list of plain texts; nothing where there is none."""
    lines = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<ul{_kind(kind)}>{lines}</ul>" if lines else ""


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what is to be said of each, plain."""
    return '<dl class="terms">' + "".join(f"<dt>{text(a)}</dt><dd>{text(b)}</dd>" for a, b in pairs) + "</dl>"


def heading(level: int, title: str, key: str = "") -> str:
    """A heading, with an id where it is linked to."""
    link = f' id="{text(key)}"' if key else ""
    return f"<h{level}{link}>{text(title)}</h{level}>"


def code(value: str) -> str:
    """Lines to be read or copied as they are."""
    return f'<div class="scroll" tabindex="0"><pre><code>{verbatim(value)}</code></pre></div>'


def details(summary: str, body: str) -> str:
    """What not everybody wants to see."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Entry]]) -> str:
    """A table that can be sorted by each column; its first column names the rows.

    Args:
        caption: what it shows, plain.
        columns: left to right.
        rows: an entry for each column.
    """
    head = "".join(
        f'<th scope="col" aria-sort="none"{_kind("number" if column.numeric else "")}>'
        f'<button type="button">{_breakable(column.title)}</button></th>'
        for column in columns
    )
    body = "".join(f"<tr>{_row(columns, row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{text(caption)}">'
        f'<table class="sortable"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(panels: Sequence[Panel], caption: str, legend: Sequence[Look] = ()) -> str:
    """Panels side by side where there is room, with a legend for all and a caption."""
    drawn = "".join(f'<div class="panel">{panel.svg}</div>' for panel in panels)
    return f'<figure>{keys(legend)}<div class="panels">{drawn}</div><figcaption>{text(caption)}</figcaption></figure>'


def keys(legend: Sequence[Look]) -> str:
    """A legend: pressing an arm's key brings it out in all figures."""
    return '<ul class="legend">' + "".join(f"<li>{_key(look)}</li>" for look in legend) + "</ul>" if legend else ""


def pictures(shown: Sequence[tuple[str, str]], caption: str, kind: str = "") -> str:
    """Pictures as data URIs, each with what it shows.

    Args:
        shown: what it shows, plain, and its URI.
        caption: of all.
        kind: "small" for such as need little room.
    """
    drawn = "".join(
        f'<div class="panel"><p class="panel-title">{text(label)}</p><img src="{uri}" alt="{text(label)}"></div>'
        for label, uri in shown
    )
    panels = f"<div{_kind(f'panels {kind}'.strip())}>{drawn}</div>"
    return f"<figure>{panels}<figcaption>{text(caption)}</figcaption></figure>"


def beside(*parts: str) -> str:
    """Parts of equal rank side by side, where there is room."""
    return '<div class="beside">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def swatch(look: Look) -> str:
    """A look in miniature."""
    line = f'<path d="M1 7h24" stroke="currentColor" stroke-width="1.6"{_dashes(look.dash)}/>'
    if look.dash == "none":
        line = ""
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true" style="color:var({look.tone.variable})">'
        f'{line}<g fill="currentColor">{_SHAPES[look.marker]}</g></svg>'
    )


def _key(look: Look) -> str:
    inner = f"{swatch(look)}<span>{text(look.name)}</span>"
    if look.number is None:
        return f'<span class="key">{inner}</span>'
    return f'<button type="button" class="key" aria-pressed="false" data-series="{look.number}">{inner}</button>'


def _row(columns: Sequence[Column], row: Sequence[Entry]) -> str:
    cells = []
    for place, (column, entry) in enumerate(zip(columns, row, strict=True)):
        tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
        key = "" if entry.key is None else f' data-key="{entry.key:.12g}"'
        kind = " ".join(word for word, given in (("number", column.numeric), ("none", entry.text == NONE)) if given)
        inner = f"<strong>{text(entry.text)}</strong>" if entry.strong else text(entry.text)
        cells.append(f"<{tag}{scope}{_kind(kind)}{key}>{swatch(entry.look) if entry.look else ''}{inner}</{tag}>")
    return "".join(cells)


def _breakable(title: str) -> str:
    """A title that may be broken within the key of a setting."""
    return text(title).replace(".", ".<wbr>").replace("_", "_<wbr>") if len(title) > 14 else text(title)


def _dashes(dash: Dash) -> str:
    return "" if isinstance(dash, str) else f' stroke-dasharray="{" ".join(f"{length:g}" for length in dash[1])}"'


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
