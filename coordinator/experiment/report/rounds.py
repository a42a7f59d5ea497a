"""Curves over the rounds of each experiment: one line an arm, mean over its groups, with a band of one deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.experiment.report import charts
from coordinator.experiment.report.curve import Curve, of_records, over_groups
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.palette import Look
from coordinator.experiment.report.render import ReportPart, ReportSection, render
from coordinator.experiment.report.words import MINUS

QUANTITIES = {
    "loss": "loss",
    "disagreement": f"disagreement: 1 {MINUS} cos to the target",
    "effective_rank": "effective rank of the outputs",
    "knn_live": "live k-NN on validation images, %",
}


def section(experiments: Sequence[ExperimentFolder], looks: Mapping[str, Look]) -> ReportSection:
    """Curves of all experiments that have metrics."""
    parts = []
    for experiment in experiments:
        curves = {name: _curves(experiment, name) for name in QUANTITIES}
        panels = [
            charts.over_rounds(
                f"curve-{experiment.key}-{name.replace('_', '-')}",
                QUANTITIES[name],
                [(looks[arm], curve) for arm, curve in of_arms.items()],
            )
            for name, of_arms in curves.items()
            if of_arms
        ]
        if panels:
            arms = [arm for arm in experiment.arms if any(arm in of_arms for of_arms in curves.values())]
            body = render(
                "rounds",
                panels=panels,
                legend=[looks[arm] for arm in arms],
                groups=[curve.groups for of_arms in curves.values() for curve in of_arms.values()],
                has_live=bool(curves["knn_live"]),
            )
            parts.append(ReportPart(f"curves-{experiment.key}", experiment.title, body, panels))
    return ReportSection("curves", "Over the rounds", parts, headed=len(experiments) > 1)


def _curves(experiment: ExperimentFolder, name: str) -> dict[str, Curve]:
    curves = {
        arm: over_groups(of_records(cell.records, name) for cell in experiment.of(arm)) for arm in experiment.arms
    }
    return {arm: curve for arm, curve in curves.items() if curve is not None}
