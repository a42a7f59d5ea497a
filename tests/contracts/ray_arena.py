"""The Ray launcher before a real cluster of two nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.clusters.ray_nodes import RayNodes, of_launcher, ray_nodes


class RayArena:
    """Actors of a cluster that is there already.

    Args:
        nodes: of the cluster.
    """

    environment: Mapping[str, str] = {}

    def __init__(self, nodes: RayNodes) -> None:
        self._nodes = nodes
        self.flags = ("launcher.kind=ray", f"launcher.ray.address={nodes.address}", "launcher.ray.strategy=SPREAD")

    def workers(self, folder: Path) -> list[psutil.Process]:
        """Their processes, by the files that they have open."""
        return [process for process in self._nodes.actors(folder) if of_launcher(process, "WorkerActor")]

    def left(self, folder: Path) -> list[str]:
        """Actors of the run."""
        return self._nodes.left(folder)


@contextmanager
def ray_arena(folder: Path) -> Iterator[RayArena]:
    """A cluster of a head without CPUs and two nodes; needs no folder."""
    with ray_nodes(2, 2) as nodes:
        yield RayArena(nodes)
