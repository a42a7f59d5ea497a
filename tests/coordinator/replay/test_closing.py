"""A round that is closed again has the bits that whoever closed it first gave to its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordinator.replay.closing import replay_round
from coordinator.replay.history import Round
from coordinator.service.aggregate import Aggregator, PeerTensor
from coordinator.service.rounds import Publication, SettledRound
from peers.common.summation import tree_sum
from peers.exchange.base import receipt_of
from peers.method.target_selection import TargetSelection
from protos.consensus_pb2 import FLOAT32, OK
from protos.tensors import NAMES, Float32, as_sent, from_wire, to_wire
from tests.coordinator.service.settled import BATCH
from tests.peers.groups import exchanged

SHAPE = (4, 6)
PEERS = st.sets(st.integers(0, 20), min_size=1, max_size=9)


def outputs_of(peers: Sequence[int], seed: int) -> dict[int, Float32]:
    """[B, D] of each peer, of very different sizes: the order in which they are added shows in the last bits."""
    dice = np.random.default_rng(seed)
    return {
        peer: (dice.standard_normal(SHAPE) * 10.0 ** dice.integers(-3, 4)).astype(np.float32) for peer in sorted(peers)
    }


def shared_out(peers: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """The peers in blocks of these sizes, in turn."""
    left, blocks, turn = sorted(peers), list[tuple[int, ...]](), 0
    while left:
        size = sizes[turn % len(sizes)]
        blocks.append(tuple(left[:size]))
        left, turn = left[size:], turn + 1
    return blocks


def of_peers(blocks: Sequence[tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """{peer: its block}."""
    return {peer: block for block in blocks for peer in block}


def collected(
    workers: Sequence[tuple[int, ...]], parts: Mapping[int, Float32], rule: TargetSelection, wire: str
) -> Aggregator:
    """What a coordinator has collected from workers, each with what it published; `parts` leave out who abstained."""
    ids = sorted(peer for worker in workers for peer in worker)
    aggregator = Aggregator(rule, ids)
    for number, worker in enumerate(workers):
        here = {peer: parts[peer] for peer in worker if peer in parts}
        rest = tuple(peer for peer in worker if peer not in parts)
        one = rule.kind == "sum" and len(here) > 1
        sums = {min(here): tree_sum(here)} if one else here
        dtype = FLOAT32 if one else NAMES[wire]
        blocks = [
            PeerTensor(peer, dtype, data, from_wire(data, dtype, *SHAPE))
            for peer, data in ((peer, bytes(to_wire(values, dtype))) for peer, values in sums.items())
        ]
        aggregator.add(Publication(number, 7, 1, BATCH, tuple(here), rest), blocks)
    return aggregator


@pytest.mark.parametrize("wire", ["float32", "bf16", "float16"])
@given(
    peers=PEERS, silent=st.sets(st.integers(0, 20)), sizes=st.lists(st.integers(1, 4), min_size=1), seed=st.integers(0)
)
def test_sums_of_workers(wire: str, peers: set[int], silent: set[int], sizes: list[int], seed: int) -> None:
    """Workers with any number of peers, some of which abstain: the coordinator's total and digest."""
    contributors = sorted(peers - silent) or sorted(peers)
    outputs = outputs_of(contributors, seed)
    workers = shared_out(sorted(peers), sizes)
    parts = {peer: as_sent(values, NAMES[wire]) for peer, values in outputs.items()}
    rule = TargetSelection("mean", 3)
    outcome = collected(workers, parts, rule, wire).finish(settled(workers, contributors))
    round_ = Round(7, 1, tuple(sorted(peers)), tuple(contributors), blocks=of_peers(workers))
    closed = replay_round(round_, tensors(outputs), of_peers(workers), rule, wire)
    assert closed.digest == outcome.digest.hex()
    assert closed.total is not None
    assert closed.total.numpy().tobytes() == bytes(outcome.tensors[-1])


@given(peers=PEERS, sizes=st.lists(st.integers(1, 3), min_size=1), relays=st.integers(1, 5), seed=st.integers(0))
def test_sums_below_relays(peers: set[int], sizes: list[int], relays: int, seed: int) -> None:
    """A relay adds up its workers' sums, whatever their ids: the total that its own coordinator has."""
    outputs = outputs_of(sorted(peers), seed)
    workers = shared_out(sorted(peers), sizes)
    below = [workers[at : at + relays] for at in range(0, len(workers), relays)]
    rule, top = TargetSelection("mean", 3), dict[int, Float32]()
    for some in below:
        partial = collected(some, outputs, rule, "float32").partial(BATCH)
        assert partial is not None
        top[min(peer for worker in some for peer in worker)] = partial
    blocks = of_peers([tuple(peer for worker in some for peer in worker) for some in below])
    round_ = Round(7, 1, tuple(sorted(peers)), tuple(sorted(peers)), blocks=blocks)
    closed = replay_round(round_, tensors(outputs), of_peers(workers), rule, "float32")
    assert closed.total is not None
    assert closed.total.numpy().tobytes() == tree_sum(top).tobytes()


@pytest.mark.parametrize(
    "rule", [TargetSelection("median", 3), TargetSelection("trimmed_mean", 3, q=0.3), TargetSelection("random_peer", 3)]
)
@given(peers=PEERS, seed=st.integers(0))
def test_rules_on_members(rule: TargetSelection, peers: set[int], seed: int) -> None:
    """Medians, trimmed means, and the digest over all outputs where each peer listens to others."""
    outputs, ids = outputs_of(sorted(peers), seed), sorted(peers)
    workers = [(peer,) for peer in ids]
    parts = {peer: as_sent(values, NAMES["bf16"]) for peer, values in outputs.items()}
    outcome = collected(workers, parts, rule, "bf16").finish(settled(workers, ids))
    closed = replay_round(Round(7, 1, tuple(ids), tuple(ids)), tensors(outputs), of_peers(workers), rule, "bf16")
    assert closed.digest == outcome.digest.hex()
    if closed.aggregate is not None:
        assert closed.aggregate.numpy().tobytes() == bytes(outcome.tensors[-1])
    else:
        consensus = closed.consensus((ids[0],))
        assert dict(consensus.sources) == {ids[0]: rule.sources(7, ids)[ids[0]]}
        assert set(consensus.members) == set(consensus.sources[ids[0]]) - {ids[0]}


@pytest.mark.parametrize("name", ["mean", "neighbours", "median"])
def test_a_fixed_group(name: str) -> None:
    """What the exchange of a fixed group gives to each peer, with one that abstains: the same receipt for each."""
    rule, outputs = TargetSelection(name, 3, k=2), outputs_of(range(4), 5)
    outputs.pop(2)
    seen = exchanged({**tensors(outputs), 2: None}, rule, wire="bf16", round_=7)
    closed = replay_round(
        Round(7, 1, (0, 1, 2, 3)), tensors(outputs), dict.fromkeys(range(4), (0, 1, 2, 3)), rule, "bf16"
    )
    again = closed.consensus((0, 1, 2, 3))
    assert {receipt_of(consensus) for consensus in seen.values()} == {receipt_of(again)}
    assert dict(again.sources) == dict(seen[0].sources)


def settled(workers: Sequence[tuple[int, ...]], contributors: Sequence[int]) -> SettledRound:
    """The round as the machine settles it."""
    return SettledRound(7, 1, dict(enumerate(workers)), OK, "", BATCH, {}, {}, tuple(contributors))


def tensors(outputs: Mapping[int, Float32]) -> dict[int, torch.Tensor]:
    """Outputs as peers make them."""
    return {peer: torch.from_numpy(values) for peer, values in outputs.items()}
