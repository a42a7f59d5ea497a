"""Policy for groups of torch.distributed: they start, fail and restart as a whole.

The store in which the group meets belongs to the site, not to the worker of rank 0: any worker may die.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.launch.base import (
    HOPELESS,
    LOOK,
    PARTING,
    Interrupted,
    LaunchResult,
    Meeting,
    Member,
    ProcessExit,
    Reports,
    Site,
    WorkerFailedError,
    exit_code_of,
    failure,
)
from coordinator.launch.elastic import end
from coordinator.launch.plan import Plan, Process
from peers.common.errors import ExchangeError

FOLLOWING = 10.0
"""Seconds that the others have to notice a failure by themselves, so that their logs tell what they saw."""


@dataclass(frozen=True)
class Running:
    """A worker of the group."""

    process: Process
    member: Member


def supervise(plan: Plan, site: Site, reports: Reports) -> LaunchResult:
    """Start the group, watch it, restart it from its checkpoints when it fails; see `coordinator.launch.base`.

    Args:
        plan: without a coordinator; the run's folder must have been prepared.
        site: where its processes run.
        reports: told of each restart.

    Raises:
        WorkerFailedError: a worker failed in a way that a restart does not mend, or once too often.
    """
    interrupted = Interrupted()
    with interrupted.installed():
        for attempt in range(plan.max_restarts + 1):
            failed = _attempt(plan, site, attempt, interrupted)
            number = interrupted.number
            if number is not None:
                return LaunchResult(128 + number, attempt, number)
            if failed is None:
                return LaunchResult(0, attempt)
            worker, ended = failed
            text = failure(worker.process.name, ended, worker.member.log)
            if ended.code in HOPELESS or attempt == plan.max_restarts:
                raise WorkerFailedError(text, exit_code_of(ended.code))
            reports.restart(attempt + 1, text)
    raise AssertionError("the loop returns or raises in its last turn")


def store(host: str) -> tuple[Any, tuple[str, int]]:
    """A store in this process by which a fixed group connects, and its host and port; it lives while it is referenced.

    Args:
        host: address that all workers reach.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, says its documentation

    server = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return server, (host, int(server.port))


def _attempt(plan: Plan, site: Site, attempt: int, interrupted: Interrupted) -> tuple[Running, ProcessExit] | None:
    """Run the group once; returns the worker that it failed of, and how."""
    workers: list[Running] = []
    try:
        store, world = site.meet(), len(plan.processes)
        for rank, process in enumerate(plan.processes):
            meeting = Meeting(rank=rank, world=world, store=store, attempt=attempt)
            workers.append(Running(process, site.work(process, meeting)))
        failures = _watch(workers, site, interrupted)
    finally:
        end([worker.member for worker in workers], site)
    return cause(failures)


def _watch(workers: list[Running], site: Site, interrupted: Interrupted) -> list[tuple[Running, ProcessExit]]:
    """Wait until all have ended, or one has failed and the others had their time; returns failures in their order."""
    running, failures = list(workers), []
    stopping, deadline = False, float("inf")
    while running and time.monotonic() < deadline:
        time.sleep(LOOK)
        site.look()
        if interrupted.number is not None and not stopping:
            stopping, deadline = True, time.monotonic() + PARTING
            for worker in running:
                worker.member.stop()
        for worker in list(running):
            ended = worker.member.ended()
            if ended is not None:
                running.remove(worker)
                if ended.code != 0:
                    failures.append((worker, ended))
                    deadline = min(deadline, time.monotonic() + FOLLOWING)
    return failures


def cause(failures: Sequence[tuple[Running, ProcessExit]]) -> tuple[Running, ProcessExit] | None:
    """The failure that the others followed from: a lost exchange is what they die of when one of them does.

    Args:
        failures: in the order in which they were noticed.
    """
    return min(failures, key=lambda failed: failed[1].code == ExchangeError.exit_code, default=None)
