"""Membership of the group: who joins, who is a member, who is expelled. Pure: the clock comes as `now`.

Secrets come as hashes. The unit is the worker: a process that hosts one peer or several. It is

    joining    from Join until a round opens while its stream stands
    member     from then on
    gone       expelled, or left; its bearer stays known for a while, so that it can be told

A worker is expelled when it was not heard of for `heartbeat` seconds, when its stream was down for as long (that is the
grace to reconnect), after `max_refused` refused publications in a row, and after `max_missed` rounds in a row that
ended without it. The epoch grows whenever a member comes or goes. A peer id is given again once its worker is gone,
always with a higher incarnation than any it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protos.consensus_pb2 import GROUP_FULL, INDEX_HELD, ReplyCode

REMEMBERED = 1024
"""Workers that are gone and whose bearers are still known."""


@dataclass(frozen=True)
class PeerRequest:
    """What one peer asks for: an id (or None), and an incarnation above its last. `saved`: rounds with checkpoints.

    `absent`: the id is to be kept free: no peer holds it yet.
    """

    index: int | None = None
    incarnation: int = 0
    saved: tuple[int, ...] = ()
    absent: bool = False


@dataclass
class WorkerRecord:
    """One membership.

    Attributes:
        number: never used twice in a run.
        bearer: hash of the secret that speaks for it.
        request: what made its Join recognizable, hexadecimal.
        peers: hosted peer ids, in the order of its wishes.
        incarnations: theirs.
        saved: rounds that all of its peers hold a checkpoint of.
        member: whether it has seen a round open.
        heard: when it was last heard of.
        down: since when its stream is down; None while it stands.
        absent: hosted ids that are kept free: no peer holds them now, they count for nothing.
    """

    number: int
    name: str
    bearer: str
    request: str
    peers: tuple[int, ...]
    incarnations: tuple[int, ...]
    saved: tuple[int, ...]
    joined: float
    heard: float
    down: float | None
    member: bool = False
    rounds: int = 0
    missed: int = 0
    missed_in_row: int = 0
    refused: int = 0
    refused_in_row: int = 0
    waited_for: float = 0.0
    absent: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """A JSON object; times are left out, for another process's clock knows nothing of them."""
        kept = dict(vars(self))  # not deeply: this is done for everybody whenever somebody comes or goes
        for name in ("joined", "heard", "down"):
            del kept[name]
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any], now: float) -> WorkerRecord:
        """The worker as it was kept: just heard of, its stream down."""
        lists = {name: tuple(kept.get(name, ())) for name in ("peers", "incarnations", "saved", "absent")}
        return cls(**{**kept, **lists}, joined=now, heard=now, down=now)


@dataclass(frozen=True)
class DepartedWorker:
    """A worker that is no member any more.

    Attributes:
        reason: why, one sentence.
        left: it went by its own wish, and may still hand in its report.
    """

    number: int
    bearer: str
    peers: tuple[int, ...]
    reason: str
    left: bool


