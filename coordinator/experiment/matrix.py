"""An experiment as a value: arms x seeds, each cell a whole run, all checked before any starts.

    experiment: {name: digits, seeds: [0, 1, 2, 3, 4], arms: {consensus: {}, noise: {consensus: {control: noise}}}}
    data: ...           # and the other sections of a run: what the cells have in common

For a seed all arms have the same initial weights, batches, optimizer and batch-norm treatment, unless an arm says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from coordinator.experiment.runs import Cell, make_cell, merged
from peers.common.errors import ConfigError
from peers.config.loading import Tree, parse_as, read
from peers.config.schema import Config, DataConfig, Section

CONTROLS: dict[str, Tree] = {
    "consensus": {},
    "independent": {"consensus": {"control": "independent"}},
    "shuffled": {"consensus": {"control": "shuffled"}},
    "noise": {"consensus": {"control": "noise"}},
    "frozen": {"consensus": {"target": "frozen"}},
}
"""The arms of an experiment that names none: what is claimed, and everything that might explain it away."""

SUPERVISED = "supervised"
"""The upper bound, where it is asked for."""

SNAPSHOTS = 6
"""Rounds whose weights are kept where features are analysed, unless the file says otherwise."""


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
    supervised: bool = Field(
        False, description="Train each seed's networks with labels, too: an upper bound, outside of all tests."
    )
    analyse: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] | None = Field(
        None, description="Arms whose features are analysed. Default: the claim; none where the launcher is not local."
    )
    transfer: DataConfig | None = Field(None, description="Another data set on which analysed features are probed.")
    recipes: str | None = Field(
        None,
        min_length=1,
        description="Table (CSV, beside this file) of the recipes that were tried, for the report's appendix. A text "
        "of the same name, .md, goes above it.",
    )
    parallel: int | None = Field(
        None, ge=1, description="Groups at a time. Default: one for each GPU, else as many as have a core a peer."
    )


class ExperimentConfig(Config):
    """A configuration file of an experiment: a run's, and the section that multiplies it."""

    experiment: ExperimentSection = ExperimentSection()


@dataclass(frozen=True)
class Experiment:
    """Everything that is to be run.

    Attributes:
        section: what is compared.
        arms: names, in the order of the tables; the upper bound is none of them.
        cells: seed by seed, so that an experiment that is stopped early can be compared as far as it is.
        recipes: table of the recipes that were tried, or None.
    """

    section: ExperimentSection
    arms: tuple[str, ...]
    cells: tuple[Cell, ...]
    recipes: Path | None = None

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
    config = parse_as(ExperimentConfig, tree, path)
    section = config.experiment
    arms = CONTROLS if section.arms is None else section.arms
    problems = list(_problems(section, arms, config.launcher.kind))
    recipes = None if section.recipes is None else Path(path).parent / section.recipes
    if recipes is not None and not recipes.is_file():
        problems.append(f"experiment.recipes = {section.recipes!r}: there is no file {recipes}")
    elif recipes is not None and not recipes.read_bytes().strip():
        problems.append(f"experiment.recipes = {section.recipes!r}: is empty; expected a line of column names")
    if problems:
        raise ConfigError("\n".join([f"{path} has problems:", *(f"  {problem}" for problem in problems)]))
    analysed = section.analyse
    if analysed is None:
        analysed = (section.claim,) if config.launcher.kind == "local" else ()
    common = {key: value for key, value in tree.items() if key != "experiment"}
    if analysed:
        common = merged({"checkpoint": {"snapshots": SNAPSHOTS}}, common)
    folder = Path(section.out) / section.name / "cells"
    cells = []
    for seed in section.seeds:
        for arm, changes in arms.items():
            cell = make_cell(f"{path}, arm {arm}", merged(common, changes), folder, arm, seed)
            cells.append(replace(cell, analysed=arm in analysed, transfer=section.transfer))
        if section.supervised:
            cells.append(replace(make_cell(path, common, folder, SUPERVISED, seed), supervised=True))
    return Experiment(section, tuple(arms), tuple(cells), recipes)


def _problems(section: ExperimentSection, arms: Mapping[str, Tree], launcher: str) -> Iterator[str]:
    """What makes no experiment, one text each."""
    if section.claim not in arms:
        yield f"experiment.claim = {section.claim!r}: expected one of the arms, {', '.join(arms)}"
    if len(set(section.seeds)) < len(section.seeds):
        yield f"experiment.seeds = {list(section.seeds)}: a seed is given twice"
    for arm in section.analyse or ():
        if arm not in arms:
            yield f"experiment.analyse names {arm!r}: expected arms, {', '.join(arms)}"
    if launcher != "local":
        if section.analyse:
            yield f"experiment.analyse = {list(section.analyse)}: reads weights from this disk; needs launcher local"
        if section.supervised:
            yield "experiment.supervised = true: runs on this machine; needs launcher local"
    if SUPERVISED in arms and section.supervised:
        yield f"experiment.arms: {SUPERVISED!r} is the name of the upper bound; call the arm otherwise"
