"""Site of a Slurm job: each worker is a job step of its own, so that each can be restarted by itself.

The coordinator, or the store of a fixed group, lives in the batch step on the job's first node, beside this program.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

from coordinator.launch import fixed
from coordinator.launch.base import Meeting, Member, ProcessExit, Service
from coordinator.launch.plan import Plan, Process
from coordinator.launch.processes import Child, CoordinatorChild, stderr_of
from coordinator.launch.slurm.sbatch import step, tasks_per_node
from peers.common import hosts


class JobStep(Child):
    """A worker as a job step; `srun`, here, stands for it."""

    def ended(self) -> ProcessExit | None:
        """See `Member.ended`; srun ends with 128 + n where its task was ended by signal n."""
        ended = super().ended()
        if ended is not None and ended.code is not None and ended.code > 128:
            return ProcessExit(128 - ended.code)
        return ended

    def stop(self) -> None:
        """See `Member.stop`: SIGTERM would make srun kill its task, SIGUSR1 is passed on to it."""
        self._popen.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """See `Member.kill`."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(10.0)
            except subprocess.TimeoutExpired:
                super().kill()


class JobSite:
    """A `Site` of job steps.

    Args:
        plan: of the run; this process runs in its job.
        nodes: names of the job's nodes, the first one's first.
    """

    def __init__(self, plan: Plan, nodes: list[str]) -> None:
        self._plan, self._nodes = plan, nodes
        self._store: Any = None

    def serve(self, process: Process, bind: str | None) -> Service:
        """See `Site.serve`."""
        return CoordinatorChild(self._plan, process, bind)

    def work(self, process: Process, meeting: Meeting) -> Member:
        """See `Site.work`."""
        place = self._plan.processes.index(process) // tasks_per_node(self._plan.config)
        command = (*step(self._plan.config, self._nodes[place]), *process.command, *meeting.flags())
        return JobStep(command, stderr_of(self._plan, process), meeting.environment())

    def meet(self) -> tuple[str, int]:
        """See `Site.meet`."""
        here = "127.0.0.1" if len(self._nodes) == 1 else hosts.own_address(self._plan.config.exchange.interface)
        self._store, address = fixed.store(here)
        return address

    def look(self) -> None:
        """See `Site.look`."""


def nodes_of_job() -> list[str]:
    """Names of the nodes of the job that this process runs in."""
    asked = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    names = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603  # Slurm's own program
    return names.stdout.split()
