"""A real Ray cluster of several nodes on this machine, each with the processes that a node has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from coordinator.launch.ray.launcher import SETTINGS

OBJECTS = 80 * 1024 * 1024
"""Object store of a node, the least that Ray takes."""
NOTICED = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_timeout_ms": 2000}
"""A lost node is lost after two seconds instead of half a minute."""
LEAVING = 15.0
"""Seconds that Ray takes at most to end an actor's process."""


class RayNodes:
    """Nodes of one cluster.

    Attributes:
        cluster: Ray's own class for such clusters.
        nodes: added ones, without the head.
    """

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self.cluster, self.nodes = cluster, nodes
        self.address: str = cluster.address
        self.joined: list[subprocess.Popen[bytes]] = []

    def add(self, cpus: int) -> None:
        """One more node."""
        self.nodes.append(self.cluster.add_node(num_cpus=cpus, object_store_memory=OBJECTS))

    def lose(self, node: Any) -> None:
        """Kill a node, with all that runs on it."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def join_with_own_disk(self, folder: Path, cpus: int) -> None:
        """One more node, to which a folder is empty and its own, as on a machine without a common disk; needs root."""
        ray = Path(sys.executable).parent / "ray"
        join = f"{ray} start --address={self.address} --num-cpus={cpus} --object-store-memory={OBJECTS} --block"
        script = f'mount -t tmpfs none "{folder}"; exec {join}'
        node = subprocess.Popen(
            ("unshare", "--mount", "bash", "-ec", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.joined.append(node)

    def actors(self, folder: Path) -> list[psutil.Process]:
        """Processes of this machine that are actors of the run in a folder: they have a file open there."""
        return [process for process in _ray_processes() if _writes(process, folder)]

    def left(self, folder: Path) -> list[str]:
        """Actors of the run that have not ended after a while, described."""
        deadline = time.monotonic() + LEAVING
        while self.actors(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [str(process) for process in self.actors(folder)]


@contextmanager
def ray_nodes(*cpus: int, head: int = 0) -> Iterator[RayNodes]:
    """A cluster of a head node and some more, with their numbers of CPUs; reaped by process id.

    Args:
        cpus: of each further node.
        head: CPUs of the head node.
    """
    before = set(psutil.Process().children(recursive=True))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    arguments = {"object_store_memory": OBJECTS, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": head, "_system_config": NOTICED, **arguments},
        shutdown_at_exit=False,
    )
    made = RayNodes(cluster, [])
    try:
        for count in cpus:
            made.add(count)
        yield made
    finally:
        cluster.shutdown()
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
        for node in made.joined:
            node.wait(10)


def of_launcher(process: psutil.Process, kind: str) -> bool:
    """Whether a process is an actor of a class of `coordinator.launch.ray.actors`."""
    return process.name().startswith(f"ray::{kind}")


def _ray_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.name().startswith("ray::"):
                yield process
        except psutil.Error:  # gone meanwhile
            continue


def _writes(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(Path(file.path).is_relative_to(folder) for file in process.open_files())
    except psutil.Error:
        return False
