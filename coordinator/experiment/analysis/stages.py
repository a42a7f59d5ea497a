"""What a network's stages make of an image, on the way to its output."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from peers.config.schema import NetworkConfig

Hook = Callable[[nn.Module, object, Tensor], None]

OUTPUT = "output"
"""Name of the last stage where the architecture does something to its last block before it is pooled."""


class Staged(nn.Module):
    """A network whose features are those of all its stages, side by side; batch-norm statistics stay the network's.

    A stage is averaged over places. Its features are read by hooks, so the network computes what it always does.

    Args:
        config: the network's architecture.
        network: maps [B, C, H, W] to [B, D].

    Attributes:
        names: of the stages, from the first to the last.
    """

    def __init__(self, config: NetworkConfig, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._stages = dict(stages(config, network))
        self.names = tuple(self._stages)
        self._widths: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """[B, sum of the stages' widths] of images [B, C, H, W]."""
        found: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(_reader(found, name)) for name, module in self._stages.items()]
        try:
            self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        parts = [found[name] for name in self.names]
        self._widths = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    def split(self, features: Tensor) -> tuple[Tensor, ...]:
        """What `forward` gave for some images, stage by stage."""
        return torch.split(features, self._widths, dim=1)


def stages(config: NetworkConfig, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose outputs are a network's stages, with their names.

    mlp         each layer, after its ReLU
    convnet     each block, after its ReLU, or its pooling where it has one
    resnet      the stem, and each of the four layers
    vgg         each block, before its pooling; and the output
    densenet    each block; and the output, behind the last norm and ReLU
    """
    if config.name == "mlp":
        relus = [module for module in network.children() if isinstance(module, nn.ReLU)]
        yield from ((f"layer {place}", module) for place, module in enumerate(relus, 1))
    elif config.name == "convnet":
        yield from ((f"block {place}", module) for place, module in enumerate(_ends(network), 1))
    elif config.name.startswith("resnet"):
        yield "stem", network.get_submodule("relu" if config.small_images else "maxpool")
        yield from ((f"layer {place}", network.get_submodule(f"layer{place}")) for place in range(1, 5))
    elif config.name.startswith("vgg"):
        yield from ((f"block {place}", module) for place, module in enumerate(_before_pools(network), 1))
        yield OUTPUT, network
    else:
        blocks = (network.get_submodule(f"features.denseblock{place}") for place in range(1, 5))
        yield from ((f"block {place}", module) for place, module in enumerate(blocks, 1))
        yield OUTPUT, network


def _ends(network: nn.Module) -> Iterator[nn.Module]:
    """The last module of each block of a convnet: what stands before the next convolution, or before the average."""
    modules = list(network.children())
    for module, following in itertools.pairwise(modules):
        if isinstance(following, nn.Conv2d | nn.AdaptiveAvgPool2d):
            yield module


def _before_pools(network: nn.Module) -> Iterator[nn.Module]:
    modules = list(network.get_submodule("features").children())
    for module, following in itertools.pairwise(modules):
        if isinstance(following, nn.MaxPool2d):
            yield module


def _reader(found: dict[str, Tensor], name: str) -> Hook:
    def read(module: nn.Module, images: object, output: Tensor) -> None:
        # At once: a ReLU that follows may work in place.
        found[name] = output if output.ndim == 2 else output.mean((2, 3))

    return read
