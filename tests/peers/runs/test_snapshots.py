"""Snapshots: spread over the early rounds, the exact weights, damage refused by name."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peers.common.errors import CheckpointError
from peers.runs import snapshots
from peers.runs.run_folder import RunFolder


@given(st.integers(1, 50), st.integers(1, 10_000))
def test_chosen_rounds_end_with_the_last_and_are_dense_early(count: int, rounds: int) -> None:
    """At most so many, ascending, within the run; steps never shrink by more than rounding."""
    found = snapshots.chosen(count, rounds)
    assert found[-1] == rounds
    assert 1 <= len(found) <= count
    assert sorted(set(found)) == list(found)
    assert found[0] >= 1
    steps = [late - early for early, late in itertools.pairwise(found)]
    assert all(late >= early - 1 for early, late in itertools.pairwise(steps))


def test_chosen_rounds_of_a_usual_run() -> None:
    """Five of a hundred rounds, and none where none are asked for."""
    assert snapshots.chosen(5, 100) == (1, 3, 10, 32, 100)
    assert snapshots.chosen(0, 100) == ()
    assert snapshots.chosen(1, 100) == (100,)


def test_a_network_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Weights and buffers; rounds are listed in order, of each peer its own."""
    folder = RunFolder(tmp_path)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    network(torch.randn(5, 3))
    for round_ in (100, 3):
        snapshots.save(folder, 1, round_, network)
    assert snapshots.rounds(folder, 1) == [3, 100]
    assert snapshots.rounds(folder, 0) == []
    loaded = snapshots.load(folder, 1, 3)
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    """So is one that is not there."""
    folder = RunFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read the snapshot .*round-00000007\.safetensors"):
        snapshots.load(folder, 0, 7)
    folder.snapshots(0).mkdir(parents=True)
    (folder.snapshots(0) / "round-00000007.safetensors").write_bytes(b"half of i")
    with pytest.raises(CheckpointError, match=r"cannot read the snapshot .*round-00000007\.safetensors"):
        snapshots.load(folder, 0, 7)
