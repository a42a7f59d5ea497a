"""Closing of a replayed round: the same sums in the same order, and the digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from coordinator.replay.history import Round
from coordinator.service.aggregate import digest, robust
from peers.common.summation import tree_sum
from peers.exchange.base import as_sent
from peers.method.target_selection import TargetSelection, trimmed
from peers.transport.values import Consensus
from protos.consensus_pb2 import FLOAT32
from protos.tensors import to_wire

Blocks = Mapping[int, tuple[int, ...]]
"""{peer: all peers that publish together with it}."""


@dataclass(frozen=True)
class ReplayedRound:
    """A round that closed.

    Attributes:
        round: as it was told.
        contributors: ids, ascending.
        sent: {peer: [B, D] float32} of all contributors, as they travelled.
        total, aggregate: as in `Consensus`.
        sources: {peer: whom it listens to}, for all members.
        digest: of the receipt, where a coordinator closed it; of a fixed group each worker makes its own.
    """

    round: Round
    contributors: tuple[int, ...]
    sent: Mapping[int, Tensor]
    total: Tensor | None
    aggregate: Tensor | None
    sources: Mapping[int, tuple[int, ...]]
    digest: str | None

    def consensus(self, hosted: tuple[int, ...]) -> Consensus[Tensor]:
        """What comes back to the worker of some peers."""
        mine = {peer: self.sources[peer] for peer in hosted if peer in self.sources}
        wanted = {source for drawn in mine.values() for source in drawn} - set(hosted)
        return Consensus(
            round=self.round.number,
            epoch=self.round.epoch,
            contributors=self.contributors,
            total=self.total,
            sent={peer: z for peer, z in self.sent.items() if peer in hosted},
            members={peer: z for peer, z in self.sent.items() if peer in wanted},
            sources=mine,
            aggregate=self.aggregate,
            digest=self.digest,
        )


def replay_round(
    round_: Round, outputs: Mapping[int, Tensor], hosted: Blocks, rule: TargetSelection, wire: str
) -> ReplayedRound:
    """Close a round with the outputs of those that contributed.

    Args:
        round_: as it was told; without contributors it is one of a fixed group.
        outputs: {peer: [B, D] float32}.
        hosted: peers of the workers, which add up what they publish where the rule lives on sums.
        rule: the run's.
        wire: element type of publications.
    """
    elastic = round_.contributors is not None
    sent = {peer: as_sent(outputs[peer], wire) for peer in sorted(outputs)}
    sources = {} if rule.kind == "sum" else rule.sources(round_.number, round_.members)
    total = aggregate = None
    if sent and rule.kind == "sum":
        total = _total(sent, hosted, round_.blocks) if elastic else tree_sum(_summed(sent, hosted, whole=True))
    elif sent and elastic and rule.aggregated:
        cut = trimmed(rule.q, len(sent)) if rule.name == "trimmed_mean" else None
        aggregate = torch.from_numpy(robust([z.numpy() for z in sent.values()], cut))
    one = total if total is not None else aggregate
    parts = [one] if one is not None else list(sent.values())
    total_digest = digest([to_wire(part.numpy(), FLOAT32) for part in parts]).hex() if elastic else None
    return ReplayedRound(round_, tuple(sent), sent, total, aggregate, sources, total_digest)


def _total(sent: Mapping[int, Tensor], hosted: Blocks, upstream: Blocks) -> Tensor:
    """The sum in the order of the run: in each worker, in each worker of the coordinator, in the coordinator."""
    return tree_sum(_summed(_summed(sent, hosted), upstream))


def _summed(parts: Mapping[int, Tensor], blocks: Blocks, *, whole: bool = False) -> dict[int, Tensor]:
    """Parts of one block added up, under its lowest id that is there, or (`whole`) its lowest of all."""
    together: dict[tuple[int, ...], dict[int, Tensor]] = {}
    for peer, part in parts.items():
        together.setdefault(blocks.get(peer, (peer,)), {})[peer] = part
    return {min(block if whole else some): tree_sum(some) for block, some in together.items()}
