"""Runs the cells of an experiment, several at a time; what is finished is not run again.

A cell is a run like any other: its folder holds checkpoints, from which it continues, and its summary once it is done.
One that fails is reported, and the others still run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.experiment.executor import LaunchSlot, PackSlot, Slot
from coordinator.experiment.runs import Cell
from coordinator.launch.base import LOOK, PARTING, Interrupted, ProcessExit, failure
from peers.common.errors import RunFolderError
from peers.config.loading import dump

NVIDIA = Path("/dev/nvidiactl")
"""There where a GPU's driver is."""


@dataclass(frozen=True)
class Progress:
    """How far an experiment is.

    Attributes:
        done: cells that are finished.
        cells: of the experiment.
        seconds: estimated time to go; None while unknown.
    """

    done: int
    cells: int
    seconds: float | None

    def __str__(self) -> str:
        """For a terminal."""
        if self.seconds is None or self.done == self.cells:
            return f"{self.done}/{self.cells} groups"
        minutes, rest = divmod(round(self.seconds), 60)
        duration = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
        return f"{self.done}/{self.cells} groups, about {duration} to go"


@dataclass(frozen=True)
class RunnerEnd:
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


def run(
    cells: Sequence[Cell],
    most: int | None,
    report: Callable[[Progress, str], None],
    why_stopped: Callable[[Cell], str | None] = lambda cell: None,
) -> RunnerEnd:
    """Run what is not finished.

    Args:
        cells: checked.
        most: groups at a time; see `at_once`.
        report: called with how far it is and a line for the user, whenever a cell has ended.
        why_stopped: asked again and again about each cell under way; a line for the user ends it early.
    """
    return _Runner(cells, at_once(cells, most), report, why_stopped).run()


def at_once(cells: Sequence[Cell], most: int | None) -> int:
    """Groups that run at a time: one for each GPU, else as many as the cores can give each peer one; or as is said."""
    if most is not None:
        return most
    if cells[0].config.launcher.kind != "local":
        return 1  # what else runs on a cluster is not known here
    gpus = _gpus(cells)
    if gpus:
        return gpus
    peers = max(cell.config.group.peers or 1 for cell in cells)
    return max(1, len(os.sched_getaffinity(0)) // peers)


def _gpus(cells: Sequence[Cell]) -> int:
    """GPUs that the cells may use: none where they are not to, or where there is no driver to ask."""
    if cells[0].config.device == "cpu" or not NVIDIA.exists():
        return 0
    import torch  # takes seconds, which only a machine with a GPU has to spend

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _slots(cells: Sequence[Cell], most: int) -> list[Slot]:
    """So many slots, the GPUs dealt to them in turn."""
    if cells[0].config.launcher.kind != "local":
        return [LaunchSlot() for _ in range(most)]
    gpus = _gpus(cells)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name] or [str(number) for number in range(gpus)]
    return [PackSlot({"CUDA_VISIBLE_DEVICES": names[place % gpus]} if gpus else {}) for place in range(most)]


class _Runner:
    def __init__(
        self,
        cells: Sequence[Cell],
        most: int,
        report: Callable[[Progress, str], None],
        why_stopped: Callable[[Cell], str | None],
    ) -> None:
        self.cells, self.report, self.why_stopped = cells, report, why_stopped
        self.waiting = [cell for cell in cells if not cell.finished]
        self.slots = _slots(cells, min(most, max(1, len(self.waiting))))
        self.began: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.stopped: dict[str, str] = {}
        self.spent: list[float] = []

    def run(self) -> RunnerEnd:
        with Interrupted().installed() as interrupted:
            try:
                while self._busy() and interrupted.number is None:
                    for slot in self.slots:
                        self._look(slot)
                        if slot.cell is None and self.waiting:
                            self._start(slot, self.waiting.pop(0))
                    time.sleep(LOOK)
            finally:
                self._stop()
        return RunnerEnd(self.failed, interrupted.number)

    def _busy(self) -> bool:
        return bool(self.waiting) or any(slot.cell is not None for slot in self.slots)

    def _start(self, slot: Slot, cell: Cell) -> None:
        folder = cell.folder
        folder.prepare(cell.config, "resume" if folder.config.is_file() else "refuse")
        self.began[cell.name] = time.monotonic()
        slot.start(cell)

    def _look(self, slot: Slot) -> None:
        cell = slot.cell
        if cell is None:
            return
        ended = slot.ended()
        if cell.name not in self.stopped:
            # After `ended`: of a cell that has just ended, everything is read.
            why = self.why_stopped(cell)
            if why is not None:
                self.stopped[cell.name] = why
                slot.stop()
        if ended is not None:
            self._conclude(slot, cell, ended)

    def _conclude(self, slot: Slot, cell: Cell, ended: ProcessExit) -> None:
        if cell.name in self.stopped:
            slot.kill()  # it has saved itself; a process that was asked to stop takes no other cell
            self.report(self._progress(), self.stopped[cell.name])
        elif ended.code == 0 and cell.finished:
            self.spent.append(time.monotonic() - self.began[cell.name])
            self.report(self._progress(), f"{cell.name} is done")
        else:
            why = ended if ended.code else ProcessExit(ended.code, ended.why or "without a result")
            self.failed[cell.name] = failure(cell.name, why, slot.log)
            self.report(self._progress(), self.failed[cell.name])

    def _progress(self) -> Progress:
        left = len(self.waiting) + sum(slot.cell is not None for slot in self.slots)
        seconds = sum(self.spent) / len(self.spent) * left / len(self.slots) if self.spent and left else None
        return Progress(len(self.cells) - left - len(self.failed), len(self.cells), seconds)

    def _stop(self) -> None:
        """Let all save themselves: the next start goes on from there."""
        for slot in self.slots:
            slot.stop()
        deadline = time.monotonic() + PARTING
        while not all(slot.gone() for slot in self.slots) and time.monotonic() < deadline:
            time.sleep(LOOK)
        for slot in self.slots:
            slot.kill()
