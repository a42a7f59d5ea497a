"""Stages: which modules they are, and that they are what the network computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coordinator.experiment.analysis.stages import Staged
from peers.config.schema import NetworkConfig
from peers.networks import registry as networks


def make(shape: tuple[int, int, int], **settings: Any) -> tuple[NetworkConfig, nn.Module]:
    """A network in evaluation mode."""
    config = NetworkConfig(**settings)
    return config, networks.build(config, shape, seed=0, peer=0).eval()


def images(*shape: int) -> Tensor:
    """Random images, reproducible."""
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


ARCHITECTURES = [
    ((1, 8, 8), {"name": "mlp", "depth": 3}, ["layer 1", "layer 2", "layer 3"], [8, 8, 8]),
    ((1, 8, 8), {"name": "mlp", "depth": 2, "norm": "none"}, ["layer 1", "layer 2"], [8, 8]),
    ((3, 16, 16), {"name": "convnet", "depth": 4}, [f"block {i}" for i in (1, 2, 3, 4)], [8, 16, 32, 64]),
    ((3, 16, 16), {"name": "resnet18"}, ["stem", *(f"layer {i}" for i in (1, 2, 3, 4))], [8, 8, 16, 32, 64]),
    ((3, 32, 32), {"name": "vgg11"}, [*(f"block {i}" for i in (1, 2, 3, 4, 5)), "output"], [8, 16, 32, 64, 64, 64]),
    ((1, 8, 8), {"name": "vgg11_bn"}, [*(f"block {i}" for i in (1, 2, 3)), "output"], [8, 16, 32, 64]),
    ((3, 16, 16), {"name": "densenet121"}, [*(f"block {i}" for i in (1, 2, 3, 4)), "output"], [32, 64, 128, 128, 128]),
]


@pytest.mark.parametrize(("shape", "settings", "names", "widths"), ARCHITECTURES)
def test_every_architecture_has_its_stages(
    shape: tuple[int, int, int], settings: dict[str, Any], names: list[str], widths: list[int]
) -> None:
    """Names and widths in order; the last stage is the output, and no hook is left behind."""
    config, network = make(shape, width=8, **settings)
    staged, x = Staged(config, network), images(*shape)
    with torch.inference_mode():
        parts = staged.split(staged(x))
        expected = network(x)
    assert list(staged.names) == names
    assert [part.shape[1] for part in parts] == widths
    assert torch.allclose(parts[-1], expected, atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())


def test_stages_of_an_mlp_are_its_layers() -> None:
    """Each is what the network computes up to its ReLU."""
    config, network = make((1, 8, 8), name="mlp", depth=3, width=8)
    staged, x = Staged(config, network), images(1, 8, 8)
    with torch.inference_mode():
        parts = staged.split(staged(x))
        for part, end in zip(parts, (4, 7, 10), strict=True):
            assert torch.equal(part, network[:end](x))


def test_stages_are_averaged_over_places_before_anything_works_in_place() -> None:
    """A VGG's first block, ReLU in place and all, is what its modules give by themselves."""
    config, network = make((3, 32, 32), name="vgg11_bn", width=8)
    staged, x = Staged(config, network), images(3, 32, 32)
    with torch.inference_mode():
        first = staged.split(staged(x))[0]
        conv, norm = network.features[0], network.features[1]
        assert torch.allclose(first, norm(conv(x)).relu().mean((2, 3)), atol=1e-6)
        stem_config, resnet = make((3, 16, 16), name="resnet18", width=8)
        stem = Staged(stem_config, resnet)
        y = images(3, 16, 16)
        assert torch.allclose(stem.split(stem(y))[0], resnet[:3](y).mean((2, 3)), atol=1e-6)


def test_the_stem_of_large_images_ends_with_its_pooling() -> None:
    """With network.small_images=false."""
    config, network = make((3, 64, 64), name="resnet18", width=8, small_images=False)
    staged, x = Staged(config, network), images(3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(staged.split(staged(x))[0], network[:4](x).mean((2, 3)), atol=1e-6)


def test_a_network_that_fails_keeps_no_hooks() -> None:
    """Images of a wrong size raise the network's own error."""
    config, network = make((1, 8, 8), name="mlp", depth=2, width=8)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Staged(config, network)(images(1, 9, 9))
    assert not any(module._forward_hooks for module in network.modules())
