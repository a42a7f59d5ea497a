"""Losses, and the leave-one-out mean: pure functions of outputs [B, D].

Every loss is a mean over the batch, is differentiated through `z` alone (`target` carries no gradient), and returns a
scalar tensor of float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from peers.config.schema import ConsensusConfig

EPSILON = 1e-8


def leave_one_out(total: Tensor, sent: Tensor, count: int) -> Tensor:
    """Mean of the others' outputs, (total - sent) / (count - 1).

    Args:
        total: [B, D] float32, sum over all contributors, the caller among them.
        sent: [B, D] float32, the caller's own outputs exactly as they entered the sum.
        count: number of contributors, 2 or more.

    Raises:
        ValueError: count is below 2; a lone peer has no consensus.
    """
    if count < 2:
        raise ValueError(f"a leave-one-out mean needs 2 contributors or more, got {count}")
    return (total - sent) / (count - 1)


def cosine_loss(z: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos(z_b, t_b) over the rows; 0 for parallel rows, 2 for opposite ones."""
    return (1 - F.cosine_similarity(z, target.detach(), dim=1, eps=EPSILON)).mean()


def mse_loss(z: Tensor, target: Tensor) -> Tensor:
    """Mean of (z - t)^2 over rows and dimensions."""
    return F.mse_loss(z, target.detach())


def standardized_mse_loss(z: Tensor, target: Tensor) -> Tensor:
    """`mse_loss` after each dimension of both has been brought to mean 0 and deviation 1 over the batch.

    The deviation is the biased one; its square gets 1e-8 added, so that a constant dimension counts as 0.
    """
    return F.mse_loss(_standardized(z), _standardized(target.detach()))


def kl_loss(z: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over rows of KL(softmax(t / temperature) || softmax(z / temperature)), in nats.

    There is no factor temperature^2 as in distillation (Hinton et al., 2015): nothing here is traded against a
    second loss.
    """
    log_p = F.log_softmax(target.detach() / temperature, dim=1)
    return F.kl_div(F.log_softmax(z / temperature, dim=1), log_p, log_target=True, reduction="batchmean")


def loss(z: Tensor, target: Tensor, config: ConsensusConfig) -> Tensor:
    """The loss that a configuration names, between outputs and target [B, D], in float32."""
    z, target = z.float(), target.float()
    if config.loss == "cosine":
        return cosine_loss(z, target)
    if config.loss == "mse":
        return mse_loss(z, target)
    if config.loss == "standardized_mse":
        return standardized_mse_loss(z, target)
    return kl_loss(z, target, config.temperature)


def _standardized(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) / (variance + EPSILON).sqrt()
