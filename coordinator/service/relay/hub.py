"""Driver of a relay: a hub whose rounds the coordinator above closes.

Downwards it is a `Hub` like any other. What its group wants done above goes to `Upstream`, and what became of it comes
back as steps of its own, each alone and kept before anybody is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from coordinator.service.aggregate import Aggregation, Aggregator
from coordinator.service.hub import Hub
from coordinator.service.metrics import Metrics
from coordinator.service.relay.group import PartialSum, RelayGroup, UpstreamRequest, UpstreamState
from coordinator.service.relay.upstream import (
    RoundClosed,
    RoundOpened,
    RunOver,
    Upstream,
    UpstreamEvent,
    UpstreamFailed,
)
from coordinator.service.rounds import SettledRound
from coordinator.service.settings import ServiceSettings
from coordinator.service.store import StateStore
from peers.transport.access import Access
from protos.consensus_pb2 import FLOAT32, FORMING, OVER, TOTAL, WAITING

logger = logging.getLogger(__name__)


class RelayHub(Hub):
    """One relay's side of a run, driven.

    Args:
        settings: the operator's, as `start.relay_settings` made them.
        store: where everything is kept.
        metrics: what is counted.
        access: to the coordinator above.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        store: StateStore,
        metrics: Metrics,
        access: Access,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = RelayGroup(settings, clock())
        super().__init__(settings, store, metrics, clock, self._relay)
        self.upstream = access.address
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[UpstreamEvent] = asyncio.Queue()
        self._above = Upstream(access, settings, self._hear)
        self._answered: RoundClosed | None = None
        self._heeding: asyncio.Future[None] | None = None
        self._known = -1

    def listening(self) -> None:
        """See `Hub.listening`; from now on the coordinator above hears of this relay."""
        super().listening()
        self._above.start()
        self._heeding = asyncio.ensure_future(self._heed())
        self._heeding.add_done_callback(self._heeded)

    def close(self) -> None:
        """See `Hub.close`."""
        if self._heeding is not None:
            self._heeding.cancel()
        self._above.close()
        super().close()

    @property
    def awaits_leave(self) -> bool:
        """See `Hub.awaits_leave`; this relay leaves last, with its peers' last words, and brings the others'."""
        leaving = self._relay.phase == OVER and self._relay.above in (UpstreamState.IN, UpstreamState.PARTING)
        return leaving or super().awaits_leave

    def _hear(self, event: UpstreamEvent) -> None:
        """Called in the thread of `Upstream`."""
        self._loop.call_soon_threadsafe(self._news.put_nowait, event)

    async def _heed(self) -> None:
        while True:
            await self._step(self._take(await self._news.get()))

    def _heeded(self, task: asyncio.Future[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        if isinstance(exc, Exception):
            self.fail(exc)

    async def _take(self, event: UpstreamEvent) -> None:
        now = self.clock()
        if isinstance(event, UpstreamFailed):
            raise event.error
        if isinstance(event, RoundOpened):
            self._relay.opened(event.round, now)
        elif isinstance(event, RoundClosed):
            self._answered = event
            self._relay.closed(event.closed, now)
        elif isinstance(event, RunOver):
            logger.warning("no more of the group above, at %s: %s", self.upstream, event.reason)
            self._relay.ended(event.reason, now, member=event.member)
        else:
            self.reports.update(event.reports)
            self._relay.parted(now)
        await self._flush()
        self.changed.set()  # somebody may wait for no more than that this relay has left
        self.changed = asyncio.Event()

    async def _flush(self, reports: Mapping[int, bytes] | None = None) -> None:
        await super()._flush(reports)
        if self._known != self.group.membership.version or self.group.phase in (FORMING, WAITING):
            self._known = self.group.membership.version
            self._above.absent(self._relay.absent())
        for request in self._relay.take_requests():
            await self._send_request(request)

    async def _send_request(self, request: UpstreamRequest) -> None:
        if isinstance(request, PartialSum):
            total = await self._compute(self._aggregator.partial, request.batch) if request.peers else None
            self._above.send(request, total=total)
        else:
            self._above.send(request, agreed=dict(self.agreed), reports=dict(self.reports))

    def _collecting(self, ids: Sequence[int]) -> Aggregator:
        return Aggregator(self.settings.rule, ids)  # its sum goes up, and is not what will be kept

    async def _outcome(self, settled: SettledRound) -> Aggregation:
        """The whole group's total, in place of this relay's own sum."""
        if settled.announced is None or self._answered is None:
            return Aggregation(settled)
        return Aggregation(settled, TOTAL, self._answered.digest, FLOAT32, {-1: self._answered.total})
