"""A sweep as a value: points x seeds, each cell a whole run, all checked before any starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.experiment.runs import Cell, make_cell
from coordinator.experiment.sweep import keys
from coordinator.experiment.sweep.points import Point, points
from coordinator.experiment.sweep.space import Axis, SweepConfig, SweepSection, axes
from peers.common.errors import ConfigError
from peers.config.loading import DEFAULT_ROUNDS, Tree, parse_as, read
from peers.config.schema import Config


@dataclass(frozen=True)
class Sweep:
    """Everything that may be run.

    Attributes:
        section: what is varied, and how.
        axes: what is varied, key by key.
        points: in their order.
        cells: seed by seed, so that a sweep that is stopped early has seen all points with its first seeds.
        split: whose images judge.
    """

    section: SweepSection
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    cells: tuple[Cell, ...]
    split: str

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return Path(self.section.out) / self.section.name

    @property
    def first(self) -> tuple[Cell, ...]:
        """The cells of the first seed: what ASHA looks at."""
        return self.cells[: len(self.points)]


def load(path: str, sets: Sequence[str] = ()) -> Sweep:
    """The sweep that a file describes.

    Args:
        path: YAML.
        sets: `key.path=value` settings on top, for all points; `sweep.…` for the sweep itself.

    Raises:
        ConfigError: lists every problem, or those of the first point that makes no run.
    """
    tree = read(path, sets)
    section = parse_as(SweepConfig, tree, path).sweep
    varied, problems = axes(section)
    if problems:
        raise ConfigError("\n".join([f"{path} has problems:", *(f"  {problem}" for problem in problems)]))
    common = _common(tree, section)
    chosen = points(section, varied)
    folder = Path(section.out) / section.name / "cells"
    cells = tuple(_cell(path, common, folder, point, seed) for seed in section.seeds for point in chosen)
    for point, cell in zip(chosen, cells, strict=False):
        for problem in _contradictions(section, cell.config):
            raise ConfigError(f"{path}, point {point}: {problem}")
    return Sweep(section, varied, chosen, cells, cells[0].config.probe.split)


def rounds_of(config: Config) -> int:
    """Length of a run that is given in rounds."""
    return config.run.rounds or DEFAULT_ROUNDS


def looks(section: SweepSection, rounds: int) -> tuple[int, ...]:
    """Rounds at which ASHA looks at a run of a length, before its last."""
    found, at = [], section.asha.grace
    while at < rounds:
        found.append(at)
        at *= section.asha.factor
    return tuple(found)


def _common(tree: Mapping[str, Any], section: SweepSection) -> Tree:
    """What all points share: as the file says it, with what a sweep adds where the file is silent."""
    common = {key: value for key, value in tree.items() if key != "sweep"}
    every = {"every": section.asha.grace} if section.method == "asha" else {}
    common["probe"] = {"split": "validation", **every, **(common.get("probe") or {})}
    return common


def _cell(path: str, common: Tree, folder: Path, point: Point, seed: int) -> Cell:
    tree = common
    try:
        for key, value in point.values.items():
            tree = keys.placed(tree, key, value)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return make_cell(f"{path}, point {point},", tree, folder, point.name, seed)


def _contradictions(section: SweepSection, config: Config) -> Iterator[str]:
    """What makes a run, but none of this sweep."""
    if section.metric == "linear" and not config.probe.linear:
        yield "sweep.metric = 'linear': probe.linear is false; use metric knn"
    if section.method != "asha":
        return
    every, grace, rounds = config.probe.every, section.asha.grace, rounds_of(config)
    if config.run.epochs is not None:
        yield f"run.epochs = {config.run.epochs}: ASHA counts in rounds; give run.rounds"
    if every == 0:
        yield f"probe.every = 0: ASHA looks at the live k-NN; leave it out, or use one that divides {grace}, its grace"
    elif grace % every:
        yield f"probe.every = {every}: must divide sweep.asha.grace = {grace}, the rounds of ASHA's first look"
    address = config.launcher.ray.address
    if address is not None and config.launcher.kind == "local":
        yield f"launcher.ray.address = {address!r}: groups run where launcher.kind says; set launcher.kind = ray"
    if grace >= rounds:
        yield f"sweep.asha.grace = {grace}: the first look must come before the end, run.rounds = {rounds}"
