"""Pictures of what was learned: filters of the first layer, and which images features find alike. PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from coordinator.experiment.analysis.geometry import seen_from

Pixels = npt.NDArray[np.uint8]
"""[H, W, 4]: red, green, blue, opacity."""

FILTERS = 64
COLUMNS = 8
TILE = 64
"""Pixels that the side of a small image or filter is enlarged to, or a little less: by whole factors."""

LARGEST = 80
"""Pixels that the longer side of a large image is reduced to."""

GAP = 2
SAME, OTHER = (43, 108, 196), (226, 122, 28)
"""Frames of neighbours of the query's class, blue, and of another one, orange: told apart by the colour-blind, too."""


def first_filters(network: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
    """Weights of a network's first layer as small images.

    Args:
        network: its first layer with weights is a convolution, or a linear layer on all pixels.
        shape: (C, H, W) of an image.

    Returns:
        [n, C, h, w]; None where they are no pictures: neither 1 nor 3 channels.
    """
    if shape[0] not in (1, 3):
        return None
    layer = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    weight = layer.weight.detach().cpu().float()
    return weight if isinstance(layer, nn.Conv2d) else weight.view(-1, *shape)


def filter_grid(filters: Tensor) -> bytes:
    """The first 64 filters as a grid, eight in a row.

    Each is scaled by its own largest weight: grey is 0, black and white (or full colours) are the extremes.

    Args:
        filters: [n, C, h, w], C 1 or 3.
    """
    filters = filters[:FILTERS]
    largest = filters.abs().amax((1, 2, 3), keepdim=True)
    scaled = 0.5 + 0.5 * torch.where(largest > 0, filters / largest, 0.0)
    tiles = [_enlarged(image) for image in scaled]
    return _png(_stacked([_row(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]))


def nearest(z: Tensor, queries: Tensor, most: int) -> Tensor:
    """The images whose features are closest, by the k-NN probe's measure: cosine, seen from the mean of `z`.

    Args:
        z: [n, D] features to look among.
        queries: [m, D].
        most: how many; no more than n.

    Returns:
        [m, most] indices into z, the closest first.
    """
    mean = z.double().mean(0)
    similarity = seen_from(queries, mean) @ seen_from(z, mean).T
    return similarity.sort(dim=1, descending=True, stable=True).indices[:, :most]


def neighbour_grid(queries: Tensor, found: Sequence[tuple[Tensor, Tensor]]) -> bytes:
    """A row for each query: the query, and for each list of findings its neighbours behind a wider gap.

    Args:
        queries: [m, C, H, W] in 0..1.
        found: neighbours [m, k, C, H, W] in 0..1 and whether each is of its query's class [m, k] bool; before
            training, and after. A blue frame is the same class, an orange one another.
    """
    rows = []
    for place, query in enumerate(queries):
        parts = [_framed(_enlarged(query), None)]
        for images, same in found:
            parts.append(_clear(parts[0].shape[0], 4 * GAP))
            frames = (SAME if bool(hit) else OTHER for hit in same[place])
            parts += [_framed(_enlarged(image), frame) for image, frame in zip(images[place], frames, strict=True)]
        rows.append(_row(parts))
    return _png(_stacked(rows))


def _enlarged(image: Tensor) -> Pixels:
    """An image [C, H, W] in 0..1 at the size that it is shown in."""
    channels, height, width = image.shape
    shown = image if channels == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    pixels = shown.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    side = max(height, width)
    if side > LARGEST:
        size = max(1, round(width * LARGEST / side)), max(1, round(height * LARGEST / side))
        picture = picture.resize(size, Image.Resampling.BOX)
    else:
        factor = max(1, TILE // side)
        picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return np.asarray(picture.convert("RGBA"))


def _framed(tile: Pixels, colour: tuple[int, int, int] | None) -> Pixels:
    framed = _clear(tile.shape[0] + 2 * GAP, tile.shape[1] + 2 * GAP)
    if colour is not None:
        framed[:] = (*colour, 255)
    framed[GAP:-GAP, GAP:-GAP] = tile
    return framed


def _row(tiles: Sequence[Pixels]) -> Pixels:
    gap = _clear(tiles[0].shape[0], GAP)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def _stacked(rows: Sequence[Pixels]) -> Pixels:
    """Rows below each other, all as wide as the widest, with clear gaps."""
    wide = max(row.shape[1] for row in rows)
    parts = []
    for row in rows:
        filled = np.concatenate([row, _clear(row.shape[0], wide - row.shape[1])], axis=1)
        parts += [filled, _clear(GAP, wide)]
    return np.concatenate(parts[:-1], axis=0)


def _clear(height: int, width: int) -> Pixels:
    """Nothing: what lies behind the picture is seen, light or dark."""
    return np.zeros((height, width, 4), np.uint8)


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
