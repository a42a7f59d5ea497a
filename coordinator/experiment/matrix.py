"""An experiment as a value: arms x seeds, each cell a whole run, all checked before any starts.

    experiment: {name: digits, seeds: [0, 1, 2, 3, 4], arms: {consensus: {}, noise: {consensus: {control: noise}}}}
    data: ...           # and the other sections of a run: what the cells have in common

For a seed all arms have the same initial weights, batches, optimizer and batch-norm treatment, unless an arm says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from coordinator.experiment.cells import Cell, make_cell, merged
from peers.config import Config, Section
from peers.configfile import Tree, parse_as, read
from peers.errors import ConfigError

CONTROLS: dict[str, Tree] = {
    "consensus": {},
    "independent": {"consensus": {"control": "independent"}},
    "shuffled": {"consensus": {"control": "shuffled"}},
    "noise": {"consensus": {"control": "noise"}},
    "frozen": {"consensus": {"target": "frozen"}},
}
"""The arms of an experiment that names none: what is claimed, and everything that might explain it away."""


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class ExperimentSection(Section):
    """What is compared, how often, and where it is kept."""

    name: str = Field(
        "experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder of the experiment below `out`."
    )
    out: str = Field("runs", min_length=1, description="Folder that holds the experiments.")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], BeforeValidator(_as_tuple)] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="One group for each arm and seed; below five there is no p-value."
    )
    arms: dict[str, dict[str, Any]] | None = Field(
        None,
        min_length=1,
        description="Sections that set an arm apart, by its name. Default: consensus, and the controls independent, "
        "shuffled, noise and frozen.",
    )
    claim: str = Field("consensus", description="The arm that is compared with the random network and all others.")
    parallel: int | None = Field(None, ge=1, description="Groups at a time. Default: as many as have a core a peer.")


class ExperimentConfig(Config):
    """A configuration file of an experiment: a run's, and the section that multiplies it."""

    experiment: ExperimentSection = ExperimentSection()


@dataclass(frozen=True)
class Experiment:
    """Everything that is to be run.

    Attributes:
        section: what is compared.
        arms: names, in the order of the tables.
        cells: seed by seed, so that an experiment that is stopped early can be compared as far as it is.
    """

    section: ExperimentSection
    arms: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return Path(self.section.out) / self.section.name


def load(path: str, sets: Sequence[str] = ()) -> Experiment:
    """The experiment that a file describes.

    Args:
        path: YAML.
        sets: `key.path=value` settings on top, for all arms; `experiment.…` for the experiment itself.

    Raises:
        ConfigError: lists every problem, with the arm that it is in.
    """
    tree = read(path, sets)
    section = parse_as(ExperimentConfig, tree, path).experiment
    arms, problems = CONTROLS if section.arms is None else section.arms, []
    if section.claim not in arms:
        problems.append(f"experiment.claim = {section.claim!r}: expected one of the arms, {', '.join(arms)}")
    if len(set(section.seeds)) < len(section.seeds):
        problems.append(f"experiment.seeds = {list(section.seeds)}: a seed is given twice")
    if problems:
        raise ConfigError("\n".join([f"{path} has problems:", *(f"  {problem}" for problem in problems)]))
    common = {key: value for key, value in tree.items() if key != "experiment"}
    folder = Path(section.out) / section.name / "cells"
    cells = [
        make_cell(f"{path}, arm {arm}", merged(common, changes), folder, arm, seed)
        for seed in section.seeds
        for arm, changes in arms.items()
    ]
    return Experiment(section, tuple(arms), tuple(cells))
