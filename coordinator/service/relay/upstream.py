"""A relay's side of the coordinator above: a worker without a network, in a thread of its own.

To the coordinator above a relay is a worker that hosts the peers of all its places and publishes their partial sum.
`StreamClient` does what it does for a worker: it reconnects, beats, repeats what is under way. Errands (`relay`) come
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
from peers.common.errors import ConfigError, DisagreementError, ExchangeError
from peers.transport.access import Access
from peers.transport.client import CALL
from peers.transport.replies import Outcome, RefusedError
from peers.transport.values import Consensus, Expelled, PeerWish, RunEnded, WorkerInfo
from protos import consensus_pb2 as pb
from protos.frames import Buffer
from protos.tensors import Float32, to_wire

PARTING = 1.0
"""Seconds that an errand under way has to end, when the process does."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundOpened:
    """A round is open above."""

    round: int


@dataclass(frozen=True)
class RoundClosed:
    """What became of a round that was handed in; `total`: bytes of the whole group's, with their digest."""

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
        tell: called in the thread with what became of each errand.
    """

    def __init__(self, access: Access, settings: ServiceSettings, tell: Callable[[UpstreamEvent], None]) -> None:
        self.address = access.address
        self._settings = settings
        self._tell = tell
        self._client = RelayClient(access, shared=settings.shared_memory)
        self._errands: queue.SimpleQueue[Callable[[], UpstreamEvent] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay-upstream", daemon=True)

    def start(self) -> None:
        """Begin to take errands."""
        self._thread.start()

    def close(self) -> None:
        """Stop without a word to the coordinator above, as a worker that is killed; any number of times."""
        self._closing.set()
        self._errands.put(None)
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
        errand: UpstreamRequest,
        *,
        total: Float32 | None = None,
        agreed: Mapping[str, str] | None = None,
        reports: Mapping[int, bytes] | None = None,
    ) -> None:
        """Have something done above.

        Args:
            errand: what.
            total: with PartialSum, the sum of those that contribute.
            agreed: with JoinUpstream, what all members must have in common.
            reports: with Part, last words of this relay's peers.
        """
        if isinstance(errand, JoinUpstream):
            self._errands.put(lambda: self._enter(errand, agreed or {}))
        elif isinstance(errand, AwaitRound):
            self._errands.put(lambda: self._ended(self._client.opening()))
        elif isinstance(errand, PartialSum):
            self._errands.put(lambda: self._hand_in(errand, total))
        else:
            self._errands.put(lambda: self._part(reports or {}))

    def _run(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                told = errand()
            except ExchangeError as exc:
                told = RunOver(f"{exc}", member=False)
            except Exception as exc:  # handed to the loop, which ends the process with it
                told = UpstreamFailed(exc)
            if self._closing.is_set():
                return
            self._tell(told)

    def _enter(self, errand: JoinUpstream, agreed: Mapping[str, str]) -> UpstreamEvent:
        it, places = self._settings, self._settings.ids
        self._client.absent = errand.absent
        wishes = tuple(PeerWish(peer, 0, errand.saved, peer in errand.absent) for peer in places)
        name = f"relay of peers {places.start} to {places.stop - 1}"
        info = WorkerInfo(
            it.run_id,
            wishes,
            it.shape,
            it.rule.name,
            agreed=agreed,
            insist=True,
            name=name,
            window=it.join_window,
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

    def _hand_in(self, collected: PartialSum, total: Float32 | None) -> UpstreamEvent:
        self._client.hand_in(collected, total)
        try:
            return self._judged(collected.round, self._client.result())
        except DisagreementError as exc:
            return self._answered(UpstreamRound(collected.round, pb.BATCH_MISMATCH, str(exc)))
        except RefusedError as exc:
            if not collected.peers:
                raise
            logger.error("the coordinator above refuses this relay's sum, its peers abstain: %s", exc)
            abstains = tuple(sorted((*collected.peers, *collected.abstains)))
            return self._hand_in(replace(collected, peers=(), abstains=abstains), None)

    def _judged(self, round_: int, outcome: Outcome) -> UpstreamEvent:
        if isinstance(outcome, Consensus):
            leaving = tuple(sorted(outcome.leaving))
            whole = Participants(outcome.epoch, outcome.contributors, outcome.group, leaving)
            assert outcome.total is not None  # noqa: S101  # a relay joins with a rule that lives on sums
            total = to_wire(outcome.total, pb.FLOAT32)
            assert outcome.digest is not None  # noqa: S101  # every coordinator gives one
            return self._answered(UpstreamRound(round_, pb.OK, whole=whole), total, bytes.fromhex(outcome.digest))
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


def below(settings: ServiceSettings, access: Access) -> ServiceSettings:
    """A relay's settings, with the times that the coordinator above leaves it; asks there.

    Its group is its places. It collects for half of the time that the coordinator above waits, so that what it hands
    up is never late because a peer of its own was.

    Args:
        settings: as for a coordinator of the whole group, with `places`.
        access: to the coordinator above.

    Raises:
        ConfigError: no places, places beyond the group, or times that contradict those above.
        DisagreementError: the coordinator above runs another run.
        ExchangeError: it cannot be reached within the join window.
    """
    if settings.places is None:
        raise ConfigError(f"a relay of {access.address} needs the ids that it answers for: --peers FIRST-LAST")
    first, last = settings.places
    if last >= settings.group:
        raise ConfigError(
            f"the relay's peers are {first} to {last}, the group has {settings.group}, from 0 on: give ids that the "
            f"whole group has (group.peers)"
        )
    client = RelayClient(access, shared=False)
    try:
        above = client.look(settings.join_window)
    finally:
        client.close()
    if (above.run_id, above.rounds) != (settings.run_id, settings.rounds):
        raise DisagreementError(
            f"the coordinator at {access.address} has run {above.run_id!r} of {above.rounds} rounds, this relay was "
            f"started for {settings.run_id!r} of {settings.rounds}: start all of a tree with the same configuration"
        )
    deadline, places = above.round_deadline / 2, last - first + 1
    if deadline < settings.heartbeat or settings.join_window < above.round_deadline:
        raise ConfigError(
            f"the coordinator at {access.address} waits {above.round_deadline} s for a round, a relay half of that for "
            f"its own peers, {deadline} s: expected heartbeat (here {settings.heartbeat} s) to be at most that long, "
            f"and join_window (here {settings.join_window} s) at least {above.round_deadline} s"
        )
    block = 1 << (places - 1).bit_length()
    if first % block or (places < block and last < settings.group - 1):
        logger.warning(
            "peers %d to %d are no aligned block of 2^m ids: totals differ from a flat group's in their last bits",
            first,
            last,
        )
    return replace(settings, group=places, max_peers=places, min_peers=1, round_deadline=deadline)
