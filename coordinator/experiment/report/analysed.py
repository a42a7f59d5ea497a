"""What the analysis of networks says, arm by arm: the mean over an arm's groups, with the deviation beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.experiment.report.curve import Curve, over_groups
from coordinator.experiment.report.load import CellFolder, ExperimentFolder
from coordinator.experiment.statistics import Summary, summarize

LARGEST_PICTURE = 4 * 2**20
"""Bytes of a picture that still goes into the page."""


@dataclass(frozen=True)
class Analysed:
    """The groups of one arm that were analysed.

    Attributes:
        arm: name.
        groups: by seed.
    """

    arm: str
    groups: tuple[CellFolder, ...]

    @property
    def first(self) -> Mapping[str, Any]:
        """The analysis of the first seed: of what cannot be averaged."""
        return self.groups[0].analysis

    def curve(self, name: str) -> Curve | None:
        """A measure over rounds."""
        return over_groups(
            {
                float(round_): float(value)
                for round_, value in zip(one["rounds"], one["course"].get(name, ()), strict=False)
                if isinstance(value, int | float)
            }
            for one in self._having("course")
        )

    def row(self, *path: str | int) -> Curve | None:
        """A list of numbers at a place of the analysis, e.g. `row("stages", "knn", 0)`, by index."""
        rows = (_at(one, path) for one in self._having(str(path[0])))
        return over_groups(
            (
                {float(place): float(value) for place, value in enumerate(row or ()) if isinstance(value, int | float)}
                for row in rows
            ),
            everywhere=False,
        )

    def names(self, *path: str) -> list[str]:
        """Names at a place of the analysis; empty where there are none."""
        return [str(name) for name in _at(self.first, (*path, "names")) or ()]

    def class_gains(self) -> list[Summary]:
        """Of each class, its k-NN after minus before, over the groups."""
        rows = [one["classes"]["knn"] for one in self._having("classes")]
        gains = [
            [after - before for before, after in zip(row[0], row[-1], strict=True) if None not in (before, after)]
            for row in rows
        ]
        whole = [row for row in gains if len(row) == len(self.names("classes"))]
        return [summarize(column) for column in zip(*whole, strict=True)]

    def transfers(self) -> list[Mapping[str, Any]]:
        """Probes on another data set, of each group that has them."""
        return [one["transfer"] for one in self._having("transfer")]

    def filters(self) -> tuple[str, str] | None:
        """Data URIs of the first layer's filters before and after, of the first group; None where there are none."""
        paths = (self.first.get("pictures") or {}).get("filters") or []
        uris = [uri for path in paths if (uri := self._picture(path)) is not None]
        return (uris[0], uris[1]) if len(uris) == 2 else None

    def neighbours(self) -> str | None:
        """Data URI of the neighbours that the first group finds; None where there is none."""
        path = (self.first.get("pictures") or {}).get("neighbours")
        return self._picture(path) if path else None

    def _picture(self, path: str) -> str | None:
        folder = self.groups[0].path.resolve()
        file = (folder / path).resolve()
        # A report may be passed on: it takes nothing but the pictures of the run.
        mine = file.is_relative_to(folder) and file.suffix == ".png" and file.is_file()
        if not mine or file.stat().st_size > LARGEST_PICTURE:
            return None
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()

    def _having(self, part: str) -> Iterator[Mapping[str, Any]]:
        return (cell.analysis for cell in self.groups if cell.analysis.get(part))


def analysed(experiment: ExperimentFolder) -> list[Analysed]:
    """The arms of an experiment with an analysis, in the order of its tables."""
    groups = {arm: tuple(cell for cell in experiment.of(arm) if cell.analysis) for arm in experiment.arms}
    return [Analysed(arm, cells) for arm, cells in groups.items() if cells]


def _at(tree: Any, path: Sequence[str | int]) -> Any:
    """What is at a place of nested dicts and lists; None where there is no such place."""
    for step in path:
        if isinstance(tree, Mapping):
            tree = tree.get(str(step))
        elif isinstance(tree, list) and isinstance(step, int) and -len(tree) <= step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree
