"""What a report is made of, read from the folders of experiments and sweeps, and checked for what must be there."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from coordinator.experiment.report.words import general
from coordinator.experiment.results import ExperimentResults
from coordinator.experiment.statistics import Summary, summarize
from peers.common.errors import RunFolderError
from peers.config import loading as configfile
from peers.config.schema import Config
from peers.runs import metrics

_CELL = re.compile(r"(?P<arm>.+)-seed(?P<seed>\d+)")
_POINT = re.compile(r"p\d+")
MEASURES = ("rounds", "effective_rank", "disagreement")
"""Of a group of a sweep, beside its probes."""


@dataclass(frozen=True)
class CellFolder:
    """One group: the folder of its run.

    Attributes:
        path: of the folder.
        arm: of the experiment, or point of the sweep.
        seed: of the run.
    """

    path: Path
    arm: str
    seed: int

    @cached_property
    def config(self) -> Config | None:
        """The resolved configuration; None where the file is missing."""
        path = self.path / "config.yaml"
        return configfile.load(path) if path.is_file() else None

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The result of the run; empty where there is none."""
        return _object(self.path / "summary.json")

    @cached_property
    def analysis(self) -> Mapping[str, Any]:
        """What was looked at beside the probes; empty where nothing was."""
        return _object(self.path / "analysis.json")

    @cached_property
    def records(self) -> list[Mapping[str, Any]]:
        """The records of all peers; a line that was cut off is left out."""
        records = metrics.records(self.path / "metrics.jsonl")
        return [record for record in records if isinstance(record, dict) and "round" in record]


@dataclass(frozen=True)
class ExperimentFolder:
    """An experiment with results.

    Attributes:
        key: its name in ids and file names; unique in a report.
        place: the folder, as it may be shown.
        results: of its statistics.
        cells: of all its groups, by arm and seed.
    """

    key: str
    place: str
    results: ExperimentResults
    cells: tuple[CellFolder, ...]

    @property
    def title(self) -> str:
        """The experiment's name."""
        return self.results.experiment

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms in the order of the tables."""
        return tuple(next(iter(self.results.gains.values()), {}))

    def of(self, arm: str) -> list[CellFolder]:
        """The groups of an arm that the statistics rest on."""
        return [cell for cell in self.cells if cell.arm == arm and cell.seed in self.results.seeds]

    def config(self, arm: str) -> Config | None:
        """The configuration of an arm's first group that has one."""
        return next((cell.config for cell in self.of(arm) if cell.config is not None), None)


class Score(NamedTuple):
    """A probe of one group of a sweep, in percent."""

    after: float
    gain: float


@dataclass(frozen=True)
class SweepPoint:
    """A point of a sweep.

    Attributes:
        name: e.g. p000.
        values: of each axis.
        state: finished, stopped or failed.
        why: it is not finished.
        scores: {probe: {seed: what it came to}}, of groups that are finished.
        measures: {one of `MEASURES`: {seed: value}}.
    """

    name: str
    values: Mapping[str, Any]
    state: str
    why: str
    scores: dict[str, dict[int, Score]] = field(default_factory=dict)
    measures: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """Its values in words."""
        return ", ".join(f"{key} = {general(value)}" for key, value in self.values.items())

    def gain(self, probe: str) -> Summary | None:
        """Its gain over its seeds; None where it is not finished."""
        scores = self.scores.get(probe)
        return summarize([score.gain for score in scores.values()]) if scores and self.state == "finished" else None


@dataclass(frozen=True)
class SweepFolder:
    """A sweep.

    Attributes:
        key: its name in ids and file names; unique in a report.
        place: the folder, as it may be shown.
        about: sweep.json.
        points: in the order of sweep.json.
        cells: of all its groups.
    """

    key: str
    place: str
    about: Mapping[str, Any]
    points: tuple[SweepPoint, ...]
    cells: tuple[CellFolder, ...]

    @property
    def title(self) -> str:
        """The sweep's name."""
        return str(self.about["name"])

    @property
    def split(self) -> str:
        """Images that it was judged on."""
        return str(self.about["split"])

    @property
    def axes(self) -> tuple[str, ...]:
        """Keys that were varied."""
        return tuple(self.about["space"])

    @property
    def probes(self) -> tuple[str, ...]:
        """Probes that any group has, the one that decides first."""
        metric = self.about["metric"]
        probes = {probe for point in self.points for probe in point.scores}
        return tuple(sorted(probes, key=lambda probe: (probe != metric, probe)))

    def ranked(self, probe: str) -> list[tuple[SweepPoint, Summary]]:
        """Points that were finished, the one with the highest mean gain first; of equals, the earlier."""
        gained = [(point, gain) for point in self.points if (gain := point.gain(probe)) is not None]
        return sorted(gained, key=lambda one: -one[1].mean)

    @property
    def best(self) -> SweepPoint | None:
        """The best point by the sweep's own metric; None where none is finished."""
        return next((point for point, _ in self.ranked(str(self.about["metric"]))), None)


