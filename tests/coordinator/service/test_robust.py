"""What liars can do to median and trimmed mean, wherever these are computed: nothing beyond the honest values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.service.aggregate import robust
from peers.method.target_selection import trimmed
from peers.method.targets import median, trimmed_mean
from protos.tensors import Float32

LARGEST = float(np.finfo(np.float32).max)
SHAPE = (3, 4)
honest_values = st.floats(-1e3, 1e3, width=32)
lies = st.one_of(honest_values, st.floats(-LARGEST, LARGEST, width=32), st.sampled_from([LARGEST, -LARGEST]))


def outputs(data: st.DataObject, count: int, values: st.SearchStrategy[float]) -> list[Float32]:
    """[3, 4] of each peer."""
    size = SHAPE[0] * SHAPE[1]
    drawn = (data.draw(st.lists(values, min_size=size, max_size=size)) for _ in range(count))
    return [np.array(one, np.float32).reshape(SHAPE) for one in drawn]


def among(results: list[Float32], honest: list[Float32]) -> None:
    """Each coordinate of each result lies between the honest peers' smallest and largest, up to rounding."""
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    slack = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    for result in results:
        assert np.all(result >= low - slack)
        assert np.all(result <= high + slack)


@settings(max_examples=60)
@given(count=st.integers(3, 9), data=st.data())
def test_a_minority_of_liars_cannot_pull_the_median_out_of_the_honest(count: int, data: st.DataObject) -> None:
    """Fewer than half may say anything finite, each coordinate something else, in any place."""
    liars = data.draw(st.integers(1, (count - 1) // 2))
    honest = outputs(data, count - liars, honest_values)
    everyone = data.draw(st.permutations([*honest, *outputs(data, liars, lies)]))
    among([robust(everyone, None), median([torch.from_numpy(z) for z in everyone]).numpy()], honest)


@settings(max_examples=60)
@given(count=st.integers(4, 9), q=st.sampled_from([0.125, 0.25, 0.4]), data=st.data())
def test_as_many_liars_as_are_cut_cannot_pull_the_trimmed_mean_out_of_the_honest(
    count: int, q: float, data: st.DataObject
) -> None:
    """Up to floor(q n) may say anything finite; where none is cut there is no liar here."""
    cut = trimmed(q, count)
    honest = outputs(data, count - cut, honest_values)
    everyone = data.draw(st.permutations([*honest, *outputs(data, cut, lies)]))
    among([robust(everyone, cut), trimmed_mean([torch.from_numpy(z) for z in everyone], q).numpy()], honest)


@pytest.mark.parametrize(("q", "count", "cut"), [(0.25, 8, 2), (0.25, 4, 1), (0.25, 3, 0), (0.1, 8, 0), (0.0, 8, 0)])
def test_a_trimmed_mean_that_cuts_nobody_is_a_mean(q: float, count: int, cut: int) -> None:
    """With q n below 1 a single liar has its way, as it has with the mean; the default q takes 4 peers or more."""
    everyone = [np.full(SHAPE, peer, np.float32) for peer in range(count - 1)]
    everyone.append(np.full(SHAPE, 1e6, np.float32))
    assert trimmed(q, count) == cut
    assert bool(np.all(robust(everyone, cut) > count)) == (cut == 0)


def test_half_of_the_peers_are_not_a_minority() -> None:
    """Two of four, or four of eight, decide where the median is."""
    for count in (4, 8):
        good = [np.zeros(SHAPE, np.float32)] * (count // 2)
        bad = [np.full(SHAPE, 1e6, np.float32)] * (count // 2)
        assert np.all(robust([*good, *bad], None) == 5e5)
