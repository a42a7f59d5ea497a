"""gRPC calls other than the exchange stream: translate, ask the hub, translate back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from coordinator.service.auth import caller
from coordinator.service.hub import Hub
from coordinator.service.membership import DepartedWorker, WorkerRecord
from coordinator.service.status import status
from coordinator.service.streams import Streams
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorServicer

WATCH_DEFAULT = 1.0
"""Seconds between two answers of WatchStatus, where the caller does not say; and when nothing changes."""


class Servicer(CoordinatorServicer):
    """`consensus.Coordinator` of one run."""

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub = hub
        self._streams = streams

    async def Join(self, request: pb.JoinRequest, _context: Any) -> pb.JoinReply:  # noqa: N802  # the wire's name
        """See the contract."""
        return await self._hub.join(request)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:  # noqa: N802
        """See the contract."""
        worker = caller(self._hub, context)
        if isinstance(worker, DepartedWorker) and not worker.left:
            return pb.HeartbeatReply(code=pb.EXPELLED, text=worker.reason)
        self._hub.beat(worker.number)
        if isinstance(worker, WorkerRecord) and tuple(request.absent) != worker.absent:
            await self._hub.set_absent(worker.number, request.absent)
        if self._hub.group.phase == pb.OVER:
            return pb.HeartbeatReply(code=pb.ENDED, text=self._hub.group.text)
        return pb.HeartbeatReply(code=pb.OK)

    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.LeaveReply:  # noqa: N802
        """See the contract."""
        worker = caller(self._hub, context)
        if isinstance(worker, DepartedWorker) and not worker.left:
            return pb.LeaveReply(code=pb.EXPELLED, text=worker.reason, reports=self._hub.reports)
        problem = _report_problem(request.reports, worker, self._hub.settings.report_bytes)
        if problem is not None:
            return pb.LeaveReply(code=pb.MALFORMED, text=problem)
        await self._hub.leave(worker.number, dict(request.reports), stays=request.more)
        if request.more:
            return pb.LeaveReply(code=pb.OK)
        await self._others_left(min(request.wait, self._hub.settings.join_window))
        return pb.LeaveReply(code=pb.OK, reports=self._hub.reports)

    async def GetStatus(self, _request: pb.StatusRequest, _context: Any) -> pb.StatusReply:  # noqa: N802
        """See the contract."""
        return status(self._hub, self._streams)

    async def WatchStatus(self, request: pb.WatchRequest, _context: Any) -> AsyncIterator[pb.StatusReply]:  # noqa: N802
        """See the contract."""
        interval = max(0.05, request.interval or WATCH_DEFAULT)
        while True:
            changed = self._hub.changed
            yield status(self._hub, self._streams)
            if self._hub.group.phase == pb.OVER and not self._hub.group.membership.workers:
                return
            await asyncio.sleep(interval)
            await _within(changed.wait(), WATCH_DEFAULT)

    async def Reports(self, _request: pb.ReportsRequest, _context: Any) -> pb.ReportsReply:  # noqa: N802
        """See the contract."""
        return pb.ReportsReply(reports=self._hub.reports)

    async def Stop(self, request: pb.StopRequest, _context: Any) -> pb.StopReply:  # noqa: N802
        """See the contract."""
        await self._hub.stop(request.reason)
        return pb.StopReply(code=pb.OK)

    async def _others_left(self, seconds: float) -> None:
        """Wait until nobody is left, at most so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._hub.awaits_leave and loop.time() < end:
            await _within(self._hub.changed.wait(), end - loop.time())


async def _within(event: Any, seconds: float) -> None:
    """Wait for an event, or until the time is over: either is fine."""
    done, pending = await asyncio.wait([asyncio.ensure_future(event)], timeout=max(0.0, seconds))
    for task in (*done, *pending):
        task.cancel()


def _report_problem(reports: Mapping[int, bytes], worker: WorkerRecord | DepartedWorker, limit: int) -> str | None:
    """Why last words are refused; None if they are not."""
    foreign = sorted(set(reports) - set(worker.peers))
    if foreign:
        return f"reports of peers {foreign}, which this worker does not host: it has {sorted(worker.peers)}"
    for peer, report in reports.items():
        if len(report) > limit:
            return f"the report of peer {peer} has {len(report)} bytes, at most {limit} are kept"
        try:
            json.loads(report)
        except (ValueError, RecursionError) as exc:
            return f"the report of peer {peer} is no JSON: {exc}"
    return None
