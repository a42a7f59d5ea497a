"""Connection of a relay to the coordinator above: a worker without a network, in a thread of its own.

To the coordinator above a relay is a worker that hosts the peers of all its places and publishes their partial sum.
`StreamClient` does what it does for a worker: it reconnects, beats, repeats what is under way. Requests (`relay`) come
in through a queue, one after the other; what became of each is told as a value, in the thread.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from coordinator.service.relay.client import RelayClient
from coordinator.service.relay.group import AwaitRound, JoinUpstream, PartialSum, UpstreamRequest, UpstreamRound
from coordinator.service.rounds import Participants
from coordinator.service.settings import ServiceSettings
from peers.common.errors import DisagreementError, ExchangeError
from peers.transport.access import Access
from peers.transport.client import CALL
from peers.transport.replies import Outcome, RefusedError
from peers.transport.values import Consensus, Expelled, PeerWish, RunEnded, WorkerInfo
from protos import consensus_pb2 as pb
from protos.frames import Buffer
from protos.tensors import Float32, to_wire

PARTING = 1.0
"""Seconds that an request under way has to end, when the process does."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundOpened:
    """A round is open above."""

    round: int


@dataclass(frozen=True)
class RoundClosed:
    """What became of a round that was sent in; `total`: bytes of the whole group's, with their digest."""

    closed: UpstreamRound
    total: Buffer = b""
    digest: bytes = b""


@dataclass(frozen=True)
class RunOver:
    """The run is over above, or this relay cannot go on. `member`: it has still to leave there."""

    reason: str
    member: bool


@dataclass(frozen=True)
class LeftUpstream:
    """This relay is no member above any more; last words of everybody, where they were waited for."""

    reports: Mapping[int, bytes]


@dataclass(frozen=True)
class UpstreamFailed:
    """What nobody foresaw."""

    error: Exception


UpstreamEvent: TypeAlias = RoundOpened | RoundClosed | RunOver | LeftUpstream | UpstreamFailed


