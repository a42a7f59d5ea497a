"""Figures of sweeps: the gain against each setting, a map of two, and live curves of points that were stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.experiment.report.curve import Curve
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.load import SweepFolder, SweepPoint
from coordinator.experiment.report.palette import HUES, PAPER, REFERENCE, Look
from coordinator.experiment.report.words import general, headed, interval, signed

WIDE = 10
"""A ratio of the largest to the smallest value above which an axis is logarithmic."""
LIGHT_ON_DARK = 0.62
"""Share of the darkest colour from which on white letters are easier to read than black ones."""
FEW = 7
"""Values up to which each gets its own tick."""
_POINT = Look("point", HUES[0], "o")
_BEST = Look("best point", HUES[1], "D")
_OTHER = Look("stopped or failed", REFERENCE, "o", (0, (1.4, 1.4)))
LIVE = (Look("finished", _POINT.tone, "o"), _OTHER)
"""Legend of live curves."""


@dataclass(frozen=True)
class Axis:
    """A setting that was varied.

    Attributes:
        key: dotted.
        values: distinct ones of the points: ascending numbers, or anything else in the order of the space.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return all(map(is_number, self.values))

    @property
    def log(self) -> bool:
        """Whether they are shown in log scale."""
        return self.numeric and len(self.values) > 1 and 0 < self.values[0] * WIDE < self.values[-1]

    def at(self, value: Any) -> float:
        """Where a value stands."""
        return float(value) if self.numeric else float([_written(one) for one in self.values].index(_written(value)))

    def prepare(self, canvas: Canvas) -> None:
        """Scale and ticks of the x axis."""
        canvas.axes.set_xlabel(self.key)
        if not self.numeric:
            canvas.ticks([general(value) for value in self.values])
            canvas.axes.set_xlim(-0.5, len(self.values) - 0.5)
            return
        if self.log:
            canvas.axes.set_xscale("log")
        if len(self.values) <= FEW:
            canvas.axes.set_xticks(self.values, [general(value) for value in self.values])
        else:
            canvas.axes.xaxis.set_major_formatter(lambda value, _: general(value))
        canvas.axes.xaxis.set_minor_formatter(lambda value, _: "")


def axes_of(sweep: SweepFolder) -> list[Axis]:
    """The settings that were varied."""
    axes = []
    for key in sweep.axes:
        values = [point.values[key] for point in sweep.points if key in point.values]
        distinct = {_written(value): value for value in values}.values()
        axes.append(Axis(key, tuple(sorted(set(values)) if all(map(is_number, values)) else distinct)))
    return axes


def sensitivity(sweep: SweepFolder, probe: str, axis: Axis, axes: Sequence[Axis]) -> Panel:
    """The gain against one setting.

    Args:
        sweep: whose.
        probe: whose gain.
        axis: the setting.
        axes: all of them.
    """
    known = [(point, summary) for point in sweep.points if (summary := point.gain(probe)) is not None]
    best = sweep.best or known[0][0]
    others = [one.key for one in axes if one is not axis]
    line = [one for one in known if all(one[0].values[key] == best.values[key] for key in others)]
    grid = sweep.about["method"] == "grid"
    slice_ = sorted(line, key=lambda one: axis.at(one[0].values[axis.key])) if grid else []

    def paint(canvas: Canvas) -> None:
        canvas.zero()
        if slice_ and axis.numeric:
            xs = [axis.at(point.values[axis.key]) for point, _ in slice_]
            canvas.line(_POINT, xs, [summary.mean for _, summary in slice_], width=1.4)
        for point, summary in known:
            x, faint = axis.at(point.values[axis.key]), grid and (point, summary) not in slice_
            look = _BEST if point is best and _may_choose(sweep) else _POINT
            says = f"{point.name}, {point.setting}: {signed(summary.mean)} ({interval(summary.t_interval)})"
            if faint:
                canvas.dot(look, x, summary.mean, says, size=4.5, faint=True)
            else:
                canvas.estimate(look, x, summary.mean, summary.t_interval, says)
        _without_gain(canvas, sweep, axis)
        axis.prepare(canvas)

    name = f"sweep-{sweep.key}-{probe}-{_plain(axis.key)}"
    title = f"{headed(probe)}: gain, points"
    label = f"{title} against {axis.key}; best at {general(best.values[axis.key])}"
    return draw(name, title, label, paint, legend=legend(sweep))


def _may_choose(sweep: SweepFolder) -> bool:
    """Whether a point may be singled out: nothing is chosen by test images."""
    return str(sweep.about["split"]) == "validation"


