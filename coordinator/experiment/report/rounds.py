"""Curves over the rounds of each experiment: one line an arm, mean over its groups, with a band of one deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.experiment.report.curve import Curve, of_records, over_groups
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.palette import Look
from coordinator.experiment.report.render import ReportPart, ReportSection, render
from coordinator.experiment.report.words import MINUS, general

QUANTITIES = {
    "loss": "loss",
    "disagreement": f"disagreement: 1 {MINUS} cos to the target",
    "effective_rank": "effective rank of the outputs",
    "knn_live": "live k-NN on validation images, %",
}
MARKS = 8
"""Markers on a line: enough to tell lines apart without colour."""


def section(experiments: Sequence[ExperimentFolder], looks: Mapping[str, Look]) -> ReportSection:
    """Curves of all experiments that have metrics."""
    parts = []
    for experiment in experiments:
        curves = {name: _curves(experiment, name) for name in QUANTITIES}
        panels = [
            lines(f"curve-{experiment.key}-{name.replace('_', '-')}", QUANTITIES[name], of_arms, looks)
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


def lines(
    name: str,
    title: str,
    courses: Mapping[str, Curve],
    looks: Mapping[str, Look],
    *,
    rounds: Sequence[float] = (),
) -> Panel:
    """A panel of courses over rounds.

    Args:
        name: of its files.
        title: of the quantity.
        courses: of each arm.
        looks: of all arms.
        rounds: the few that were measured, in log scale; empty: linear scale.
    """

    def paint(canvas: Canvas) -> None:
        for arm, course in courses.items():
            trace(canvas, looks[arm], course, "round")
        if rounds:
            canvas.axes.set_xscale("symlog", linthresh=1)
            canvas.axes.set_xticks(rounds, [general(round_) for round_ in rounds])
        canvas.axes.set_xlabel("rounds done")
        canvas.axes.margins(x=0.02)

    ends = "; ".join(f"{arm} from {course.means[0]:.3g} to {course.means[-1]:.3g}" for arm, course in courses.items())
    return draw(name, title, f"{title} over rounds: {ends}", paint, legend=[looks[arm] for arm in courses])


def trace(canvas: Canvas, look: Look, course: Curve, step: str) -> None:
    """One line with its band, and a few markers that say their values.

    Args:
        canvas: to paint on.
        look: of the arm.
        course: of the quantity.
        step: what the x axis counts.
    """
    lows = [mean - (off or 0.0) for mean, off in zip(course.means, course.deviations, strict=True)]
    highs = [mean + (off or 0.0) for mean, off in zip(course.means, course.deviations, strict=True)]
    if course.groups > 1:
        canvas.band(look, course.xs, lows, highs)
    canvas.line(look, course.xs, course.means)
    for place in _places(len(course.xs), look.number or 0):
        x, mean, off = course.xs[place], course.means[place], course.deviations[place]
        said = f"{look.name}, {step} {general(x)}: {mean:.3g}" + ("" if off is None else f" ± {off:.2g}")
        canvas.dot(look, x, mean, said, size=6)


def _places(count_: int, number: int) -> list[int]:
    """Where a line bears markers: those of several arms are staggered, so that none hides another."""
    if count_ <= MARKS:
        return list(range(count_))
    step = count_ / MARKS
    return sorted({min(count_ - 1, int(step * (place + 0.15 + 0.17 * (number % 5)))) for place in range(MARKS)})


def _curves(experiment: ExperimentFolder, name: str) -> dict[str, Curve]:
    curves = {
        arm: over_groups(of_records(cell.records, name) for cell in experiment.of(arm)) for arm in experiment.arms
    }
    return {arm: curve for arm, curve in curves.items() if curve is not None}