class Upstream:
    """The membership above.

    Args:
        access: where the coordinator above is, and what opens it.
        settings: the relay's.
        tell: called in the thread with what became of each request.
    """

    def __init__(self, access: Access, settings: ServiceSettings, tell: Callable[[UpstreamEvent], None]) -> None:
        self.address = access.address
        self._settings = settings
        self._tell = tell
        self._client = RelayClient(access, shared=settings.shared_memory)
        self._requests: queue.SimpleQueue[Callable[[], UpstreamEvent] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay-upstream", daemon=True)

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def close(self) -> None:
        """Stop without a word to the coordinator above, as a worker that is killed; any number of times."""
        self._closing.set()
        self._requests.put(None)
        self._client.cancel()
        if self._thread.ident is not None:
            self._thread.join(PARTING)
            self._client.close()  # a call that waits for others' last words ends with its channel
            self._thread.join(CALL)
        self._client.close()

    def absent(self, ids: tuple[int, ...]) -> None:
        """These places nobody holds now; goes up with the next heartbeat."""
        self._client.absent = ids

    def send(
        self,
        request: UpstreamRequest,
        *,
        total: Float32 | None = None,
        agreed: Mapping[str, str] | None = None,
        reports: Mapping[int, bytes] | None = None,
    ) -> None:
        """Have something done above.

        Args:
            request: what.
            total: with PartialSum, the sum of those that contribute.
            agreed: with JoinUpstream, what all members must have in common.
            reports: with Part, last words of this relay's peers.
        """
        if isinstance(request, JoinUpstream):
            self._requests.put(lambda: self._enter(request, agreed or {}))
        elif isinstance(request, AwaitRound):
            self._requests.put(lambda: self._ended(self._client.opening()))
        elif isinstance(request, PartialSum):
            self._requests.put(lambda: self._send_partial_sum(request, total))
        else:
            self._requests.put(lambda: self._part(reports or {}))

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                event = request()
            except ExchangeError as exc:
                event = RunOver(f"{exc}", member=False)
            except Exception as exc:  # sent to the loop, which ends the process with it
                event = UpstreamFailed(exc)
            if self._closing.is_set():
                return
            self._tell(event)

    def _enter(self, request: JoinUpstream, agreed: Mapping[str, str]) -> UpstreamEvent:
        settings, places = self._settings, self._settings.ids
        self._client.absent = request.absent
        wishes = tuple(PeerWish(peer, 0, request.saved, peer in request.absent) for peer in places)
        name = f"relay of peers {places.start} to {places.stop - 1}"
        info = WorkerInfo(
            settings.run_id,
            wishes,
            settings.shape,
            settings.rule.name,
            agreed=agreed,
            insist=True,
            name=name,
            window=settings.join_window,
        )
        try:
            admission = self._client.join(info)
        except RefusedError as exc:
            if exc.code == pb.EXPELLED:
                return LeftUpstream({})
            if exc.code == pb.ENDED:
                return RunOver(exc.text, member=False)
            raise
        if admission.peers != tuple(places):
            raise ExchangeError(
                f"the coordinator at {self.address} has no places for the {name}: it takes ids below its max_peers; "
                f"give it more, or the relay fewer"
            )
        logger.info("%s is a member above, at %s, from round %d on", name, self.address, admission.first_round)
        return RoundOpened(admission.first_round)

    def _ended(self, outcome: Outcome | int) -> UpstreamEvent:
        """What waiting for a round gave."""
        if isinstance(outcome, int):
            return RoundOpened(outcome)
        if isinstance(outcome, RunEnded):
            return RunOver(outcome.text, member=True)
        logger.warning("the group above has this relay no more: %s", outcome)
        return LeftUpstream({})

    def _send_partial_sum(self, partial: PartialSum, total: Float32 | None) -> UpstreamEvent:
        self._client.send_partial_sum(partial, total)
        try:
            return self._judged(partial.round, self._client.result())
        except DisagreementError as exc:
            return self._answered(UpstreamRound(partial.round, pb.BATCH_MISMATCH, str(exc)))
        except RefusedError as exc:
            if not partial.peers:
                raise
            logger.error("the coordinator above refuses this relay's sum, its peers abstain: %s", exc)
            abstains = tuple(sorted((*partial.peers, *partial.abstains)))
            return self._send_partial_sum(replace(partial, peers=(), abstains=abstains), None)

    def _judged(self, round_: int, outcome: Outcome) -> UpstreamEvent:
        if isinstance(outcome, Consensus):
            leaving = tuple(sorted(outcome.leaving))
            participants = Participants(outcome.epoch, outcome.contributors, outcome.group, leaving)
            assert outcome.total is not None  # noqa: S101  # a relay joins with a rule that lives on sums
            total = to_wire(outcome.total, pb.FLOAT32)
            assert outcome.digest is not None  # noqa: S101  # every coordinator gives one
            return self._answered(
                UpstreamRound(round_, pb.OK, participants=participants), total, bytes.fromhex(outcome.digest)
            )
        if isinstance(outcome, RunEnded):
            return RunOver(outcome.text, member=True)
        if isinstance(outcome, Expelled):
            text = f"round {round_} went on above without this relay: {outcome.text}"
            return RoundClosed(UpstreamRound(round_, pb.EXPELLED, text))
        if outcome.reason == "void":
            return self._answered(UpstreamRound(round_, pb.VOID, outcome.text))
        return self._answered(
            UpstreamRound(round_, pb.LATE, f"round {round_} closed above without this relay: it was late")
        )

    def _answered(self, closed: UpstreamRound, total: Buffer = b"", digest: bytes = b"") -> RoundClosed:
        following = self._client.following
        closed = replace(closed, following=following.round, is_open=following.epoch > 0)
        return RoundClosed(closed, total, digest)

    def _part(self, reports: Mapping[int, bytes]) -> UpstreamEvent:
        """Leave; more last words than one message may have go first, in messages of their own."""
        *before, last = batches(reports, self._settings.report_bytes)
        wait = self._settings.join_window if any(map(json.loads, reports.values())) else 0.0
        try:
            for some in before:
                self._client.report(some)
            return LeftUpstream(self._client.leave(last, wait))
        except ExchangeError as exc:
            logger.warning("left the group above without a word: %s", exc)
            return LeftUpstream({})


def batches(reports: Mapping[int, bytes], size: int) -> Iterator[Mapping[int, bytes]]:
    """Last words in messages of at most `size` bytes, or of one report; at least one message."""
    some: dict[int, bytes] = {}
    for peer, report in sorted(reports.items()):
        if some and sum(map(len, some.values())) + len(report) > size:
            yield some
            some = {}
        some[peer] = report
    yield some