def is_plane(sweep: SweepFolder, axes: Sequence[Axis]) -> bool:
    """Whether the sweep can be shown as a map: a grid of two settings."""
    return sweep.about["method"] == "grid" and len(axes) == 2 and all(len(axis.values) > 1 for axis in axes)


def heat(sweep: SweepFolder, probe: str, axes: Sequence[Axis]) -> Panel:
    """A map of the mean gain over two settings.

    Args:
        sweep: a grid.
        probe: whose gain.
        axes: both settings; the first goes up.
    """
    up, right = axes
    gains = {
        (up.values.index(point.values[up.key]), right.values.index(point.values[right.key])): summary.mean
        for point in sweep.points
        if (summary := point.gain(probe)) is not None
    }
    low, high = min(gains.values(), default=0.0), max(gains.values(), default=1.0)

    def paint(canvas: Canvas) -> None:
        from matplotlib.patches import Rectangle

        for (row, column), gain in gains.items():
            share = (gain - low) / (high - low) if high > low else 1.0
            colour = _shade(share)
            canvas.axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER.light))
            ink = "#fefefe" if share > LIGHT_ON_DARK else "#1f2329"  # on the cell's own colour: the same in both themes
            canvas.axes.text(column, row, signed(gain), ha="center", va="center", color=ink)
        canvas.axes.set_xlim(-0.5, len(right.values) - 0.5)
        canvas.axes.set_ylim(-0.5, len(up.values) - 0.5)
        canvas.ticks([general(value) for value in right.values])
        canvas.ticks([general(value) for value in up.values], vertical=True)
        canvas.axes.set_xlabel(right.key)
        canvas.axes.set_ylabel(up.key)
        canvas.axes.grid(visible=False)

    title = f"{headed(probe)}: mean gain, points"
    label = f"{title}, over {up.key} and {right.key}, from {signed(low)} to {signed(high)}"
    height = min(420.0, 90 + 42.0 * len(up.values))
    return draw(f"sweep-{sweep.key}-{probe}-map", title, label, paint, height=height)


def live(sweep: SweepFolder, curves: Sequence[tuple[SweepPoint, Curve]]) -> Panel:
    """Live k-NN of points over rounds, those that were stopped in grey.

    Args:
        sweep: whose.
        curves: of each point.
    """

    def paint(canvas: Canvas) -> None:
        for point, curve in sorted(curves, key=lambda one: one[0].state == "finished"):
            finished = point.state == "finished"
            look = _POINT if finished else _OTHER
            canvas.line(look, curve.xs, curve.means, width=1.4 if finished else 1.0)
            end = f"{curve.means[-1]:.1f} % after {curve.xs[-1]:g} rounds, {point.state}"
            says = f"{point.name}, {point.setting}: {end}"
            canvas.dot(look, curve.xs[-1], curve.means[-1], says, size=6, hollow=not finished)
        canvas.axes.set_xlabel("rounds done")

    finished = sum(point.state == "finished" for point, _ in curves)
    title = "live k-NN on validation images, %"
    label = f"{title}, over rounds: {finished} finished points, {len(curves) - finished} stopped or failed"
    return draw(f"sweep-{sweep.key}-live", title, label, paint, legend=LIVE)


def legend(sweep: SweepFolder) -> list[Look]:
    """What the marks of `sensitivity` are."""
    best = [_BEST] if _may_choose(sweep) else []
    return [_POINT, *best, *([_OTHER] if any(point.state != "finished" for point in sweep.points) else [])]


def _without_gain(canvas: Canvas, sweep: SweepFolder, axis: Axis) -> None:
    """Points that have no final gain, hollow, along the bottom."""
    lost = [point for point in sweep.points if point.state != "finished"]
    if not lost:
        return
    low, high = canvas.axes.get_ylim()
    floor = low - 0.06 * (high - low)
    for point in lost:
        says = f"{point.name}, {point.setting}: {point.state}"
        canvas.dot(_OTHER, axis.at(point.values[axis.key]), floor, says, size=5.5, hollow=True)
    canvas.axes.set_ylim(floor - 0.06 * (high - low), high)


def _shade(share: float) -> str:
    """From pale to deep blue; lightness alone carries the value."""
    pale, deep = (214, 230, 242), (0, 76, 128)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(pale, deep, strict=True))


def is_number(value: object) -> bool:
    """Whether a setting's value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(key: str) -> str:
    return key.replace(".", "-").replace("_", "-")


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
