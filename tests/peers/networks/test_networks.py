"""Backbones have the promised shapes and architectures, and begin with the same weights on every machine."""

from __future__ import annotations

import hashlib
import math
import typing
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torchvision import models

from peers.common.errors import ConfigError
from peers.config.schema import NetworkConfig, NetworkName
from peers.networks.initialize import initialize
from peers.networks.registry import build, check_widths, output_width

NAMES = typing.get_args(NetworkName)
DIGITS, CIFAR = (1, 8, 8), (3, 32, 32)
WIDTHS = dict.fromkeys(NAMES, 512) | {"mlp": 64, "resnet50": 2048, "densenet121": 1024}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads would only wait for one another: the tensors are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(name: str = "mlp", shape: tuple[int, int, int] = DIGITS, **settings: object) -> nn.Module:
    """Peer 0 of a run with seed 0."""
    return build(config(name, **settings), shape, seed=0, peer=0)


def config(name: str, **settings: object) -> NetworkConfig:
    """The configuration of one architecture."""
    return NetworkConfig.model_validate({"name": name, **settings})


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all weights, by name."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def weights_digest(module: nn.Module) -> str:
    """BLAKE2b-128 of all weights and buffers in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("shape", [DIGITS, CIFAR, (2, 28, 40)])
@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_promised_width(name: str, shape: tuple[int, int, int]) -> None:
    """Every architecture takes small and large images of any channels, and D does not depend on them."""
    assert output_width(config(name), shape) == WIDTHS[name]


@pytest.mark.parametrize("name", NAMES)
def test_output_width_is_what_comes_out(name: str) -> None:
    """A real batch gives [B, D] with the D foretold, which scales with the width; the features are finite."""
    built = network(name, DIGITS, width=8)
    features = built(torch.rand(4, *DIGITS))
    assert features.shape == (4, output_width(config(name, width=8), DIGITS)) == (4, WIDTHS[name] // 8)
    assert features.isfinite().all()


def test_output_width_allocates_nothing() -> None:
    """A network far larger than any memory has its width told."""
    assert output_width(config("mlp", width=65536, depth=100), CIFAR) == 65536


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "densenet121"])
def test_default_width_is_torchvisions_architecture(name: str) -> None:
    """With the stem for large images the weights have torchvision's names and shapes, all but the classifier's."""
    with torch.device("meta"):
        theirs = shapes(getattr(models, name)())
    ours = shapes(network(name, (3, 64, 64), small_images=False))
    assert ours == {name: shape for name, shape in theirs.items() if not name.startswith(("fc.", "classifier."))}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("vgg")])
def test_default_width_is_torchvisions_vgg(name: str) -> None:
    """VGG's features are torchvision's, without the biases in front of batch norm."""
    with torch.device("meta"):
        theirs = getattr(models, name)()
    idle = {
        f"features.{place}.bias"
        for place, layer in enumerate(theirs.features)
        if name.endswith("_bn") and isinstance(layer, nn.Conv2d)
    }
    expected = {key: shape for key, shape in shapes(theirs).items() if key.startswith("features.") and key not in idle}
    assert shapes(network(name, (3, 64, 64))) == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "vgg11"])
def test_outputs_are_torchvisions(name: str) -> None:
    """With our weights torchvision's network gives its classifier the features that ours gives."""
    with torch.device("meta"):
        theirs = getattr(models, name)()
    setattr(theirs, "fc" if name.startswith("resnet") else "classifier", nn.Identity())
    if name == "vgg11":
        theirs.avgpool = nn.AdaptiveAvgPool2d(1)
    ours = network(name, CIFAR, small_images=False).eval()
    theirs.to_empty(device="cpu").eval().load_state_dict(ours.state_dict())
    images = torch.rand(2, *CIFAR)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_small_images_keep_their_pixels() -> None:
    """The stem for small images is 3x3 with stride 1 and no pooling: four times the side remains."""
    for name, stem in (("resnet18", "conv1"), ("densenet121", "features.conv0")):
        built = network(name, CIFAR, width=8)
        convolution = built.get_submodule(stem)
        assert (convolution.kernel_size, convolution.stride) == ((3, 3), (1, 1))
        assert not any(isinstance(layer, nn.MaxPool2d) for layer in built.modules())


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_own_networks_follow_their_settings(name: str, norm: str) -> None:
    """Depth, width and norm are as asked; a layer has a bias only where no norm follows."""
    built = network(name, CIFAR, depth=3, width=16, norm=norm)
    layers = [layer for layer in built.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    norms = {"batch": (nn.BatchNorm1d, nn.BatchNorm2d), "layer": (nn.LayerNorm, nn.GroupNorm), "none": ()}[norm]
    assert [len(layer.weight) for layer in layers] == ([16] * 3 if name == "mlp" else [16, 32, 64])
    assert all((layer.bias is None) == (norm != "none") for layer in layers)
    assert sum(isinstance(layer, norms) for layer in built.modules()) == (0 if norm == "none" else 3)


def test_convnets_pool_while_it_fits() -> None:
    """Pools stop where 2x2 places are left; channels stop growing at eight times the width."""
    for shape, pools in (((1, 4, 4), 1), (DIGITS, 2), ((1, 28, 28), 3), (CIFAR, 4)):
        built = network("convnet", shape, depth=6, width=4)
        assert sum(isinstance(layer, nn.MaxPool2d) for layer in built.modules()) == pools
        assert output_width(config("convnet", depth=6, width=4), shape) == 32


def test_weights_are_a_function_of_seed_peer_and_incarnation() -> None:
    """The same three numbers give the same weights; changing any of them gives others."""
    settings = config("convnet", width=4)

    def digest(seed: int, peer: int, incarnation: int) -> str:
        return weights_digest(build(settings, DIGITS, seed=seed, peer=peer, incarnation=incarnation))

    first = digest(0, 0, 0)
    assert first == digest(0, 0, 0) == weights_digest(build(settings, DIGITS, seed=0, peer=0))
    assert len({first, digest(1, 0, 0), digest(0, 1, 0), digest(0, 0, 1)}) == 4


@pytest.mark.parametrize(
    ("name", "init", "expected"),
    [
        ("mlp", "default", "7a0c7230e2269c583d1dc4322efffede"),
        ("mlp", "kaiming", "e9180458aa758f41c01c4d8e55c92ced"),
        ("convnet", "default", "67ff5ed3806f992232f5f3207fe0bf4a"),
        ("convnet", "kaiming", "76f845056fe533bbc4f52cf6305f8c7e"),
    ],
)
def test_weights_are_the_same_on_every_machine(name: str, init: str, expected: str) -> None:
    """The bits of the weights are pinned: a change of torch or of the machine must not go unnoticed."""
    assert weights_digest(network(name, DIGITS, depth=2, width=8, init=init)) == expected


def test_the_global_generator_is_not_touched() -> None:
    """Building draws from generators of its own only."""
    before = torch.get_rng_state()
    for name in ("mlp", "convnet", "resnet18", "vgg11", "densenet121"):
        network(name, CIFAR, width=4)
        output_width(config(name), CIFAR)
    assert torch.equal(before, torch.get_rng_state())


def test_default_bounds_are_torchs() -> None:
    """`default` draws weights and biases uniformly within 1 / sqrt(fan_in)."""
    built = network("mlp", (1, 20, 20), depth=1, width=300, norm="none")
    for values in (built[1].weight, built[1].bias):
        assert values.abs().max() <= 1 / 20
        assert values.abs().max() > 0.98 / 20
        assert values.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.1)


