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

from coordinator.experiment.cells import Cell
from coordinator.launch.base import LOOK, PARTING, Ended, Interrupted, failure
from coordinator.launch.processes import Child, with_parent
from peers.configfile import dump
from peers.errors import RunFolderError


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


def check(cells: Sequence[Cell], section: str) -> None:
    """Refuse cells that were run with another configuration: their results would be taken for these.

    Args:
        cells: all of them.
        section: of the configuration that names what they belong to: experiment or sweep.

    Raises:
        RunFolderError: names the first of them.
    """
    for cell in cells:
        path = cell.folder.config
        if path.is_file() and path.read_text() != dump(cell.config):
            raise RunFolderError(
                f"{path.parent} was run with another configuration: replace the {section} with --overwrite, or give "
                f"this one another name with --set {section}.name=NAME"
            )


def run(cells: Sequence[Cell], most: int | None, told: Callable[[Course, str], None]) -> Ending:
    """Run what is not finished.

    Args:
        cells: checked.
        most: groups at a time; see `at_once`.
        told: called with how far it is and a line for the user, whenever a cell has ended.
    """
    return _Runner(cells, at_once(cells, most), told).run()


def at_once(cells: Sequence[Cell], most: int | None) -> int:
    """Groups that run at a time: as many as the cores of this machine can give each peer one, unless it is said."""
    peers = max(cell.config.group.peers or 1 for cell in cells)
    return most or max(1, len(os.sched_getaffinity(0)) // peers)


class _Runner:
    def __init__(self, cells: Sequence[Cell], most: int, told: Callable[[Course, str], None]) -> None:
        self.cells, self.most, self.told = cells, most, told
        self.waiting = [cell for cell in cells if not cell.finished]
        self.running: dict[str, tuple[Cell, Child, float]] = {}
        self.failed: dict[str, str] = {}
        self.spent: list[float] = []

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
        folder = cell.folder
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
            if ended.code == 0 and cell.finished:
                self.spent.append(time.monotonic() - began)
                self.told(self._course(), f"{name} is done")
            else:
                why = ended if ended.code else Ended(ended.code, "without a result")
                self.failed[name] = failure(name, why, child.log)
                self.told(self._course(), self.failed[name])

    def _course(self) -> Course:
        left = len(self.waiting) + len(self.running)
        seconds = sum(self.spent) / len(self.spent) * left / self.most if self.spent else None
        return Course(len(self.cells) - left - len(self.failed), len(self.cells), seconds)

    def _stop(self, children: Sequence[Child]) -> None:
        """Let all save themselves: the next start goes on from there."""
        for child in children:
            child.stop()
        deadline = time.monotonic() + PARTING
        while any(child.ended() is None for child in children) and time.monotonic() < deadline:
            time.sleep(LOOK)
        for child in children:
            child.kill()
