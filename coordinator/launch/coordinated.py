"""The local launcher of an elastic group: a coordinator and one process for each worker, each restarted alone.

A worker that dies comes back from its own checkpoint while the others go on; a coordinator that dies is started again
on the same address and state, and its peers reconnect.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coordinator import console
from coordinator.launch.base import (
    HOPELESS,
    Interrupted,
    Outcome,
    Reports,
    WorkerFailedError,
    exit_code_of,
    failure,
)
from coordinator.launch.plan import Plan, Process
from peers.credentials import access
from peers.errors import ExchangeError
from peers.process import PARENT_VARIABLE

logger = logging.getLogger(__name__)

LOOK = 0.1
"""Seconds between two looks at the processes."""
STARTING = 30.0
"""Seconds that a coordinator has to listen."""
PARTING = 30.0
"""Seconds that processes have to save and end when they are told to."""


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen[bytes]
    log: Path
    starts: int = 1


def launch(plan: Plan, reports: Reports) -> Outcome:
    """Run a plan whose exchange is a coordinator; see `coordinator.launch.base`."""
    return Supervisor(plan, reports).run()


class Supervisor:
    """Runs a plan whose exchange is a coordinator.

    Args:
        plan: the run's folder must have been prepared.
        reports: told of each restart.
    """

    def __init__(self, plan: Plan, reports: Reports) -> None:
        self.plan, self.reports = plan, reports
        self.restarts = 0
        self.interrupted = Interrupted()
        self.address = ""
        self.coordinator: _Child | None = None
        self.workers: list[_Child] = []

    def run(self) -> Outcome:
        """Start everything, watch it until the run has ended.

        Raises:
            WorkerFailedError: a process failed in a way that a restart does not mend, or once too often.
        """
        with self.interrupted.installed():
            try:
                self._start_coordinator()
                self.workers = [self._start(process) for process in self.plan.processes]
                self._watch()
            finally:
                self._end_all()
        number = self.interrupted.number
        return Outcome(0 if number is None else 128 + number, self.restarts, number)

    def _watch(self) -> None:
        running = list(self.workers)
        told = False
        deadline = float("inf")
        while running and time.monotonic() < deadline:
            time.sleep(LOOK)
            if self.interrupted.number is not None and not told:
                told, deadline = True, time.monotonic() + PARTING
                self._stop_run()
            running = [child for child in running if not self._done(child, told)]
            self._look_after_coordinator(told)

    def _done(self, child: _Child, told: bool) -> bool:
        code = child.popen.poll()
        if code is None:
            return False
        if code == 0 or told:
            return True
        text = failure(child.process.name, code, child.log)
        if code in HOPELESS or child.starts > self.plan.max_restarts:
            raise WorkerFailedError(text, exit_code_of(code))
        self.restarts += 1
        self.reports.restart(self.restarts, text)
        child.popen = self._popen(child.process, child.log, *self._worker_flags())
        child.starts += 1
        return False

    def _look_after_coordinator(self, told: bool) -> None:
        child = self.coordinator
        if child is None or told or (code := child.popen.poll()) in (None, 0):
            return
        if code in (*HOPELESS, ExchangeError.exit_code) or child.starts > self.plan.max_restarts:
            raise WorkerFailedError(failure(child.process.name, code, child.log), code if code > 0 else 1)
        self.restarts += 1
        self.reports.restart(self.restarts, failure(child.process.name, code, child.log))
        child.popen = self._popen(child.process, child.log, "--bind", self.address)
        child.starts += 1

    def _start_coordinator(self) -> None:
        process = self.plan.coordinator
        if process is None:
            raise ValueError("the plan has no coordinator")
        self.plan.folder.coordinator_address.unlink(missing_ok=True)
        log = self.plan.folder.path / process.log
        self.coordinator = _Child(process, self._popen(process, log), log)
        deadline = time.monotonic() + STARTING
        while not self.plan.folder.coordinator_address.is_file():
            code = self.coordinator.popen.poll()
            if code is not None or time.monotonic() > deadline:
                raise WorkerFailedError(failure(self.coordinator.process.name, code, self.coordinator.log), code or 1)
            time.sleep(LOOK)
        self.address = self.plan.folder.coordinator_address.read_text().strip()

    def _worker_flags(self) -> tuple[str, ...]:
        return ("--coordinator", self.address)

    def _start(self, process: Process) -> _Child:
        log = self.plan.folder.path / process.log.replace(".log", ".stderr")
        return _Child(process, self._popen(process, log, *self._worker_flags()), log)

    def _popen(self, process: Process, log: Path, *flags: str) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own: Ctrl-C reaches the launcher, which tells the others."""
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        with log.open("ab") as file:
            return subprocess.Popen(  # noqa: S603  # the plan's own command
                [*process.command, *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=environment,
            )

    def _stop_run(self) -> None:
        """End the run for all in the same round, so that all have saved the same one."""
        try:
            console.stop(access(self.plan.config, self.address), self.interrupted.reason())
        except ExchangeError as exc:
            logger.warning("the coordinator could not be told to stop (%s); the workers are told one by one", exc)
            for child in self.workers:
                with suppress(ProcessLookupError):
                    child.popen.terminate()

    def _end_all(self) -> None:
        children = [*self.workers, *([self.coordinator] if self.coordinator else [])]
        for child in children:
            if child.popen.poll() is None:
                child.popen.terminate()
        deadline = time.monotonic() + PARTING
        for child in children:
            try:
                child.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.popen.kill()
                child.popen.wait()
