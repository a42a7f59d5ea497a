"""Aggregation of a round's outputs: sums in the order of peer ids, medians, trimmed means, digests. numpy only.

Sums are float32 and do not depend on arrival: they follow a binary tree over peer ids, as `tree_sum` of
`peers.common.summation` defines it. A node is added as soon as both of its sides are complete, so most of the work is
done when the last publication comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import xxhash

from coordinator.service.rounds import Publication, SettledRound
from peers.method.target_selection import TargetSelection, trimmed
from protos.consensus_pb2 import AGGREGATE, FLOAT32, MEMBERS, TOTAL, Content, WireDtype
from protos.frames import Buffer
from protos.tensors import Float32, to_wire

SLICE = 256 * 1024
"""Elements that a median sorts at a time: bounds its extra memory and stays in the cache."""


Allocate: TypeAlias = Callable[[], Float32]


class PeerTensor(NamedTuple):
    """One tensor of a publication.

    Attributes:
        peer: whose outputs it is; of a partial sum the lowest contributing peer.
        dtype: element type as it was sent.
        data: its bytes as they were sent.
        values: [B, D] float32; may be a read-only view of `data`.
    """

    peer: int
    dtype: WireDtype
    data: Buffer
    values: Float32


@dataclass(frozen=True)
class Aggregation:
    """What a settled round gives to its members, ready to be sent and kept.

    Attributes:
        settled: the round.
        content: what `tensors` are; unspecified where the round is void.
        digest: XXH3-128 of the total or aggregate; else of all contributions, as float32, by ascending id.
        dtype: element type of the tensors.
        tensors: {peer: bytes}, for members' outputs; {-1: bytes} for a total or an aggregate.
        checksum: XXH3-128 of the tensors, one after the other, where somebody has made it.
    """

    settled: SettledRound
    content: Content = Content.CONTENT_UNSPECIFIED
    digest: bytes = b""
    dtype: WireDtype = FLOAT32
    tensors: Mapping[int, Buffer] = field(default_factory=dict)
    checksum: bytes = b""


class SumTree:
    """A sum over a binary tree of ids, added to in any order, with the same bits in the end.

    Args:
        ids: all that may come.
        room: gives memory for the sum of all, [B, D]; None adds wherever there is some.
    """

    def __init__(self, ids: Iterable[int], room: Allocate | None = None) -> None:
        self._open = set(ids)
        self._room = room
        lowest, highest = min(self._open, default=0), max(self._open, default=0)
        self._depth = highest.bit_length()
        self._top = (lowest ^ highest).bit_length()
        """Level of the last addition: the lowest with one node; 0 where nothing is added."""
        self._waiting: dict[tuple[int, int], int] = {}
        self._sides: dict[tuple[int, int], tuple[Float32, bool] | None] = {}
        nodes = self._open
        for level in range(1, self._depth + 1):
            for key in nodes:
                self._waiting[level, key >> 1] = self._waiting.get((level, key >> 1), 0) + 1
            nodes = {key >> 1 for key in nodes}
        self.total: Float32 | None = None

    def add(self, key: int, values: Float32, *, ours: bool = False) -> None:
        """An id came; `values` are not changed, unless they are `ours`: then sums may be written over them."""
        self._open.remove(key)
        self._climb(key, (values, ours))

    def skip(self, keys: Iterable[int]) -> None:
        """Ids that will not come."""
        for key in keys:
            self._open.remove(key)
            self._climb(key, None)

    def finish(self) -> Float32 | None:
        """The sum of all that came; None if nothing did."""
        self.skip(sorted(self._open))
        return self.total

    def _climb(self, key: int, side: tuple[Float32, bool] | None) -> None:
        """Carry a complete node upward, adding wherever its sibling is complete too. The flag: may be written to."""
        for level in range(1, self._depth + 1):
            above = key >> 1
            self._waiting[level, above] -= 1
            sibling = self._sides.pop((level, above), None)
            side = _join(sibling, side, self._room if level == self._top else None)
            if self._waiting[level, above]:
                self._sides[level, above] = side
                return
            key = above
        self.total = side[0] if side else None


def _join(
    one: tuple[Float32, bool] | None, two: tuple[Float32, bool] | None, room: Allocate | None
) -> tuple[Float32, bool] | None:
    if one is None or two is None:
        return one or two
    # Adding two numbers is commutative to the last bit, so it does not matter which side came first.
    out = room() if room is not None else one[0] if one[1] else two[0] if two[1] else None
    return np.add(one[0], two[0], out=out), True


class Aggregator:
    """Collects the tensors of one round. Not thread-safe: calls must follow each other.

    Args:
        rule: what the round is for.
        ids: peers that it opened with.
        room: as of `SumTree`; asked for at most once, for the round that then settles.
    """

    def __init__(self, rule: TargetSelection, ids: Sequence[int], room: Allocate | None = None) -> None:
        self._rule = rule
        self._room = room
        self._ids = tuple(ids)
        self._trees: dict[bytes, SumTree] = {}
        self._blocks: dict[int, PeerTensor] = {}

    def add(self, publication: Publication, blocks: Sequence[PeerTensor]) -> None:
        """Take an accepted publication; those of different batches are never added to each other.

        Args:
            publication: what it says.
            blocks: its tensors; values that can be written to become the aggregator's, who writes sums over them.
        """
        if self._rule.kind != "sum":
            self._blocks.update((block.peer, block) for block in blocks)
            return
        if not publication.votes:
            return
        if publication.batch not in self._trees:
            self._trees[publication.batch] = SumTree(self._ids, self._room)
        tree = self._trees[publication.batch]
        for block in blocks:
            tree.add(block.peer, block.values, ours=block.values.flags.writeable)
        others = (*publication.peers, *publication.abstains, *publication.absent)
        if len(others) > len(blocks):
            here = {block.peer for block in blocks}
            tree.skip(peer for peer in others if peer not in here)

    def partial(self, batch: bytes) -> Float32 | None:
        """The sum of what came for a batch; None if nothing did. Nothing more may be added."""
        tree = self._trees.get(batch)
        return None if tree is None else tree.finish()

    def finish(self, settled: SettledRound) -> Aggregation:
        """What the round gives, once it is settled."""
        if not settled.contributors:
            return Aggregation(settled)
        if self._rule.kind == "sum":
            return _single(settled, TOTAL, self._trees[settled.batch].finish())
        blocks = [self._blocks[peer] for peer in settled.contributors]
        if self._rule.aggregated:
            cut = trimmed(self._rule.q, len(blocks)) if self._rule.name == "trimmed_mean" else None
            return _single(settled, AGGREGATE, robust([block.values for block in blocks], cut))
        dtypes = {block.dtype for block in blocks}
        common = dtypes.pop() if len(dtypes) == 1 else FLOAT32
        tensors = {block.peer: _as(block, common) for block in blocks}
        return Aggregation(
            settled, MEMBERS, digest([to_wire(block.values, FLOAT32) for block in blocks]), common, tensors
        )


def robust(values: Sequence[Float32], cut: int | None) -> Float32:
    """Coordinate-wise median, or mean without the `cut` smallest and largest values of each coordinate.

    Args:
        values: [B, D] of each contributor.
        cut: None for the median; of an even count it is the mean of the two middle values.

    Returns:
        [B, D] float32.
    """
    out = np.empty_like(values[0])
    flat, rows = out.reshape(-1), [item.reshape(-1) for item in values]
    step = max(1, SLICE // len(rows))
    for at in range(0, flat.size, step):
        columns = np.stack([row[at : at + step] for row in rows])
        columns.sort(axis=0)
        kept = _middle(len(rows), cut)
        flat[at : at + step] = np.add.reduce(columns[kept], axis=0) / np.float32(kept.stop - kept.start)
    return out


def _middle(count: int, cut: int | None) -> slice:
    cut = (count - 1) // 2 if cut is None else cut
    return slice(cut, count - cut)


def digest(parts: Iterable[Buffer]) -> bytes:
    """XXH3-128 of bytes that follow each other: it tells totals apart, it does not stand against forgery."""
    total_digest = xxhash.xxh3_128()
    for part in parts:
        total_digest.update(part)
    return total_digest.digest()


def _single(settled: SettledRound, content: Content, values: Float32 | None) -> Aggregation:
    if values is None:
        raise ValueError(f"round {settled.round} has contributors, but none of their outputs")
    data = to_wire(values, FLOAT32)  # a view: nobody changes the values any more
    total_digest = digest([data])
    return Aggregation(settled, content, total_digest, FLOAT32, {-1: data}, total_digest)


def _as(block: PeerTensor, dtype: WireDtype) -> Buffer:
    return block.data if block.dtype == dtype else to_wire(block.values, dtype)