def test_kaiming_bounds() -> None:
    """`kaiming` keeps the variance 2 / fan, fan_out for convolutions and fan_in for linear layers; biases are zero."""
    convolution = network("convnet", (64, 8, 8), depth=1, width=128, norm="none", init="kaiming")[0]
    linear = network("mlp", (1, 20, 20), depth=1, width=300, norm="none", init="kaiming")[1]
    for layer, fan in ((convolution, 128 * 9), (linear, 400)):
        assert layer.weight.var().item() == pytest.approx(2 / fan, rel=0.02)
        assert layer.weight.abs().max().item() <= math.sqrt(6 / fan)
        assert not layer.bias.any()


def test_norms_start_neutral() -> None:
    """Norms start at weight 1, bias 0, running statistics (0, 1) and no batches seen, with torch's own settings."""
    for layer in network("densenet121", CIFAR, width=4).modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.momentum, layer.eps, layer.num_batches_tracked.item()) == (0.1, 1e-5, 0)
            assert (layer.weight == 1).all()
            assert (layer.running_var == 1).all()
            assert not torch.cat([layer.bias, layer.running_mean]).any()


def test_a_parameter_without_a_rule_is_refused() -> None:
    """A kind of layer that nobody thought of fails at once instead of keeping arbitrary memory."""
    with pytest.raises(TypeError, match=r"no rule initializes 'weight' of 1 \(Embedding\)"):
        initialize(nn.Sequential(nn.ReLU(), nn.Embedding(2, 2)), "default", torch.Generator())
    with pytest.raises(ValueError, match="init is 'other'"):
        initialize(nn.Linear(2, 2), "other", torch.Generator())


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet18", "vgg11", "vgg11_bn", "densenet121"])
def test_a_training_step_moves_every_parameter(name: str) -> None:
    """No parameter is cut off from the outputs."""
    built = network(name, (3, 16, 16), width=8, init="kaiming")
    before = {key: value.detach().clone() for key, value in built.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    features = built(torch.randn(8, 3, 16, 16, generator=generator))
    (features * torch.randn(features.shape, generator=generator)).sum().backward()
    torch.optim.SGD(built.parameters(), lr=0.1).step()
    still = [key for key, value in built.named_parameters() if torch.equal(value, before[key])]
    assert not still


def test_common_widths_are_found() -> None:
    """A group of different architectures with one D is accepted."""
    group = [config("resnet18"), config("mlp", width=512), config("convnet", depth=4), config("vgg11")]
    assert check_widths(group, CIFAR) == 512


def test_differing_widths_are_told() -> None:
    """The error says which peers have which width, and what to change."""
    group = [config("resnet18"), config("mlp"), config("resnet18"), config("mlp"), config("mlp", width=512)]
    with pytest.raises(ConfigError) as caught:
        check_widths(group, CIFAR)
    assert "peers 0, 2 (resnet18): 512; peers 1, 3 (mlp): 64; peer 4 (mlp): 512." in str(caught.value)
    assert "Change network.width" in str(caught.value)


def test_images_too_small_are_told() -> None:
    """A network whose images shrink to nothing is refused with what to do, before any round."""
    with pytest.raises(
        ConfigError, match=r"densenet121 cannot take images of 8x8 pixels.*set network\.small_images=true"
    ):
        output_width(config("densenet121", small_images=False), DIGITS)
    with pytest.raises(ConfigError, match=r"images of 4x4 pixels.*; use larger images or another network"):
        check_widths([config("densenet121")], (1, 4, 4))
    with pytest.raises(ConfigError, match=r"network\.width is 1, set at least 2"):
        output_width(config("densenet121", width=1), CIFAR)
