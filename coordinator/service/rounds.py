"""State machine of a round: when it closes, and what each publication is answered. No clock, no socket, no tensor.

A round opens with the workers of its membership epoch. It settles

    as soon as all workers that are still members have published (publishing may be to abstain), or
    `deadline` seconds after its first publication.

It closes if enough peers have published one and the same batch: `min_peers` when everybody is in, the quorum (at least
`min_peers`, and at least the share of the peers that it opened with, rounded up) at the deadline. Otherwise it is void,
for all. What was accepted stays in, even if its worker is expelled meanwhile.

One batch, proven without trusting anybody: publications are counted by the batch digest they carry, each peer one vote.
At the end the digest of more than half of the peers that published stands; workers with another one are refused by
name, with both digests, and are in no sum. So a liar cannot void a round of three. Where no digest has a majority (two
peers that disagree) nobody can tell who is right: the round is void, and all are told of the mismatch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from protos.consensus_pb2 import (
    BATCH_MISMATCH,
    DUPLICATE,
    FUTURE,
    LATE,
    OK,
    STALE,
    VOID,
    WRONG_EPOCH,
    ReplyCode,
)


class Publication(NamedTuple):
    """What a worker hands in, without its tensors.

    Attributes:
        worker: number of its membership.
        round: the round it is for.
        epoch: the membership epoch that it believes the round opened with.
        batch: batch digest.
        peers: hosted peers that contribute, ascending.
        abstains: hosted peers that do not, ascending.
        checksum: of all that it says, the id that its worker drew for it among that: tells a repetition from another
            publication. It guards against mistakes, not against forgery: all that a worker gains by giving another one
            the same id is an answer that it may have anyway; the first is in the sum.
        leaving: the worker leaves after this round.
        absent: hosted ids that are kept free: no peer holds them now.
    """

    worker: int
    round: int
    epoch: int
    batch: bytes
    peers: tuple[int, ...]
    abstains: tuple[int, ...] = ()
    checksum: int = 0
    leaving: bool = False
    absent: tuple[int, ...] = ()

    @property
    def votes(self) -> int:
        """Number of peers it speaks for; with 0 it has no say in what the batch was."""
        return len(self.peers) + len(self.abstains)


@dataclass(frozen=True)
class Participants:
    """What every member of a round is told of it, the same for all.

    Attributes:
        epoch: the membership epoch it opened with.
        contributors: peers whose outputs are in it, ascending.
        members: peers it opened with, ascending.
        leaving: contributors that take their leave.
    """

    epoch: int
    contributors: tuple[int, ...]
    members: tuple[int, ...]
    leaving: tuple[int, ...] = ()


@dataclass(frozen=True)
class SettledRound:
    """A round that is over.

    Attributes:
        round: its number.
        epoch: the membership epoch it opened with.
        members: {worker: hosted peers} that it opened with.
        code: OK where it closed, VOID or BATCH_MISMATCH where it is void.
        text: why it is void, or how the batches differed; one sentence.
        batch: the digest that stands, where it closed.
        answers: {worker: OK, or its own code} of all that published.
        published: {worker: checksum} of all that published.
        contributors: peers whose outputs are in it, ascending; empty where it is void.
        leaving: contributing workers that take their leave.
        missed: workers that were still members and had not published.
        waited: {worker: seconds that the others waited for it}, for the last to publish or those that missed.
        seconds: from its opening to its end.
        announced: what members are told instead of `participants`, where more took part than this group's own.
    """

    round: int
    epoch: int
    members: Mapping[int, tuple[int, ...]]
    code: ReplyCode
    text: str
    batch: bytes
    answers: Mapping[int, ReplyCode]
    published: Mapping[int, int]
    contributors: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    missed: tuple[int, ...] = ()
    waited: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    announced: Participants | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Peers that the round opened with, ascending."""
        return tuple(sorted(peer for peers in self.members.values() for peer in peers))

    @property
    def participants(self) -> Participants:
        """What its members are told."""
        hosted = {peer for worker in self.leaving for peer in self.members[worker]}
        leaving = tuple(peer for peer in self.contributors if peer in hosted)
        if self.announced is None:
            return Participants(self.epoch, self.contributors, self.ids, leaving)
        return replace(self.announced, leaving=tuple(sorted({*self.announced.leaving, *leaving})))

    def as_json(self) -> dict[str, Any]:
        """A JSON object."""
        kept = dict(vars(self))  # not deeply, as `asdict` would copy them: this is part of every round
        for name in ("members", "answers", "published", "waited"):
            kept[name] = sorted(kept[name].items())
        announced = kept.pop("announced")
        return {**kept, "batch": self.batch.hex(), "whole": asdict(announced) if announced else None}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> SettledRound:
        """The round as it was kept."""
        return cls(
            **{
                **{name: value for name, value in kept.items() if name != "whole"},
                "batch": bytes.fromhex(kept["batch"]),
                "members": {worker: tuple(peers) for worker, peers in kept["members"]},
                **{name: dict(kept[name]) for name in ("answers", "published", "waited")},
                **{name: tuple(kept[name]) for name in ("contributors", "leaving", "missed")},
                "announced": _participants(kept["whole"]) if kept.get("whole") else None,
            }
        )


