"""Measures of how features lie, against their definitions and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coordinator.experiment.analysis.course import mean, means, measure
from coordinator.experiment.analysis.geometry import alignment, centred, linear_cka, seen_from, spectrum, uniformity
from peers.probes.collapse import disagreement, effective_rank

seeds = st.integers(0, 2**31)
light = settings(max_examples=30)


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Standard normal rows, float64, reproducible."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(columns: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(gaussian(columns, columns, seed)).Q


def reference_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA by the paper's definition: HSIC of Gram matrices that are centred by H = I - 1/n."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = (h @ z.numpy() @ z.numpy().T @ h for z in (x, y))
    return float(np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m)))


@pytest.mark.parametrize(("rows", "columns", "others"), [(40, 5, 7), (6, 20, 9), (6, 20, 3), (8, 8, 8)])
def test_cka_is_that_of_the_paper(rows: int, columns: int, others: int) -> None:
    """More images than dimensions or fewer, equal widths or not: the same as with explicit centring."""
    x, y = gaussian(rows, columns) + 3, gaussian(rows, others, 1).relu()
    assert linear_cka(x, y) == pytest.approx(reference_cka(x, y), abs=1e-12)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)


@light
@given(seeds, st.integers(3, 20), st.integers(1, 12), st.floats(-3, 3))
def test_cka_ignores_turns_shifts_and_scale(seed: int, rows: int, columns: int, exponent: float) -> None:
    """A network whose features are turned, moved and scaled is the same network; CKA lies in 0 .. 1."""
    x, y = gaussian(rows, columns, seed), gaussian(rows, 4, seed + 1)
    moved = (x @ turn(columns, seed) + gaussian(1, columns, seed + 2)) * 10**exponent
    assert linear_cka(x, moved) == pytest.approx(1, abs=1e-9)
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert -1e-12 <= linear_cka(x, y) <= 1 + 1e-12


def test_cka_of_disjoint_and_of_shared_directions() -> None:
    """Uncorrelated features give 0; one shared dimension of two equal ones gives 1/2."""
    a, b, c = ([1.0, 1, -1, -1], [1.0, -1, 1, -1], [1.0, -1, -1, 1])
    x, y, z = (torch.tensor(part).T for part in ([a], [b], [a, c]))
    assert linear_cka(x, y) == pytest.approx(0, abs=1e-12)
    assert linear_cka(x, z) == pytest.approx(1 / math.sqrt(2))
    assert linear_cka(torch.tensor([a, b]).T, z) == pytest.approx(1 / 2)


def test_cka_refuses_other_images_and_leaves_constants_open() -> None:
    """Features of different images cannot be compared; constant ones are like nothing, to float32's rounding."""
    with pytest.raises(ValueError, match="same images: found 4 rows and 5"):
        linear_cka(gaussian(4, 2), gaussian(5, 2))
    with pytest.raises(ValueError, match=r"\[n, D\], both at least 1: found \[4\]"):
        linear_cka(torch.ones(4), gaussian(4, 2))
    assert math.isnan(linear_cka(torch.full((5, 3), 0.1), gaussian(5, 3)))
    noisy = torch.full((5, 3), 7.0) * (1 + 1e-7 * gaussian(5, 3).float())
    assert math.isnan(linear_cka(noisy, gaussian(5, 3)))


@pytest.mark.parametrize(("rows", "columns"), [(30, 6), (6, 30), (9, 9)])
def test_the_spectrum_is_numpys(rows: int, columns: int) -> None:
    """Singular values of the centred features, as shares of the largest."""
    z = gaussian(rows, columns) * torch.arange(1, columns + 1) + 5
    values = np.linalg.svd(z.numpy() - z.numpy().mean(0), compute_uv=False)
    assert spectrum(z) == pytest.approx(values / values[0], abs=1e-12)
    assert spectrum(z, 3) == pytest.approx((values / values[0])[:3])
    assert spectrum(z)[0] == 1


def test_the_spectrum_of_known_directions() -> None:
    """Spread 3 along one direction and 1 along another, around any mean, is [1, 1/3]."""
    a, b = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    z = torch.outer(a, torch.tensor([3.0, 0, 0])) + torch.outer(b, torch.tensor([0, 0, 1.0])) + 100
    assert spectrum(z) == pytest.approx([1, 1 / 3, 0], abs=1e-7)


def test_the_spectrum_of_equal_and_of_broken_features() -> None:
    """Nothing varies: all 0. Not finite: all nan, and as many numbers as ever."""
    assert spectrum(torch.full((5, 3), 0.1)) == [0, 0, 0]
    assert spectrum(gaussian(1, 4)) == [0]
    broken = spectrum(torch.tensor([[math.inf, 1], [2, 3], [4, 5]]))
    assert len(broken) == 2
    assert all(math.isnan(value) for value in broken)


