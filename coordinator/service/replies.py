"""Replies to workers: headers and payloads, encoded once and shared by all that get the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from coordinator.service.aggregate import Aggregation
from coordinator.service.group import Group
from coordinator.service.rounds import OpenRound
from coordinator.service.settings import ServiceSettings
from peers.transport.lane import laid
from protos.consensus_pb2 import FLOAT32, LATE, MEMBERS, OK, FrameHeader, Next, Reply, ReplyCode, Result
from protos.frames import Buffer, encode, messages


@dataclass(frozen=True)
class ReplyFrame:
    """One frame for a worker.

    Attributes:
        header: as it stands on the stream.
        payload: buffers of its tensors.
        last: the stream ends after it.
        common: all who go on with the round that is open now get the same; none of those goes on without it.
    """

    header: FrameHeader
    payload: tuple[Buffer, ...] = ()
    last: bool = False
    common: bool = False

    @cached_property
    def messages(self) -> list[bytes]:
        """On the stream; the same objects for everybody who gets this answer."""
        return encode(self.header, self.payload)

    @cached_property
    def on_lane(self) -> bytes:
        """On a lane, all messages in one piece; the same object, too."""
        return laid(messages(self.header, self.payload))

    @cached_property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(map(len, self.payload))

    @cached_property
    def in_shared(self) -> list[bytes]:
        """On the stream, where the payload goes through shared memory; the same objects, too."""
        return encode(self._apart)

    @cached_property
    def in_shared_on_lane(self) -> bytes:
        """On a lane, where the payload goes through shared memory; the same object, too."""
        return laid(messages(self._apart))

    def in_broadcast_on_lane(self, generation: int) -> bytes:
        """On a lane, where the payload was laid down for all."""
        header = self._apart
        header.broadcast = generation
        return laid(messages(header))

    @property
    def _apart(self) -> FrameHeader:
        header = FrameHeader()
        header.CopyFrom(self.header)
        header.in_shared, header.payload = True, self.size
        return header


def opened(current: OpenRound) -> ReplyFrame:
    """A round is open."""
    return ReplyFrame(FrameHeader(opened=_next_of(current)))


def reply(
    code: ReplyCode, text: str, round_: int = 0, following: Next | None = None, *, last: bool = False
) -> ReplyFrame:
    """Anything that is no result."""
    return ReplyFrame(FrameHeader(reply=Reply(code=code, text=text, round=round_, next=following)), last=last)


def late(group: Group, worker: int, round_: int) -> ReplyFrame:
    """The round closed without the worker."""
    return reply(LATE, f"round {round_} closed without this publication", round_, following_of(group, worker))


def following_of(group: Group, worker: int) -> Next:
    """Which round a worker goes on with."""
    current = _goes_on_with(group, worker)
    return Next(round=group.rounds.upcoming) if current is None else _next_of(current)


def _goes_on_with(group: Group, worker: int) -> OpenRound | None:
    current = group.rounds.current
    return current if current is not None and worker in current.present else None


class RoundReplies:
    """The answers that a settled round gives; total and aggregate are one object for all workers.

    Args:
        settings: the run's.
        outcome: the round.
    """

    def __init__(self, settings: ServiceSettings, outcome: Aggregation) -> None:
        self._settings = settings
        self._outcome = outcome
        self._shared: dict[tuple[int, int], ReplyFrame] = {}

    def answer(self, group: Group, worker: int, peers: Sequence[int]) -> ReplyFrame:
        """For one worker that published, which hosts `peers`."""
        settled = self._outcome.settled
        code = settled.answers[worker]
        if code != OK:
            return reply(code, settled.text, settled.round, following_of(group, worker))
        if self._outcome.content == MEMBERS:
            return self._members(peers, following_of(group, worker))
        current = _goes_on_with(group, worker)  # one answer for those that stay, one for those that leave
        key = (group.rounds.upcoming, 0) if current is None else (current.round, current.epoch)
        if key not in self._shared:
            self._shared[key] = self._make(following_of(group, worker), [-1])
        return self._shared[key]

    def _members(self, peers: Sequence[int], following: Next) -> ReplyFrame:
        settled = self._outcome.settled
        sources = self._settings.rule.sources(settled.round, settled.ids)
        wanted = {source for peer in peers for source in sources.get(peer, ())}
        return self._make(following, sorted(wanted.intersection(settled.contributors).difference(peers)))

    def _make(self, following: Next, keys: Sequence[int]) -> ReplyFrame:
        settled, outcome = self._outcome.settled, self._outcome
        participants = settled.participants
        rows, columns = self._settings.shape
        result = Result(
            round=settled.round,
            epoch=participants.epoch,
            contributors=participants.contributors,
            members=participants.members,
            digest=outcome.digest,
            leaving=participants.leaving,
            content=outcome.content,
            peers=keys if outcome.content == MEMBERS else (),
            next=following,
        )
        header = FrameHeader(result=result, dtype=outcome.dtype or FLOAT32, rows=rows, columns=columns)
        common = outcome.content != MEMBERS and following.epoch > 0
        return ReplyFrame(header, tuple(outcome.tensors[key] for key in keys), common=common)


def _next_of(current: OpenRound) -> Next:
    return Next(round=current.round, epoch=current.epoch, members=current.ids)
