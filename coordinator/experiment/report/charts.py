"""Charts of experiments and analyses: curves, estimates beside names, and points in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from coordinator.experiment.report.curve import Curve
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.palette import RANDOM, Look
from coordinator.experiment.report.words import general, interval, signed
from coordinator.experiment.statistics import Summary

MARKS = 8
"""Markers on a line: enough to tell lines apart without colour."""
SMALLEST = 1e-4
"""Singular values below this share of the largest are not shown."""
MOST_NAMES = 36
"""Names that an axis has room for; with more, the marks say theirs when they are touched."""
STEEP = 5
"""Letters of a name above which names below an axis are turned."""

Row = tuple[Look, Curve]


class Estimate(NamedTuple):
    """A value with its interval.

    Attributes:
        place: index of its name.
        value: of the mark.
        ends: of the bar; None: there is none.
        text: the value in words.
    """

    place: int
    value: float
    ends: tuple[float, float] | None
    text: str


def over_rounds(name: str, title: str, rows: Sequence[Row], rounds: Sequence[float] = ()) -> Panel:
    """Curves over rounds, each with a band of one deviation.

    Args:
        name: of the files.
        title: of the quantity.
        rows: the curve of each arm.
        rounds: the few that were measured, in log scale; empty: linear scale.
    """

    def paint(canvas: Canvas) -> None:
        for look, curve in rows:
            _trace(canvas, look, curve, _staggered(len(curve.xs), look.number or 0), lambda x: f"round {general(x)}")
        if rounds:
            canvas.axes.set_xscale("symlog", linthresh=1)
            canvas.axes.set_xticks(rounds, [general(round_) for round_ in rounds])
        canvas.axes.set_xlabel("rounds done")
        canvas.axes.margins(x=0.02)

    ends = "; ".join(f"{look.name} from {curve.means[0]:.3g} to {curve.means[-1]:.3g}" for look, curve in rows)
    return draw(name, title, f"{title} over rounds: {ends}", paint, legend=[look for look, _ in rows])


def spectrum(name: str, rows: Sequence[Row]) -> Panel:
    """Singular values over the largest, by rank, in log scale."""

    def paint(canvas: Canvas) -> None:
        canvas.axes.set_yscale("log")
        for look, curve in rows:
            kept = range(sum(mean > SMALLEST for mean in curve.means))  # they fall
            numbers = tuple(place + 1.0 for place in kept)
            known = Curve(numbers, curve.means[: len(kept)], curve.deviations[: len(kept)], curve.groups)
            _trace(canvas, look, known, kept[:: max(1, len(kept) // 6)], lambda x: f"value {x:g}", floor=SMALLEST)
        canvas.axes.set_xlabel("number of the singular value")
        canvas.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

    title = "singular values over the largest"
    return draw(name, title, f"{title}, before and after training", paint, legend=[look for look, _ in rows])


def along(name: str, title: str, names: Sequence[str], rows: Sequence[Row]) -> Panel:
    """Lines over names in an order, such as the stages of a network."""

    def paint(canvas: Canvas) -> None:
        for look, curve in rows:
            canvas.line(look, curve.xs, curve.means)
            for one in estimates(curve, 1):
                canvas.estimate(look, one.place, one.value, one.ends, f"{look.name}, {names[one.place]}: {one.text}")
        _name(canvas, names)

    rows_ = [(look, estimates(curve, 1)) for look, curve in rows]
    return draw(name, title, _label(title, names, rows_), paint, legend=[look for look, _ in rows])


def beside(
    name: str,
    title: str,
    names: Sequence[str],
    rows: Sequence[tuple[Look, Sequence[Estimate]]],
    *,
    columns: bool = False,
) -> Panel:
    """Estimates above their names, those of several rows side by side.

    Args:
        name: of the files.
        title: of the panel.
        names: below the axis.
        rows: of each look, an estimate for each name.
        columns: drawn from 0 upwards instead of as marks.
    """
    step = 0.8 / len(rows) if columns else min(0.16, 0.7 / len(rows))

    def paint(canvas: Canvas) -> None:
        canvas.zero()
        for number, (look, row) in enumerate(rows):
            for one in row:
                x = one.place + (number - (len(rows) - 1) / 2) * step
                says = f"{look.name}, {names[one.place]}: {one.text}"
                if columns:
                    canvas.column(look, x, one.value, step * 0.88, says)
                    canvas.bar(RANDOM, x, one.ends, width=1.2)
                else:
                    canvas.estimate(look, x, one.value, one.ends, says, size=6)
        _name(canvas, names)
        canvas.axes.grid(visible=False, axis="x")

    return draw(name, title, _label(title, names, rows), paint, legend=[look for look, _ in rows])


def lines(
    name: str, title: str, names: Sequence[str], rows: Sequence[tuple[Look, Sequence[Estimate]]], *, zero: bool
) -> Panel:
    """Marks in a line for each name: for many names.

    Args:
        name: of the files.
        title: of the panel.
        names: at the left.
        rows: of each look, an estimate for each name; their intervals are not drawn.
        zero: whether the axis begins at 0.
    """

    def paint(canvas: Canvas) -> None:
        if zero:
            canvas.zero(vertical=True)
        for look, row in rows:
            for one in row:
                canvas.dot(look, one.value, one.place, f"{look.name}, {names[one.place]}: {one.text}", size=6.5)
        if len(names) <= MOST_NAMES:
            canvas.ticks(names, vertical=True)
        canvas.axes.set_ylim(len(names) - 0.5, -0.5)

    height = 64 + min(19 * len(names), 700)
    return draw(name, title, _label(title, names, rows), paint, height=height, legend=[look for look, _ in rows])


def plane(
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
            canvas.dot(kind, [x for x, _ in own], [y for _, y in own], size=size, faint=True)
        canvas.axes.set_xticks([])
        canvas.axes.set_yticks([])
        canvas.axes.spines[:].set_visible(False)
        canvas.axes.set_aspect("equal", adjustable="datalim")

    label = f"{title}: {len(labels)} images of {len(kinds)} classes in the plane"
    return draw(name, title, label, paint, height=340, legend=kinds)


def estimates(curve: Curve, digits: int) -> list[Estimate]:
    """The means of a curve over names, each with one deviation to both sides."""
    return [
        Estimate(int(x), mean, (mean - off, mean + off) if off else None, f"{mean:.{digits}f}")
        for x, mean, off in zip(curve.xs, curve.means, curve.deviations, strict=True)
    ]


def gains(summaries: Sequence[Summary]) -> list[Estimate]:
    """Mean gains, each with its interval."""
    return [
        Estimate(place, one.mean, one.t_interval, f"{signed(one.mean)} ({interval(one.t_interval)})")
        for place, one in enumerate(summaries)
    ]


def _trace(
    canvas: Canvas,
    look: Look,
    curve: Curve,
    places: Iterable[int],
    at: Callable[[float], str],
    floor: float = -math.inf,
) -> None:
    """One line with its band, which does not go below the floor, and a few markers that say their values."""
    if curve.groups > 1:
        pairs = list(zip(curve.means, curve.deviations, strict=True))
        lows = [max(mean - (off or 0.0), floor) for mean, off in pairs]
        canvas.band(look, curve.xs, lows, [mean + (off or 0.0) for mean, off in pairs])
    canvas.line(look, curve.xs, curve.means)
    for place in places:
        x, mean, off = curve.xs[place], curve.means[place], curve.deviations[place]
        canvas.dot(
            look, x, mean, f"{look.name}, {at(x)}: {mean:.3g}" + ("" if off is None else f" ± {off:.2g}"), size=6
        )


def _staggered(length: int, number: int) -> list[int]:
    """Where a line bears markers: those of several arms are staggered, so that none hides another."""
    if length <= MARKS:
        return list(range(length))
    step = length / MARKS
    return sorted({min(length - 1, int(step * (place + 0.15 + 0.17 * (number % 5)))) for place in range(MARKS)})


def _name(canvas: Canvas, names: Sequence[str]) -> None:
    """Names below an axis, turned where they would meet."""
    if len(names) > MOST_NAMES:
        return
    canvas.ticks(names)
    if sum(map(len, names)) > 52 or (len(names) > 8 and max(map(len, names)) > STEEP):
        canvas.axes.tick_params(axis="x", rotation=40)
        for text in canvas.axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")


def _label(title: str, names: Sequence[str], rows: Sequence[tuple[Look, Sequence[Estimate]]]) -> str:
    """What a panel shows, for who cannot see it."""
    texts = (f"{look.name}: {', '.join(f'{names[one.place]} {one.text}' for one in row)}" for look, row in rows)
    return f"{title}. {'; '.join(texts)}"