def test_alignment_of_known_rows() -> None:
    """Same, perpendicular and opposite directions are 0, 2 and 4 apart, whatever their lengths."""
    x, y = torch.tensor([[2.0, 0], [0, 3], [1, 1]]), torch.tensor([[5.0, 0], [1, 0], [-4, -4]])
    for row, expected in enumerate((0, 2, 4)):
        assert alignment(x[row : row + 1], y[row : row + 1]) == pytest.approx(expected, abs=1e-12)
    assert alignment(x, y) == pytest.approx(2)
    with pytest.raises(ValueError, match=r"one shape: found \[3, 2\] and \[2, 2\]"):
        alignment(x, y[:2])


@light
@given(seeds, st.integers(2, 12), st.integers(1, 6))
def test_uniformity_is_that_of_the_paper(seed: int, rows: int, columns: int) -> None:
    """The log of the mean potential over all pairs of different images, pair by pair."""
    z = gaussian(rows, columns, seed)
    u = (z / z.norm(dim=1, keepdim=True)).numpy()
    pairs = [math.exp(-2 * float(((a - b) ** 2).sum())) for a, b in itertools.combinations(u, 2)]
    assert uniformity(z) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-9)
    assert uniformity(z * 7) == pytest.approx(uniformity(z), abs=1e-9)


def test_uniformity_of_known_places() -> None:
    """One direction is 0, two opposite points are -8, one of either kind among three is in between."""
    assert uniformity(torch.tensor([[1.0, 2], [2, 4], [0.5, 1]])) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.tensor([[1.0, 0], [-3, 0]])) == pytest.approx(-8)
    three = torch.tensor([[1.0, 0], [2.0, 0], [-3, 0]])
    assert uniformity(three) == pytest.approx(math.log((1 + 2 * math.exp(-8)) / 3))
    assert math.isnan(uniformity(torch.ones(1, 3)))


def test_uniformity_of_an_even_sphere_is_the_integral() -> None:
    """Many Gaussian directions in the plane come close to the mean of exp(-4 (1 - cos)) over all angles."""
    angles = torch.arange(2000, dtype=torch.float64) * (2 * math.pi / 2000)
    expected = math.log(float(np.i0(4.0)) * math.exp(-4))
    assert uniformity(torch.stack([angles.cos(), angles.sin()], 1)) == pytest.approx(expected, abs=2e-3)


def test_what_the_neighbours_see() -> None:
    """Directions from a mean; a row at the mean has none."""
    z, mean_row = torch.tensor([[4.0, 1], [1, 5], [1, 1]]), torch.tensor([1.0, 1])
    assert seen_from(z, mean_row).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert centred(z).mean(0).tolist() == pytest.approx([0, 0])


def test_a_group_is_measured_by_its_means() -> None:
    """Over peers and over pairs of peers, each as its definition says."""
    initial = [gaussian(30, 6, seed).relu() for seed in range(3)]
    now = [0.5 * z + initial[0] for z in initial]
    moment = measure(now, initial)
    pairs = [(0, 1), (0, 2), (1, 2)]
    others = [sum(z for z in now if z is not mine) / 2 for mine in now]
    assert moment.values == pytest.approx(
        {
            "effective_rank": np.mean([effective_rank(z) for z in now]),
            "disagreement": np.mean([disagreement(z, other) for z, other in zip(now, others, strict=True)]),
            "cka_peers": np.mean([linear_cka(now[i], now[j]) for i, j in pairs]),
            "cka_initial": np.mean([linear_cka(now[i], initial[i]) for i in range(3)]),
            "alignment": np.mean([alignment(now[i], now[j]) for i, j in pairs]),
            "uniformity": np.mean([uniformity(z) for z in now]),
        },
        abs=1e-6,
    )
    assert moment.values["cka_initial"] < 1
    assert moment.spectrum == pytest.approx(np.mean([spectrum(z) for z in now], axis=0))


def test_a_lone_peer_has_no_pairs() -> None:
    """What takes two peers is nan; the rest stands."""
    z = gaussian(20, 4)
    values = measure([z], [z]).values
    missing = {name for name, value in values.items() if math.isnan(value)}
    assert missing == {"disagreement", "cka_peers", "alignment"}
    assert values["cka_initial"] == pytest.approx(1)


def test_means() -> None:
    """Column by column, nan of nothing; a missing value stays missing."""
    assert mean([1.0, 3]) == 2
    assert math.isnan(mean([]))
    assert means([[1.0, 2], [3.0, 4]]) == [2, 3]
    assert math.isnan(means([[math.nan, 2], [3.0, 4]])[0])
