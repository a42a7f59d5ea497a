"""Sweeps: what each setting does to the gain, which point is best, and every point in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coordinator.experiment.report import scatter
from coordinator.experiment.report.curve import Curve, of_records, over_groups
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import SweepFolder, SweepPoint
from coordinator.experiment.report.render import ReportPart, ReportSection, Table, TableCell, TableColumn, render
from coordinator.experiment.report.words import NONE, general, interval, mean_of, number, probe_name, signed
from coordinator.experiment.statistics import Summary

MOST_CURVES = 60
"""Points whose live curves are drawn."""


def section(sweeps: Sequence[SweepFolder]) -> ReportSection:
    """All sweeps."""
    return ReportSection("sweeps", "Sensitivity to settings", [_part(sweep) for sweep in sweeps], headed=True)


def _part(sweep: SweepFolder) -> ReportPart:
    axes = scatter.axes_of(sweep)
    best = sweep.ranked(str(sweep.about["metric"]))
    against = {
        probe: [scatter.sensitivity(sweep, probe, axis, axes) for axis in axes if len(axis.values) > 1]
        for probe in sweep.probes
        if sweep.ranked(probe)
    }
    maps = [scatter.heat(sweep, probe, axes) for probe in sweep.probes if scatter.is_plane(sweep, axes)]
    live = _live(sweep)
    body = render(
        "sweeps",
        sweep=sweep,
        states=Counter(point.state for point in sweep.points),
        best=best,
        against={probe: panels for probe, panels in against.items() if panels},
        legend=scatter.legend(sweep),
        maps=maps,
        live=live,
        live_legend=scatter.LIVE,
        table=_table(sweep, best),
    )
    panels = [panel for panels in against.values() for panel in panels]
    return ReportPart(f"sweep-{sweep.key}", sweep.title, body, [*panels, *([live] if live else []), *maps])


def _live(sweep: SweepFolder) -> Panel | None:
    """Live curves, where points were stopped by them."""
    if all(point.state != "stopped" for point in sweep.points):
        return None
    curves: list[tuple[SweepPoint, Curve]] = []
    for point in sweep.points[:MOST_CURVES]:
        cells = [cell for cell in sweep.cells if cell.arm == point.name]
        curve = over_groups(of_records(cell.records, "knn_live") for cell in cells)
        if curve is not None and len(curve.xs) > 1:
            curves.append((point, curve))
    return scatter.live(sweep, curves) if curves else None


def _table(sweep: SweepFolder, best: Sequence[tuple[SweepPoint, Summary]]) -> Table:
    """Every point: the finished ones by rank, then the others; the best in bold."""
    order = [point for point, _ in best]
    order += [point for point in sweep.points if point not in order]
    columns = [TableColumn("point", numeric=False)]
    for axis, name in zip(sweep.axes, _short(sweep.axes), strict=True):
        numeric = all(scatter.is_number(point.values.get(axis)) for point in sweep.points)
        columns.append(TableColumn(name, numeric=numeric))
    for probe in sweep.probes:
        columns += [TableColumn(f"{probe_name(probe)} after, %"), TableColumn("gain"), TableColumn("95 % interval")]
    columns += [TableColumn("rounds"), TableColumn("effective rank"), TableColumn("disagreement")]
    rows = []
    for place, point in enumerate(order):
        is_best = bool(best) and place == 0
        row = [TableCell(point.name, strong=is_best), *(_value(point.values.get(axis)) for axis in sweep.axes)]
        for probe in sweep.probes:
            row += _scores(point, probe, is_best)
        row += [_measure(point, "rounds", 0), _measure(point, "effective_rank", 1), _measure(point, "disagreement", 3)]
        rows.append([*row, TableCell(point.state)])
    return Table([*columns, TableColumn("state", numeric=False)], rows)


def _scores(point: SweepPoint, probe: str, strong: bool) -> list[TableCell]:
    summary = point.gain(probe)
    if summary is None:
        return [TableCell(NONE)] * 3
    after = mean_of(score.after for score in point.scores[probe].values())
    ends = summary.t_interval
    return [
        TableCell(number(after), after),
        TableCell(signed(summary.mean), summary.mean, strong=strong),
        TableCell(interval(ends), ends and ends[0]),
    ]


def _measure(point: SweepPoint, name: str, digits: int) -> TableCell:
    value = mean_of(point.measures.get(name, {}).values())
    return TableCell(number(value, digits), value)


def _value(value: object) -> TableCell:
    return TableCell(general(value), float(value) if isinstance(value, int | float) else None)


def _short(keys: Sequence[str]) -> list[str]:
    """Keys without their section, where that leaves no doubt."""
    names = [key.rsplit(".", 1)[-1] for key in keys]
    return [name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)]
