"""All parameters of a network in one piece of memory, so that an optimizer's step is one operation for all of them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Flat(nn.Module):
    """A network's parameters, one after the other: a module with the single parameter `values` [P].

    The network's own become views of it, in shape and memory layout what they were; its values, buffers and state
    dictionary are not changed. An optimizer of this module steps the whole network.

    Args:
        network: its parameters are of one element type, on one device.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._parts = [p for p in network.parameters() if p.requires_grad]
        ends = list(itertools.accumulate(part.numel() for part in self._parts))
        with torch.no_grad():
            self.values = nn.Parameter(torch.cat([_as_it_lies(part) for part in self._parts]))
            for part, end in zip(self._parts, ends, strict=True):
                piece = self.values.detach()[end - part.numel() : end]
                part.data = piece.as_strided(part.size(), part.stride(), piece.storage_offset())

    def gather(self) -> Tensor:
        """Take the gradients that a backward pass left in the network, zero where there is none.

        Returns:
            [P], `values.grad`: their own memory, changed by the next call.
        """
        grads = [p.new_zeros(p.numel()) if p.grad is None else _as_it_lies(p.grad) for p in self._parts]
        for part in self._parts:
            part.grad = None
        self.values.grad = torch.cat(grads)
        return self.values.grad


def _as_it_lies(tensor: Tensor) -> Tensor:
    """Elements in the order of memory: a view, of a tensor without gaps."""
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
