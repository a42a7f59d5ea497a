"""Values of the exchange: what a worker says of itself when it joins, and what comes back for each round.

Every exchange speaks in these values. The array type `A` is `torch.Tensor` above the exchange, and a numpy array
between a worker and a coordinator: nothing here imports torch, or gRPC. Arrays [B, D] in them are for reading only,
since the peers of one worker share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class PeerWish:
    """What one peer asks for when its worker joins a coordinator's group.

    Attributes:
        index: the id it would like, or None for the lowest free one.
        incarnation: one above the last it remembers of itself; it gets this one or a higher one.
        saved: rounds of which it holds a checkpoint; round 0, the initialization, is implied.
        absent: a relay wishes for a place that nobody holds yet.
    """

    index: int | None = None
    incarnation: int = 0
    saved: tuple[int, ...] = ()
    absent: bool = False


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself when it joins a coordinator's group.

    Attributes:
        run_id: the run that it was started for.
        peers: one wish for each hosted peer.
        shape: (B, D) of the outputs.
        rule: name of the target rule.
        wire: float32, bf16 or float16: publications as they travel.
        agreed: what all members must have in common, by name: configuration digest, data fingerprint.
        insist: wait for the wished ids while others hold them, up to the join window, instead of taking others.
        name: for the coordinator's log and status.
        window: seconds to try to reach the coordinator and, while it is being reached, to get in.
    """

    run_id: str
    peers: tuple[PeerWish, ...]
    shape: tuple[int, int]
    rule: str = "mean"
    wire: str = "float32"
    agreed: Mapping[str, str] = field(default_factory=dict)
    insist: bool = False
    name: str = ""
    window: float = 60.0


@dataclass(frozen=True)
class Ticket:
    """Membership as the group gave it: who is in it, and where it begins.

    Attributes:
        members: ids of all members of the first round, ascending.
        first_round: the round to begin with. In a fixed group it is the newest that all have saved (0: nobody, or not
            all); in an elastic one it is the round that is open.
        epoch: membership epoch; grows whenever a peer joins or leaves.
        incarnations: the worker's own peers, {peer: how often this id has begun anew}; in elastic groups their ids may
            be others than it wished for.
    """

    members: tuple[int, ...]
    first_round: int
    epoch: int
    incarnations: Mapping[int, int]

    @property
    def peers(self) -> tuple[int, ...]:
        """Ids of the worker's own peers, in the order in which it asked for them."""
        return tuple(self.incarnations)


@dataclass(frozen=True)
class Consensus(Generic[A]):
    """The result of a round that closed with this worker's publication.

    Attributes:
        round: its number.
        epoch: membership epoch that it opened with.
        contributors: ids of the peers whose outputs are in it, ascending.
        total: [B, D] float32, sum of the contributors' outputs as they were sent; None where the rule needs no sum.
        sent: the caller's own outputs as they were sent, {peer: [B, D] float32}; without those that abstained.
        members: others' outputs that the rule asked for and that contributed, {peer: [B, D] float32}.
        sources: whom each hosted peer listens to in this round, by the rule's draw; empty for rules on the sum.
        leaving: ids of peers that take their leave after this round.
        aggregate: [B, D] float32, the group's median or trimmed mean where the exchange computed it once for all;
            None elsewhere.
        digest: of the receipt, hexadecimal, where the exchange has made it already.
        group: ids of the peers that the round opened with, ascending, where a coordinator says so.
    """

    round: int
    epoch: int
    contributors: tuple[int, ...]
    total: A | None
    sent: Mapping[int, A]
    members: Mapping[int, A] = field(default_factory=dict)
    sources: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    leaving: frozenset[int] = frozenset()
    aggregate: A | None = None
    digest: str | None = None
    group: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of contributors."""
        return len(self.contributors)

    @property
    def next_round(self) -> int:
        """The round to go on with."""
        return self.round + 1

    def converted(self, convert: Callable[[A], B], sources: Mapping[int, tuple[int, ...]]) -> Consensus[B]:
        """The same result with arrays of another type, and with the sources of the hosted peers."""
        return Consensus(
            round=self.round,
            epoch=self.epoch,
            contributors=self.contributors,
            total=None if self.total is None else convert(self.total),
            sent={peer: convert(values) for peer, values in self.sent.items()},
            members={peer: convert(values) for peer, values in self.members.items()},
            sources=sources,
            leaving=self.leaving,
            aggregate=None if self.aggregate is None else convert(self.aggregate),
            digest=self.digest,
            group=self.group,
        )


@dataclass(frozen=True)
class Missed:
    """The round closed without this worker, or was void for all: its peers skip the step. Elastic groups only.

    Attributes:
        round: its number.
        reason: "late", "void" or "expelled"; after the last the worker has joined again, as new incarnations.
        text: what happened, for the user.
        next_round: the round to go on with.
    """

    round: int
    reason: str
    text: str
    next_round: int


@dataclass(frozen=True)
class Expelled:
    """The worker is no member any more; it may join again, as new incarnations. Elastic groups only.

    Attributes:
        text: why, for the user.
    """

    text: str


@dataclass(frozen=True)
class RunEnded:
    """The run is over for this worker. Elastic groups only.

    Attributes:
        text: why, for the user; "complete" after the last round.
    """

    text: str
