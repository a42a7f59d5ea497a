"""An experiment as a value: arms x seeds, each cell a whole run, all checked before any starts.

    experiment: {name: digits, seeds: [0, 1, 2, 3, 4], arms: {consensus: {}, noise: {consensus: {control: noise}}}}
    data: ...           # and the other sections of a run: what the cells have in common

For a seed all arms have the same initial weights, batches, optimizer and batch-norm treatment, unless an arm says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from peers.config import Config, Section
from peers.configfile import Tree, parse, parse_as, read
from peers.errors import ConfigError
from peers.place import DEFAULT_PEERS

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
class Cell:
    """One group: an arm with a seed.

    Attributes:
        arm: name of the arm.
        seed: the run's.
        config: of the run, settled.
    """

    arm: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.arm} seed {self.seed}"


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
        _cell(f"{path}, arm {arm}", merged(common, changes), folder, arm, seed)
        for seed in section.seeds
        for arm, changes in arms.items()
    ]
    return Experiment(section, tuple(arms), tuple(cells))


def _cell(source: str, tree: Tree, folder: Path, arm: str, seed: int) -> Cell:
    here = {
        "run": {"name": f"{arm}-seed{seed}", "seed": seed, "out": str(folder)},
        "exchange": {"kind": "inprocess"},  # a whole group in a process: nothing but numbers counts here
    }
    tree = merged(tree, here)
    group = dict(tree.get("group") or {})
    group["peers"] = group.get("peers") or DEFAULT_PEERS
    group["peers_per_worker"] = group["peers"]
    group.setdefault("threads", 1)  # a number of its own would change the last bits with the number of cores
    return Cell(arm, seed, parse({**tree, "group": group}, source))


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A tree with some values replaced, section by section."""
    result = dict(tree)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = merged(before, value)
        result[key] = value
    return result
