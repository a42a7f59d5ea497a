"""ASHA: poor points are stopped early, by the live k-NN of groups under way; Optuna's pruner decides.

The first of the sweep's seeds decides who is stopped, as is the practice. The points that have finished are then run
with the other seeds, too, and ranked over all of them. At each look a point is compared with all that have come as far
before it: the first to come always goes on, and who is stopped depends on how fast the points are. What was stopped
stays so, by a mark in its folder. When a sweep is started again, the pruner is shown what was seen before.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna

from coordinator.experiment import runner
from coordinator.experiment.runner import Progress, RunnerEnd
from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep.live import Live, Seen, mark_stopped, stopped
from coordinator.experiment.sweep.plan import Sweep, looks, rounds_of


def run(sweep: Sweep, report: Callable[[Progress, str], None]) -> RunnerEnd:
    """Run what is neither finished nor stopped: the first seed under ASHA, then the other seeds of all finishers.

    Args:
        sweep: checked.
        report: called with how far it is and a line for the user, whenever a group has ended.

    Raises:
        RunFolderError: another process hosts a group.
    """
    kept = [cell for cell in sweep.first if stopped(cell.folder) is None]
    first = RunnerEnd({}, None)
    if not all(cell.finished for cell in kept):
        first = runner.run(kept, sweep.section.parallel, report, Pruning(sweep).why_stopped)
    finishers = {cell.arm for cell in kept if cell.finished and stopped(cell.folder) is None}
    rest = [cell for cell in sweep.cells if cell.arm in finishers]
    if first.signal is not None or all(cell.finished for cell in rest):
        return first
    second = runner.run(rest, sweep.section.parallel, report)
    return RunnerEnd({**first.failed, **second.failed}, second.signal)


def all_looks(sweep: Sweep) -> list[int]:
    """Rounds at which ASHA looks at some point."""
    return sorted({at for cell in sweep.first for at in looks(sweep.section, rounds_of(cell.config))})


class Pruning:
    """Asynchronous successive halving over the first seed of a sweep.

    Args:
        sweep: whose points are compared. Those that are finished or stopped already are compared at once.
    """

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        asha = sweep.section.asha
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=asha.grace, reduction_factor=asha.factor)
        self._section = sweep.section
        self._study = optuna.create_study(direction="maximize", pruner=pruner)
        self._trials: dict[str, optuna.Trial] = {}
        self._live: dict[str, Live] = {}
        self._newest: dict[str, int] = {}
        for cell in sweep.first:
            mark = stopped(cell.folder)
            if cell.finished or mark is not None:
                for seen in self._new_looks(cell):
                    if mark is None or seen.rounds <= mark.rounds:
                        self._is_poor(cell, seen)

    def why_stopped(self, cell: Cell) -> str | None:
        """Look at a group under way: a line for the user once it is to be stopped, and marked so; None if it goes on.

        Args:
            cell: of the first seed.
        """
        for seen in self._new_looks(cell):
            if self._is_poor(cell, seen):
                mark_stopped(cell.folder, seen)
                return f"{cell.name} is stopped at round {seen.rounds}: live k-NN gain {seen.gain:+.1f} points"
        return None

    def _new_looks(self, cell: Cell) -> list[Seen]:
        """What has come at the rounds of a look since the last call, in order."""
        live = self._live.setdefault(cell.name, Live(cell.folder.metrics, cell.config.group.peers or 0))
        at = looks(self._section, rounds_of(cell.config))
        # A resumed run trims its file, which is then read again from the start: an old look does not count twice.
        new = [seen for seen in live.poll() if seen.rounds in at and seen.rounds > self._newest.get(cell.name, 0)]
        if new:
            self._newest[cell.name] = new[-1].rounds
        return new

    def _is_poor(self, cell: Cell, seen: Seen) -> bool:
        """Whether the pruner stops a cell for a look."""
        if cell.name not in self._trials:
            self._trials[cell.name] = self._study.ask()
        trial = self._trials[cell.name]
        trial.report(seen.gain, seen.rounds)
        return trial.should_prune()