@dataclass(frozen=True)
class Recipes:
    """Recipes that were tried and not kept.

    Attributes:
        place: the folder that lists them.
        header: names of the columns.
        rows: as they were written.
        paragraphs: what is to be said of them.
    """

    place: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Everything that a report shows."""

    experiments: tuple[ExperimentFolder, ...]
    sweeps: tuple[SweepFolder, ...]
    recipes: tuple[Recipes, ...]

    @property
    def folders(self) -> list[ExperimentFolder | SweepFolder]:
        """Experiments, then sweeps: in the order of the page."""
        return [*self.experiments, *self.sweeps]


def load(folders: Sequence[Path]) -> Sources:
    """Read the folders of a report.

    Args:
        folders: of experiments and sweeps; one that is given twice counts once.

    Raises:
        RunFolderError: one is missing, holds neither, is not finished, or is damaged.
        ConfigError: the configuration of a run cannot be read.
    """
    experiments, sweeps, recipes = [], [], []
    keys: set[str] = set()
    for folder in dict.fromkeys(folders):
        _check(folder)
        if (folder / "results.json").is_file():
            results = results_of(folder)
            key = _key(results.experiment, keys)
            experiments.append(ExperimentFolder(key, shown(folder), results, cells_of(folder)))
        if (folder / "sweep.json").is_file():
            sweeps.append(_sweep(folder, keys))
        if (folder / "recipes.csv").is_file():
            recipes.append(_recipes(folder))
    return Sources(tuple(experiments), tuple(sweeps), tuple(recipes))


def results_of(folder: Path) -> ExperimentResults:
    """What an experiment found, as `results.write` saved it.

    Raises:
        RunFolderError: results.json cannot be read back.
    """
    path = folder / "results.json"
    try:
        return TypeAdapter(ExperimentResults).validate_python(_object(path))
    except ValidationError as exc:
        first = exc.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RunFolderError(
            f"{path} is not what `coordinator experiment` writes ({wrong}); start that command again: it keeps the "
            f"groups that are finished and writes this file anew"
        ) from exc


def cells_of(folder: Path) -> tuple[CellFolder, ...]:
    """The groups of an experiment or a sweep: by arm, then by seed."""
    cells = [
        CellFolder(path, match["arm"], int(match["seed"]))
        for path in (folder / "cells").glob("*")
        if (match := _CELL.fullmatch(path.name)) and path.is_dir()
    ]
    return tuple(sorted(cells, key=lambda cell: (cell.arm, cell.seed)))


def shown(folder: Path) -> str:
    """A folder without the place of this machine that it lies in."""
    inside = folder.parts and not folder.is_absolute() and ".." not in folder.parts
    return folder.as_posix() if inside else folder.resolve().name


def _check(folder: Path) -> None:
    expected = "expected the folder of an experiment (results.json) or of a sweep (sweep.json), e.g. runs/digits"
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is {'not a folder' if folder.exists() else 'not there'}: {expected}")
    if (folder / "results.json").is_file() or (folder / "sweep.json").is_file():
        return
    cells = cells_of(folder)
    if cells:
        kind = "sweep" if all(_POINT.fullmatch(cell.arm) for cell in cells) else "experiment"
        missing = "sweep.json" if kind == "sweep" else "results.json"
        raise RunFolderError(
            f"{folder} is an {'unfinished ' if kind == 'sweep' else ''}{kind} of {len(cells)} groups without "
            f"{missing}: run `coordinator {kind} CONFIG` to its end first; it goes on with what is there"
        )
    raise RunFolderError(f"{folder} holds neither results.json nor sweep.json: {expected}")


def _sweep(folder: Path, keys: set[str]) -> SweepFolder:
    path, table = folder / "sweep.json", folder / "results.csv"
    about = _object(path)
    try:
        points = {
            point["name"]: SweepPoint(point["name"], dict(point["values"]), point["state"], point.get("why") or "")
            for point in about["points"]
        }
        name = str(about["name"])
        for key in ("method", "split", "seeds", "metric", "space"):
            about[key]
        for row in csv.DictReader(io.StringIO(table.read_text(encoding="utf-8") if table.is_file() else "")):
            _add(points[row["point"]], row)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise RunFolderError(
            f"{path} and results.csv are not what `coordinator sweep` writes ({type(exc).__name__}: {exc}); start that "
            f"command again: it keeps the groups that are finished and writes these files anew"
        ) from exc
    return SweepFolder(_key(name, keys), shown(folder), about, tuple(points.values()), cells_of(folder))


def _add(point: SweepPoint, row: Mapping[str, str]) -> None:
    """One line of results.csv: a group and a probe. The other probes of a group repeat its measures."""
    seed = int(row["seed"])
    if row.get("after") and row.get("gain"):
        point.scores.setdefault(row["probe"], {})[seed] = Score(float(row["after"]), float(row["gain"]))
    for name in MEASURES:
        if row.get(name):
            point.measures.setdefault(name, {})[seed] = float(row[name])


def _recipes(folder: Path) -> Recipes:
    path, words = folder / "recipes.csv", folder / "recipes.md"
    rows = [tuple(row) for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))) if row]
    if not rows:
        raise RunFolderError(
            f"{path} is empty: expected a line of column names, and a line for each recipe; fill it in, or remove it"
        )
    width = len(rows[0])
    even = tuple((*row[:width], *[""] * (width - len(row))) for row in rows[1:])
    text = words.read_text(encoding="utf-8") if words.is_file() else ""
    paragraphs = tuple(" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())
    return Recipes(shown(folder), rows[0], even, paragraphs)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as exc:
        raise RunFolderError(
            f"{path} is damaged: expected a JSON object, found {exc}; remove it and make it anew"
        ) from exc
    if not isinstance(tree, dict):
        raise RunFolderError(f"{path} is damaged: expected a JSON object, found {type(tree).__name__}; make it anew")
    return tree


def _key(name: str, keys: set[str]) -> str:
    """A name for ids and files that is not taken yet."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "report"
    key, number = plain, 2
    while key in keys:
        key, number = f"{plain}-{number}", number + 1
    keys.add(key)
    return key
