"""One group of an experiment or a sweep: a whole run, in one process, in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.config.loading import Tree, parse
from peers.config.schema import Config, DataConfig
from peers.runs.run_folder import RunFolder
from peers.worker.placement import DEFAULT_PEERS


@dataclass(frozen=True)
class Cell:
    """One group: an arm of an experiment, or a point of a sweep, with a seed.

    Attributes:
        arm: name of the arm or of the point.
        seed: the run's.
        config: of the run, settled.
        supervised: it is the upper bound: trained with labels.
        analysed: its features are to be analysed, too.
        transfer: another data set that they are probed on, then.
    """

    arm: str
    seed: int
    config: Config
    supervised: bool = False
    analysed: bool = False
    transfer: DataConfig | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.arm} seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where it is kept."""
        return RunFolder.of(self.config)

    @property
    def finished(self) -> bool:
        """Whether it has its result, and its analysis where there is to be one."""
        return self.folder.summary.is_file() and (not self.analysed or self.folder.analysis.is_file())


def make_cell(source: str, tree: Tree, folder: Path, arm: str, seed: int) -> Cell:
    """A group as a run that fits into one process.

    Args:
        source: where the tree is from, for errors.
        tree: configuration of the run.
        folder: of all cells.
        arm: name of the arm or of the point.
        seed: of the run.

    Raises:
        ConfigError: lists every problem.
    """
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
