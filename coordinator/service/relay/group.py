"""State machine of a relay: it collects publications here, the group above opens and closes the rounds. Pure.

A relay answers for a range of peer ids. To the coordinator above it is one worker that hosts them all; ids that nobody
holds here, or that were late, are absent from its publication and have no vote.

    OUT       not a member above             --enough peers here-->          JoinUpstream  --> ENTERING
    ENTERING  waits for a round to open      --`opened`-->                   IN
    IN        a member, in step with above   --a round is collected-->       PartialSum --> `closed`
                                             --no round is open above-->     AwaitRound  --> ENTERING
                                             --over, and everybody left-->   LeaveUpstream --> PARTING --`parted`--> OUT

Once it has formed it stays a member above, with or without peers: without any it hands in for nobody, at once.

A round that was collected stays open here until the group above has closed it, so all or nothing holds across the whole
tree: no member gets a total that was not closed above, and what is void or late above is so for everybody below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from coordinator.service.group import Group
from coordinator.service.rounds import OpenRound, Participants, Rounds, SettledRound, mismatch, standing, votes_in
from coordinator.service.settings import ServiceSettings
from protos.consensus_pb2 import BATCH_MISMATCH, EXPELLED, FORMING, LATE, OK, OVER, RUNNING, WAITING, ReplyCode

NO_BATCH = bytes(16)
"""Batch digest of a publication that speaks for nobody."""


class UpstreamState(Enum):
    """How a relay stands with the group above."""

    OUT = "out"
    ENTERING = "entering"
    IN = "in"
    PARTING = "parting"


@dataclass(frozen=True)
class JoinUpstream:
    """Join the group above. `absent`: places that nobody holds; `saved`: rounds that all the others have saved."""

    absent: tuple[int, ...]
    saved: tuple[int, ...]


@dataclass(frozen=True)
class AwaitRound:
    """Wait until a round is open above."""


@dataclass(frozen=True)
class PartialSum:
    """Publish above what was collected.

    Attributes:
        round: its number.
        batch: the digest that stands here.
        peers: whose outputs are in the sum, ascending.
        abstains: who takes part without outputs.
        absent: all other places.
    """

    round: int
    batch: bytes
    peers: tuple[int, ...]
    abstains: tuple[int, ...]
    absent: tuple[int, ...]


@dataclass(frozen=True)
class LeaveUpstream:
    """Leave the group above; the run is over."""


UpstreamRequest: TypeAlias = JoinUpstream | AwaitRound | PartialSum | LeaveUpstream


@dataclass(frozen=True)
class UpstreamRound:
    """What became of a round above.

    Attributes:
        round: its number.
        code: OK, VOID, LATE, BATCH_MISMATCH; EXPELLED where the relay is no member any more.
        text: why it is not OK, one sentence.
        participants: what all members are told, where it is OK.
        following: the round that is next above.
        is_open: whether that one is open for the relay already.
    """

    round: int
    code: ReplyCode
    text: str = ""
    participants: Participants | None = None
    following: int = 0
    is_open: bool = False


class RelayRounds(Rounds):
    """Rounds that are collected here and settle when the group above has closed them.

    Args:
        deadline: seconds from the first publication.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__(1, 1.0, deadline)
        self.collected: SettledRound | None = None
        """What this relay's members have published, once that is known."""
        self.sent = False
        self._closed: UpstreamRound | None = None

    def open(
        self,
        round_: int,
        epoch: int,
        members: Mapping[int, tuple[int, ...]],
        now: float,
        absent: frozenset[int] = frozenset(),
    ) -> OpenRound:
        """See `Rounds.open`."""
        self.collected, self.sent, self._closed = None, False, None
        return super().open(round_, epoch, members, now, absent)

    def settle(self, now: float) -> SettledRound | None:
        """Collect the open round if it is due; end it if the group above has closed it."""
        if self.current is not None and self.collected is None:
            super().settle(now)
        return None if self.current is None or self._closed is None else self._conclude(self._closed, now)

    def close(self, closed: UpstreamRound, now: float) -> None:
        """The group above has closed the open round, with or without this relay; `settle` ends it."""
        if self.current is not None:
            if self.collected is None:
                self._end(0, now, "")
            self._closed = closed

    def partial_sum(self, ids: range) -> PartialSum:
        """What is to be published above; the round is collected."""
        current, collected = self.current, self.collected
        assert current is not None  # noqa: S101  # a collected round is still open
        assert collected is not None  # noqa: S101  # see above
        self.sent = True
        included = [item for item in current.publications.values() if item.batch == collected.batch]
        abstains = tuple(sorted(peer for item in included for peer in item.abstains))
        present = {*collected.contributors, *abstains}
        absent = tuple(peer for peer in ids if peer not in present)
        return PartialSum(current.round, collected.batch or NO_BATCH, collected.contributors, abstains, absent)

    def _end(self, needed: int, now: float, lack: str) -> None:
        """Whether these suffice is for the group above to say; where two batches tie, none is sent up."""
        current = self.current
        assert current is not None  # noqa: S101  # all callers have looked
        votes = votes_in(current)
        batch, _ = standing(votes)
        tied = not batch and len(votes) > 1
        text = mismatch(current) if len(votes) > 1 else ""
        self.collected = self._verdict(current, BATCH_MISMATCH if tied else OK, text, batch, now)
        # Whoever comes now is late: parked until the next round opens, as a newcomer is.
        current.present.intersection_update(current.publications)

    def _conclude(self, closed: UpstreamRound, now: float) -> SettledRound:
        current, collected = self.current, self.collected
        assert current is not None  # noqa: S101  # `settle` has looked
        assert collected is not None  # noqa: S101  # `close` has seen to it
        ended = replace(collected, seconds=now - current.opened)
        if closed.code == OK and collected.code == OK:
            ended = replace(ended, announced=closed.participants)
        elif collected.code == OK:
            code = LATE if closed.code == EXPELLED else closed.code
            answers = dict.fromkeys(collected.answers, code)
            ended = replace(ended, code=code, text=closed.text, batch=b"", answers=answers, contributors=())
        self.last, self.current = ended, None
        self.upcoming = max(closed.following, closed.round + 1)
        return ended


