"""What the networks have learned, as far as it was analysed: courses, spectra, stages, content, classes, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordinator.experiment.report import charts
from coordinator.experiment.report.analysed import Analysed, analysed
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.palette import RANDOM, RAW, Look, classes
from coordinator.experiment.report.render import ReportPart, ReportSection, Table, TableCell, TableColumn, render
from coordinator.experiment.report.words import MINUS, NONE, deviation_of, mean_of, probe_name, signed, spread
from coordinator.experiment.results import BEFORE, PIXELS

Looks = Mapping[str, Look]
Arms = Sequence[Analysed]

COURSES = {
    "effective_rank": "effective rank",
    "disagreement": f"disagreement: 1 {MINUS} cos to the others' mean",
    "cka_peers": "linear CKA between peers",
    "cka_initial": "linear CKA to the own initialization",
    "alignment": "alignment loss",
    "uniformity": "uniformity loss",
}


def section(experiments: Sequence[ExperimentFolder], looks: Looks) -> ReportSection:
    """The analyses of all experiments that were analysed."""
    parts = [_part(experiment, arms, looks) for experiment in experiments if (arms := analysed(experiment))]
    return ReportSection("analysis", "What the networks have learned", parts, headed=len(experiments) > 1)


def _part(experiment: ExperimentFolder, arms: Arms, looks: Looks) -> ReportPart:
    name = f"analysis-{experiment.key}"
    drawn = {kind: draw(name, arms, looks) for kind, draw in FIGURES.items()}
    body = render(
        "analysis",
        arms=arms,
        first=arms[0].first,
        selection=experiment.results.selection,
        legend=[RANDOM, *(looks[one.arm] for one in arms)],
        drawn=drawn,
        **_of_one_seed(arms),
        **_transfer(arms, looks),
    )
    return ReportPart(name, experiment.title, body, [panel for panels in drawn.values() for panel in panels])


def _courses(name: str, arms: Arms, looks: Looks) -> list[Panel]:
    panels = []
    for measure, title in COURSES.items():
        rows = [(looks[one.arm], curve) for one in arms if (curve := one.curve(measure)) is not None]
        if rows:
            rounds = arms[0].first["rounds"]
            panels.append(charts.over_rounds(f"{name}-{measure.replace('_', '-')}", title, rows, rounds))
    return panels


def _spectrum(name: str, arms: Arms, looks: Looks) -> list[Panel]:
    rows = _before_and_after(arms, looks, "spectrum")
    return [charts.spectrum(f"{name}-spectrum", rows)] if rows else []


def _stages(name: str, arms: Arms, looks: Looks) -> list[Panel]:
    names, rows = arms[0].names("stages"), _before_and_after(arms, looks, "stages", "knn")
    title = "k-NN of each stage's features, %"
    return [charts.along(f"{name}-stages", title, names, rows)] if rows and names else []


def _content(name: str, arms: Arms, looks: Looks) -> list[Panel]:
    panels = []
    names, rows = arms[0].names("content"), _estimates(arms, looks, 3, "content", "explained")
    if names and rows:
        title = "share of the variance explained (R²)"
        panels.append(charts.beside(f"{name}-content", title, names, rows, columns=True))
    names, rows = arms[0].names("content", "detail"), _estimates(arms, looks, 3, "content", "detail", "explained")
    if names and rows:
        title = "… by each attribute alone (R²)"
        panels.append(charts.lines(f"{name}-content-detail", title, names, rows, zero=True))
    return panels


def _classes(name: str, arms: Arms, looks: Looks) -> list[Panel]:
    names = arms[0].names("classes")
    rows = [(looks[one.arm], charts.gains(gained)) for one in arms if len(gained := one.class_gains()) == len(names)]
    if not names or not rows:
        return []
    accuracies = _estimates(arms, looks, 1, "classes", "knn")
    return [
        charts.beside(f"{name}-classes", "k-NN gain of each class, points", names, rows),
        charts.lines(f"{name}-classes-accuracy", "k-NN accuracy of each class, %", names, accuracies, zero=False),
    ]


def _embedding(name: str, arms: Arms, _: Looks) -> list[Panel]:
    shown = _embedded(arms)
    if not shown:
        return []
    kinds = _kinds(shown[0])
    first, title = shown[0].first["embedding"], "before training"
    panels = [charts.plane(f"{name}-embedding-before", title, first["before"], first["labels"], kinds)]
    for one in shown:
        own, title = one.first["embedding"], f"{one.arm}, after training"
        panels.append(charts.plane(f"{name}-embedding-{one.arm}", title, own["after"], own["labels"], kinds))
    return panels


FIGURES: dict[str, Callable[[str, Arms, Looks], list[Panel]]] = {
    "courses": _courses,
    "spectrum": _spectrum,
    "stages": _stages,
    "content": _content,
    "classes": _classes,
    "embedding": _embedding,
}
"""In the order of the page."""


def _embedded(arms: Arms) -> list[Analysed]:
    """The arms whose images were laid out in the plane."""
    return [one for one in arms if (one.first.get("embedding") or {}).get("labels")]


def _kinds(one: Analysed) -> list[Look]:
    """A look for each class of the images; it has nothing to do with the arm of its colour."""
    names, labels = one.names("classes"), one.first["embedding"]["labels"]
    kinds = classes([names[label] if label < len(names) else str(label) for label in range(max(labels) + 1)])
    return [replace(look, dash="none", number=None) for look in kinds]


def _of_one_seed(arms: Arms) -> dict[str, Any]:
    """What cannot be averaged: embeddings, first-layer filters and neighbours, each with its seed."""
    embedded = _embedded(arms)
    filters = [(one, pair) for one in arms if (pair := one.filters()) is not None]
    neighbours = [(one, uri) for one in arms if (uri := one.neighbours()) is not None]
    before = [("before training", pair[0]) for _, pair in filters[:1]]
    return {
        "embedded": embedded,
        "kinds": _kinds(embedded[0]) if embedded else [],
        "filters": [*before, *((f"{one.arm}, after training", after) for one, (_, after) in filters)],
        "filters_seed": filters[0][0].groups[0].seed if filters else None,
        "neighbours": [(f"nearest neighbours, {one.arm}", uri) for one, uri in neighbours],
        "neighbours_seed": neighbours[0][0].groups[0].seed if neighbours else None,
    }


def _transfer(arms: Arms, looks: Looks) -> dict[str, Any]:
    """Probes on another data set, as a table; None where there is none."""
    every = [(one, transfers) for one in arms if (transfers := one.transfers())]
    if not every:
        return {"transfer": None}
    first = every[0][1]
    probes = list(first[0]["before"])
    columns = [TableColumn("features", numeric=False)]
    for probe in probes:
        columns += [TableColumn(f"{probe_name(probe)}, %"), TableColumn("gain")]
    rows = [[TableCell(BEFORE, look=RANDOM), *_scores(first, "before", probes)]]
    for one, transfers in every:
        rows.append([TableCell(one.arm, look=looks[one.arm]), *_scores(transfers, "after", probes, "before")])
    rows.append([TableCell(PIXELS, look=RAW), *_scores(first, "pixels", probes)])
    return {"transfer": Table(columns, rows), "transfer_data": first[0].get("data", "another data set")}


def _scores(
    transfers: Sequence[Mapping[str, Mapping[str, float]]], when: str, probes: Sequence[str], since: str | None = None
) -> list[TableCell]:
    """For each probe its accuracy, and its gain where there is something to compare it with."""
    cells = []
    for probe in probes:
        kept = [one for one in transfers if probe in (one.get(when) or {})]
        values = [one[when][probe] for one in kept]
        mean = mean_of(values)
        gain = mean_of(one[when][probe] - one[since][probe] for one in kept) if since else None
        cells += [TableCell(spread(mean, deviation_of(values)), mean), TableCell(signed(gain) if since else NONE, gain)]
    return cells


def _before_and_after(arms: Arms, looks: Looks, *path: str) -> list[charts.Row]:
    """The first arm's row before training, in grey: all arms of a seed begin alike; then each arm's after it."""
    every = [(RANDOM, arms[0].row(*path, 0)), *((looks[one.arm], one.row(*path, -1)) for one in arms)]
    return [(look, row) for look, row in every if row is not None]


def _estimates(arms: Arms, looks: Looks, digits: int, *path: str) -> list[tuple[Look, list[charts.Estimate]]]:
    return [(look, charts.estimates(curve, digits)) for look, curve in _before_and_after(arms, looks, *path)]
