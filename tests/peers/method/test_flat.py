"""A network whose parameters lie in one piece is the same network, and one step for all is the step for each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from peers.method.flat import Flat


def network() -> nn.Module:
    """With convolutions, whose weights do not lie in the order of their indices, and buffers."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 7)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def states_equal(one: nn.Module, two: nn.Module) -> bool:
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def images(seed: int) -> Tensor:
    """A batch."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_network_stays_what_it_was() -> None:
    """Values, layouts, names and outputs; a copy of it has memory of its own."""
    net = network()
    before, layouts = copy.deepcopy(net), [p.stride() for p in net.parameters()]
    flat = Flat(net)
    assert states_equal(net, before)
    assert [p.stride() for p in net.parameters()] == layouts
    assert torch.equal(net(images(0)), before(images(0)))
    other = copy.deepcopy(net)
    with torch.no_grad():
        flat.values.zero_()
    assert not any(p.any() for p in net.parameters())
    assert states_equal(other, before)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_one_step_for_all_is_the_step_for_each(kind: type[torch.optim.Optimizer]) -> None:
    """Three steps of the optimizer, with weight decay."""
    net, other = network(), network()
    flat = Flat(net)
    whole = kind([flat.values], lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    each = kind(other.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    for round_ in range(3):
        flat.clear()
        net(images(round_)).square().sum().backward()
        whole.step()
        each.zero_grad()
        other(images(round_)).square().sum().backward()
        each.step()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_parameters_that_got_no_gradient_count_as_zero() -> None:
    """And gradients do not add up from one pass to the next."""
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    flat = Flat(net)
    expected = torch.cat([torch.full((6,), 3.0), torch.zeros(6)])
    for _ in range(2):
        flat.clear()
        net[0](torch.ones(3, 2)).sum().backward()
        assert torch.equal(flat.gradient, expected)
        assert flat.values.grad is flat.gradient
