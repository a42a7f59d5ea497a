"""Sweeps: what each setting does to the gain, which point is best, and every point in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from coordinator.experiment.report import markup, scatter
from coordinator.experiment.report.course import Course, of_records, over_groups
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import Point, SweepFolder
from coordinator.experiment.report.markup import Column, Entry, Section
from coordinator.experiment.report.scatter import Axis
from coordinator.experiment.report.verdict import headed, probe_name
from coordinator.experiment.report.words import NONE, count, general, interval, listed, mean_of, number, scrub, signed
from coordinator.experiment.results import BEFORE
from coordinator.experiment.statistics import Summary

MOST_CURVES = 60
"""Points whose live curves are drawn."""
_METHODS = {
    "grid": "All combinations",
    "random": "Random draws",
    "asha": "Random draws, of which poor ones were stopped early (ASHA),",
}


def section(sweeps: Sequence[SweepFolder]) -> Section | None:
    """All sweeps; None where there is none."""
    parts, panels, links = [], [], []
    for sweep in sweeps:
        links.append((f"sweep-{sweep.key}", str(sweep.about["name"])))
        parts.append(markup.heading(3, str(sweep.about["name"]), links[-1][0]))
        body, drawn = _sweep(sweep)
        parts.append(body)
        panels += drawn
    return Section("sweeps", "Sensitivity to settings", "".join(parts), links, panels) if parts else None


def _sweep(sweep: SweepFolder) -> tuple[str, list[Panel]]:
    metric, split = str(sweep.about["metric"]), str(sweep.about["split"])
    best = scatter.ranked(sweep, metric)
    axes = scatter.axes_of(sweep)
    parts = [markup.paragraph(line, kind) for line, kind in _said(sweep, best)]
    drawn: list[Panel] = []
    for probe in sweep.probes:
        if not scatter.ranked(sweep, probe):
            continue
        panels = [scatter.sensitivity(sweep, probe, axis, axes) for axis in axes if len(axis.values) > 1]
        if panels:
            parts.append(markup.figure(panels, _caption(sweep, probe, axes), scatter.legend(sweep)))
        drawn += panels
    maps = [scatter.heat(sweep, probe, axes) for probe in sweep.probes if scatter.is_plane(sweep, axes)]
    if maps:
        caption = (
            f"Mean gain over the {BEFORE} on the {split} split, points, over {_seeds(sweep)}; empty: not finished."
        )
        parts.append(markup.figure(maps, caption))
    live = _live(sweep)
    if live is not None:
        caption = (
            "Live k-NN of each point on validation images, mean over its peers and seeds; points that were stopped end "
            "in a hollow mark. ASHA decides by this, not by the probes above."
        )
        parts.append(markup.figure([live], caption, scatter.LIVE))
        drawn.append(live)
    parts.append(_table(sweep, best))
    return "".join(parts), [*drawn, *maps]


def _said(sweep: SweepFolder, best: Sequence[tuple[Point, Summary]]) -> Iterator[tuple[str, str]]:
    """What was varied, which point is best by what, and what became of the others."""
    about, split = sweep.about, str(sweep.about["split"])
    states = Counter(point.state for point in sweep.points)
    told = [f"{states[state]} {state}" for state in ("finished", "stopped", "failed") if states[state]]
    yield (
        (
            f"{_METHODS.get(about['method'], about['method'])} of {listed(sweep.axes)}: "
            f"{count(len(sweep.points), 'point')} ({listed(told)}), {_seeds(sweep)}, judged on the {split} split."
        ),
        "about",
    )
    metric = probe_name(str(about["metric"]))
    if not best:
        yield f"No point is finished and has a {metric} to be chosen by.", "lead"
    else:
        point, summary = best[0]
        gain = f"{signed(summary.mean)} points" + (
            "" if summary.t_interval is None else f" (95 % interval {interval(summary.t_interval)}; n = {summary.n})"
        )
        chosen = (
            "chosen on validation" if split == "validation" else f"seen on the {split} split, which must choose nothing"
        )
        yield (
            f"Best by mean gain of the {metric}, {chosen}: {point.name} with {scatter.setting(point)}: {gain}.",
            "lead",
        )
        yield (
            (
                f"It is the best of {count(len(best), 'finished point')}, so this gain is too high on average: judge "
                f"the recipe once, on the test split with other seeds."
            ),
            "note",
        )
    for point in sweep.points:
        if point.state == "failed":
            yield f"{point.name} ({scatter.setting(point)}) failed: {scrub(point.why) or 'no reason given'}.", "warning"


def _caption(sweep: SweepFolder, probe: str, axes: Sequence[Axis]) -> str:
    caption = (
        f"{headed(probe)}: gain over the {BEFORE} on the {sweep.about['split']} split against each setting; marks: "
        f"mean over {_seeds(sweep)}, bars: 95 % interval by Student's t over the seeds."
    )
    if len(axes) > 1 and sweep.about["method"] == "grid":
        caption += (
            " Strong marks have the best point's values in all other settings, and are joined by a line where the "
            "setting is a number; faint marks are all other points."
        )
    stopped = [point for point in sweep.points if point.state != "finished"]
    return caption + (" Hollow marks at the bottom: points without a final gain, stopped or failed." if stopped else "")


def _live(sweep: SweepFolder) -> Panel | None:
    """Live curves, where points were stopped by them."""
    if all(point.state != "stopped" for point in sweep.points):
        return None
    curves: list[tuple[Point, Course]] = []
    for point in sweep.points[:MOST_CURVES]:
        cells = [cell for cell in sweep.cells if cell.arm == point.name]
        course = over_groups(of_records(cell.records, "knn_live") for cell in cells)
        if course is not None and len(course.xs) > 1:
            curves.append((point, course))
    return scatter.live(sweep, curves) if curves else None


def _table(sweep: SweepFolder, best: Sequence[tuple[Point, Summary]]) -> str:
    """Every point: the finished ones by rank, then the others."""
    first = best[0][0] if best else None
    order = [point for point, _ in best]
    order += [point for point in sweep.points if point not in order]
    numeric = {axis: all(_is_number(point.values.get(axis)) for point in sweep.points) for axis in sweep.axes}
    columns = [Column("point", numeric=False)]
    columns += [Column(name, numeric=numeric[axis]) for axis, name in zip(sweep.axes, _short(sweep.axes), strict=True)]
    for probe in sweep.probes:
        columns += [Column(f"{probe_name(probe)} after, %"), Column("gain"), Column("95 % interval")]
    columns += [Column("rounds"), Column("effective rank"), Column("disagreement"), Column("state", numeric=False)]
    rows = []
    for point in order:
        row = [Entry(point.name, strong=point is first), *(_value(point.values.get(axis)) for axis in sweep.axes)]
        for probe in sweep.probes:
            row += _scores(point, probe, point is first)
        row += [_sign(point, "rounds", 0), _sign(point, "effective_rank", 1), _sign(point, "disagreement", 3)]
        rows.append([*row, Entry(point.state)])
    caption = f"All points of {sweep.about['name']}: means over {_seeds(sweep)}; the best in bold"
    return markup.table(caption, columns, rows)


def _scores(point: Point, probe: str, strong: bool) -> list[Entry]:
    summary = scatter.gain_of(point, probe)
    if summary is None:
        return [Entry(NONE), Entry(NONE), Entry(NONE)]
    after = mean_of(score.after for score in point.scores[probe].values())
    ends = summary.t_interval
    return [
        Entry(number(after), after),
        Entry(signed(summary.mean), summary.mean, strong=strong),
        Entry(interval(ends), ends and ends[0]),
    ]


def _sign(point: Point, name: str, digits: int) -> Entry:
    value = mean_of(point.signs.get(name, []))
    return Entry(number(value, digits), value)


def _value(value: object) -> Entry:
    return Entry(general(value), float(value) if isinstance(value, int | float) else None)


def _short(keys: Sequence[str]) -> list[str]:
    """Keys without their section, where that leaves no doubt."""
    names = [key.rsplit(".", 1)[-1] for key in keys]
    return [name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seeds(sweep: SweepFolder) -> str:
    return count(len(sweep.about["seeds"]), "seed")
