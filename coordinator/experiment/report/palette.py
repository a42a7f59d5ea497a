"""Colours and markers: those of Okabe and Ito, shifted where a theme's background would swallow them.

M. Okabe, K. Ito, "Color Universal Design", 2008. On white their orange, sky blue and yellow are too pale, on a dark
page their black and blue are too dark: these keep their hue and take a lightness with a contrast of 3 : 1 or more.
Figures are drawn in the light theme's colours; in the page each becomes the CSS variable that stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coordinator.experiment.matrix import SUPERVISED
from coordinator.experiment.results import BEFORE, PIXELS


@dataclass(frozen=True)
class Tone:
    """One colour in both themes.

    Attributes:
        variable: CSS custom property.
        light: hex digits on a light page, and in files; no two tones share them.
        dark: the same on a dark page.
    """

    variable: str
    light: str
    dark: str


PAPER = Tone("--paper", "#ffffff", "#14171a")
INK = Tone("--ink", "#1f2328", "#e6e8ea")
MUTED = Tone("--muted", "#59636e", "#9aa4ae")
GRID = Tone("--grid", "#e3e6ea", "#2d333a")
RULE = Tone("--rule", "#c5cbd2", "#454d56")
PANE = Tone("--pane", "#f6f7f9", "#1c2024")
LINK = Tone("--link", "#0a5f95", "#6cb8f0")
GOOD = Tone("--good", "#0b6b4f", "#45c79d")
BAD = Tone("--bad", "#a8430a", "#f2935c")
REFERENCE = Tone("--reference", "#6e7781", "#8b949e")

HUES = (
    Tone("--hue-0", "#0072b2", "#3c9be0"),
    Tone("--hue-1", "#d55e00", "#ec7a35"),
    Tone("--hue-2", "#009e73", "#1fb88a"),
    Tone("--hue-3", "#cc79a7", "#dd8fbb"),
    Tone("--hue-4", "#b97a00", "#e69f00"),
    Tone("--hue-5", "#3a9bdc", "#8fd0f5"),
    Tone("--hue-6", "#101418", "#f2f4f6"),
    Tone("--hue-7", "#8f8200", "#f0e442"),
    Tone("--hue-8", "#882255", "#d4709a"),
    Tone("--hue-9", "#767c83", "#969da5"),
)
TONES = (PAPER, INK, MUTED, GRID, RULE, PANE, LINK, GOOD, BAD, REFERENCE, *HUES)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
Dash = Literal["-", "none"] | tuple[int, tuple[float, ...]]

DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))


@dataclass(frozen=True)
class Look:
    """How one arm, or one class, appears wherever it does.

    Attributes:
        name: of the arm.
        tone: its colour.
        marker: matplotlib's letter for its marker.
        dash: matplotlib's line style.
        number: its place; figures and legends mark what belongs to it by that. None for references.
    """

    name: str
    tone: Tone
    marker: str
    dash: Dash = "-"
    number: int | None = None

    @property
    def classes(self) -> str:
        """CSS classes of everything that shows it."""
        return "reference" if self.number is None else f"series series-{self.number}"


RANDOM = Look(BEFORE, REFERENCE, "o", (0, (4, 2)))
RAW = Look(PIXELS, REFERENCE, "_", (0, (1.4, 1.4)))
BOUND = Look(SUPERVISED, REFERENCE, "*", "-")
REFERENCES = {look.name: look for look in (RANDOM, RAW, BOUND)}
"""What arms are held against; none of them is one."""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order of their first appearance; no two are the same below a hundred names."""
    known: dict[str, Look] = {}
    for name in names:
        if name not in known:
            known[name] = _look(name, len(known))
    return known


def classes(names: Sequence[str]) -> list[Look]:
    """A look for each class of a data set; above ten they begin anew."""
    return [_look(name, place) for place, name in enumerate(names)]


def style(tones: Iterable[Tone] = TONES) -> str:
    """The CSS variables of all tones: light, dark where the reader's system is or the reader asks for it."""
    light = ";".join(f"{tone.variable}:{tone.light}" for tone in tones)
    dark = ";".join(f"{tone.variable}:{tone.dark}" for tone in tones)
    dim = f"{{color-scheme:dark;{dark}}}"
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f'@media screen and (prefers-color-scheme:dark){{:root:not([data-theme="light"]){dim}}}\n'
        f'@media screen{{:root[data-theme="dark"]{dim}}}\n'
    )


def _look(name: str, place: int) -> Look:
    cycle = place // len(HUES)
    marker = MARKERS[(place + 3 * cycle) % len(MARKERS)]
    return Look(name, HUES[place % len(HUES)], marker, DASHES[(place % len(HUES) + cycle) % len(DASHES)], place)
