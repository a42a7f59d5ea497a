"""Policy for groups with a coordinator: each process is watched and restarted by itself.

A worker that dies comes back from its own checkpoint while the others go on; a coordinator that dies is started again
on the same address and state, and its peers reconnect.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from coordinator.launch.base import (
    HOPELESS,
    LOOK,
    PARTING,
    STARTING,
    Interrupted,
    LaunchResult,
    Meeting,
    Member,
    ProcessExit,
    Reports,
    Service,
    Site,
    WorkerFailedError,
    exit_code_of,
    failure,
)
from coordinator.launch.plan import Plan, Process
from peers.common.errors import ExchangeError
from peers.common.hosts import same_port

logger = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: Process
    member: Member
    starts: int = 1


def supervise(plan: Plan, site: Site, reports: Reports) -> LaunchResult:
    """Start everything, watch it until the run has ended; see `coordinator.launch.base`.

    Args:
        plan: its exchange is a coordinator; the run's folder must have been prepared.
        site: where its processes run.
        reports: told of each restart.

    Raises:
        WorkerFailedError: a process failed in a way that a restart does not mend, or once too often.
    """
    return _Supervisor(plan, site, reports).run()


class _Supervisor:
    def __init__(self, plan: Plan, site: Site, reports: Reports) -> None:
        if plan.coordinator is None:
            raise ValueError("the plan has no coordinator")
        self.plan, self.site, self.reports = plan, site, reports
        self.process = plan.coordinator
        self.restarts = 0
        self.interrupted = Interrupted()
        self.service: Service | None = None
        self.service_starts = 1
        self.address = ""
        self.workers: list[_Worker] = []

    def run(self) -> LaunchResult:
        with self.interrupted.installed():
            try:
                if self._start_coordinator():
                    self.workers = [_Worker(process, self._work(process)) for process in self.plan.processes]
                    self._watch()
            finally:
                self._end_all()
        number = self.interrupted.number
        return LaunchResult(0 if number is None else 128 + number, self.restarts, number)

    def _work(self, process: Process) -> Member:
        return self.site.work(process, Meeting(self.address))

    def _start_coordinator(self) -> bool:
        """Start it and wait until it listens; False where the launcher was interrupted meanwhile."""
        self.service = service = self.site.serve(self.process, None)
        deadline = time.monotonic() + STARTING
        while (address := service.address()) is None:
            if self.interrupted.number is not None:
                return False
            if service.waits():
                deadline = time.monotonic() + STARTING
            ended = service.ended()
            if ended is None and time.monotonic() > deadline:
                ended = ProcessExit(None, f"it did not listen within {STARTING:g} s")
            if ended is not None:
                raise self._failed(self.process, service, ended)
            self._pause()
        self.address = address
        return True

    def _watch(self) -> None:
        running = list(self.workers)
        stopping, deadline = False, float("inf")
        while running and time.monotonic() < deadline:
            self._pause()
            if self.interrupted.number is not None and not stopping:
                stopping, deadline = True, time.monotonic() + PARTING
                self._stop_run()
            running = [worker for worker in running if not self._done(worker, stopping)]
            self._look_after_coordinator(stopping)
            if len(running) < len(self.workers) and all(worker.member.waits() for worker in running):
                return  # all others have reached the end: a worker without a place would come too late

    def _pause(self) -> None:
        time.sleep(LOOK)
        self.site.look()

    def _done(self, worker: _Worker, stopping: bool) -> bool:
        ended = worker.member.ended()
        if ended is None:
            return False
        if ended.code == 0 or stopping:
            return True
        if ended.code in HOPELESS or worker.starts > self.plan.max_restarts:
            raise self._failed(worker.process, worker.member, ended)
        self._report(worker.process, worker.member, ended, worker.starts)
        worker.member = self._work(worker.process)
        worker.starts += 1
        return False

    def _look_after_coordinator(self, stopping: bool) -> None:
        service = self.service
        if service is None or stopping or (ended := service.ended()) is None or ended.code == 0:
            return
        if ended.code in (*HOPELESS, ExchangeError.exit_code) or self.service_starts > self.plan.max_restarts:
            raise self._failed(self.process, service, ended)
        self._report(self.process, service, ended, self.service_starts)
        self.service_starts += 1
        again = same_port(self.plan.config.coordinator.bind, self.address)
        self.service = self.site.serve(self.process, again)

    def _report(self, process: Process, member: Member, ended: ProcessExit, number: int) -> None:
        self.restarts += 1
        self.reports.restart(number, failure(process.name, ended, member.log))

    def _failed(self, process: Process, member: Member, ended: ProcessExit) -> WorkerFailedError:
        return WorkerFailedError(failure(process.name, ended, member.log), exit_code_of(ended.code))

    def _stop_run(self) -> None:
        """End the run for all in the same round, so that all have saved the same one."""
        try:
            if self.service is not None:
                self.service.end_run(self.interrupted.reason())
        except ExchangeError as exc:
            logger.warning("the coordinator could not be told to stop (%s); the workers are told one by one", exc)
            for worker in self.workers:
                worker.member.stop()

    def _end_all(self) -> None:
        members: list[Member] = [worker.member for worker in self.workers]
        members += [self.service] if self.service else []
        end(members, self.site)


def end(members: list[Member], site: Site) -> None:
    """Ask all that still run to end, wait for a while, then end them."""
    running = [member for member in members if member.ended() is None]
    for member in running:
        if not member.waits():
            member.stop()
    deadline = time.monotonic() + PARTING
    while running and time.monotonic() < deadline:
        running = [member for member in running if member.ended() is None and not member.waits()]
        time.sleep(LOOK)
        site.look()
    for member in members:
        member.kill()
