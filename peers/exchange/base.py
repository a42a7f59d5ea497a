"""Exchange: how a worker trades its peers' outputs for the consensus of its group, whatever carries them.

A worker hosts one peer or several; it speaks for all of them at once, so that they share one stream and may be summed
before they travel. The order of calls is fixed:

    join(hello) -> Ticket            once; blocks until the group has formed, or raises within the join window
    publish(round, outputs, digest)  returns at once; the outputs may be reused after it returns
    Pending.result() -> Outcome      once for each publish, before the next publish: Consensus | Missed | RunEnded
    leave(reports) -> reports        once, last; gives every member's report that this exchange can see
    close()                          any time, any number of times; releases sockets and threads, raises nothing

An exchange belongs to one thread. It never changes what it was given. Consensus tensors are the caller's to read, not
to write: peers of one worker share them. Sums are float32 in an order fixed by peer ids (`tree_sum`), so that every
implementation arrives at the same bits.

Failures are `peers.common.errors.ExchangeError`s: after one the exchange is spent, only `close` may follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import xxhash
from torch import Tensor

from peers.common.errors import DisagreementError
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus, Missed, RunEnded, Ticket

WIRES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
"""Element types that publications may have on their way."""

Report = dict[str, Any]
"""A JSON value that a peer leaves behind: its probes, counts and paths."""


@dataclass(frozen=True)
class Hello:
    """What a worker says of itself when it joins.

    Attributes:
        peers: ids of the peers that it hosts, ascending; in elastic groups, the ids that it wishes for.
        group: number of peers of the whole group.
        shape: (B, D) of the outputs.
        agreed: what all members must have in common, by name: configuration digest, data fingerprint, rounds.
        saved: for each peer the rounds of which it holds a checkpoint; round 0, the initialization, is implied.
        rule: what the group's target rule asks of the exchange.
        wire: "float32" or "bf16", publications as they travel.
    """

    peers: tuple[int, ...]
    group: int
    shape: tuple[int, int]
    agreed: Mapping[str, str]
    saved: Mapping[int, tuple[int, ...]]
    rule: TargetSelection
    wire: str = "float32"


@dataclass(frozen=True)
class Receipt:
    """What was closed: equal for every member of the round, or the round was void.

    Attributes:
        digest: XXH3-128 of the total's bytes; where no total was asked for, of the outputs that this worker has
            sent and seen, by ascending id, so that workers differ in it.
    """

    round: int
    epoch: int
    contributors: tuple[int, ...]
    digest: str


def receipt_of(consensus: Consensus[Tensor]) -> Receipt:
    """The receipt of a round; where the exchange has made no digest, the total is copied to the host for it."""
    digest = consensus.digest
    if digest is None:
        seen = {**consensus.members, **consensus.sent}
        parts = [consensus.total] if consensus.total is not None else [seen[peer] for peer in sorted(seen)]
        state = xxhash.xxh3_128()
        for part in parts:
            state.update(part.detach().cpu().contiguous().numpy().data)
        digest = state.hexdigest()
    return Receipt(consensus.round, consensus.epoch, consensus.contributors, digest)


Outcome: TypeAlias = Consensus[Tensor] | Missed | RunEnded


class Pending(ABC):
    """A publication under way."""

    @abstractmethod
    def result(self, timeout: float | None = None) -> Outcome:
        """Wait for the round to close.

        Args:
            timeout: seconds; by default the round deadline.

        Raises:
            DisagreementError: members published different batches.
            ExchangeError: a member was lost, or the round did not close in time.
        """


class Exchange(ABC):
    """One worker's view of its group; see the module for the order of calls."""

    elastic = False
    """Whether the group goes on without a member that leaves."""

    @abstractmethod
    def join(self, hello: Hello) -> Ticket:
        """Form the group.

        Raises:
            DisagreementError: members differ in what all must have in common; names the peers and both values.
            ExchangeError: the group did not form within the join window.
        """

    @abstractmethod
    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """Hand in the outputs of the hosted peers.

        Args:
            round_: number of the round.
            outputs: {peer: [B, D] float32}, for each hosted peer; None abstains (its outputs were not finite).
            digest: 16 bytes, the batch digest: the same for all members, or the round is refused.
            leaving: this worker leaves after this round.
        """

    @abstractmethod
    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """Leave the group with the final report of each hosted peer.

        Returns:
            the reports of all members, as far as this exchange can see them.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything; safe to call at any time and more than once."""


def as_sent(outputs: Tensor, wire: str) -> Tensor:
    """Outputs [B, D] as the others will read them, float32: rounded where the wire is narrower. Never an alias."""
    if wire == "float32":
        return outputs.detach().to(torch.float32, copy=True)
    return outputs.detach().to(WIRES[wire]).to(torch.float32)


def agree(hellos: Sequence[Hello], worker: int) -> Ticket:
    """What a group of fixed members agrees on, from the hellos of all its workers, for one of them.

    Raises:
        DisagreementError: names the peers that differ, and both values.
    """
    first = hellos[0]
    for other in hellos[1:]:
        _compare(first, other)
    members = sorted(peer for hello in hellos for peer in hello.peers)
    if members != list(range(first.group)):
        raise DisagreementError(
            f"the group has {first.group} peers, but its workers host {members}: start as many workers as "
            f"group.peers / group.peers_per_worker, each with its own rank"
        )
    saved = [set(rounds) | {0} for hello in hellos for rounds in hello.saved.values()]
    newest = max(set.intersection(*saved)) if saved else 0
    return Ticket(tuple(members), newest, 1, dict.fromkeys(hellos[worker].peers, 0))


def check_digests(round_: int, digests: Mapping[tuple[int, ...], bytes]) -> None:
    """Refuse a round whose members saw different batches.

    Args:
        round_: number of the round.
        digests: {hosted peers: batch digest}, one entry for each worker.

    Raises:
        DisagreementError: names two workers' peers and both digests.
    """
    (first, expected), *others = sorted(digests.items())
    for peers, digest in others:
        if digest != expected:
            raise DisagreementError(
                f"round {round_}: peers {list(first)} and {list(peers)} saw different batches: digests "
                f"{expected.hex()} and {digest.hex()}; start all workers with the same data, seed and batch size"
            )


def _compare(one: Hello, two: Hello) -> None:
    facts = [
        ("output shape [B, D]", one.shape, two.shape),
        ("group size", one.group, two.group),
        ("wire dtype", one.wire, two.wire),
        ("target rule", one.rule, two.rule),
        *((name, one.agreed.get(name), two.agreed.get(name)) for name in sorted({*one.agreed, *two.agreed})),
    ]
    for name, left, right in facts:
        if left != right:
            raise DisagreementError(
                f"peers {list(one.peers)} and {list(two.peers)} differ in {name}: {left} and {right}; "
                f"start all workers with the same configuration, data and version"
            )
