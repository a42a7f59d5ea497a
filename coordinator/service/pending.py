"""Streams that wait for a reply; they get it once the step that decided it is stored."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.service import replies
from coordinator.service.group import Event, Group, GroupEnded
from coordinator.service.membership import DepartedWorker
from coordinator.service.metrics import Metrics
from coordinator.service.replies import ReplyFrame, RoundReplies
from coordinator.service.rounds import OpenRound, SettledRound
from protos.consensus_pb2 import ENDED, EXPELLED, OK, OVER, ReplyCode

REMEMBERED_EXPULSIONS = 20

logger = logging.getLogger(__name__)


@dataclass
class Waiter:
    """A stream that waits: for the end of a round, or (None) for the opening of one."""

    round: int | None
    future: asyncio.Future[ReplyFrame]


class PendingReplies:
    """The streams of one run that wait.

    Args:
        group: the run's state; read here, never changed.
        metrics: what is counted.
    """

    def __init__(self, group: Group, metrics: Metrics) -> None:
        self.results: RoundReplies | None = None
        self.expulsions: deque[str] = deque(maxlen=REMEMBERED_EXPULSIONS)
        self._group = group
        self._metrics = metrics
        self._waiters: dict[int, Waiter] = {}

    def tell(self, event: Event) -> None:
        """Answer everybody whom an event concerns, log it, count it."""
        if isinstance(event, SettledRound):
            self._metrics.settled(event)
            level = logging.DEBUG if event.code == OK else logging.WARNING
            if logger.isEnabledFor(level):
                logger.log(level, "%s", _summary(event), extra=_about(event))
            if event.code != OK and self._group.phase == OVER:
                return  # the round is void because the run ends: that is the answer, and it follows
            for worker in event.answers:
                self._resolve(worker, event.round, self.result(worker, event.members[worker]))
        elif isinstance(event, DepartedWorker):
            if not event.left:
                self.expulsions.append(f"peers {list(event.peers)} (worker {event.number}): {event.reason}")
                self._metrics.expelled()
            level = logging.INFO if event.left else logging.WARNING
            details = {"round": self._group.rounds.upcoming, "peers": event.peers, "worker": event.number}
            details |= {} if event.left else {"code": ReplyCode.Name(EXPELLED)}
            logger.log(level, "peers %s: %s", list(event.peers), event.reason, extra=details)
            self._resolve(event.number, None, self.no_member(event.number, 0))
        elif isinstance(event, OpenRound):
            for worker, waiter in list(self._waiters.items()):
                if waiter.round is None and worker in event.members:
                    self._resolve(worker, None, replies.opened(event))
        elif isinstance(event, GroupEnded):
            details = {"round": self._group.rounds.upcoming, "code": ReplyCode.Name(ENDED)}
            logger.info("the run has ended: %s", event.text, extra=details)
            for worker in list(self._waiters):
                self._resolve(worker, None, self.no_member(worker, 0))

    def result(self, worker: int, hosted: Sequence[int]) -> ReplyFrame:
        """The answer of the last settled round for one worker."""
        assert self.results is not None  # noqa: S101  # a round has settled
        return self.results.answer(self._group, worker, hosted)

    def no_member(self, worker: int, round_: int) -> ReplyFrame:
        """Why a worker gets no other answer: the run is over, or it is no member."""
        gone = self._group.membership.gone.get(worker)
        if gone is not None and not gone.left:
            return replies.reply(EXPELLED, gone.reason, round_, last=True)
        if self._group.phase == OVER:
            return replies.reply(ENDED, self._group.text, round_)
        return replies.reply(EXPELLED, "it left", round_, last=True)

    def wait(self, worker: int, round_: int | None) -> asyncio.Future[ReplyFrame]:
        """Let a worker's stream wait for the end of a round, or (None) for the opening of one."""
        self.forget(worker)
        future: asyncio.Future[ReplyFrame] = asyncio.get_running_loop().create_future()
        self._waiters[worker] = Waiter(round_, future)
        return future

    def _resolve(self, worker: int, round_: int | None, answer: ReplyFrame) -> None:
        """Answer a stream that waits; `round_`: only if it waits for the end of that round."""
        waiter = self._waiters.get(worker)
        if waiter is None or (round_ is not None and waiter.round != round_):
            return
        del self._waiters[worker]
        if not waiter.future.done():
            waiter.future.set_result(answer)

    def forget(self, worker: int) -> None:
        """A worker's stream does not wait any more."""
        waiter = self._waiters.pop(worker, None)
        if waiter is not None:
            waiter.future.cancel()


def done(answer: ReplyFrame) -> Awaitable[ReplyFrame]:
    """An answer that is there at once."""
    future: asyncio.Future[ReplyFrame] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future


def _summary(settled: SettledRound) -> str:
    if settled.code != OK:
        return settled.text
    summary = f"round {settled.round} closed, epoch {settled.epoch}: peers {list(settled.contributors)}"
    return f"{summary} in {settled.seconds:.3f} s" + (f", without workers {settled.missed}" if settled.missed else "")


def _about(settled: SettledRound) -> dict[str, Any]:
    peers = settled.contributors if settled.code == OK else settled.ids
    return {"round": settled.round, "peers": peers, "code": ReplyCode.Name(settled.code)}
