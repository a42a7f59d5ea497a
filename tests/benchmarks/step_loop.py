"""The yardstick: the method as a researcher would write it, in one process with plain torch.

No exchange, no records, no checks, no checkpoints: forward of all peers, the sum, and for each peer a step of Adam
toward the mean of the others. The networks and the batches are the product's, so that both do the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.data.batches import Indices


def make_optimizers(networks: Sequence[nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Adam as it comes."""
    return [torch.optim.Adam(network.parameters(), rate) for network in networks]


def train(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    batches: Iterable[Indices],
    bf16: bool = False,
) -> list[float]:
    """One round for each batch.

    Args:
        networks: two or more, from [B, C, H, W] to [B, D].
        optimizers: of each.
        images: [n, C, H, W], normalized, where the networks are.
        batches: indices [B] of the images of each round.
        bf16: run the forward pass in bfloat16, as far as autocast does.

    Returns:
        the last round's loss of each network.
    """
    losses = [torch.zeros(())] * len(networks)
    for indices in batches:
        x = images[torch.from_numpy(indices)]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            outputs = [network(x).float() for network in networks]
        total = torch.stack([z.detach() for z in outputs]).sum(0)
        for place, (optimizer, z) in enumerate(zip(optimizers, outputs, strict=True)):
            target = (total - z.detach()) / (len(networks) - 1)
            loss = (1 - F.cosine_similarity(z, target)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[place] = loss.detach()
    return [loss.item() for loss in losses]
