"""Flat parameters: a network's parameters in one tensor, so that an optimizer's step is one operation for all."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Flat(nn.Module):
    """A network's parameters, one after the other: a module with the single parameter `values` [P].

    The network's own become views of it, in shape and memory layout what they were; its values, buffers and state
    dictionary are not changed. Their gradients become views of `gradient` [P], to which a backward pass adds; nobody
    may replace them. An optimizer of this module steps the whole network.

    Args:
        network: its parameters are of one element type, on one device.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        parts = [p for p in network.parameters() if p.requires_grad]
        ends = list(itertools.accumulate(part.numel() for part in parts))
        with torch.no_grad():
            self.values = nn.Parameter(torch.cat([_as_it_lies(part) for part in parts]))
            self.gradient = self.values.grad = torch.zeros_like(self.values)
            for part, end in zip(parts, ends, strict=True):
                part.data = _piece(self.values.detach(), part, end)
                part.grad = _piece(self.gradient, part, end)

    def clear(self) -> None:
        """Set all gradients to zero, as a backward pass needs them."""
        self.gradient.zero_()


def _as_it_lies(tensor: Tensor) -> Tensor:
    """Elements in the order of memory: a view, of a tensor without gaps."""
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def _piece(of: Tensor, part: Tensor, end: int) -> Tensor:
    """The elements before `end`, as many as a part has, in its shape and layout."""
    piece = of[end - part.numel() : end]
    return piece.as_strided(part.size(), part.stride(), piece.storage_offset())
