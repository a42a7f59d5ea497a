"""Backbones: from images [B, C, H, W] to pooled features [B, D], without a classifier, projector or predictor.

No layer in front of a norm has a bias: batch norm takes it out again, so its gradient is rounding noise, which Adam
would scale up to full steps. torchvision's `vgg*_bn` have such biases; ours do not.

    name             layers                                                            D
    mlp              depth x (Linear, norm, ReLU)                                      width
    convnet          depth x (3x3 convolution, norm, ReLU, max-pool while it fits)     width x min(2^(depth - 1), 8)
    resnet18 / 34    He et al. 2016, torchvision's blocks                              8 x width
    resnet50         the same with bottlenecks                                         32 x width
    vgg*, vgg*_bn    Simonyan & Zisserman 2015, torchvision's features                 8 x width
    densenet121      Huang et al. 2017, torchvision's, growth rate width // 2          16 x width (for even widths)

With the default width of 64 the torchvision networks are torchvision's, down to the names of their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from peers.common.errors import ConfigError
from peers.common.seeds import torch_generator
from peers.config.schema import NetworkConfig
from peers.networks.initialize import initialize
from peers.networks.widths import width_of

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


def build(config: NetworkConfig, shape: Shape, *, seed: int, peer: int, incarnation: int = 0) -> nn.Module:
    """A peer's network as it is born: on the CPU, float32, in training mode.

    Args:
        config: the architecture.
        shape: of an image, (C, H, W).
        seed: the run's seed.
        peer: the peer's id.
        incarnation: counts the peer's fresh starts; each begins with other weights.

    Returns:
        a module from [B, C, H, W] to [B, D]. Its weights are a function of the arguments alone, the same on every
        machine; the global random generator is not touched.

    Raises:
        ConfigError: the width is too small for the architecture. Whether images are large enough for it is found by
            `output_width`.
    """
    network = _skeleton(config, shape).to_empty(device="cpu")
    initialize(network, config.init, torch_generator(seed, "init", peer, incarnation))
    return network


def weight_bytes(config: NetworkConfig, shape: Shape) -> int:
    """Bytes of an architecture's weights and buffers for images of a shape (C, H, W). Allocates none of them."""
    return sum(tensor.nbytes for tensor in _skeleton(config, shape).state_dict().values())


def output_width(config: NetworkConfig, shape: Shape) -> int:
    """D of an architecture for images of a shape (C, H, W). Allocates no weights.

    Raises:
        ConfigError: the architecture cannot be built for such images.
    """
    network = _skeleton(config, shape).eval()
    try:
        with torch.inference_mode():
            features = network(torch.empty(2, *shape, device="meta"))
    except RuntimeError as exc:
        stem = "" if config.small_images else "set network.small_images=true, "
        raise ConfigError(
            f"{config.name} cannot take images of {shape[1]}x{shape[2]} pixels: they shrink to nothing on the way; "
            f"{stem}use larger images or another network"
        ) from exc
    return int(features.shape[1])


def check_widths(configs: Sequence[NetworkConfig], shape: Shape) -> int:
    """The D that all networks of a group have in common.

    Args:
        configs: the architecture of each peer, by id.
        shape: of an image, (C, H, W).

    Raises:
        ConfigError: they differ; the text lists which peers have which D. Or one cannot be built for such images.
    """
    # Our own networks take images of any size. To run them on the meta device would import torch's compiler: seconds.
    widths = {
        config: width_of(config) if config.name in ("mlp", "convnet") else output_width(config, shape)
        for config in dict.fromkeys(configs)
    }
    if len(set(widths.values())) == 1:
        return next(iter(widths.values()))
    peers: dict[tuple[str, int], list[int]] = {}
    for peer, config in enumerate(configs):
        peers.setdefault((config.name, widths[config]), []).append(peer)
    found = "; ".join(
        f"{'peers' if len(ids) > 1 else 'peer'} {', '.join(map(str, ids))} ({name}): {width}"
        for (name, width), ids in peers.items()
    )
    raise ConfigError(
        f"the outputs of all peers must have the same width D, but they have: {found}. Change network.width where it "
        f"differs: D is width for an mlp, width x min(2^(depth - 1), 8) for a convnet, 8 x width for vgg, resnet18 and "
        f"resnet34, 32 x width for resnet50, 16 x width for densenet121"
    )


def _skeleton(config: NetworkConfig, shape: Shape) -> nn.Module:
    """The architecture without memory for its weights, so that torch's own initialization costs nothing."""
    with torch.device("meta"):
        if config.name == "mlp":
            return _mlp(config, shape)
        if config.name == "convnet":
            return _convnet(config, shape)
        from peers.networks import torchvision_backbones as backbones  # imports torchvision, which takes seconds

        return backbones.skeleton(config, shape)


def _mlp(config: NetworkConfig, shape: Shape) -> nn.Module:
    norms: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = shape[0] * shape[1] * shape[2]
    for _ in range(config.depth):
        layers.append(nn.Linear(inputs, config.width, bias=config.norm == "none"))
        if config.norm != "none":
            layers.append(norms[config.norm](config.width))
        layers.append(nn.ReLU())
        inputs = config.width
    return nn.Sequential(*layers)


def _convnet(config: NetworkConfig, shape: Shape) -> nn.Module:
    layers: list[nn.Module] = []
    inputs, side = shape[0], min(shape[1:])
    for block in range(config.depth):
        channels = config.width * min(2**block, 8)
        layers.append(nn.Conv2d(inputs, channels, 3, padding=1, bias=config.norm == "none"))
        if config.norm != "none":
            layers.append(nn.BatchNorm2d(channels) if config.norm == "batch" else nn.GroupNorm(1, channels))
        layers.append(nn.ReLU())
        if side >= 4:  # what is left for the average over places is at least 2x2
            layers.append(nn.MaxPool2d(2))
            side //= 2
        inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
