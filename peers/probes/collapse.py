"""Signs of collapse in a batch of outputs: cheap enough for every few rounds.

Outputs z are [B, D] with at least one row, of any floating dtype, on any device. Nothing is drawn and nothing changed.
Outputs that are not finite give nan, so that a record can be written about them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def effective_rank(z: Tensor) -> float:
    """In how many directions the outputs spread.

    RankMe (Garrido et al. 2023, arXiv 2210.02885): exp of the entropy of the singular values of z, as shares of their
    sum. z is not centred. Between 1 (all rows on one line through the origin) and min(B, D); 0 for outputs that are all
    zero. Scale does not matter.

    The singular values are roots of the eigenvalues of the smaller Gram matrix in float64: two to three times as fast
    as an SVD. What is lost lies below 1e-6 of the largest one: about the rounding of float32 outputs.
    """
    z = z.double()
    largest = float(z.abs().max())
    if largest == 0 or not math.isfinite(largest):
        return 0.0 if largest == 0 else math.nan
    z = z / largest  # squares of very large or very small outputs would leave the range
    power = torch.linalg.eigvalsh(z @ z.T if len(z) <= z.shape[1] else z.T @ z)
    # Zero eigenvalues come out as rounding noise, whose roots would count.
    power = torch.where(power > max(z.shape) * torch.finfo(power.dtype).eps * power[-1], power, 0.0)
    values = power.sqrt()
    return float(torch.special.entr(values / values.sum()).sum().exp())


@torch.no_grad()
def deviation(z: Tensor) -> float:
    """Standard deviation over the batch (divided by B, not B - 1), averaged over the dimensions.

    In the unit of the outputs; 0 when every image gets the same output.
    """
    centred = z.double()
    centred = centred - centred.mean(dim=0)
    return float(centred.square().mean(dim=0).sqrt().mean())  # `std` takes more than twice as long


@torch.no_grad()
def disagreement(z: Tensor, target: Tensor) -> float:
    """1 - cosine between each row and its target's, averaged: 0 in agreement, 1 at right angles, 2 in opposition.

    Args:
        z: [B, D] outputs.
        target: [B, D]; a row that is zero, here or in z, counts as at right angles.

    Raises:
        ValueError: the shapes differ.
    """
    if z.shape != target.shape:
        raise ValueError(f"outputs and target must have one shape: found {list(z.shape)} and {list(target.shape)}")
    return float((1 - torch.nn.functional.cosine_similarity(z.double(), target.double(), dim=1)).mean())
