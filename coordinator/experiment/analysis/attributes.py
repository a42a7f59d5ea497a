"""What can be said of an image without knowing what it shows: brightness, colour, contrast, oriented edges.

Images are [n, C, H, W] in units of 0..1. Attributes are columns of float32; the first word of a column's name is its
group, e.g. "edges" of "edges 45° low".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance (ITU-R BT.601)."""

ORIENTATIONS = (0, 45, 90, 135)
"""Directions that edges run in, in degrees; 0 is level, 45 rises to the right."""

BANDS = (1 / 16, 1 / 8, 1 / 4)
"""Centre frequencies of the edge filters in cycles per pixel, an octave apart."""

_BAND_NAMES = {1: ("high",), 2: ("low", "high"), 3: ("low", "middle", "high")}
_QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Attributes:
    """Attributes of some images.

    Attributes:
        names: of the columns.
        values: [n, A] float32.
    """

    names: tuple[str, ...]
    values: Tensor

    @property
    def groups(self) -> dict[str, list[int]]:
        """Columns of each group, in order, and of "all"."""
        found: dict[str, list[int]] = {}
        for column, name in enumerate(self.names):
            found.setdefault(name.split()[0], []).append(column)
        return found | {"all": list(range(len(self.names)))}


@torch.no_grad()
def describe(images: Tensor) -> Attributes:
    """All attributes of images [n, C, H, W] in 0..1.

    luminance    its mean
    colour       mean red minus green, mean yellow minus blue, deviation of both over the pixels together (for three
                 channels); each channel's mean minus that of all, and the deviation over channels (for other numbers);
                 nothing for a single channel
    contrast     deviation of luminance, over the image and over each quadrant
    edges        root mean square of luminance behind oriented band-pass filters, see `edges`

    Raises:
        ValueError: the images are not [n, C, H, W], or smaller than 4 x 4.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 4:
        raise ValueError(f"images must be [n, C, H, W], 4 x 4 or larger: found {list(images.shape)}")
    images = images.float()
    light = luminance(images)
    names, columns = ["luminance"], [light.mean((1, 2))]
    for part in (_colour(images), _contrast(light), edges(light)):
        names += part.names
        columns += part.values.unbind(1)
    return Attributes(tuple(names), torch.stack(columns, 1))


def luminance(images: Tensor) -> Tensor:
    """[n, H, W] of images [n, C, H, W]: weighted for red, green and blue, otherwise the mean of the channels."""
    if images.shape[1] != 3:
        return images.mean(1)
    return torch.einsum("nchw,c->nhw", images, images.new_tensor(LUMA))


def edges(light: Tensor) -> Attributes:
    """Energy of each orientation and frequency, by filters like those of a steerable pyramid.

    The image, minus its mean and under a Hann window (else its borders would be the strongest edges), is filtered in
    the frequency domain with A_b(r) * cos^3(angle - orientation), where A_b(r) = cos(pi / 2 * log2(r / centre_b))
    within an octave of the band's centre. Squares of the four orientations, and of neighbouring bands, add up to a
    constant. Bands of less than one cycle per image are left out.

    Simoncelli & Freeman 1995, The steerable pyramid.

    Args:
        light: [n, H, W].

    Returns:
        root of the mean square over the pixels, [n, 4 x bands]; no inverse transform is needed for it (Parseval).
    """
    height, width = light.shape[1:]
    bands = [centre for centre in BANDS if centre * min(height, width) >= 1]
    window = torch.outer(_hann(height), _hann(width)).to(light)
    power = torch.fft.fft2((light - light.mean((1, 2), keepdim=True)) * window).abs().square().flatten(1)
    filters, names = [], []
    for centre, band in zip(bands, _BAND_NAMES[len(bands)], strict=True):
        for orientation in ORIENTATIONS:
            filters.append(_response(height, width, centre, orientation).flatten())
            names.append(f"edges {orientation}° {band}")
    # Mean of squares over the window's own, so that small and large images compare.
    energy = power @ torch.stack(filters, 1).to(power) / (height * width * window.square().sum())
    return Attributes(tuple(names), energy.sqrt())


def _response(height: int, width: int, centre: float, orientation: float) -> Tensor:
    """Squared response [H, W] of a filter at each frequency, in the order of fft2."""
    down, right = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    octaves = torch.log2((down.square() + right.square()).sqrt().clamp_min(1e-9) / centre)
    radial = torch.where(octaves.abs() < 1, torch.cos(math.pi / 2 * octaves), 0.0)
    # Brightness changes across an edge: a level edge has its frequency upright. Rows count downward.
    across = math.radians(orientation + 90)
    angle = torch.atan2(-down, right) - across
    return radial.square() * angle.cos().pow(6)


def _colour(images: Tensor) -> Attributes:
    channels = images.shape[1]
    if channels == 1:
        return Attributes((), images.new_empty(len(images), 0))
    if channels == 3:
        red, green, blue = images.unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], 1)
        names: Sequence[str] = ("colour red - green", "colour yellow - blue", "colour spread")
        means = opponents.mean((2, 3))
        spread = opponents.var((2, 3), correction=0).sum(1).sqrt()
    else:
        grey = images.mean(1, keepdim=True)
        # The last channel's follows from the others'.
        names = (*(f"colour channel {channel + 1}" for channel in range(channels - 1)), "colour spread")
        means = (images - grey)[:, :-1].mean((2, 3))
        spread = images.std(1, correction=0).mean((1, 2))
    return Attributes(tuple(names), torch.column_stack([means, spread]))


def _contrast(light: Tensor) -> Attributes:
    down, right = light.shape[1] // 2, light.shape[2] // 2
    quadrants = [light[:, :down, :right], light[:, :down, right:], light[:, down:, :right], light[:, down:, right:]]
    values = [part.std((1, 2), correction=0) for part in (light, *quadrants)]
    return Attributes(("contrast", *(f"contrast {place}" for place in _QUADRANTS)), torch.stack(values, 1))


def _hann(size: int) -> Tensor:
    """A window that is small but not zero at the first and last pixel."""
    return torch.hann_window(size + 2, periodic=False)[1:-1]