@dataclass
class OpenRound:
    """The round that is under way."""

    round: int
    epoch: int
    members: dict[int, tuple[int, ...]]
    opened: float
    present: set[int]
    absent: frozenset[int] = frozenset()
    publications: dict[int, Publication] = field(default_factory=dict)
    arrivals: dict[int, float] = field(default_factory=dict)

    @property
    def peers(self) -> int:
        """Number of peers that it opened with and that somebody held then."""
        return sum(len(peers) for peers in self.members.values()) - len(self.absent)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Peers that it opened with, ascending; every answer names them."""
        return tuple(sorted(peer for peers in self.members.values() for peer in peers))

    @property
    def first(self) -> float | None:
        """When the first publication came; they are kept in the order in which they came."""
        return next(iter(self.arrivals.values()), None)

    @property
    def outstanding(self) -> set[int]:
        """Workers that are still members and have not published."""
        return self.present - self.publications.keys()

    @property
    def complete(self) -> bool:
        """Whether nobody is outstanding; asked after each publication, so a count answers it as long as it can."""
        return len(self.publications) >= len(self.present) and not self.outstanding


class Rounds:
    """The rounds of a run, one after the other.

    Args:
        min_peers: fewest peers that a round may close with.
        quorum: share of a round's peers that suffices at the deadline.
        deadline: seconds from the first publication.
    """

    def __init__(self, min_peers: int, quorum: float, deadline: float) -> None:
        self._min_peers = min_peers
        self._quorum = quorum
        self._deadline = deadline
        self._newest: dict[int, int] = {}
        self.current: OpenRound | None = None
        self.last: SettledRound | None = None
        self.upcoming = 0
        """Number of the open round, or of the next to open."""

    def open(
        self,
        round_: int,
        epoch: int,
        members: Mapping[int, tuple[int, ...]],
        now: float,
        absent: frozenset[int] = frozenset(),
    ) -> OpenRound:
        """Open a round for the workers of an epoch: {worker: hosted peers}; `absent`: ids that no peer holds."""
        if self.current is not None:
            raise ValueError(f"round {self.current.round} is open, round {round_} cannot be")
        self._newest = {worker: newest for worker, newest in self._newest.items() if worker in members}
        self.upcoming = round_
        self.current = OpenRound(round_, epoch, dict(members), now, set(members), absent)
        return self.current

    def remove(self, worker: int) -> None:
        """A worker is no member any more; what it published stays."""
        if self.current is not None:
            self.current.present.discard(worker)

    def quorum(self) -> int:
        """Peers that must have published when the open round reaches its deadline."""
        peers = self.current.peers if self.current else 0
        # A share such as 0.7 of 10 is 7, though the product in binary is a bit more.
        return max(self._min_peers, math.ceil(self._quorum * peers - 1e-9))

    def deadline(self) -> float | None:
        """When the open round settles at the latest; None before its first publication."""
        first = None if self.current is None else self.current.first
        return None if first is None else first + self._deadline

    def offer(self, publication: Publication, now: float) -> ReplyCode | SettledRound:
        """Take a publication of a member, or of a worker that has just left.

        Returns:
            OK: it is in, or was already (sent again); the answer comes when the round settles.
            SettledRound: it is for the last round and is answered from it (sent again).
            anything else: refused, it enters no sum.
        """
        worker, current, last = publication.worker, self.current, self.last
        if last is not None and publication.round == last.round and worker in last.published:
            return last if last.published[worker] == publication.checksum else DUPLICATE
        if current is None or publication.round != current.round or worker not in current.present:
            return self._elsewhere(publication)
        if publication.epoch != current.epoch:
            return WRONG_EPOCH
        earlier = current.publications.get(worker)
        if earlier is not None:
            return OK if earlier.checksum == publication.checksum else DUPLICATE
        current.publications[worker] = publication
        current.arrivals[worker] = now
        self._newest[worker] = publication.round
        return OK

    def _elsewhere(self, publication: Publication) -> ReplyCode:
        """The code for a round that is not open for this worker."""
        if publication.round > self.upcoming or (publication.round == self.upcoming and self.current is None):
            return FUTURE
        if publication.round == self.upcoming:
            return LATE  # open, but not for this worker: it joined or left meanwhile
        return STALE if publication.round <= self._newest.get(publication.worker, -1) else LATE

    def settle(self, now: float) -> SettledRound | None:
        """End the open round if it is due."""
        if self.current is None:
            return None
        if self.current.complete:
            return self._end(self._min_peers, now, "too few peers are left")
        deadline = self.deadline()
        if deadline is not None and now >= deadline:
            return self._end(self.quorum(), now, "too few peers published before the deadline")
        return None

    def void(self, reason: str, now: float) -> SettledRound | None:
        """End the open round without a result, whatever it has."""
        if self.current is None:
            return None
        return self._finish(self._verdict(self.current, VOID, reason, b"", now))

    def _end(self, needed: int, now: float, lack: str) -> SettledRound | None:
        current = self.current
        assert current is not None  # noqa: S101  # both callers have looked
        votes = votes_in(current)
        batch, most = standing(votes)
        if not batch and len(votes) > 1:
            return self._finish(self._verdict(current, BATCH_MISMATCH, mismatch(current), b"", now))
        if most < needed:
            text = f"round {current.round} is void: {lack}, {most} of {current.peers}, at least {needed} are needed"
            return self._finish(self._verdict(current, VOID, text, b"", now))
        verdict = self._verdict(current, OK, mismatch(current) if len(votes) > 1 else "", batch, now)
        if not verdict.contributors:
            text = f"round {current.round} is void: all of its {most} peers abstained"
            verdict = self._verdict(current, VOID, text, b"", now)
        return self._finish(verdict)

    @staticmethod
    def _verdict(current: OpenRound, code: ReplyCode, text: str, batch: bytes, now: float) -> SettledRound:
        publications = current.publications.values()
        closed = code == OK
        answers = {
            item.worker: (code if not closed or item.batch == batch or not item.votes else BATCH_MISMATCH)
            for item in publications
        }
        accepted = [item for item in publications if closed and item.batch == batch]
        return SettledRound(
            current.round,
            current.epoch,
            dict(current.members),
            code,
            text,
            batch,
            answers,
            {item.worker: item.checksum for item in publications},
            tuple(sorted(peer for item in accepted for peer in item.peers)),
            tuple(sorted(item.worker for item in publications if item.leaving)),
            tuple(sorted(current.outstanding)),
            waits(current, now),
            now - current.opened,
        )

    def _finish(self, verdict: SettledRound) -> SettledRound:
        self.last, self.current = verdict, None
        self.upcoming = verdict.round + 1
        return verdict


def mismatch(current: OpenRound) -> str:
    """One sentence that names the peers of the two most common batch digests, and both digests."""
    votes, peers = votes_in(current), dict[bytes, list[int]]()
    for item in current.publications.values():
        peers.setdefault(item.batch, []).extend((*item.peers, *item.abstains))
    digests = ", ".join(f"peers {sorted(peers[batch])} saw {batch.hex()}" for batch, _ in votes.most_common(2))
    return (
        f"round {current.round}: members saw different batches: {digests}; "
        f"start all workers with the same data, seed and batch size"
    )


def standing(votes: Counter[bytes]) -> tuple[bytes, int]:
    """The batch digest of more than half of the votes, and how many they are; an empty one where there is none."""
    batch, most = max(votes.items(), key=lambda item: item[1], default=(b"", 0))
    return (batch, most) if 2 * most > votes.total() else (b"", most)


def votes_in(current: OpenRound) -> Counter[bytes]:
    """{batch digest: peers that published it}, abstaining or not."""
    votes: Counter[bytes] = Counter()
    for item in current.publications.values():
        if item.votes:
            votes[item.batch] += item.votes
    return votes


def _participants(kept: Mapping[str, Any]) -> Participants:
    lists = {name: tuple(kept[name]) for name in ("contributors", "members", "leaving")}
    return Participants(**{**kept, **lists})


def waits(current: OpenRound, now: float) -> dict[int, float]:
    """Who made the others wait: those that never came, since the last that did; or the last, since the one before."""
    times = sorted(current.arrivals.values())
    if not times:
        return {}
    if current.outstanding:
        return dict.fromkeys(sorted(current.outstanding), now - times[-1])
    last = max(current.arrivals, key=lambda worker: current.arrivals[worker])
    return {last: times[-1] - times[-2]} if len(times) > 1 else {}
