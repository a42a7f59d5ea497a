"""Runs the cells of an experiment, each in a process of its own, several at a time; what is finished is not run again.

A cell is a run like any other: its folder holds checkpoints, from which it continues, and its summary once it is done.
One that fails is reported, and the others still run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.experiment.matrix import Cell, Experiment
from coordinator.launch.base import LOOK, PARTING, Ended, Interrupted, failure
from coordinator.launch.processes import Child, with_parent
from peers.configfile import dump
from peers.errors import RunFolderError
from peers.runfolder import RunFolder


@dataclass(frozen=True)
class Course:
    """How far an experiment is.

    Attributes:
        done: cells that are finished.
        cells: of the experiment.
        seconds: estimated time to go; None while unknown.
    """

    done: int
    cells: int
    seconds: float | None


@dataclass(frozen=True)
class Ending:
    """How the cells ended.

    Attributes:
        failed: {cell: what became of it}.
        signal: number of the signal that stopped them, or None.
    """

    failed: dict[str, str]
    signal: int | None


def folder_of(cell: Cell) -> RunFolder:
    """Where a cell is kept."""
    return RunFolder.of(cell.config)


def finished(cell: Cell) -> bool:
    """Whether a cell has its result."""
    return folder_of(cell).summary.is_file()


def check(experiment: Experiment) -> None:
    """Refuse cells that were run with another configuration: their results would be taken for these.

    Raises:
        RunFolderError: names the first of them.
    """
    for cell in experiment.cells:
        path = folder_of(cell).config
        if path.is_file() and path.read_text() != dump(cell.config):
            raise RunFolderError(
                f"{path.parent} was run with another configuration: replace the experiment with --overwrite, or give "
                f"this one another name with --set experiment.name=NAME"
            )


def run(experiment: Experiment, told: Callable[[Course, str], None]) -> Ending:
    """Run what is not finished.

    Args:
        experiment: checked.
        told: called with how far it is and a line for the user, whenever a cell has ended.
    """
    return _Runner(experiment, told).run()


def at_once(experiment: Experiment) -> int:
    """Groups that run at a time: as many as the cores of this machine can give each peer one, unless it is said."""
    peers = max(cell.config.group.peers or 1 for cell in experiment.cells)
    return experiment.section.parallel or max(1, len(os.sched_getaffinity(0)) // peers)


class _Runner:
    def __init__(self, experiment: Experiment, told: Callable[[Course, str], None]) -> None:
        self.experiment, self.told = experiment, told
        self.waiting = [cell for cell in experiment.cells if not finished(cell)]
        self.running: dict[str, tuple[Cell, Child, float]] = {}
        self.failed: dict[str, str] = {}
        self.spent: list[float] = []
        self.most = at_once(experiment)

    def run(self) -> Ending:
        with Interrupted().installed() as interrupted:
            try:
                while (self.waiting or self.running) and interrupted.number is None:
                    while self.waiting and len(self.running) < self.most:
                        self._start(self.waiting.pop(0))
                    time.sleep(LOOK)
                    self._look()
            finally:
                self._stop([child for _, child, _ in self.running.values()])
        return Ending(self.failed, interrupted.number)

    def _start(self, cell: Cell) -> None:
        folder = folder_of(cell)
        folder.prepare(cell.config, "resume" if folder.config.is_file() else "refuse")
        command = (sys.executable, "-m", "peers.worker", "--config", str(folder.config), "--resume", "auto")
        child = Child(command, folder.logs / "worker-0.stderr", with_parent())
        self.running[cell.name] = cell, child, time.monotonic()

    def _look(self) -> None:
        for name, (cell, child, began) in list(self.running.items()):
            ended = child.ended()
            if ended is None:
                continue
            del self.running[name]
            if ended.code == 0 and finished(cell):
                self.spent.append(time.monotonic() - began)
                self.told(self._course(), f"{name} is done")
            else:
                why = ended if ended.code else Ended(ended.code, "without a result")
                self.failed[name] = failure(name, why, child.log)
                self.told(self._course(), self.failed[name])

    def _course(self) -> Course:
        left = len(self.waiting) + len(self.running)
        seconds = sum(self.spent) / len(self.spent) * left / self.most if self.spent else None
        cells = len(self.experiment.cells)
        return Course(cells - left - len(self.failed), cells, seconds)

    def _stop(self, children: Sequence[Child]) -> None:
        """Let all save themselves: the next start goes on from there."""
        for child in children:
            child.stop()
        deadline = time.monotonic() + PARTING
        while any(child.ended() is None for child in children) and time.monotonic() < deadline:
            time.sleep(LOOK)
        for child in children:
            child.kill()
