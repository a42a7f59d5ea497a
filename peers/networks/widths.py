"""Output widths of the architectures, without torch: a coordinator needs D before any network is built."""

from __future__ import annotations

from peers.common.errors import ConfigError
from peers.config.schema import Config, NetworkConfig

_FACTORS = {
    "mlp": 1,
    "resnet18": 8,
    "resnet34": 8,
    "resnet50": 32,
    "vgg11": 8,
    "vgg11_bn": 8,
    "vgg13": 8,
    "vgg13_bn": 8,
    "vgg16": 8,
    "vgg16_bn": 8,
}


def width_of(network: NetworkConfig) -> int:
    """D of an architecture; `peers.networks.registry.output_width` finds the same by running it."""
    if network.name == "convnet":
        return network.width * min(1 << min(network.depth - 1, 3), 8)
    if network.name == "densenet121":
        return _densenet121(network.width, network.width // 2)
    return network.width * _FACTORS[network.name]


def common_width(config: Config) -> int:
    """The D that all networks of a configuration have in common.

    Raises:
        ConfigError: they differ.
    """
    widths = {network: width_of(network) for network in config.network}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{network.name}: {width}" for network, width in widths.items())
        raise ConfigError(f"the outputs of all peers must have the same width D, but they have: {found}")
    return next(iter(widths.values()))


def _densenet121(features: int, growth: int) -> int:
    for layers in (6, 12, 24):
        features = (features + layers * growth) // 2
    return features + 16 * growth
