"""Frozen features: what a probe sees of a network, and of the images themselves.

Images pass in chunks and are never held all at once; what comes back is float32 on the CPU.

Batch-norm running statistics of a random network are (0, 1), whatever its activations are, and those of a trained one
lag behind its weights. So `with_norm_statistics` estimates them anew before any probe, before and after training alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from peers.common.seeds import numpy_generator

if TYPE_CHECKING:
    from peers.data.batches import Split

CHUNK = 512
"""Images in one forward pass."""

_SCAN = 2**22
"""Values that one pass of a check looks at, so that its temporaries stay at some ten MiB."""


class NotFiniteError(ValueError):
    """Features hold values that are not finite; the text says how many."""


def extract(
    network: nn.Module,
    split: Split,
    device: torch.device,
    *,
    indices: np.ndarray | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Outputs of a network in evaluation mode, without gradients.

    Args:
        network: maps [B, C, H, W] to [B, D]; every one of its modules is left in the mode it was found in.
        split: the images.
        device: where the network lives.
        indices: which images, in this order; by default all.
        chunk: images in one forward pass.

    Returns:
        [n, D] float32 on the CPU.

    Raises:
        ValueError: no images were asked for.
    """

    def forward(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images.to(device))  # type: ignore[no-any-return]  # nn.Module returns Any

    with _evaluating(network):
        return _collect(forward, split, indices, chunk)


def pixels(split: Split, *, indices: np.ndarray | None = None, chunk: int = CHUNK) -> Tensor:
    """The normalized images themselves as features, the baseline that a network has to beat.

    Args:
        split: the images.
        indices: which images, in this order; by default all.
        chunk: images fetched at a time.

    Returns:
        [n, C*H*W] float32 on the CPU.

    Raises:
        ValueError: no images were asked for.
    """
    return _collect(lambda images: images.flatten(1), split, indices, chunk)


def with_norm_statistics(network: nn.Module, split: Split, images: int, seed: int, *, chunk: int = CHUNK) -> nn.Module:
    """A copy of a network whose batch-norm running statistics describe these images.

    Each layer's mean and variance are averaged over the chunks with equal weights (momentum None). The given network
    keeps its weights, buffers and mode. Without batch norm it is just copied.

    Args:
        network: maps [B, C, H, W] to [B, D].
        split: training images, on the network's device.
        images: how many of them are drawn; all, if there are fewer.
        seed: the run's seed: the same images for every peer, before and after training.
        chunk: most images in one forward pass.

    Returns:
        the copy, in evaluation mode.
    """
    twin = copy.deepcopy(network)
    # Never sorted: data sets often lie in the order of their classes, and a chunk of one class has another mean.
    drawn = numpy_generator(seed, "norm_images").permutation(len(split))[:images]
    # Chunks of equal size, as the average gives each the same weight.
    update_bn(split.stream(iter(np.array_split(drawn, -(-len(drawn) // chunk)))), twin)
    return twin.eval()


def check_labelled(what: str, x: Tensor, y: Tensor, classes: int) -> None:
    """Refuse features and labels that no probe can use.

    Args:
        what: their name in the error's text, e.g. "training".
        x: [n, D] features.
        y: [n] labels.
        classes: labels lie in 0 .. classes - 1.

    Raises:
        NotFiniteError: some values are not finite.
        ValueError: wrong shapes, nothing at all, or a label out of range.
    """
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or x.numel() == 0:
        raise ValueError(
            f"{what} features must be [n, D] and labels [n], both at least 1: found {list(x.shape)} and {list(y.shape)}"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{what} labels must lie in 0 .. {classes - 1}: found {low} .. {high}")
    bad = torch.cat([(~torch.isfinite(block)).sum(1) for block in torch.split(x, max(1, _SCAN // x.shape[1]))])
    if bool(bad.any()):
        raise NotFiniteError(
            f"{int(bad.sum())} of {x.numel()} {what} feature values are not finite, in {int(bad.count_nonzero())} of "
            f"{len(x)} rows"
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's own mode again, as parts may differ from the whole."""
    found = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in found:
            module.training = training


def _collect(features: Callable[[Tensor], Tensor], split: Split, indices: np.ndarray | None, chunk: int) -> Tensor:
    chosen = np.arange(len(split)) if indices is None else np.asarray(indices)
    if not len(chosen):
        raise ValueError("features were asked for, but of no images")
    starts = range(0, len(chosen), chunk)
    out: Tensor | None = None
    for start, images in zip(starts, split.stream(chosen[start : start + chunk] for start in starts), strict=True):
        rows = features(images)
        if out is None:
            # Allocated once, outside inference mode: the probes may need it in autograd, and no second copy is made.
            out = torch.empty(len(chosen), *rows.shape[1:], dtype=torch.float32)
        out[start : start + len(rows)] = rows
    assert out is not None  # noqa: S101  # chosen is not empty
    return out
