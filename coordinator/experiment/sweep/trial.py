"""A group as a trial of Ray Tune: its actor starts the worker, reads its live k-NN, and ends it when it is stopped.

Everything that lasts is in the group's folder, as of any run; Tune keeps no checkpoint, and gets a number now and then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from coordinator.experiment.sweep.live import Live, Seen
from coordinator.launch.base import LOOK, PARTING, ProcessExit, failure
from coordinator.launch.processes import Child, with_parent
from peers.runs.run_folder import RunFolder

BEAT = 1.0
"""Seconds after which a trial says that there is no news: only between two answers can Tune stop it."""


@dataclass(frozen=True)
class Task:
    """What an actor needs to know of its group; plain values, for Tune writes them down.

    Attributes:
        point: name of the point.
        name: of the cell.
        home: working folder of the command, which `folder` is relative to; all nodes must see it.
        folder: of the run.
        peers: of the group.
        looks: numbers of rounds done at which ASHA looks at it.
        environment: variables of the worker.
        cpus: reserved for it.
        gpus: reserved for it.
    """

    point: str
    name: str
    home: str
    folder: str
    peers: int
    looks: tuple[int, ...]
    environment: Mapping[str, str]
    cpus: float
    gpus: float


class Trial(Trainable):
    """The trial; `ray.tune.Trainable` says who calls what. Each answer is the newest look, see `_answer`."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """What is reserved for it."""
        task = Task(**config["task"])
        return PlacementGroupFactory([{"CPU": task.cpus, **({"GPU": task.gpus} if task.gpus else {})}])

    def setup(self, config: dict[str, Any]) -> None:
        """Start the worker; it continues from its checkpoints, if there are any."""
        self._task = Task(**config["task"])
        self._folder = RunFolder(Path(self._task.folder))
        self._live = Live(self._folder.metrics, self._task.peers)
        self._newest, self._news = Seen(0, 0.0), list[Seen]()
        self._child: Child | None = None
        if not (Path(self._task.home) / self._folder.config).is_file():
            return  # `step` tells why
        os.chdir(self._task.home)
        if "OMP_NUM_THREADS" not in self._task.environment:
            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own; without it a group computes here as it does elsewhere
        command = (sys.executable, "-m", "peers.worker", "--config", str(self._folder.config), "--resume", "auto")
        environment = {**self._task.environment, **with_parent()}
        self._child = Child(command, self._folder.logs / "worker-0.stderr", environment)

    def step(self) -> dict[str, Any]:
        """Wait for a look, for the end, or for a beat, whichever comes first."""
        if self._child is None:
            folder = Path(self._task.home) / self._task.folder
            return self._answer("failed", f"{self._task.name}: its node does not see {folder}; nodes must share it")
        deadline = time.monotonic() + BEAT
        while time.monotonic() < deadline:
            ended = self._child.ended()
            self._news += [seen for seen in self._live.poll() if seen.rounds in self._task.looks]
            while self._news:
                seen = self._news.pop(0)
                if seen.rounds > self._newest.rounds:  # not once more, where a resumed run has trimmed its file
                    self._newest = seen
                    return self._answer()
            if ended is not None:
                return self._last(ended, self._child.log)
            time.sleep(LOOK)
        return self._answer()

    def cleanup(self) -> None:
        """End the worker, which finishes its round and saves, and reap it."""
        if self._child is None:
            return
        if self._child.ended() is None:
            self._child.stop()
        deadline = time.monotonic() + PARTING
        while self._child.ended() is None and time.monotonic() < deadline:
            time.sleep(LOOK)
        self._child.kill()

    def _last(self, ended: ProcessExit, log: Path) -> dict[str, Any]:
        if ended.code == 0 and self._folder.summary.is_file():
            return self._answer("finished")
        return self._answer(
            "failed", failure(self._task.name, ended if ended.code else ProcessExit(0, "without a result"), log)
        )

    def _answer(self, state: str = "running", why: str = "") -> dict[str, Any]:
        """The newest look; once the worker has ended, its state: finished or failed, and why."""
        newest = self._newest
        return {"rounds": newest.rounds, "gain": newest.gain, "state": state, "why": why, "done": state != "running"}