@dataclass
class Membership:
    """All memberships of a run.

    Args:
        heartbeat: seconds of silence, or of a stream that is down, after which a worker is expelled.
        ids: peer ids that are given; as many peers at a time.
        max_refused: refused publications in a row that expel.
        max_missed: rounds in a row that ended without a member's publication and expel it.
    """

    heartbeat: float
    ids: range
    max_refused: int = 3
    max_missed: int = 3
    epoch: int = 0
    workers: dict[int, WorkerRecord] = field(default_factory=dict)
    gone: dict[int, DepartedWorker] = field(default_factory=dict)
    incarnations: dict[int, int] = field(default_factory=dict)
    numbers: int = 0
    version: int = 0
    """Grows whenever something changes that must survive: who is there, their ids and bearers."""

    def members(self) -> dict[int, tuple[int, ...]]:
        """{worker: hosted peers, ascending} of all members."""
        return {worker.number: tuple(sorted(worker.peers)) for worker in self.workers.values() if worker.member}

    def ready(self) -> list[WorkerRecord]:
        """Newcomers whose stream stands."""
        return [worker for worker in self.workers.values() if not worker.member and worker.down is None]

    def peers(self, *, member: bool = False) -> int:
        """Number of peers of members; and of newcomers that are ready, unless only members are asked for."""
        workers = [item for item in self.workers.values() if item.member]
        asked = workers if member else [*workers, *self.ready()]
        return sum(len(worker.peers) - len(worker.absent) for worker in asked)

    def absent(self) -> frozenset[int]:
        """Ids of members that no peer holds now."""
        return frozenset(peer for worker in self.workers.values() if worker.member for peer in worker.absent)

    def known(self, bearer: str) -> WorkerRecord | DepartedWorker | None:
        """Whom the hash of a bearer speaks for."""
        everybody: tuple[WorkerRecord | DepartedWorker, ...] = (*self.workers.values(), *self.gone.values())
        return next((worker for worker in everybody if worker.bearer == bearer), None)

    def join(
        self, wishes: Sequence[PeerRequest], *, name: str, bearer: str, request: str, insist: bool, now: float
    ) -> WorkerRecord | tuple[ReplyCode, str]:
        """Take in a newcomer; the same `request` again gets the same worker, under the new bearer.

        Returns:
            the worker, or a code and a sentence why not.
        """
        earlier = next((worker for worker in self.workers.values() if worker.request == request), None)
        if earlier is not None:
            earlier.bearer, earlier.heard = bearer, now
            self.version += 1
            return earlier
        held = {peer for worker in self.workers.values() for peer in worker.peers}
        if len(held) + len(wishes) > len(self.ids):
            text = f"the group has {len(held)} of at most {len(self.ids)} peers, {len(wishes)} more do not fit"
            return GROUP_FULL, text
        wished = [wish.index for wish in wishes if wish.index is not None]
        taken = sorted(held.intersection(wished))
        if insist and taken:
            text = f"peers {taken} are held by living members; a silent one is gone after {self.heartbeat} s"
            return INDEX_HELD, text
        peers = self._choose(wishes, held)
        self.numbers += 1
        worker = WorkerRecord(
            number=self.numbers,
            name=name,
            bearer=bearer,
            request=request,
            peers=peers,
            incarnations=tuple(self._incarnate(peer, wish) for peer, wish in zip(peers, wishes, strict=True)),
            saved=tuple(sorted(set.intersection(*({0, *wish.saved} for wish in wishes)))),
            joined=now,
            heard=now,
            down=now,
            absent=tuple(peer for peer, wish in zip(peers, wishes, strict=True) if wish.absent),
        )
        self.workers[worker.number] = worker
        self.version += 1
        return worker

    def _choose(self, wishes: Sequence[PeerRequest], held: set[int]) -> tuple[int, ...]:
        """Ids for the wishes: the wished one if it is free and one of the group's, otherwise the lowest free one."""
        ids, taken = self.ids, set(held)
        given: list[int | None] = []
        for wish in wishes:
            free = wish.index if wish.index in ids and wish.index not in taken else None
            given.append(free)
            taken.update(() if free is None else (free,))
        spare = iter(peer for peer in ids if peer not in taken)
        return tuple(next(spare) if peer is None else peer for peer in given)

    def _incarnate(self, peer: int, wish: PeerRequest) -> int:
        self.incarnations[peer] = max(self.incarnations.get(peer, -1) + 1, wish.incarnation)
        return self.incarnations[peer]

    def attach(self, number: int, now: float) -> None:
        """A worker's stream stands."""
        worker = self.workers[number]
        worker.down, worker.heard = None, now

    def detach(self, number: int, now: float) -> None:
        """A worker's stream broke; the grace begins."""
        worker = self.workers.get(number)
        if worker is not None and worker.down is None:
            worker.down = now

    def beat(self, number: int, now: float) -> None:
        """A worker was heard of."""
        self.workers[number].heard = now

    def admit(self) -> list[int]:
        """Make members of all newcomers that are ready; their numbers."""
        new = [worker.number for worker in self.ready()]
        for number in new:
            self.workers[number].member = True
        self.epoch += 1 if new else 0
        self.version += 1 if new else 0
        return new

    def remove(self, number: int, reason: str, *, left: bool) -> DepartedWorker:
        """Take a worker out, for a reason."""
        worker = self.workers.pop(number)
        self.epoch += 1 if worker.member else 0
        self.version += 1
        gone = DepartedWorker(worker.number, worker.bearer, worker.peers, reason, left)
        self.gone[number] = gone
        while len(self.gone) > REMEMBERED:
            del self.gone[min(self.gone)]
        return gone

    def overdue(self, now: float, *, streams: bool = True) -> dict[int, str]:
        """{worker: reason} of all that must be expelled for silence or (where `streams`) a stream that is down."""
        late: dict[int, str] = {}
        for worker in self.workers.values():
            if now - worker.heard > self.heartbeat:
                late[worker.number] = f"silent for more than {self.heartbeat} s, the heartbeat period"
            elif streams and worker.down is not None and now - worker.down > self.heartbeat:
                late[worker.number] = f"its stream was down for more than {self.heartbeat} s, the heartbeat period"
        return late

    def forgive(self, seconds: float) -> None:
        """The coordinator itself was not listening for a while: nobody's silence counts for that time."""
        for worker in self.workers.values():
            worker.heard += seconds
            worker.down = None if worker.down is None else worker.down + seconds

    def refused(self, number: int) -> str | None:
        """Count a refused publication; the reason to expel its worker, if it was one too many."""
        worker = self.workers[number]
        worker.refused += 1
        worker.refused_in_row += 1
        if worker.refused_in_row < self.max_refused:
            return None
        return f"{worker.refused_in_row} publications in a row were refused"

    def missed(self, number: int, waited: float) -> str | None:
        """Count a round that ended without a member; the reason to expel it, if it was one too many."""
        worker = self.workers[number]
        worker.missed += 1
        worker.missed_in_row += 1
        if worker.missed_in_row < self.max_missed:
            return None
        return f"{worker.missed_in_row} rounds in a row ended without it; the last waited {waited:.1f} s for it"

    def contributed(self, number: int) -> None:
        """A publication of a worker was accepted."""
        worker = self.workers[number]
        worker.rounds += 1
        worker.missed_in_row = worker.refused_in_row = 0
