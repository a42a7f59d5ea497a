"""The page: its sections in order, its style and its script, in one file that asks nobody for anything."""

from __future__ import annotations

from coordinator.experiment.report import analysis, appendix, gains, protocol, rounds, sweeps, verdict
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import Sources
from coordinator.experiment.report.palette import HUES, looks, style
from coordinator.experiment.report.render import render


def make(sources: Sources) -> tuple[str, list[Panel]]:
    """The report of what was read: its HTML, and the drawings in it, for their files."""
    known = looks(arm for experiment in sources.experiments for arm in experiment.arms)
    every = (
        verdict.section(sources.experiments),
        gains.section(sources.experiments, known),
        rounds.section(sources.experiments, known),
        sweeps.section(sources.sweeps),
        analysis.section(sources.experiments, known),
        protocol.section(sources.experiments, sources.sweeps),
        appendix.section(sources),
    )
    sections = [section for section in every if section.parts]
    html = render(
        "page",
        names=[one.title for one in sources.folders],
        experiments=sources.experiments,
        sweeps=sources.sweeps,
        sections=sections,
        style=style(),
        looks=max(len(known), len(HUES)),
    )
    return html, [panel for section in sections for part in section.parts for panel in part.panels]
