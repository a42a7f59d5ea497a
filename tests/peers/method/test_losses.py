"""The leave-one-out mean and the losses are what their definitions say: value, gradient and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peers.config.schema import ConsensusConfig
from peers.exchange.base import as_sent
from peers.method.losses import cosine_loss, kl_loss, leave_one_out, loss, mse_loss, standardized_mse_loss

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_loss,
    "mse": mse_loss,
    "standardized_mse": standardized_mse_loss,
    "kl": kl_loss,
}
SHAPES = [(2, 1), (2, 3), (5, 4), (33, 17)]
EXAMPLES = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values of a standard normal distribution, drawn in double precision, then rounded."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reference(name: str, z: Tensor, target: Tensor, temperature: float = 1.0) -> float:
    """The losses from their definitions: loops over rows and dimensions, in double precision."""
    rows, goals = z.double().tolist(), target.double().tolist()
    if name == "cosine":
        return math.fsum(_one_minus_cosine(a, b) for a, b in zip(rows, goals, strict=True)) / len(rows)
    if name == "kl":
        return math.fsum(_divergence(a, b, temperature) for a, b in zip(rows, goals, strict=True)) / len(rows)
    if name == "standardized_mse":
        rows, goals = _standardized(rows), _standardized(goals)
    squares = [(a - b) ** 2 for row, goal in zip(rows, goals, strict=True) for a, b in zip(row, goal, strict=True)]
    return math.fsum(squares) / len(squares)


def _one_minus_cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def _divergence(z: list[float], t: list[float], temperature: float) -> float:
    """KL(softmax(t) || softmax(z)) in nats."""
    p, q = ([math.exp(v / temperature) for v in row] for row in (t, z))
    return math.fsum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))


def _standardized(rows: list[list[float]]) -> list[list[float]]:
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((v - mean) ** 2 for v in column) / len(column)
        columns.append([(v - mean) / math.sqrt(variance + 1e-8) for v in column])
    return [list(row) for row in zip(*columns, strict=True)]


def slope(name: str, z: Tensor, target: Tensor, step: float = 1e-5) -> Tensor:
    """Gradient of the reference by central differences, [B, D] float64."""
    gradient = torch.zeros_like(z, dtype=torch.float64)
    for place in np.ndindex(*z.shape):
        up, down = z.double().clone(), z.double().clone()
        up[place] += step
        down[place] -= step
        gradient[place] = (reference(name, up, target) - reference(name, down, target)) / (2 * step)
    return gradient


@pytest.mark.parametrize("wire", ["float32", "bf16"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_leave_one_out_is_the_mean_of_the_others(count: int, wire: str) -> None:
    """For each peer, (S - z_i) / (n - 1) is the mean of what the other n - 1 sent."""
    sent = [as_sent(normal(7 * count + i, 16, 5, dtype=torch.float32), wire) for i in range(count)]
    total = torch.stack(sent).sum(dim=0)
    for i in range(count):
        others = np.mean([sent[j].double().numpy() for j in range(count) if j != i], axis=0)
        np.testing.assert_allclose(leave_one_out(total, sent[i], count).numpy(), others, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_a_lone_peer_has_no_leave_one_out_mean(count: int) -> None:
    """With fewer than two contributors there is an error that names their number, not a division by zero."""
    own = normal(0, 4, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=rf"2 contributors or more, got {count}"):
        leave_one_out(own, own, count)


def test_leave_one_out_leaves_its_arguments_alone() -> None:
    """Peers of one worker share the total, so it is not written to."""
    total, own = normal(1, 4, 3), normal(2, 4, 3)
    before = total.clone(), own.clone()
    leave_one_out(total, own, 3)
    assert torch.equal(total, before[0])
    assert torch.equal(own, before[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_definition(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Every loss has the value of the loops above."""
    z, target = normal(3, *shape, dtype=dtype), normal(4, *shape, dtype=dtype)
    expected = reference(name, z, target)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    assert LOSSES[name](z, target).item() == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_target_as_rounded_by_the_wire_counts(name: str) -> None:
    """With a bf16 publication as target the loss is the definition's for the rounded values."""
    z, target = normal(5, 9, 6, dtype=torch.float32), as_sent(normal(6, 9, 6, dtype=torch.float32), "bf16")
    assert not torch.equal(target, normal(6, 9, 6, dtype=torch.float32))
    assert LOSSES[name](z, target).item() == pytest.approx(reference(name, z, target), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 4.0])
