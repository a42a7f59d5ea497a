"""The Slurm launcher before a real Slurm of one node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.clusters.slurm import SlurmCluster, slurm_cluster, why_not
from tests.contracts.launcher_arenas import processes_of

PROGRAMS = ("peers.worker", "coordinator.cli", "coordinator.launch.slurm.job")


class SlurmArena:
    """Jobs of a cluster that is there for these tests.

    Args:
        cluster: the Slurm.
    """

    flags = ("launcher.kind=slurm", "launcher.slurm.cancel_on_interrupt=true", "launcher.slurm.poll=0.3")

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self.environment = cluster.environment

    def workers(self, folder: Path) -> list[psutil.Process]:
        """The tasks; not the `srun` that stands for each."""
        return [process for process in processes_of("peers.worker", folder) if process.name() != "srun"]

    def left(self, folder: Path) -> list[str]:
        """Processes of the run, and whatever else of jobs is there."""
        found = [process for program in PROGRAMS for process in processes_of(program, folder)]
        return [str(process) for process in (*found, *self._cluster.left())]


@contextmanager
def slurm_arena(folder: Path) -> Iterator[SlurmArena]:
    """A Slurm of one node; skipped, saying so, where it cannot be had."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with slurm_cluster(folder) as cluster:
        yield SlurmArena(cluster)
