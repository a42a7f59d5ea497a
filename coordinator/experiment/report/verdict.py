"""The verdict on each claim: first in the page, in sentences with their numbers, those against it as well."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from coordinator.experiment import show
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.render import ReportPart, ReportSection, render
from coordinator.experiment.results import PIXELS
from peers.runs.summary import SELECTIONS, TITLES

CONTROLS = ("independent", "shuffled", "noise")
"""Arms that are controls by their names, where their configuration is missing."""


def section(experiments: Sequence[ExperimentFolder]) -> ReportSection:
    """What was found, for each experiment and probe."""
    parts = [ReportPart(f"verdict-{one.key}", one.title, _body(one)) for one in experiments]
    return ReportSection("verdict", "Verdict", parts, headed=len(parts) > 1)


def _body(experiment: ExperimentFolder) -> Markup:
    results = experiment.results
    lines = list(show.verdict(results))
    leads = {probe: next(line for line in lines if line.startswith(f"{TITLES[probe]}: ")) for probe in results.gains}
    return render(
        "verdict",
        experiment=experiment,
        results=results,
        selection=SELECTIONS.get(results.selection, results.selection),
        titles=TITLES,
        leads=leads,
        lines=lines,
        skips=[f"{arm} {steps:,}" for arm, steps in results.skips.items() if steps],
        names={arm: _name(experiment, arm) for arm in (*experiment.arms, PIXELS)},
    )


def _name(experiment: ExperimentFolder, arm: str) -> str:
    """An arm in a sentence, after "the": whether it is a control follows from its configuration."""
    if arm == PIXELS:
        return arm
    config = experiment.config(arm)
    if config.consensus.control != "none" if config else arm in CONTROLS:
        return f"{arm} control"
    frozen = config.consensus.target == "frozen" if config else arm == "frozen"
    return f"{arm} arm (random teachers)" if frozen else f"{arm} arm"