def test_kl_divides_both_by_its_temperature(temperature: float) -> None:
    """The temperature stands under outputs and target, and no factor stands before the loss."""
    z, target = normal(7, 6, 5), normal(8, 6, 5)
    assert kl_loss(z, target, temperature).item() == pytest.approx(reference("kl", z, target, temperature), rel=1e-9)


def test_values_worked_out_by_hand() -> None:
    """Small cases: a right angle, a difference of (1, 2), swapped columns, and KL((1/2, 1/2) || (9/10, 1/10))."""
    assert cosine_loss(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])).item() == 0.5
    assert mse_loss(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).item() == 2.5
    opposite = standardized_mse_loss(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [-5.0]]))
    assert opposite.item() == pytest.approx(4.0, abs=1e-6)
    even, uneven = (torch.tensor([p], dtype=torch.float64).log() for p in ([0.5, 0.5], [0.9, 0.1]))
    assert kl_loss(uneven, even).item() == pytest.approx(0.5 * math.log(25 / 9), rel=1e-12)
    assert kl_loss(even, uneven).item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name: str) -> None:
    """Autograd agrees with the function's own finite differences, in double precision."""
    z, target = normal(9, 6, 4).requires_grad_(), normal(10, 6, 4)
    assert torch.autograd.gradcheck(lambda outputs: LOSSES[name](outputs, target), z)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_definition(name: str) -> None:
    """In float32, as in training, the gradient is the slope of the reference."""
    z, target = normal(11, 6, 4, dtype=torch.float32).requires_grad_(), normal(12, 6, 4, dtype=torch.float32)
    (gradient,) = torch.autograd.grad(LOSSES[name](z, target), z)
    torch.testing.assert_close(gradient.double(), slope(name, z.detach(), target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_target_carries_no_gradient(name: str) -> None:
    """Nothing flows into the target, even where it was made from the outputs themselves."""
    z, other = normal(13, 5, 3).requires_grad_(), normal(14, 5, 3).requires_grad_()
    target = 0.5 * z + other
    (through,) = torch.autograd.grad(LOSSES[name](z, target), z)
    (constant,) = torch.autograd.grad(LOSSES[name](z, target.detach()), z)
    assert torch.equal(through, constant)
    assert torch.autograd.grad(LOSSES[name](z, target), other, allow_unused=True)[0] is None


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_configured_loss_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """Whatever the outputs come in, the named loss is a scalar of float32 over their values."""
    z, target = normal(15, 8, 4, dtype=dtype).requires_grad_(), normal(16, 8, 4, dtype=dtype)
    config = ConsensusConfig.model_validate({"loss": name, "temperature": 0.7})
    value = loss(z, target, config)
    assert (value.shape, value.dtype) == ((), torch.float32)
    assert value.item() == pytest.approx(reference(name, z.detach(), target, 0.7 if name == "kl" else 1.0), rel=1e-4)
    assert torch.autograd.grad(value, z)[0].dtype == dtype


def test_rows_of_zeros_count_as_orthogonal() -> None:
    """A row of zeros, on either side, has cosine loss 1 and no gradient that is not finite."""
    z = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    value = cosine_loss(z, torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    assert value.item() == 1.0
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()


def test_constant_dimension_counts_as_zero() -> None:
    """A dimension that is the same for all images is 0 after standardization, not a division by zero."""
    z = torch.tensor([[3.0, 1.0], [3.0, -1.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[2.0, 9.0], [-2.0, 7.0]], dtype=torch.float64)
    value = standardized_mse_loss(z, target)
    assert value.item() == pytest.approx(0.5, abs=1e-6)  # (0 - (+-1))^2 in one dimension of two, 0 in the other
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()


@EXAMPLES
@given(seed=seeds, name=st.sampled_from(sorted(LOSSES)), rows=st.integers(2, 8), width=st.integers(1, 6))
def test_order_of_the_batch_is_irrelevant(seed: int, name: str, rows: int, width: int) -> None:
    """The same permutation of both leaves every loss as it is, and no loss is negative."""
    z, target = normal(seed, rows, width), normal(seed + 1, rows, width)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    value = LOSSES[name](z, target).item()
    assert LOSSES[name](z[order], target[order]).item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert value >= -1e-12


@EXAMPLES
@given(seed=seeds, own=st.floats(1e-3, 1e3), other=st.floats(1e-3, 1e3))
def test_cosine_looks_at_directions_alone(seed: int, own: float, other: float) -> None:
    """Each row may be scaled by any positive number; an opposite target turns 1 - c into 1 + c; the range is [0, 2]."""
    z, target = normal(seed, 5, 4), normal(seed + 1, 5, 4)
    value = cosine_loss(z, target).item()
    scales = torch.linspace(1, 2, 5, dtype=torch.float64)[:, None]
    assert cosine_loss(own * scales * z, other * target / scales).item() == pytest.approx(value, abs=1e-9)
    assert cosine_loss(z, -target).item() == pytest.approx(2 - value, abs=1e-9)
    assert cosine_loss(z, own * z).item() == pytest.approx(0, abs=1e-9)
    assert -1e-12 <= value <= 2 + 1e-12


@EXAMPLES
@given(seed=seeds, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_mse_moves_and_scales_as_squares_do(seed: int, shift: float, scale: float) -> None:
    """A common shift changes nothing, a common scale enters squared, and the two sides may be swapped."""
    z, target = normal(seed, 5, 4), normal(seed + 1, 5, 4)
    value = mse_loss(z, target).item()
    assert mse_loss(z + shift, target + shift).item() == pytest.approx(value, rel=1e-6)
    assert mse_loss(scale * z, scale * target).item() == pytest.approx(scale**2 * value, rel=1e-9)
    assert mse_loss(target, z).item() == pytest.approx(value, rel=1e-12)


@EXAMPLES
@given(
    seed=seeds,
    scales=st.lists(st.floats(0.1, 100), min_size=4, max_size=4),
    shifts=st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    side=st.sampled_from(["outputs", "target"]),
)
def test_standardized_mse_ignores_affine_maps_of_dimensions(
    seed: int, scales: list[float], shifts: list[float], side: str
) -> None:
    """Each dimension of either side may be scaled by a positive number and shifted; the range is [0, 4]."""
    z, target = normal(seed, 12, 4), normal(seed + 1, 12, 4)
    scale, shift = (torch.tensor(values, dtype=torch.float64) for values in (scales, shifts))
    value = standardized_mse_loss(z, target).item()
    moved = (scale * z + shift, target) if side == "outputs" else (z, scale * target + shift)
    assert standardized_mse_loss(*moved).item() == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert standardized_mse_loss(z, scale * z + shift).item() == pytest.approx(0, abs=1e-5)
    assert 0 <= value <= 4


@EXAMPLES
@given(seed=seeds, temperature=st.floats(0.05, 20), shift=st.floats(-50, 50))
def test_kl_is_a_divergence_of_softmaxes(seed: int, temperature: float, shift: float) -> None:
    """It is never negative, 0 at equality with a gradient of 0, and blind to what is added to a whole row."""
    z, target = normal(seed, 5, 4).requires_grad_(), normal(seed + 1, 5, 4)
    value = kl_loss(z, target, temperature).item()
    assert value >= 0
    assert kl_loss(z + shift, target - shift, temperature).item() == pytest.approx(value, rel=1e-6, abs=1e-9)
    same = kl_loss(z, z.detach(), temperature)
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(same, z)[0].abs().max().item() < 1e-12


def test_kl_survives_outputs_that_are_certain() -> None:
    """Logits hundreds apart give a large finite loss, not the logarithm of zero."""
    z = torch.tensor([[400.0, -400.0]], requires_grad=True)
    value = kl_loss(z, -z.detach())
    assert value.item() == pytest.approx(800.0)
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()
