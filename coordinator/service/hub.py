"""Driver of the state machines: calls and the clock go in, replies come out.

Every step (a publication, a join, a tick) runs alone, under one lock: the machines change, what they decided is
written to the store, and only then is anybody told. So whoever has heard of a round's end can rely on it, even if the
coordinator dies the moment after. A step is a task of its own: a caller that goes away does not cut it short.

Arithmetic on large tensors runs in a thread, below `HEAVY` it is cheaper than the way there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from coordinator.service import replies
from coordinator.service.aggregate import Aggregation, Aggregator, PeerTensor
from coordinator.service.eager import whole
from coordinator.service.group import Group, NotOpenYet
from coordinator.service.join_policy import bearer_hash, check_join, peer_requests
from coordinator.service.limits import Bucket
from coordinator.service.membership import DepartedWorker, WorkerRecord
from coordinator.service.metrics import Metrics
from coordinator.service.pending import PendingReplies, done
from coordinator.service.replies import ReplyFrame, RoundReplies
from coordinator.service.rounds import OpenRound, Publication, SettledRound
from coordinator.service.settings import ServiceSettings
from coordinator.service.store import StateStore
from coordinator.service.validation import Refusal, ValidPublication, validate
from protos.consensus_pb2 import (
    ENDED,
    EXPELLED,
    LATE,
    OK,
    OVER,
    TOO_FAST,
    JoinReply,
    JoinRequest,
    ReplyCode,
    Ticket,
)
from protos.frames import Frame
from protos.tensors import NAMES, size_of

T = TypeVar("T")
HEAVY = 1024 * 1024
"""Bytes of a tensor from which on arithmetic leaves the event loop: adding so many takes it about 0.1 ms."""

logger = logging.getLogger(__name__)


class Hub:
    """One run, driven.

    Args:
        settings: the operator's.
        store: where everything is kept.
        metrics: what is counted.
        clock: seconds, never going back.
        group: its machine; None is a group of its own.
    """

    upstream = ""
    """HOST:PORT of the coordinator that closes the rounds, where this one does not do so itself."""

    def __init__(
        self,
        settings: ServiceSettings,
        store: StateStore,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        group: Group | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.group = group or Group(settings, clock())
        self.agreed: dict[str, str] = dict(settings.agreed)
        self.reports: dict[int, bytes] = {}
        self.changed = asyncio.Event()
        self.over = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._store = store
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "consensus")
        self._heavy = size_of(NAMES["float32"], *settings.shape) >= HEAVY
        self._joins = Bucket(settings.joins_per_minute / 60, settings.joins_per_minute, clock())
        self.pending = PendingReplies(self.group, metrics)
        self._aggregator = self._collecting(())
        self._version = -1
        self._closed = False
        self._ticked = clock()
        self._continue()
        if self.group.phase == OVER:
            self.over.set()

    def listening(self) -> None:
        """The time until anybody could be heard counts for nobody."""
        now = self.clock()
        self.group.membership.forgive(now - self._ticked)
        self._ticked = now

    def close(self) -> None:
        """Let the thread go; the store is its owner's, and no step that waits for its turn may come to it any more."""
        self._closed = True
        self._thread.shutdown(wait=True)

    def known(self, bearer: str) -> WorkerRecord | DepartedWorker | None:
        """Whom a bearer speaks for."""
        return self.group.membership.known(bearer_hash(bearer))

    @property
    def awaits_leave(self) -> bool:
        """Whether somebody has still to leave, perhaps with last words."""
        return bool(self.group.membership.workers)

    # Steps. Each returns when what it did is kept.

    async def join(self, request: JoinRequest) -> JoinReply:
        """Take in a newcomer, or say why not."""
        return await self._step(self._join(request))

    async def attach(self, worker: int, *, pending: bool) -> Awaitable[ReplyFrame] | None:
        """A stream stands; what to await for its first answer, None if a publication follows (`pending`)."""
        return await self._step(self._attach(worker, pending))

    async def publish(self, worker: int, hosted: Sequence[int], frame: Frame) -> ReplyFrame:
        """Judge a publication and wait for its answer."""
        judged = await self._compute(validate, frame, worker, hosted, self.settings)
        if isinstance(judged, Refusal):
            return await self.refuse(worker, judged.code, judged.text, frame.header.publish.round)
        return await (await self._step(self._publish(judged, hosted)))

    async def refuse(
        self, worker: int, code: ReplyCode, text: str, round_: int = 0, *, last: bool = False
    ) -> ReplyFrame:
        """Refuse what a stream brought, before it reached the rounds."""
        return await self._step(self._refuse(worker, code, text, round_, last))

    async def detach(self, worker: int) -> None:
        """A stream is gone."""
        await self._step(self._detach(worker))

    async def leave(self, worker: int, reports: Mapping[int, bytes], *, stays: bool = False) -> None:
        """A worker goes, with the last words of its peers; `stays`: not yet, there are more of them."""
        await self._step(self._leave(worker, reports, stays))

    async def set_absent(self, worker: int, absent: Sequence[int]) -> None:
        """A worker says which of its ids no peer holds now."""
        await self._step(self._set_absent(worker, absent))

    async def stop(self, reason: str) -> None:
        """End the run."""
        await self._step(self._stop(reason))

    async def tick(self) -> None:
        """Let time pass."""
        await self._step(self._tick())

    def beat(self, worker: int) -> None:
        """A member was heard of."""
        if worker in self.group.membership.workers:
            self.group.membership.beat(worker, self.clock())

    async def _step(self, step: Coroutine[Any, Any, T]) -> T:
        return await whole(self._alone(step))

    async def _alone(self, step: Coroutine[Any, Any, T]) -> T:
        async with self._lock:
            if self._closed:
                step.close()
                raise asyncio.CancelledError
            try:
                return await step
            except Exception as exc:  # the machines are ahead of the store now: the coordinator must stop
                self.fail(exc)
                raise

    def fail(self, exc: Exception) -> None:
        """Let the coordinator stop."""
        if not self.failed.done():
            self.failed.set_exception(exc)

    async def _compute(self, function: Callable[..., T], *arguments: object) -> T:
        if self._heavy:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        return function(*arguments)

    async def _join(self, request: JoinRequest) -> JoinReply:
        now = self.clock()
        wait = self._joins.take(now)
        if wait:
            return JoinReply(code=TOO_FAST, text="too many joins; try again later", retry_after=wait)
        if not self.group.membership.workers and self.group.rounds.last is None:
            self.agreed = dict(self.settings.agreed)  # nobody is left of those who settled the rest
        refusal = check_join(request, self.settings, self.agreed)
        if refusal is not None:
            details = {"code": ReplyCode.Name(refusal.code)}
            logger.warning("join of %s refused: %s", request.name[:128], refusal.text, extra=details)
            self.metrics.refused(refusal.code)
            return JoinReply(code=refusal.code, text=refusal.text)
        bearer = secrets.token_urlsafe(32)
        worker = self.group.join(
            peer_requests(request),
            name=request.name[:128],
            bearer=bearer_hash(bearer),
            request=request.request.hex(),
            insist=request.insist,
            now=now,
        )
        if not isinstance(worker, WorkerRecord):
            return JoinReply(code=worker[0], text=worker[1], retry_after=self.settings.heartbeat / 4)
        self.agreed.update(request.agreed)
        await self._flush()
        details = {"round": self.group.rounds.upcoming, "peers": worker.peers, "worker": worker.number}
        logger.info("worker %d (%s) joins with peers %s", worker.number, worker.name, list(worker.peers), extra=details)
        return JoinReply(code=OK, ticket=self._ticket(worker, bearer))

    def _ticket(self, worker: WorkerRecord, bearer: str) -> Ticket:
        settings = self.settings
        return Ticket(
            bearer=bearer,
            peers=worker.peers,
            incarnations=worker.incarnations,
            heartbeat=settings.heartbeat,
            round_deadline=settings.round_deadline,
            join_window=settings.join_window,
            payload_limit=settings.payload_limit,
            partial_sums=settings.rule.kind == "sum",
        )

    async def _attach(self, worker: int, pending: bool) -> Awaitable[ReplyFrame] | None:
        if worker not in self.group.membership.workers:
            return None if pending else done(self.pending.no_member(worker, 0))
        self.group.attach(worker, self.clock())
        await self._flush()
        if self.group.phase == OVER and not pending:
            return done(self.pending.no_member(worker, 0))
        current = self.group.rounds.current
        if pending:
            return None
        if current is not None and worker in current.present:
            return done(replies.opened(current))
        return self.pending.wait(worker, None)

    async def _publish(self, admitted: ValidPublication, hosted: Sequence[int]) -> Awaitable[ReplyFrame]:
        publication, group = admitted.publication, self.group
        worker, current = publication.worker, group.rounds.current
        known = current is not None and worker in current.publications
        verdict = group.offer(publication, self.clock())
        if isinstance(verdict, SettledRound):
            return done(self.pending.result(worker, hosted))
        if isinstance(verdict, NotOpenYet):
            return self.pending.wait(worker, None)
        if verdict == OK:
            future = self.pending.wait(worker, publication.round)
            if not known:
                await self._add(publication, admitted.blocks)
            await self._flush()
            return future
        await self._flush()
        return done(self._refused(publication, verdict))

    async def _add(self, publication: Publication, blocks: Sequence[PeerTensor]) -> None:
        for block in blocks:
            self.metrics.received += len(block.data)
        await self._compute(self._aggregator.add, publication, blocks)

    def _refused(self, publication: Publication, code: ReplyCode) -> ReplyFrame:
        worker, group = publication.worker, self.group
        if code == LATE:
            self.metrics.refused(code)
            return replies.late(group, worker, publication.round)
        if code in (EXPELLED, ENDED) or worker not in group.membership.workers:
            return self.pending.no_member(worker, publication.round)
        text = (
            f"{ReplyCode.Name(code)}: publication for round {publication.round}, epoch {publication.epoch}; round "
            f"{group.rounds.upcoming} of epoch {group.membership.epoch} is next"
        )
        self._log_refusal(worker, code, text, publication.round)
        return replies.reply(code, text, publication.round, replies.following_of(group, worker))

    async def _refuse(self, worker: int, code: ReplyCode, text: str, round_: int, last: bool) -> ReplyFrame:
        self._log_refusal(worker, code, text, round_)
        self.group.refuse(worker, self.clock())
        await self._flush()
        if worker not in self.group.membership.workers:
            return self.pending.no_member(worker, round_)
        return replies.reply(code, text, round_, replies.following_of(self.group, worker), last=last)

    async def _detach(self, worker: int) -> None:
        self.group.detach(worker, self.clock())
        self.pending.forget(worker)

    async def _leave(self, worker: int, reports: Mapping[int, bytes], stays: bool) -> None:
        self.reports.update(reports)
        if not stays:
            self.group.leave(worker, self.clock())
        await self._flush(reports)

    async def _set_absent(self, worker: int, absent: Sequence[int]) -> None:
        self.group.set_absent(worker, absent, self.clock())
        await self._flush()

    async def _stop(self, reason: str) -> None:
        self.group.stop(reason[:256], self.clock())
        await self._flush()

    async def _tick(self) -> None:
        now = self.clock()
        if now - self._ticked > self.settings.heartbeat / 4:  # this process was held up, nobody could be heard
            self.group.membership.forgive(now - self._ticked)
        self._ticked = now
        self.group.tick(now)
        await self._flush()

    # From decisions to replies.

    async def _flush(self, reports: Mapping[int, bytes] | None = None) -> None:
        """Keep what has happened, then tell everybody whom it concerns."""
        version = self.group.membership.version
        if not self.group.events and version == self._version and not reports:
            return
        events = self.group.take()
        outcome: Aggregation | None = None
        for event in events:
            if isinstance(event, SettledRound):
                outcome = await self._outcome(event)
                self.pending.results = RoundReplies(self.settings, outcome)
            elif isinstance(event, OpenRound):
                self._aggregator = self._collecting(event.ids)
        membership = self.group.membership_state() if version != self._version else None
        kept = self.group.progress_state(), membership, self.agreed if membership else None, outcome, reports
        if membership or reports:  # a transaction, which may have to wait for the disk
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.save, *kept)
        else:
            await self._compute(self._store.save, *kept)
        self._version = version
        for event in events:
            self.pending.tell(event)
        if self.group.phase == OVER:
            self.over.set()
        self.changed.set()
        self.changed = asyncio.Event()

    def _collecting(self, ids: Sequence[int]) -> Aggregator:
        return Aggregator(self.settings.rule, ids, lambda: self._store.room(self.settings.shape))

    async def _outcome(self, settled: SettledRound) -> Aggregation:
        return await self._compute(self._aggregator.finish, settled)

    def _log_refusal(self, worker: int, code: ReplyCode, text: str, round_: int) -> None:
        self.metrics.refused(code)
        name, member = ReplyCode.Name(code), self.group.membership.workers.get(worker)
        details = {"round": round_, "peers": member and member.peers, "worker": worker, "code": name}
        logger.warning("publication of worker %d refused: %s: %s", worker, name, text, extra=details)

    def _continue(self) -> None:
        """Take up what the store holds."""
        kept = self._store.load()
        if kept is None:
            return
        self.agreed.update(kept.agreed)
        self.reports = dict(kept.reports)
        self.pending.results = RoundReplies(self.settings, kept.outcome) if kept.outcome else None
        self.group.restore(kept.progress, kept.membership, self.clock())
        for event in self.group.take():
            if isinstance(event, OpenRound):
                self._aggregator = self._collecting(event.ids)
        logger.warning(
            "continuing run %s at round %d, epoch %d, with %d workers",
            self.settings.run_id,
            self.group.rounds.upcoming,
            self.group.membership.epoch,
            len(self.group.membership.workers),
            extra={"round": self.group.rounds.upcoming},
        )
