"""Sums do not depend on arrival, medians are medians, receipts are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from coordinator.service.aggregate import Aggregator, PeerTensor, SumTree, robust
from coordinator.service.rounds import Publication, SettledRound
from peers.common.summation import tree_sum
from peers.method.target_selection import TargetSelection, trimmed
from peers.method.targets import median, trimmed_mean
from protos.consensus_pb2 import AGGREGATE, BFLOAT16, FLOAT32, MEMBERS, OK, TOTAL, WireDtype
from protos.tensors import Float32, from_wire, to_wire

BATCH = b"b" * 16
ids = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)


def outputs(peer: int, shape: tuple[int, int] = (3, 5)) -> Float32:
    """Of very different sizes, so that the order of addition shows."""
    return (np.random.default_rng(peer).standard_normal(shape) * 10.0 ** (peer % 7)).astype(np.float32)


def reference(peers: list[int]) -> bytes:
    """The definition: `tree_sum` over torch tensors."""
    return tree_sum({peer: torch.from_numpy(outputs(peer)) for peer in peers}).numpy().tobytes()


@given(everybody=ids, data=st.data())
def test_sums_are_those_of_the_definition_to_the_bit(everybody: list[int], data: st.DataObject) -> None:
    """In any order of arrival, with any of the ids missing, the total has the bits of `tree_sum`."""
    there = data.draw(st.lists(st.sampled_from(everybody), unique=True))
    tree = SumTree(everybody)
    before = {peer: outputs(peer) for peer in there}
    for peer in data.draw(st.permutations(there)):
        tree.add(peer, before[peer])
    total = tree.finish()
    assert (total is None) == (not there)
    if total is not None:
        assert total.tobytes() == reference(there)
    assert all(np.array_equal(before[peer], outputs(peer)) for peer in there), "inputs were written to"


@given(everybody=ids, data=st.data())
def test_the_last_addition_is_made_in_the_room_that_is_given(everybody: list[int], data: st.DataObject) -> None:
    """Once at most, and never before: nothing else is written there, and the bits are the same."""
    there = data.draw(st.lists(st.sampled_from(everybody), unique=True))
    memory, asked = np.zeros((3, 5), np.float32), list[int]()

    def room() -> Float32:
        asked.append(len(added))
        return memory

    tree, added = SumTree(everybody, room), list[int]()
    for peer in data.draw(st.permutations(there)):
        added.append(peer)
        tree.add(peer, outputs(peer), ours=data.draw(st.booleans()))
    total = tree.finish()
    assert asked in ([], [len(there)])
    assert (total is memory) == bool(asked)
    assert bool(asked) or not memory.any()
    assert total is None if not there else total is not None and total.tobytes() == reference(there)
    if set(there) == set(everybody) and len(there) > 1:
        assert asked, "nobody is missing: there is a last addition of two sides"


@given(blocks=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True), data=st.data())
def test_partial_sums_of_aligned_blocks_change_no_bit(blocks: list[int], data: st.DataObject) -> None:
    """Workers that host aligned pairs and add them first arrive at the total of single peers."""
    pairs = [(2 * block, 2 * block + 1) for block in blocks]
    tree = SumTree([peer for pair in pairs for peer in pair])
    for low, high in data.draw(st.permutations(pairs)):
        tree.add(low, outputs(low) + outputs(high))
        tree.skip([high])
    total = tree.finish()
    assert total is not None
    assert total.tobytes() == reference([peer for pair in pairs for peer in pair])


@given(count=st.integers(1, 9), q=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.49]))
def test_robust_means_are_those_of_the_definition(count: int, q: float) -> None:
    """The bits that peers would arrive at alone, from everybody's outputs."""
    values = [outputs(peer) for peer in range(count)]
    tensors = [torch.from_numpy(item) for item in values]
    assert robust(values, None).tobytes() == median(tensors).numpy().tobytes()
    assert robust(values, trimmed(q, count)).tobytes() == trimmed_mean(tensors, q).numpy().tobytes()


def test_large_medians_are_made_in_slices() -> None:
    """Beyond one slice the result is that of the whole."""
    values = [outputs(peer, (300, 1000)) for peer in range(3)]
    assert np.array_equal(robust(values, None), np.median(np.stack(values), axis=0))


def settled(peers: tuple[int, ...]) -> SettledRound:
    """Round 4 of workers that host the peer of their own number."""
    return SettledRound(4, 1, {p: (p,) for p in peers}, OK, "", BATCH, dict.fromkeys(peers, OK), {}, peers)


def block(peer: int, dtype: WireDtype = FLOAT32) -> PeerTensor:
    """One peer's outputs as they arrive."""
    data = bytes(to_wire(outputs(peer), dtype))
    return PeerTensor(peer, dtype, data, from_wire(data, dtype, 3, 5))


def collected(name: str, *blocks: PeerTensor, batch: bytes = BATCH) -> Aggregator:
    """A round of peers 0, 1, 2 that has these blocks."""
    aggregator = Aggregator(TargetSelection(name, 0, q=0.34), (0, 1, 2))
    for item in blocks:
        aggregator.add(Publication(item.peer, 4, 1, batch, (item.peer,)), [item])
    return aggregator


def test_another_batch_is_never_added() -> None:
    """A publication of another batch, even the first to come, leaves the total as it would be without it."""
    aggregator = collected("mean", block(2), batch=b"x" * 16)
    for peer in (0, 1):
        aggregator.add(Publication(peer, 4, 1, BATCH, (peer,)), [block(peer)])
    outcome = aggregator.finish(settled((0, 1)))
    assert outcome.content == TOTAL
    assert outcome.tensors[-1] == reference([0, 1])
    assert outcome.digest == xxhash.xxh3_128_digest(reference([0, 1]))


def test_members_outputs_are_passed_on_as_they_were_sent() -> None:
    """bfloat16 stays bfloat16 where all sent it; the receipt is over all of them as float32, by id."""
    outcome = collected("roles", block(2, BFLOAT16), block(0, BFLOAT16)).finish(settled((0, 2)))
    assert (outcome.content, outcome.dtype) == (MEMBERS, BFLOAT16)
    assert outcome.tensors == {0: block(0, BFLOAT16).data, 2: block(2, BFLOAT16).data}
    whole = b"".join(block(peer, BFLOAT16).values.tobytes() for peer in (0, 2))
    assert outcome.digest == xxhash.xxh3_128_digest(whole)


def test_mixed_types_are_passed_on_as_float32() -> None:
    """Where peers sent different types, all get float32 of the same values."""
    outcome = collected("roles", block(0, BFLOAT16), block(1)).finish(settled((0, 1)))
    assert outcome.dtype == FLOAT32
    assert bytes(outcome.tensors[0]) == block(0, BFLOAT16).values.tobytes()


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_robust_rules_are_computed_once_over_all(name: str) -> None:
    """Three contributors: the median, and the mean without one at each end, are both the middle value."""
    outcome = collected(name, *(block(peer) for peer in range(3))).finish(settled((0, 1, 2)))
    assert outcome.content == AGGREGATE
    middle = np.median(np.stack([outputs(peer) for peer in range(3)]), axis=0)
    assert outcome.tensors[-1] == middle.astype(np.float32).tobytes()
