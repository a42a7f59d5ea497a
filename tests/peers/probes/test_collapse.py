"""Signs of collapse against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from peers.probes.collapse import deviation, disagreement, effective_rank


def reference_rank(z: Tensor) -> float:
    """RankMe by its definition, from an SVD."""
    values = torch.linalg.svdvals(z.double())
    shares = values / values.sum()
    return math.exp(-sum(p * math.log(p) for p in shares.tolist() if p > 0))


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Standard normal rows, reproducible."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (64, 16), (32, 32), (1, 8), (8, 1)])
def test_effective_rank_is_that_of_an_svd(rows: int, columns: int) -> None:
    """On wide, tall and square outputs the Gram matrix gives what singular values give."""
    z = gaussian(rows, columns).relu()
    assert effective_rank(z) == pytest.approx(reference_rank(z), rel=1e-9)


def test_effective_rank_is_that_of_an_svd_near_collapse() -> None:
    """Singular values over four orders of magnitude still count as an SVD counts them."""
    left, right = (torch.linalg.qr(gaussian(48, 48, seed).double()).Q for seed in (1, 2))
    z = left @ torch.diag(torch.logspace(0, -4, 48, dtype=torch.float64)) @ right
    assert effective_rank(z) == pytest.approx(reference_rank(z), rel=1e-6)
    assert effective_rank(z) < 20


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_effective_rank_of_orthonormal_directions_is_their_number(rank: int) -> None:
    """Equal spread in r directions is effective rank r, however many rows and columns there are."""
    basis = torch.linalg.qr(gaussian(40, rank)).Q.T
    assert effective_rank(basis) == pytest.approx(rank, rel=1e-5)
    assert effective_rank(torch.cat([basis, -basis, 0 * basis])) == pytest.approx(rank, rel=1e-5)


def test_effective_rank_of_one_direction_is_one() -> None:
    """A large batch of multiples of one vector has rank 1: rounding noise does not count as directions."""
    z = torch.outer(gaussian(1, 256)[0].double(), gaussian(1, 512, 1)[0].double())
    assert effective_rank(z) == pytest.approx(1, abs=1e-9)


def test_effective_rank_of_nothing_is_zero() -> None:
    """Outputs that are all zero have no direction at all."""
    assert effective_rank(torch.zeros(4, 8)) == 0.0


@settings(max_examples=50)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(-1, 1, width=32)),
    st.floats(-60, 60),
)
def test_effective_rank_ignores_scale_and_rotation_and_stays_in_its_bounds(values: np.ndarray, exponent: float) -> None:
    """Outputs times any factor, or turned, have the same effective rank, between 1 and min(B, D)."""
    z = torch.from_numpy(np.where(np.abs(values) < 1e-3, 0, values))
    rank = effective_rank(z)
    assert effective_rank(z * 10**exponent) == pytest.approx(rank, rel=1e-6)
    turn = torch.linalg.qr(gaussian(z.shape[1], z.shape[1]).double()).Q
    assert effective_rank(z @ turn) == pytest.approx(rank, rel=1e-5)
    if z.any():
        assert 1 - 1e-9 <= rank <= min(z.shape) + 1e-9
    else:
        assert rank == 0


@pytest.mark.parametrize("magnitude", [1e-40, 3e38, 1e-300, 1e300])
def test_effective_rank_of_extreme_outputs(magnitude: float) -> None:
    """Neither underflow nor overflow of squares changes the effective rank, in float32 and float64."""
    dtype = torch.float32 if 1e-45 < magnitude < 1e39 else torch.float64
    assert effective_rank(torch.eye(6, dtype=dtype) * magnitude) == pytest.approx(6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_give_nan(bad: float) -> None:
    """A diverged peer is recorded as nan instead of ending the record."""
    z = torch.ones(3, 4)
    z[1, 2] = bad
    assert math.isnan(effective_rank(z))
    assert math.isnan(deviation(z))
    assert math.isnan(disagreement(z, torch.ones(3, 4)))


def test_deviation_is_numpys_over_the_batch() -> None:
    """The mean over dimensions of the population deviation over images."""
    z = gaussian(32, 5) * torch.arange(5) + 100
    assert deviation(z) == pytest.approx(z.double().numpy().std(axis=0).mean(), rel=1e-12)
    assert deviation(z[:1]) == 0
    assert deviation(torch.full((7, 3), 0.1)) == pytest.approx(0, abs=1e-12)


def test_disagreement_is_the_mean_of_one_minus_cosine() -> None:
    """Same, perpendicular, opposite and zero rows give 0, 1, 2 and 1, whatever their lengths."""
    z = torch.tensor([[2.0, 0], [0, 3], [1, 1], [0, 0]])
    target = torch.tensor([[5.0, 0], [1, 0], [-4, -4], [1, 2]])
    for row, expected in enumerate((0, 1, 2, 1)):
        assert disagreement(z[row : row + 1], target[row : row + 1]) == pytest.approx(expected, abs=1e-12)
    assert disagreement(z, target) == pytest.approx(1, abs=1e-12)


def test_disagreement_refuses_other_shapes() -> None:
    """Shapes that would broadcast are an error of the caller's."""
    with pytest.raises(ValueError, match=r"one shape: found \[4, 3\] and \[1, 3\]"):
        disagreement(torch.ones(4, 3), torch.ones(1, 3))


def test_signs_are_plain_floats_without_gradients() -> None:
    """Outputs in the middle of a training step can be looked at: floats come back, nothing is changed."""
    z = gaussian(8, 4).requires_grad_()
    before = z.detach().clone()
    for value in (effective_rank(z), deviation(z), disagreement(z, z.flip(0))):
        assert type(value) is float
    assert torch.equal(z.detach(), before)
    assert z.grad is None
