"""Figures of analyses: what is inside of networks, before and after training."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.experiment.report.analysed import Averaged
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.palette import RANDOM, Look
from coordinator.experiment.report.words import interval, signed
from coordinator.experiment.statistics import Summary

Row = tuple[Look, Averaged]
SMALLEST = 1e-4
"""Singular values below this share of the largest are not shown."""
MOST_NAMES = 36
"""Names that an axis has room for; with more, the marks say theirs when they are touched."""
STEEP = 5
"""Letters of a name above which names below an axis are turned."""


def spectrum(name: str, rows: Sequence[Row]) -> Panel:
    """Singular values by rank, in log scale.

    Args:
        name: of the files.
        rows: values over the largest.
    """

    def paint(canvas: Canvas) -> None:
        canvas.axes.set_yscale("log")
        for look, row in rows:
            known = [
                (place + 1, mean, off or 0.0)
                for place, (mean, off) in enumerate(_pairs(row))
                if mean and mean > SMALLEST
            ]
            xs = [float(place) for place, _, _ in known]
            lows = [max(mean - off, SMALLEST) for _, mean, off in known]
            canvas.band(look, xs, lows, [mean + off for _, mean, off in known])
            canvas.line(look, xs, [mean for _, mean, _ in known])
            for place, mean, _ in known[:: max(1, len(known) // 6)]:
                canvas.dot(look, place, mean, f"{look.name}, value {place}: {mean:.3g} of the largest", size=5.5)
        canvas.axes.set_xlabel("number of the singular value")
        canvas.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

    title = "singular values over the largest"
    return draw(name, title, f"{title}, before and after training", paint, legend=[look for look, _ in rows])


def along(name: str, title: str, names: Sequence[str], rows: Sequence[Row]) -> Panel:
    """Lines over the stages of a network.

    Args:
        name: of the files.
        title: of the panel.
        names: of the stages.
        rows: a value for each.
    """

    def paint(canvas: Canvas) -> None:
        for look, row in rows:
            known = [(place, mean, off) for place, (mean, off) in enumerate(_pairs(row)) if mean is not None]
            canvas.line(look, [place for place, _, _ in known], [mean for _, mean, _ in known])
            for place, mean, off in known:
                if off:
                    canvas.bar(look, (place, place), (mean - off, mean + off), width=1.4)
                canvas.dot(look, place, mean, f"{look.name}, {names[place]}: {mean:.1f}")
        _names(canvas, names)

    return draw(name, title, _said(title, names, rows, 1), paint, legend=[look for look, _ in rows])


def columns(name: str, title: str, names: Sequence[str], rows: Sequence[Row]) -> Panel:
    """Columns side by side for each name.

    Args:
        name: of the files.
        title: of the panel.
        names: below the columns.
        rows: a column at each name.
    """
    width = 0.8 / len(rows)

    def paint(canvas: Canvas) -> None:
        canvas.zero()
        for step, (look, row) in enumerate(rows):
            for place, (mean, off) in enumerate(_pairs(row)):
                if mean is None:
                    continue
                x = place + (step - (len(rows) - 1) / 2) * width
                canvas.box(look, x, mean, width * 0.88, f"{look.name}, {names[place]}: {mean:.3f}")
                if off:
                    canvas.bar(RANDOM, (x, x), (mean - off, mean + off), width=1.2)
        _names(canvas, names)
        canvas.axes.grid(visible=False, axis="x")

    return draw(name, title, _said(title, names, rows, 3), paint, legend=[look for look, _ in rows])


def rows(name: str, title: str, names: Sequence[str], rows_: Sequence[Row], *, share: bool) -> Panel:
    """Dots in a line for each name: for many names.

    Args:
        name: of the files.
        title: of the panel.
        names: at the left.
        rows_: a dot at each name.
        share: values are shares, which begin at 0; otherwise percent.
    """
    digits = 3 if share else 1

    def paint(canvas: Canvas) -> None:
        if share:
            canvas.zero(vertical=True)
        for look, row in rows_:
            for place, (mean, _) in enumerate(_pairs(row)):
                if mean is not None:
                    canvas.dot(look, mean, place, f"{look.name}, {names[place]}: {mean:.{digits}f}", size=6.5)
        if len(names) <= MOST_NAMES:
            canvas.ticks(names, vertical=True)
        canvas.axes.set_ylim(len(names) - 0.5, -0.5)

    legend = [look for look, _ in rows_]
    height = 64 + min(19 * len(names), 700)
    return draw(name, title, _said(title, names, rows_, digits), paint, height=height, legend=legend)


def gains(name: str, title: str, names: Sequence[str], rows_: Sequence[tuple[Look, Sequence[Summary]]]) -> Panel:
    """Gains with intervals for each name, arms side by side.

    Args:
        name: of the files.
        title: of the panel.
        names: below.
        rows_: of each arm, a gain for each name.
    """
    step = min(0.16, 0.7 / len(rows_))

    def paint(canvas: Canvas) -> None:
        canvas.zero()
        for number, (look, summaries) in enumerate(rows_):
            for place, one in enumerate(summaries):
                x = place + (number - (len(rows_) - 1) / 2) * step
                if one.t_interval is not None:
                    canvas.bar(look, (x, x), one.t_interval, width=1.6)
                said = f"{look.name}, {names[place]}: {signed(one.mean)} ({interval(one.t_interval)})"
                canvas.dot(look, x, one.mean, said, size=6)
        _names(canvas, names)
        canvas.axes.grid(visible=False, axis="x")

    said = "; ".join(
        f"{look.name}: {', '.join(f'{names[place]} {signed(one.mean)}' for place, one in enumerate(summaries))}"
        for look, summaries in rows_
    )
    return draw(name, title, f"{title}. {said}", paint, legend=[look for look, _ in rows_])


def embedding(
    name: str, title: str, points: Sequence[Sequence[float]], labels: Sequence[int], kinds: Sequence[Look]
) -> Panel:
    """Images as points in the plane.

    Args:
        name: of the files.
        title: of the panel.
        points: (x, y) of each image.
        labels: class of each image.
        kinds: look of each class.
    """
    size = 6.5 if len(points) < 400 else 5.0

    def paint(canvas: Canvas) -> None:
        for label, kind in enumerate(kinds):
            own = [point for point, one in zip(points, labels, strict=True) if one == label]
            canvas.cloud(kind, [point[0] for point in own], [point[1] for point in own], size)
        canvas.axes.set_xticks([])
        canvas.axes.set_yticks([])
        canvas.axes.spines[:].set_visible(False)
        canvas.axes.set_aspect("equal", adjustable="datalim")

    label = f"{title}: {len(labels)} images of {len(kinds)} classes in the plane"
    return draw(name, title, label, paint, height=340, legend=kinds)


def _names(canvas: Canvas, names: Sequence[str]) -> None:
    if len(names) > MOST_NAMES:
        return
    canvas.ticks(names)
    crowded = sum(map(len, names)) > 52 or (len(names) > 8 and max(map(len, names)) > STEEP)
    if crowded:
        canvas.axes.tick_params(axis="x", rotation=40)
        for text in canvas.axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")


def _pairs(row: Averaged) -> list[tuple[float | None, float | None]]:
    return list(zip(row.means, row.deviations, strict=True))


def _said(title: str, names: Sequence[str], rows_: Sequence[Row], digits: int) -> str:
    parts = []
    for look, row in rows_:
        values = [f"{name} {mean:.{digits}f}" for name, mean in zip(names, row.means, strict=False) if mean is not None]
        parts.append(f"{look.name}: {', '.join(values)}")
    return f"{title}. {'; '.join(parts)}"
