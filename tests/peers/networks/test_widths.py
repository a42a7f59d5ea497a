"""Widths without torch are the widths that networks have."""

from __future__ import annotations

import typing

import pytest

from peers.common.errors import ConfigError
from peers.config.loading import parse
from peers.config.schema import NetworkConfig, NetworkName
from peers.networks.registry import output_width
from peers.networks.widths import common_width, width_of


@pytest.mark.parametrize("width", [16, 30, 64])
@pytest.mark.parametrize("name", typing.get_args(NetworkName))
def test_width_of_is_what_the_network_gives(name: NetworkName, width: int) -> None:
    """For every architecture; found by running it on the meta device."""
    network = NetworkConfig(name=name, width=width, depth=4)
    assert width_of(network) == output_width(network, (3, 32, 32))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 90])
def test_a_convnet_stops_widening_at_eight_times_its_width(depth: int) -> None:
    """Whatever its depth."""
    network = NetworkConfig(name="convnet", width=8, depth=depth)
    assert width_of(network) == output_width(network, (1, 16, 16))


def test_networks_of_other_widths_make_no_group() -> None:
    """The error names each with its width."""
    config = parse({"network": [{"name": "mlp", "width": 64}, {"name": "resnet18", "width": 64}]})
    with pytest.raises(ConfigError, match="mlp: 64, resnet18: 512"):
        common_width(config)
