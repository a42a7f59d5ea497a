"""ASHA: poor points are stopped early. Ray Tune's scheduler decides, from the live k-NN of groups under way.

A trial is one point with the first of the sweep's seeds: who is stopped is decided on one group, as is the practice.
The points that have finished are then run with the other seeds, too, and ranked over all of them. At each look ASHA
compares a point with all that have come as far before it: the first to come always goes on, and who is stopped depends
on how fast the points are. What was stopped stays so, by a mark in its folder; when a sweep is started again, ASHA is
shown what it has seen before.

Tune runs on a Ray cluster that is started here for it, or on `launcher.ray.address`: then this machine must belong to
the cluster, and all its nodes must see the sweep's folder by the same path. Tune's own record is in SWEEP/tune.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from coordinator.experiment import runner
from coordinator.experiment.runner import Course, Ending
from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep.live import Live, Seen, mark_stopped, stopped
from coordinator.experiment.sweep.plan import Sweep, looks, rounds_of
from coordinator.launch.base import Interrupted
from coordinator.launch.ray import launcher as cluster
from peers.runs.run_folder import PeerLock

PATIENCE = 15.0
"""Seconds that the workers of a sweep that was just killed have to be gone."""
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one heeds `verbose=0`
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard of Tune's own beside the runs
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",  # a trial that does not end is killed in so many seconds, not in 600
}


def run(sweep: Sweep, told: Callable[[Course, str], None]) -> Ending:
    """Run what is neither finished nor stopped: the first seed under ASHA, then the other seeds of all finishers.

    Args:
        sweep: checked.
        told: called with how far it is and a line for the user, whenever a group has ended.

    Raises:
        ConfigError: there is no cluster where the configuration says.
        RunFolderError: another process hosts a group.
    """
    waiting = [cell for cell in sweep.first if not cell.finished and stopped(cell.folder) is None]
    ending = _search(sweep, waiting, told) if waiting else Ending({}, None)
    if ending.signal is not None:
        return ending
    finishers = {cell.arm for cell in sweep.first if cell.finished and stopped(cell.folder) is None}
    rest = [cell for cell in sweep.cells if cell.arm in finishers]
    if all(cell.finished for cell in rest):
        return ending
    second = runner.run(rest, sweep.section.parallel, told)
    return Ending({**ending.failed, **second.failed}, second.signal)


def slots(sweep: Sweep) -> int:
    """Groups at a time."""
    return runner.at_once(sweep.cells, sweep.section.parallel)


def all_looks(sweep: Sweep) -> list[int]:
    """Rounds at which ASHA looks at some point."""
    return sorted({at for cell in sweep.first for at in looks(sweep.section, rounds_of(cell.config))})


class Points:
    """What has become of the points; Tune's scheduler reports here.

    Args:
        sweep: whose first seed is run.
        waiting: cells that are run.
        told: see `run`.

    Attributes:
        failed: {cell: what became of it}.
    """

    def __init__(self, sweep: Sweep, waiting: list[Cell], told: Callable[[Course, str], None]) -> None:
        self.failed: dict[str, str] = {}
        self._cells = {cell.arm: cell for cell in waiting}
        self._total, self._left = len(sweep.first), len(waiting)
        self._told = told
        self._began = time.monotonic()

    def stopped(self, point: str, seen: Seen) -> None:
        """ASHA has stopped a point."""
        cell = self._cells[point]
        mark_stopped(cell.folder, seen)
        self._tell(f"{cell.name} is stopped at round {seen.rounds}: live k-NN gain {seen.gain:+.1f} points")

    def ended(self, point: str, state: str, why: str) -> None:
        """A point's group has ended by itself."""
        cell = self._cells[point]
        if state == "failed":
            self.failed[cell.name] = why
        self._tell(why or f"{cell.name} is done")

    def lost(self, point: str) -> None:
        """A point's trial is gone, with its node or killed."""
        self.ended(point, "failed", f"{self._cells[point].name} was lost with its trial; the same command continues it")

    def _tell(self, text: str) -> None:
        self._left -= 1
        ended = len(self._cells) - self._left
        seconds = (time.monotonic() - self._began) / ended * self._left if self._left else None
        self._told(Course(self._total - self._left - len(self.failed), self._total, seconds), text)


def seen_before(sweep: Sweep) -> Iterator[tuple[str, list[Seen]]]:
    """Of each point that is finished or stopped, what ASHA has seen of it, in order."""
    for cell in sweep.first:
        mark = stopped(cell.folder)
        if not cell.finished and mark is None:
            continue
        at = looks(sweep.section, rounds_of(cell.config))
        seen = [one for one in Live(cell.folder.metrics, cell.config.group.peers or 0).poll() if one.rounds in at]
        yield cell.arm, [one for one in seen if mark is None or one.rounds <= mark.rounds]


def _search(sweep: Sweep, waiting: list[Cell], told: Callable[[Course, str], None]) -> Ending:
    for cell in waiting:
        _prepare(cell)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = cluster.library()
    with Interrupted().installed() as interrupted, ExitStack() as signals, _connected(ray, sweep):
        from coordinator.experiment.sweep.tuning import search  # imports Ray Tune

        points = Points(sweep, waiting, told)
        search(sweep, waiting, points, interrupted, signals)
    return Ending(points.failed, interrupted.number)


def _prepare(cell: Cell) -> None:
    """Make the folder of a cell, once no worker of a sweep that was killed writes there."""
    for place in sorted(cell.folder.path.glob("checkpoints/peer-*")):
        PeerLock(cell.folder, int(place.name.removeprefix("peer-")), PATIENCE).release()
    cell.folder.prepare(cell.config, "resume" if cell.folder.config.is_file() else "refuse")


@contextmanager
def _connected(ray: ModuleType, sweep: Sweep) -> Iterator[None]:
    """A cluster to search on: the one that is asked for, or one of this machine, for as long as it takes."""
    asked = sweep.first[0].config.launcher.ray
    # A CPU of Ray's own cluster stands for a group: as many are under way as `parallel` allows.
    options = {"runtime_env": cluster.environment(asked)} if asked.address else {"num_cpus": slots(sweep)}
    cluster.connect(ray, asked.address, options)
    try:
        yield
    finally:
        ray.shutdown()
