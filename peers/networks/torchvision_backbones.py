"""Torchvision's backbones, with a stem for small images, any number of channels and any width.

torchvision takes seconds to import: this module is imported for the networks that need it.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import densenet, resnet, vgg

from peers.common.errors import ConfigError
from peers.config.schema import NetworkConfig

_RESNETS = {
    "resnet18": (resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": (resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": (resnet.Bottleneck, (3, 4, 6, 3)),
}
_VGGS = {"vgg11": "A", "vgg13": "B", "vgg16": "D"}


def skeleton(config: NetworkConfig, shape: tuple[int, int, int]) -> nn.Module:
    """The modules of an architecture for images of a shape (C, H, W), as torchvision initializes them.

    Raises:
        ConfigError: the width is too small for the architecture.
    """
    if config.name in _RESNETS:
        return _resnet(config, shape[0])
    if config.name == "densenet121":
        return _densenet(config, shape[0])
    return _vgg(config, shape)


def _resnet(config: NetworkConfig, channels: int) -> nn.Module:
    """The blocks and the plan are torchvision's; its own class knows no stem but the one of 64 channels."""
    block, counts = _RESNETS[config.name]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = _stem(channels, config)
    layers["bn1"] = nn.BatchNorm2d(config.width)
    layers["relu"] = nn.ReLU(inplace=True)
    if not config.small_images:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    inputs = config.width
    for stage, count in enumerate(counts):
        planes, blocks = config.width * 2**stage, []
        outputs = planes * block.expansion
        for place in range(count):
            stride = 2 if stage > 0 and place == 0 else 1
            shortcut = None
            if stride != 1 or inputs != outputs:
                shortcut = nn.Sequential(resnet.conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
            blocks.append(block(inputs, planes, stride, shortcut))
            inputs = outputs
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def _stem(channels: int, config: NetworkConfig) -> nn.Module:
    kernel, stride = (3, 1) if config.small_images else (7, 2)
    return nn.Conv2d(channels, config.width, kernel, stride=stride, padding=kernel // 2, bias=False)


def _vgg(config: NetworkConfig, shape: tuple[int, int, int]) -> nn.Module:
    name, _, norm = config.name.partition("_")
    plan, side = [], min(shape[1:])
    for step in vgg.cfgs[_VGGS[name]]:
        if step != "M":
            plan.append(step * config.width // 64)
        elif side >= 2:  # small images run out of pixels before the network runs out of pools
            plan.append(step)
            side //= 2
    features = vgg.make_layers(plan, batch_norm=bool(norm))
    features[0] = nn.Conv2d(shape[0], plan[0], 3, padding=1)
    for layer in features:
        if norm and isinstance(layer, nn.Conv2d):
            layer.bias = None
    return nn.Sequential(OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


def _densenet(config: NetworkConfig, channels: int) -> nn.Module:
    if config.width < 2:
        raise ConfigError(f"densenet121 grows by width // 2 channels: network.width is {config.width}, set at least 2")
    network: nn.Module = densenet.DenseNet(growth_rate=config.width // 2, num_init_features=config.width)
    features = network.get_submodule("features")
    features.conv0 = _stem(channels, config)
    if config.small_images:
        features.pool0 = nn.Identity()
    network.classifier = nn.Identity()
    return network
