"""What a worker tells a coordinator of itself, and what comes back: values of numpy arrays and plain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from peers.common.errors import ExchangeError
from protos.consensus_pb2 import ReplyCode
from protos.tensors import Float32


@dataclass(frozen=True)
class PeerWish:
    """What one peer asks for when its worker joins.

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
    """What a worker says of itself when it joins.

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
class Admission:
    """Membership as the coordinator gave it.

    Attributes:
        peers: ids of the hosted peers, in the order of the wishes.
        incarnations: theirs; higher than any that the ids had before.
        first_round: the round that is open for them now.
        epoch: membership epoch that it opened with.
        members: ids of all peers of that round, ascending.
        heartbeat, round_deadline, join_window: the three times, seconds.
    """

    peers: tuple[int, ...]
    incarnations: tuple[int, ...]
    first_round: int
    epoch: int
    members: tuple[int, ...]
    heartbeat: float
    round_deadline: float
    join_window: float


@dataclass(frozen=True)
class RoundResult:
    """A round that closed.

    Attributes:
        round: its number.
        epoch: membership epoch that it opened with.
        contributors: ids of the peers whose outputs are in it, ascending.
        group: ids of the peers that it opened with, ascending: `Rule.sources(round, group)` is its draw.
        total: [B, D] float32, sum of the contributors' outputs; None where the rule needs no sum.
        aggregate: [B, D] float32, median or trimmed mean over the contributors; None for other rules.
        members: {peer: [B, D] float32}, outputs of others that the hosted peers' draws ask for.
        sent: {peer: [B, D] float32}, the hosted peers' own outputs as they were sent; without those that abstained.
        digest: 16 bytes, the receipt's: XXH3-128 of the total or aggregate, else of all contributions by id.
        leaving: contributors that take their leave after this round.
        next_round: the round that follows.
    """

    round: int
    epoch: int
    contributors: tuple[int, ...]
    group: tuple[int, ...]
    total: Float32 | None
    aggregate: Float32 | None
    members: Mapping[int, Float32]
    sent: Mapping[int, Float32]
    digest: bytes
    leaving: frozenset[int]
    next_round: int

    @property
    def count(self) -> int:
        """Number of contributors."""
        return len(self.contributors)


@dataclass(frozen=True)
class Void:
    """The round is void for all, for a reason; skip the step and go on with `next_round`."""

    round: int
    reason: str
    next_round: int


@dataclass(frozen=True)
class Late:
    """The round closed without this worker; skip the step and go on with `next_round`."""

    round: int
    next_round: int


@dataclass(frozen=True)
class Expelled:
    """The worker is no member any more, for a reason; it may join again, as new incarnations."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The run is over, for a reason; "complete" after its last round."""

    reason: str


Outcome: TypeAlias = RoundResult | Void | Late | Expelled | Ended


class RefusedError(ExchangeError):
    """The coordinator refused a request or a publication.

    Attributes:
        code: why, as the wire says it.
        text: why, as the coordinator put it.
    """

    def __init__(self, code: ReplyCode, text: str) -> None:
        known = code in ReplyCode.values()  # a coordinator of another version may have more of them
        super().__init__(f"{ReplyCode.Name(code) if known else f'reply code {int(code)}'}: {text}")
        self.code, self.text = code, text


class NoAnswerError(ExchangeError):
    """Nothing came within the time that was given; `result` may be called again.

    Attributes:
        address: of the coordinator.
    """

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(f"no answer of {address} within {seconds:.1f} s: look at its status")
        self.address = address
