"""Ray Tune at work: points as a list of trials, ASHA as their scheduler, an end when a signal comes."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep.asha import Points, seen_before, slots
from coordinator.experiment.sweep.live import Seen
from coordinator.experiment.sweep.plan import Sweep, looks, rounds_of
from coordinator.experiment.sweep.trial import Task, Trial
from coordinator.launch.base import Interrupted
from coordinator.launch.plan import ray_gpus

TRAVELLING = ("PEERS_DATA", "OMP_NUM_THREADS")
"""Variables that a worker gets from here, wherever it runs."""


class Asha(ASHAScheduler):
    """ASHA that tells of its decisions, and can be shown what was seen in an earlier life.

    Args:
        sweep: to be searched.
        points: told of each that is stopped, or has ended.
    """

    def __init__(self, sweep: Sweep, points: Points) -> None:
        asha = sweep.section.asha
        longest = max(rounds_of(cell.config) for cell in sweep.first)
        super().__init__(
            time_attr="rounds",
            metric="gain",
            mode="max",
            grace_period=asha.grace,
            reduction_factor=asha.factor,
            max_t=longest - 1,  # no look after the last round: who has come so far is judged
            stop_last_trials=False,
        )
        self._points = points

    def recall(self, point: str, seen: Sequence[Seen]) -> None:
        """Compare the points to come with one that is not run again."""
        controller: Any = None  # ASHA does not ask it anything
        stand_in: Any = SimpleNamespace(trial_id=point)
        super().on_trial_add(controller, stand_in)
        for one in seen:
            super().on_trial_result(controller, stand_in, asdict(one))
        super().on_trial_remove(controller, stand_in)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See `ASHAScheduler`: the decision on a point that goes on by itself."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP:
            self._points.stopped(_point(trial), Seen(result["rounds"], result["gain"]))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See `ASHAScheduler`: a point has ended, or was stopped just now."""
        super().on_trial_complete(tune_controller, trial, result)
        if result["state"] != "running":
            self._points.ended(_point(trial), result["state"], result["why"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See `ASHAScheduler`: an actor is gone."""
        super().on_trial_error(tune_controller, trial)
        self._points.lost(_point(trial))


class Signalled(tune.Stopper):
    """Ends the search once a signal has come.

    Args:
        interrupted: remembers it.
    """

    def __init__(self, interrupted: Interrupted) -> None:
        self._interrupted = interrupted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """See `tune.Stopper`: no single trial is ended here."""
        return False

    def stop_all(self) -> bool:
        """See `tune.Stopper`."""
        return self._interrupted.number is not None


class Signals(tune.Callback):
    """Takes the signals back that Tune takes over when it starts: it forgets which one came.

    Args:
        interrupted: remembers it.
        until: closed when the search is over.
    """

    def __init__(self, interrupted: Interrupted, until: ExitStack) -> None:
        self._interrupted, self._until = interrupted, until

    def setup(self, *described: Any, **info: Any) -> None:
        """See `tune.Callback`."""
        self._until.enter_context(self._interrupted.installed())


def search(sweep: Sweep, waiting: Sequence[Cell], points: Points, interrupted: Interrupted, signals: ExitStack) -> None:
    """Run the cells that are waiting, as far as ASHA lets them; returns when no worker of theirs is left.

    Args:
        sweep: to be searched; Ray is connected.
        waiting: prepared.
        points: told what becomes of them.
        interrupted: installed.
        signals: see `Signals`.
    """
    scheduler = Asha(sweep, points)
    for point, seen in seen_before(sweep):
        scheduler.recall(point, seen)
    record = Path(sweep.folder / "tune").absolute()
    if record.exists():
        shutil.rmtree(record)  # of an earlier life; the cells hold all that counts
    # Not `Tuner`, which writes its scheduler down to come back from there: the cells hold all that a new start needs.
    tune.run(
        Trial,
        name="asha",
        config={"task": tune.grid_search([asdict(_task(sweep, cell)) for cell in waiting])},
        scheduler=scheduler,
        stop=Signalled(interrupted),
        callbacks=[Signals(interrupted, signals)],
        max_concurrent_trials=sweep.section.parallel,
        storage_path=str(record),
        trial_name_creator=_point,
        trial_dirname_creator=_point,
        reuse_actors=False,
        raise_on_failed_trial=False,
        verbose=0,
    )


def _task(sweep: Sweep, cell: Cell) -> Task:
    config, asked = cell.config, cell.config.launcher.ray
    here = asked.address is None  # then a CPU of Ray's stands for a group, and groups share out the GPUs
    return Task(
        point=cell.arm,
        name=cell.name,
        home=str(Path.cwd()),
        folder=str(cell.folder.path),
        peers=config.group.peers or 0,
        looks=looks(sweep.section, rounds_of(config)),
        environment={name: os.environ[name] for name in TRAVELLING if name in os.environ},
        cpus=1.0 if here else asked.cpus,
        gpus=_gpus_here(sweep, cell) if here else ray_gpus(config),
    )


def _gpus_here(sweep: Sweep, cell: Cell) -> float:
    """What a group gets of the GPUs of this machine: one, or its share where there are fewer than groups at a time."""
    there = 0.0 if cell.config.device == "cpu" else _resources().get("GPU", 0.0)
    share = there / slots(sweep)
    return min(1.0, math.floor(share * 1000) / 1000)  # Ray counts no finer parts


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _point(trial: Any) -> str:
    """Name of the point that a trial is of."""
    return str(trial.config["task"]["point"])
