"""Copies of what a run writes on nodes that do not share the launcher's disk, in the run's folder here.

Nodes that share the folder need no copies: their actors see a marker file that the launcher writes.
Checkpoints stay where they are: weights are private, and each peer's own.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coordinator.launch.ray import actors as ray_actors
from peers.common.files import write_atomically
from peers.runs.run_folder import RunFolder

PERIOD = 1.0
"""Seconds between two looks at a node's folder."""
ANSWER = 10.0
"""Seconds that a node has to answer when its last lines are asked for."""

logger = logging.getLogger(__name__)


class Mirror:
    """The run's folder here, kept like those on the nodes.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.marker = folder.path.absolute() / f".launcher-{uuid.uuid4().hex}"
        self.marker.touch()
        self._couriers: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._known: dict[str, dict[str, tuple[int, int]]] = {}
        metrics = folder.metrics
        self._lines = set(metrics.read_bytes().splitlines(keepends=True)) if metrics.is_file() else set()
        self._next = 0.0

    def follow(self, location: ray_actors.ActorLocation) -> None:
        """Bring here what is written where an actor is, from now on."""
        if location.shares or location.node in self._couriers:
            return
        there = NodeAffinitySchedulingStrategy(location.node, soft=False)
        actor_class = ray.remote(ray_actors.RunFolderActor).options(num_cpus=0, scheduling_strategy=there)
        self._couriers[location.node] = actor_class.remote(str(self._folder.path.absolute()))

    def look(self) -> None:
        """Ask for news now and then, and take what has come; does not wait."""
        for node, asked in list(self._asked.items()):
            if ray.wait([asked], timeout=0)[0]:
                self._take(node, self._asked.pop(node), ANSWER)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PERIOD
        for node in self._couriers.keys() - self._asked.keys():
            self._asked[node] = self._couriers[node].news.remote(self._known.get(node, {}))

    def fetch(self) -> None:
        """All news there are, now; waits for them."""
        for node in list(self._couriers):
            if node in self._asked:
                self._take(node, self._asked.pop(node), ANSWER)
            if node in self._couriers:
                self._take(node, self._couriers[node].news.remote(self._known.get(node, {})), ANSWER)

    def close(self) -> None:
        """Take what is left, and take away what was put there."""
        self.fetch()
        for courier in self._couriers.values():
            ray.kill(courier)
        self.marker.unlink(missing_ok=True)

    def _take(self, node: str, asked: Any, patience: float) -> None:
        try:
            news: dict[str, tuple[int, int, bytes]] = ray.get(asked, timeout=patience)
        except (GetTimeoutError, RayError) as exc:
            logger.warning("what the run wrote on node %s does not come any more: %s", node[:8], type(exc).__name__)
            ray.kill(self._couriers.pop(node))
            return
        for name, (inode, offset, data) in news.items():
            self._known.setdefault(node, {})[name] = inode, offset + len(data)
            self._write(name, offset, data)

    def _write(self, name: str, offset: int, data: bytes) -> None:
        """Add what has come. Actors that share the folder write into it meanwhile, so that files only ever grow."""
        path = self._folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == self._folder.summary.name:
            write_atomically(path, data)
            return
        if name == self._folder.metrics.name:
            data = self._unseen(data)
        elif offset == 0 and path.is_file():
            # The file was replaced, or is that of another node; or an earlier launch has brought its beginning.
            here = path.read_bytes()
            data = data[len(here) :] if data.startswith(here) else data
        with path.open("ab") as file:
            file.write(data)

    def _unseen(self, data: bytes) -> bytes:
        """Records that are not here yet: a resumed run trims its file, which then comes as a whole again."""
        new = [line for line in data.splitlines(keepends=True) if line not in self._lines]
        self._lines.update(new)
        return b"".join(new)
