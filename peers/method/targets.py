"""Targets: what a peer's loss compares with, by rules and controls, from a consensus. Pure functions, no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peers.common.seeds import torch_generator
from peers.config.schema import ConsensusConfig
from peers.method.losses import leave_one_out
from peers.method.target_selection import trimmed
from peers.transport.values import Consensus


@dataclass(frozen=True)
class Missing:
    """Why a peer has no target in this round: it skips the step, and says so.

    Attributes:
        reason: "alone", "stands_still" (roles), "abstained" (its own outputs were not finite), or "no_source" (whom it
            was to listen to did not contribute).
    """

    reason: str


def peer_target(consensus: Consensus[Tensor], peer: int, config: ConsensusConfig) -> Tensor | Missing:
    """The rule's target for one peer, before controls and weight.

    Args:
        consensus: what came back for the round.
        peer: whose target.
        config: names the rule and its parameters.

    Returns:
        [B, D] float32, or `Missing`: a peer never trains on a made-up target.
    """
    if peer not in consensus.contributors:
        return Missing("abstained")
    if consensus.count < 2:
        # The independent control needs nobody: `controlled` puts the peer's own outputs in any case.
        return consensus.sent[peer] if config.control == "independent" else Missing("alone")
    if consensus.total is not None:
        return leave_one_out(consensus.total, consensus.sent[peer], consensus.count)
    if consensus.aggregate is not None:
        return consensus.aggregate
    if config.target in ("median", "trimmed_mean"):
        everyone = {**consensus.members, **consensus.sent}
        outputs = [everyone[member] for member in consensus.contributors]
        return median(outputs) if config.target == "median" else trimmed_mean(outputs, config.q)
    sources = consensus.sources.get(peer, ())
    if not sources:
        return Missing("stands_still")
    heard = {**consensus.members, **consensus.sent}
    outputs = [heard[source] for source in sorted(sources) if source in consensus.contributors]
    return mean(outputs) if outputs else Missing("no_source")


def controlled(target: Tensor, own: Tensor, config: ConsensusConfig, seed: int, peer: int, round_: int) -> Tensor:
    """The target after the control took the signal out of it, and after the weight: (1 - w) own + w target.

    Args:
        target: [B, D], the rule's.
        own: [B, D], the peer's own outputs in this round.
        config: names control and weight.
        seed: the run's; with peer and round it seeds what a control draws.
        peer: whose target.
        round_: number of the round.
    """
    if config.control == "independent":
        target = own.detach()
    elif config.control == "shuffled":
        order = torch.randperm(len(target), generator=torch_generator(seed, "shuffled", peer, round_))
        target = target[order.to(target.device)]
    elif config.control == "noise":
        target = _noise_like(target, seed, peer, round_)
    if config.weight < 1:
        target = torch.lerp(own.detach(), target, config.weight)
    return target.detach()


def mean(outputs: Sequence[Tensor]) -> Tensor:
    """Mean of outputs, added in the order given, so that it is the same wherever it is computed."""
    total = outputs[0]
    for other in outputs[1:]:
        total = total + other
    return total / len(outputs)


def median(outputs: Sequence[Tensor]) -> Tensor:
    """Coordinate-wise median over all contributors, the peer itself included; of an even number, the middle two's mean.

    The peer itself is included so that one result, computed once, serves the whole group.
    """
    ordered = torch.stack(list(outputs)).sort(dim=0).values
    half = len(outputs) // 2
    return ordered[half] if len(outputs) % 2 else (ordered[half - 1] + ordered[half]) / 2


def trimmed_mean(outputs: Sequence[Tensor], q: float) -> Tensor:
    """Coordinate-wise mean without the floor(q n) largest and as many smallest, the peer itself included."""
    cut = trimmed(q, len(outputs))
    ordered = torch.stack(list(outputs)).sort(dim=0).values
    return mean(ordered[cut : len(outputs) - cut].unbind())


def _noise_like(target: Tensor, seed: int, peer: int, round_: int) -> Tensor:
    """Gaussian rows with the target's mean and per-dimension deviation over the batch."""
    draw = torch.randn(target.shape, generator=torch_generator(seed, "noise", peer, round_)).to(target.device)
    deviation, centre = torch.std_mean(target, dim=0, correction=0)
    return centre + deviation * draw
