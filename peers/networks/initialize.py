"""Random weights that are the same on every machine.

Weights are uniform, not normal: `torch.rand` gives exact multiples of 2^-24 straight from the generator's integers,
while `normal_` goes through logarithms and cosines whose last bits differ between kinds of CPU. They are shifted and
scaled in two separate elementwise operations, of which the first is exact and the second rounds once as IEEE 754 says:
one fused operation would round differently where the CPU has fused multiply-adds. So the same seed gives the same
network, bit for bit, wherever it is built.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WEIGHTED = (nn.Linear, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_NORM_START = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


@torch.no_grad()
def initialize(network: nn.Module, init: str, generator: torch.Generator) -> None:
    """Set every parameter and every buffer of a network on the CPU, in the order of its modules.

    Bounds of the uniform distributions:

        init       Linear weight              Conv2d weight              bias
        default    1 / sqrt(fan_in)           1 / sqrt(fan_in)           1 / sqrt(fan_in)    PyTorch's own defaults
        kaiming    sqrt(2) sqrt(3 / fan_in)   sqrt(2) sqrt(3 / fan_out)  0                   He et al. 2015, for ReLU

    Convolutions use fan_out under `kaiming`, as torchvision's networks do. Norms start at weight 1, bias 0 and running
    statistics (0, 1).

    Args:
        network: its memory may hold anything (`to_empty`); nothing of it is read.
        init: "default" or "kaiming".
        generator: of the CPU; advanced by one draw for each random weight. The global generator is not touched.

    Raises:
        TypeError: a parameter or buffer that no rule covers; it would keep what the memory happened to hold.
    """
    for path, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        for name, tensor in own.items():
            if isinstance(module, _WEIGHTED) and name in ("weight", "bias"):
                _uniform(tensor, _bound(module, name, init), generator)
            elif isinstance(module, _NORMS) and name in _NORM_START:
                tensor.fill_(_NORM_START[name])
            else:
                raise TypeError(
                    f"no rule initializes {name!r} of {path or 'the network'} ({type(module).__name__}): "
                    f"add one to {__name__}"
                )


def _bound(module: nn.Linear | nn.Conv2d, name: str, init: str) -> float:
    weight = module.weight
    fan_in, fan_out = weight[0].numel(), weight.shape[0] * weight[0, 0].numel()
    if init == "default":
        return 1 / math.sqrt(fan_in)
    if init != "kaiming":
        raise ValueError(f"init is {init!r}; expected 'default' or 'kaiming'")
    if name == "bias":
        return 0.0
    return math.sqrt(2) * math.sqrt(3 / (fan_out if isinstance(module, nn.Conv2d) else fan_in))


def _uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    """Uniform in [-bound, bound); a bound of zero draws nothing."""
    if bound == 0:
        tensor.zero_()
    else:
        tensor.copy_(torch.rand(tensor.shape, generator=generator).sub_(0.5).mul_(2 * bound))
