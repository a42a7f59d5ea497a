"""Target selection: which peers' outputs each peer learns from in a round, drawn by seed, in plain Python.

A draw is a pure function of (rule, run seed, round, members), so that peers and a coordinator arrive at the same one
alone, without a message and without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from peers.common.seeds import derive

if TYPE_CHECKING:
    from peers.config.schema import ConsensusConfig

Kind = Literal["sum", "members"]


@dataclass(frozen=True)
class TargetSelection:
    """What a target rule asks of the exchange.

    Attributes:
        name: a target of `ConsensusConfig`.
        seed: the run's seed.
        k: peers listened to, for neighbours.
        q: share cut from each end, for trimmed_mean.
    """

    name: str
    seed: int
    k: int = 1
    q: float = 0.25

    @classmethod
    def of(cls, consensus: ConsensusConfig, seed: int) -> TargetSelection:
        """The rule that a configuration names."""
        return cls(consensus.target, seed, consensus.k, consensus.q)

    @property
    def kind(self) -> Kind:
        """Whether the rule lives on the sum of all outputs or on some members' own outputs."""
        return "sum" if self.name in ("mean", "frozen") else "members"

    @property
    def aggregated(self) -> bool:
        """Whether a coordinator reduces the members' outputs to one tensor that all get, other than their sum."""
        return self.name in ("median", "trimmed_mean")

    def sources(self, round_: int, members: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
        """For each member, whose outputs it needs in this round.

        Args:
            round_: number of the round.
            members: ids of the group's members in this round, in any order.

        Returns:
            {member: ids of others}; an empty tuple stands still in this round. Rules that live on the sum, and a
            member alone, ask for nobody.
        """
        ids = sorted(members)
        if self.kind == "sum" or len(ids) < 2:
            return dict.fromkeys(ids, ())
        if self.name == "random_peer":
            return {i: (_pick(self.seed, round_, i, ids),) for i in ids}
        if self.aggregated:
            return {i: tuple(j for j in ids if j != i) for i in ids}
        ring = sorted(ids, key=lambda i: derive(self.seed, self.name, round_, i))
        if self.name == "neighbours":
            return _neighbours(ring, self.k)
        return _roles(ring)

    def sources_of(self, peers: Iterable[int], round_: int, members: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
        """`sources` of some peers alone; empty for rules that live on the sum."""
        if self.kind == "sum":
            return {}
        drawn = self.sources(round_, members)
        return {peer: drawn[peer] for peer in peers if peer in drawn}


def _pick(seed: int, round_: int, peer: int, ids: Sequence[int]) -> int:
    others = [j for j in ids if j != peer]
    return others[derive(seed, "random_peer", round_, peer) % len(others)]


def _neighbours(ring: Sequence[int], k: int) -> dict[int, tuple[int, ...]]:
    n, k = len(ring), min(k, len(ring) - 1)
    return {peer: tuple(ring[(place + step) % n] for step in range(1, k + 1)) for place, peer in enumerate(ring)}


def _roles(ring: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The first half are students; each has the one teacher that stands half a ring further."""
    half = len(ring) // 2
    drawn: dict[int, tuple[int, ...]] = dict.fromkeys(ring, ())
    drawn.update({ring[place]: (ring[place + half],) for place in range(half)})
    return drawn


def trimmed(q: float, count: int) -> int:
    """How many values trimmed_mean cuts at each end: floor(q * count), safe from the last bit of q; one is left."""
    return min(int(q * count + 1e-9), (count - 1) // 2)
