"""The local launcher: workers as processes of this machine.

A group that meets at a coordinator is watched process by process (`elastic`). A fixed group is started by torch's
elastic agent, the one behind torchrun, which holds the store that the group meets in. The agent starts the group and
ends it as a whole; it does not restart it: whether a failure is worth a restart is decided here, by its exit code,
since a wrong configuration would only fail again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from coordinator.launch import elastic
from coordinator.launch.base import (
    HOPELESS,
    STOPPING,
    Ended,
    Outcome,
    Reports,
    WorkerFailedError,
    exit_code_of,
    failure,
)
from coordinator.launch.plan import Plan
from coordinator.launch.processes import LocalSite
from peers.errors import ExchangeError

logger = logging.getLogger(__name__)


class _Logs(LogsSpecs):
    """Each worker's output in logs/worker-N.stderr and .stdout of the run, one pair for each attempt."""

    def __init__(self, folder: Path, attempt: int) -> None:
        super().__init__(str(folder), Std.ALL)
        self._folder = folder
        self._attempt = attempt

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        self._folder.mkdir(parents=True, exist_ok=True)
        return LogsDest(
            stdouts={rank: str(self.path(rank, "stdout")) for rank in envs},
            stderrs={rank: str(self.path(rank, "stderr")) for rank in envs},
            error_files={rank: str(self.path(rank, "error.json")) for rank in envs},
        )

    def path(self, rank: int, kind: str) -> Path:
        attempt = f".restart-{self._attempt}" if self._attempt else ""
        return self._folder / f"worker-{rank}{attempt}.{kind}"

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)


def launch(plan: Plan, reports: Reports) -> Outcome:
    """Start the workers of a plan, watch them, restart what fails; see `coordinator.launch.base`.

    Must run in the main thread: the agent takes over the signals that stop a launch, and stops the workers with them;
    each then finishes its round and saves itself.

    Args:
        plan: the run's folder must have been prepared.
        reports: told of each restart.

    Raises:
        WorkerFailedError: a worker failed in a way that a restart does not mend, or once too often.
    """
    if plan.coordinator is not None:
        return elastic.supervise(plan, LocalSite(plan), reports)
    for attempt in range(plan.max_restarts + 1):
        logs = _Logs(plan.folder.logs, attempt)
        try:
            launch_agent(_agent_config(plan, logs), plan.processes[0].command[0], list(plan.processes[0].command[1:]))
        except SignalException as exc:
            return Outcome(128 + exc.sigval, attempt, int(exc.sigval))
        except ChildFailedError as exc:
            rank, cause = root_cause(exc.failures)
            text = failure(f"worker {rank}", Ended(cause.exitcode), logs.path(rank, "stderr"))
            if cause.exitcode in HOPELESS or attempt == plan.max_restarts:
                raise WorkerFailedError(text, exit_code_of(cause.exitcode)) from exc
            reports.restart(attempt + 1, text)
        else:
            return Outcome(0, attempt)
    raise AssertionError("the loop returns or raises in its last turn")


def root_cause(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The failure that the others followed from: a lost exchange and the agent's own SIGTERM are consequences."""

    def consequence(item: tuple[int, ProcessFailure]) -> tuple[bool, int, int]:
        rank, failure = item
        return failure.exitcode in (ExchangeError.exit_code, -15), failure.timestamp, rank

    return min(failures.items(), key=consequence)


def _agent_config(plan: Plan, logs: LogsSpecs) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=len(plan.processes),
        run_id=plan.folder.path.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.2,
        signals_to_handle=",".join(number.name for number in STOPPING),
        logs_specs=logs,
    )
