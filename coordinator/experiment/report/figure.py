"""One panel of a figure: drawn once, as SVG for the page and as SVG and PNG files.

The page's SVG takes its colours from the page (see `palette`), its letters from the page's font, and names what belongs
to which arm, so that a reader can bring one out. Its legend is the page's own; the files bring theirs. The same values
give the same bytes. matplotlib is imported when something is drawn; pyplot, with its global state, never.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from coordinator.experiment.report import svg
from coordinator.experiment.report.palette import GRID, INK, MUTED, PAPER, Look

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 376
HEIGHT = 262
POINTS = 72
OVERHANG = 14
"""Room for half of the last label of an x axis, which the layout does not count."""
DOTS = 160
LONGEST = 26
"""Letters of a name in a figure; longer ones lose their middle."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK.light,
    "text.parse_math": False,
    "axes.edgecolor": MUTED.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": 11,
    "axes.titlecolor": INK.light,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.facecolor": PAPER.light,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER.light,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        name: of its files.
        svg: for the page.
        file: SVG that stands alone.
        png: the same as pixels.
    """

    name: str
    svg: Markup
    file: bytes
    png: bytes


class Canvas:
    """What panels are painted with: matplotlib's axes, and marks that know their arm and what they say when touched.

    Attributes:
        axes: for everything else.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.marks: dict[str, svg.Mark] = {}

    def line(self, look: Look, xs: Sequence[float], ys: Sequence[float], *, width: float = 1.8) -> None:
        """A line."""
        self._plot(look, xs, ys, linestyle=look.dash, linewidth=width, zorder=3)

    def band(self, look: Look, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> None:
        """What lies between two lines."""
        area = self.axes.fill_between(xs, lows, highs, color=look.tone.light, alpha=0.16, linewidth=0, zorder=2)
        self._mark(area, look)

    def dot(
        self,
        look: Look,
        x: float | Sequence[float],
        y: float | Sequence[float],
        says: str = "",
        *,
        size: float = 7.0,
        hollow: bool = False,
        faint: bool = False,
    ) -> None:
        """A marker, or several that say the same; shown even where it crosses the axes' edge.

        Args:
            look: of its arm.
            x: place.
            y: place.
            says: shown when it is touched.
            size: in points.
            hollow: only its outline.
            faint: behind the others, half transparent.
        """
        outlined = hollow or look.marker == "_"
        self._plot(
            look,
            np.atleast_1d(x),
            np.atleast_1d(y),
            says,
            linestyle="none",
            marker=look.marker,
            markersize=size,
            markerfacecolor=PAPER.light if hollow else look.tone.light,
            markeredgecolor=look.tone.light if outlined else PAPER.light,
            markeredgewidth=1.4 if outlined else 0.7,
            alpha=0.55 if faint else None,
            zorder=3.5 if faint else 5,
            clip_on=False,
        )

    def bar(
        self, look: Look, at: float, ends: tuple[float, float] | None, *, across: bool = False, width: float = 2.4
    ) -> None:
        """An interval at a place: upright, or across; none where it has no ends."""
        if ends is not None:
            xs, ys = (ends, (at, at)) if across else ((at, at), ends)
            self._plot(look, xs, ys, linewidth=width, solid_capstyle="butt", zorder=4)

    def estimate(
        self,
        look: Look,
        at: float,
        value: float,
        ends: tuple[float, float] | None,
        says: str,
        *,
        across: bool = False,
        size: float = 7.0,
    ) -> None:
        """A marker with its interval; a larger marker has a thicker bar."""
        self.bar(look, at, ends, across=across, width=0.6 + 0.2 * size)
        self.dot(look, value if across else at, at if across else value, says, size=size)

    def column(self, look: Look, x: float, height: float, width: float, says: str) -> None:
        """A column from 0 to a height."""
        drawn = self.axes.bar([x], [height], width=width, color=look.tone.light, zorder=3)
        self._mark(drawn.patches[0], look, says)

    def note(self, y: float, text: str) -> None:
        """A few letters at the right edge."""
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        self.axes.annotate(text, (1, y), xytext=(6, 0), va="center", **where)

    def zero(self, *, vertical: bool = False) -> None:
        """The line of no difference."""
        (self.axes.axvline if vertical else self.axes.axhline)(0, color=MUTED.light, linewidth=1.0, zorder=1.5)

    def ticks(self, names: Sequence[str], *, vertical: bool = False) -> None:
        """Names at 0, 1, ... instead of numbers."""
        (self.axes.set_yticks if vertical else self.axes.set_xticks)(range(len(names)), [short(name) for name in names])

    def _plot(self, look: Look, xs: ArrayLike, ys: ArrayLike, says: str = "", **style: Any) -> None:
        for artist in self.axes.plot(xs, ys, color=look.tone.light, **style):
            self._mark(artist, look, says)

    def _mark(self, artist: Artist, look: Look, says: str = "") -> None:
        name = f"mark{len(self.marks)}"
        artist.set_gid(name)
        self.marks[name] = svg.Mark(look.classes, says)


def draw(
    name: str,
    title: str,
    label: str,
    paint: Callable[[Canvas], None],
    *,
    height: float = HEIGHT,
    legend: Sequence[Look] = (),
) -> Panel:
    """Draw a panel.

    Args:
        name: of its files; no two panels of a page share one.
        title: above it.
        label: what it shows, for who cannot see it.
        paint: paints it.
        height: without its legend, in points; its width is `WIDTH`.
        legend: in the files.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = max(1, int(WIDTH // (44 + 6.4 * max((len(short(look.name)) for look in legend), default=0))))
    band = 10 + 17 * math.ceil(len(legend) / columns) if legend else 0
    whole = height + band
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the page has the reader's fonts
        layout = ConstrainedLayoutEngine(
            rect=(0, band / whole, 1 - OVERHANG / WIDTH, height / whole), w_pad=0.06, h_pad=0.06
        )
        drawn = Figure(figsize=(WIDTH / POINTS, whole / POINTS), layout=layout)
        canvas = Canvas(drawn.add_subplot())
        canvas.axes.set_title(title)
        paint(canvas)
        _legend(drawn, legend, columns)
        layout.execute(drawn)
        drawn.set_layout_engine("none")  # laid out once, not again for each file
        vector, pixels = io.BytesIO(), io.BytesIO()
        drawn.savefig(vector, format="svg", metadata={"Date": None})
        drawn.savefig(pixels, format="png", dpi=DOTS)
    size = (WIDTH, height)
    return Panel(
        name, svg.for_page(vector.getvalue(), name, label, size, canvas.marks), vector.getvalue(), pixels.getvalue()
    )


def short(name: str) -> str:
    """A name that fits into a figure: names that are alike differ at their ends."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half + 1 :]}"


def _legend(drawn: Figure, looks: Sequence[Look], columns: int) -> None:
    from matplotlib.lines import Line2D

    if not looks:
        return
    handles = [
        Line2D([], [], color=look.tone.light, linestyle=look.dash, marker=look.marker, label=short(look.name))
        for look in looks
    ]
    legend = drawn.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9.5)
    legend.set_gid(svg.LEGEND)
    legend.set_in_layout(False)