class RelayGroup(Group):
    """The group of one relay; `take_requests` says what is to be done above.

    Args:
        settings: the operator's, with `peer_ids`.
        now: the clock, seconds; the join window starts here.
    """

    rounds: RelayRounds
    above = UpstreamState.OUT

    def __init__(self, settings: ServiceSettings, now: float) -> None:
        super().__init__(settings, now)
        self.rounds = RelayRounds(settings.round_deadline)
        self._requests: list[UpstreamRequest] = []
        self._next: int | None = None
        """The round that is open above and not here."""
        self._for_nobody = False
        """Whether a round was sent in that is not open here."""

    def take_requests(self) -> list[UpstreamRequest]:
        """What is to be done above, in order, since the last call."""
        requests, self._requests = self._requests, []
        return requests

    def absent(self) -> tuple[int, ...]:
        """Places that nobody holds, ascending."""
        workers = self.membership.workers.values()
        held = {peer for worker in workers for peer in worker.peers if peer not in worker.absent}
        return tuple(peer for peer in self._settings.ids if peer not in held)

    def opened(self, round_: int, now: float) -> None:
        """A round is open above, and this relay is a member of it."""
        self.above, self._next = UpstreamState.IN, round_
        current = self.rounds.current
        if current is not None and current.round != round_:
            text = f"round {current.round} went on above without this relay"
            self.rounds.close(UpstreamRound(current.round, LATE, text, following=round_), now)
        self._advance(now)

    def closed(self, closed: UpstreamRound, now: float) -> None:
        """A round that was sent in is closed above."""
        if self.phase == OVER:
            return  # its members have been told so already
        self.above, self._for_nobody = UpstreamState.OUT if closed.code == EXPELLED else UpstreamState.IN, False
        self._next = closed.following if closed.is_open else None
        self.rounds.close(closed, now)
        self._advance(now)

    def ended(self, reason: str, now: float, *, member: bool) -> None:
        """The run is over above, or this relay cannot go on; `member`: it has still to leave there."""
        if not (member and self.above is UpstreamState.PARTING):
            self.above = UpstreamState.IN if member else UpstreamState.OUT
        if self.phase != OVER:
            self._end(reason, now)
        self._advance(now)

    def parted(self, now: float) -> None:
        """This relay is no member above any more."""
        self.above, self._next = UpstreamState.OUT, None
        self._advance(now)

    def tick(self, now: float) -> None:
        """See `Group.tick`; a relay's join window is for the first peer that comes, later waits are those above."""
        for worker, reason in self.membership.overdue(now, streams=self.phase != OVER).items():
            self.expel(worker, reason)
        self._advance(now)
        if self.phase == FORMING and self.above is UpstreamState.OUT and now - self.since >= self._settings.join_window:
            self._end(f"no peer of this relay's after {self._settings.join_window} s", now)

    def restore(self, progress: Mapping[str, Any], membership: Mapping[str, Any], now: float) -> None:
        """See `Group.restore`; membership above is not kept, it is entered anew."""
        super().restore(progress, membership, now)
        self.above, self._next = UpstreamState.OUT, None

    def _advance(self, now: float) -> None:
        super()._advance(now)
        request = self._request(now)
        if request is not None:
            self._requests.append(request)

    def _request(self, now: float) -> UpstreamRequest | None:
        """What the state asks for above, if that is not under way."""
        if self.above is UpstreamState.OUT:
            if self.phase == OVER or self.membership.peers() < self._needed(now):
                return None
            self.above = UpstreamState.ENTERING
            self._describe()
            return JoinUpstream(self.absent(), self._saved())
        if self.above is not UpstreamState.IN:
            return None
        if self.phase == OVER:
            return None if self.membership.workers else self._part()
        if self.rounds.current is None:
            return None if self._for_nobody else self._without_peers()
        if self.rounds.collected is None or self.rounds.sent:
            return None
        return self.rounds.partial_sum(self._settings.ids)

    def _needed(self, now: float) -> int:
        """Peers to go up with: all, or after half of the join window any, so that the group above can still wait."""
        if self.phase != FORMING:
            return 0
        return self._settings.group if now - self.since < self._settings.join_window / 2 else 1

    def _part(self) -> LeaveUpstream:
        self.above = UpstreamState.PARTING
        return LeaveUpstream()

    def _without_peers(self) -> UpstreamRequest:
        """Without a round here: wait for one above, or let the one above go on without anybody of this relay's."""
        if self._next is None:
            self.above = UpstreamState.ENTERING
            return AwaitRound()
        round_, self._next, self._for_nobody = self._next, None, True
        return PartialSum(round_, NO_BATCH, (), (), tuple(self._settings.ids))

    def _saved(self) -> tuple[int, ...]:
        """Rounds that all peers here hold a checkpoint of, where the group begins with them."""
        if self.phase != FORMING:
            return ()
        return tuple(sorted(set.intersection(*(set(worker.saved) for worker in self.membership.workers.values()))))

    def _open(self, now: float, needed: int) -> None:
        """Open the round that is open above; without one, or without peers, the relay waits."""
        if self.above is not UpstreamState.IN or self._next is None or not self.membership.peers():
            if self.phase == RUNNING:
                self.phase, self.since = WAITING, now
            self._describe()
            return
        if self.phase != FORMING:
            self.rounds.upcoming = self._next
        super()._open(now, 1)
        self._next = None

    def _start(self) -> None:
        """The group above has decided where the run begins."""
        self.rounds.upcoming, self.rounds.last = self._next or 0, None

    def _describe(self) -> None:
        super()._describe()
        if self.phase in (FORMING, WAITING) and self.above is not UpstreamState.OUT and self.membership.peers():
            self.text = "waits for the group above to open a round"
