"""How features lie: their spectrum, how alike two networks are, how close and how spread out their outputs.

Features z are [n, D], a row for each image, of any floating dtype and on any device; all sums are in float64. Nothing
is drawn and nothing changed. Features that are not finite give nan.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

UNIFORMITY_T = 2.0
"""t of the Gaussian potential exp(-t |u - v|^2), as in the paper."""


@torch.no_grad()
def spectrum(z: Tensor, most: int = 128) -> list[float]:
    """How the spread of the features is shared out among directions.

    The singular values s_1 >= s_2 >= ... of the centred features (z minus its mean row), as s_k / s_1.

    Args:
        z: [n, D].
        most: values that are wanted.

    Returns:
        min(n, D, most) numbers, the first of them 1; all 0 where every image has the same features up to rounding.

    Raises:
        ValueError: there are no features.
    """
    _check(z)
    count = min(*z.shape, most)
    if not bool(torch.isfinite(z).all()):
        return [math.nan] * count
    values = torch.linalg.svdvals(centred(z))[:count]
    if values[0] == 0:
        return [0.0] * count
    shares: list[float] = (values / values[0]).tolist()
    return shares


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> float:
    """How alike two networks' features of the same images are, whatever turn, reflection or scale lies between them.

    Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), with both sets of features centred:

        |Y'X|^2 / (|X'X| |Y'Y|),    |.|: Frobenius norm

    Where D exceeds n the same number is computed from the n x n Gram matrices. With few images for many dimensions
    even unrelated features score well above 0: compare values of the same n and D only.

    Args:
        x: [n, D1].
        y: [n, D2].

    Returns:
        0 to 1; nan where either does not vary.

    Raises:
        ValueError: the numbers of images differ.
    """
    _check(x)
    _check(y)
    if len(x) != len(y):
        raise ValueError(f"features must be of the same images: found {len(x)} rows and {len(y)}")
    x, y = centred(x), centred(y)
    if len(x) >= max(x.shape[1], y.shape[1]):
        both, one, other = y.T @ x, x.T @ x, y.T @ y
        shared = both.square().sum()
    else:
        one, other = x @ x.T, y @ y.T
        shared = (one * other).sum()
    norm = one.norm() * other.norm()
    return float(shared / norm) if norm > 0 else math.nan


@torch.no_grad()
def alignment(x: Tensor, y: Tensor) -> float:
    """How far apart two networks' outputs for one image are, on the sphere.

    Wang & Isola 2020 (arXiv 2005.10242), alpha = 2: the mean over images of |u - v|^2 with u = x / |x|, v = y / |y|.
    A positive pair is what two networks make of one image.

    Args:
        x: [n, D].
        y: [n, D]; a row that is zero, here or in x, counts as a point at the centre.

    Returns:
        0 (same directions) to 4 (opposite ones); 2 at right angles.

    Raises:
        ValueError: the shapes differ.
    """
    _check(x)
    if x.shape != y.shape:
        raise ValueError(f"both networks' outputs must have one shape: found {list(x.shape)} and {list(y.shape)}")
    return float((_directions(x) - _directions(y)).square().sum(1).mean())


@torch.no_grad()
def uniformity(z: Tensor) -> float:
    """How evenly the outputs of a network cover the sphere: lower is more even.

    Wang & Isola 2020 (arXiv 2005.10242), t = 2: log of the mean over pairs of different images of exp(-t |u - v|^2),
    u and v their outputs divided by their lengths.

    Args:
        z: [n, D]; zero rows count as points at the centre.

    Returns:
        -8 (two opposite points) to 0 (all in one direction); nan for a single image.
    """
    _check(z)
    if len(z) < 2:
        return math.nan
    u = _directions(z)
    square = u.square().sum(1)
    distance = (square[:, None] + square - 2 * u @ u.T).clamp_min_(0)
    distance.fill_diagonal_(torch.inf)  # an image is no pair with itself
    potential = distance.mul_(-UNIFORMITY_T).exp_().sum() / (len(z) * (len(z) - 1))
    return float(potential.log())


def centred(z: Tensor) -> Tensor:
    """Features [n, D] minus their mean row, float64; what is left of equal features is rounding, and becomes zero."""
    z = z.double()
    rest = z - z.mean(0)
    noise = 8 * torch.finfo(torch.float32).eps * z.abs().amax(0)
    return torch.where(rest.abs().amax(0) <= noise, 0.0, rest)


def seen_from(z: Tensor, mean: Tensor) -> Tensor:
    """Rows [n, D] as directions from a mean [D], float64, as the k-NN probe sees them; no direction: zero."""
    return F.normalize(z.double() - mean.double(), dim=1, eps=torch.finfo(torch.float64).tiny)


def _directions(z: Tensor) -> Tensor:
    return F.normalize(z.double(), dim=1, eps=torch.finfo(torch.float64).tiny)


def _check(z: Tensor) -> None:
    if z.ndim != 2 or z.numel() == 0:
        raise ValueError(f"features must be [n, D], both at least 1: found {list(z.shape)}")
