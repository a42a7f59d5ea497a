"""The page: its sections in order, its style and its script, in one file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from coordinator.experiment.report import analysis, appendix, curves, gains, protocol, sweeps, verdict
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import Sources
from coordinator.experiment.report.markup import Section, heading, text
from coordinator.experiment.report.palette import HUES, looks, style
from coordinator.experiment.report.words import TIMES, count, listed

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
"""Forbids the page every connection, whatever is in it."""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        html: of the page.
        panels: its drawings, for their files.
    """

    html: str
    panels: Sequence[Panel]


def make(sources: Sources) -> Page:
    """The report of what was read."""
    known = looks(arm for experiment in sources.experiments for arm in experiment.arms)
    found = (
        verdict.section(sources.experiments),
        gains.section(sources.experiments, known),
        curves.section(sources.experiments, known),
        sweeps.section(sources.sweeps),
        analysis.section(sources.experiments, known),
        protocol.section(sources.experiments, sources.sweeps),
        appendix.section(sources),
    )
    sections = [section for section in found if section is not None]
    names = [one.results.experiment for one in sources.experiments]
    names += [str(one.about["name"]) for one in sources.sweeps]
    title = f"{listed(names)}: report"
    html = _HTML.format(
        policy=text(POLICY),
        title=text(title),
        style=style() + _focus(len(known)) + _file("page.css"),
        script=_file("page.js"),
        heading=text(listed(names)),
        deck=text(_deck(sources)),
        contents=_contents(sections),
        sections="".join(map(_section, sections)),
    )
    return Page(html, [panel for section in sections for panel in section.panels])


def _section(section: Section) -> str:
    return (
        f'<section id="{text(section.key)}" aria-labelledby="{text(section.key)}-title">'
        f"{heading(2, section.title, f'{section.key}-title')}{section.body}</section>\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    items = []
    for section in sections:
        inner = "".join(f'<li><a href="#{text(key)}">{text(title)}</a></li>' for key, title in section.children)
        inner = f"<ol>{inner}</ol>" if inner else ""
        items.append(f'<li><a href="#{text(section.key)}">{text(section.title)}</a>{inner}</li>')
    return f"<ol>{''.join(items)}</ol>"


def _deck(sources: Sources) -> str:
    told = []
    for one in sources.experiments:
        seeds = count(len(one.results.seeds), "seed")
        told.append(f"experiment {one.results.experiment}: {count(len(one.arms), 'arm')} {TIMES} {seeds}")
    for sweep in sources.sweeps:
        seeds = count(len(sweep.about["seeds"]), "seed")
        told.append(f"sweep {sweep.about['name']}: {count(len(sweep.points), 'point')} {TIMES} {seeds}")
    words = "; ".join(told)
    return f"{words[:1].upper()}{words[1:]}. Groups of networks that learn from nothing but each other's outputs."


def _focus(arms: int) -> str:
    """Rules that bring one arm out, and step the others back."""
    rules = [f':root[data-focus="{number}"] .series-{number}' for number in range(max(arms, len(HUES)))]
    return f":root[data-focus] svg .series{{opacity:.12}}\n{','.join(rules)}{{opacity:1!important}}\n"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="layout">
<nav aria-label="Contents">{contents}</nav>
<main id="content">
<header class="top">
<button type="button" id="theme" hidden>Dark</button>
<p class="kind">Report</p>
<h1>{heading}</h1>
<p class="deck">{deck}</p>
</header>
{sections}</main>
</div>
<div id="tip" role="tooltip" hidden></div>
<script>
{script}</script>
</body>
</html>
"""
