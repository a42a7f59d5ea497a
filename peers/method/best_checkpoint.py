"""Best checkpoint of a peer: which round's weights are evaluated, the last or the best by a criterion.

The peak is early and collapse follows. Two criteria find it while the run goes on:

    unsupervised   (1 - d / d_0) * (r / r_0)   d: disagreement of the outputs with the consensus, r: their effective
                                               rank; d_0, r_0: the same at the first evaluation. 0 at initialization; it
                                               grows as the peers agree and falls as their outputs collapse. No label
                                               enters.
    validation     live k-NN on validation images. It uses labels, and whoever reports it must say so.

An evaluation at round r concerns the weights after r rounds, through the outputs that they published: so the weights
after the last round are never among them. Each peer chooses alone; nothing about its choice travels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peers.config.schema import SelectionConfig
from peers.probes.collapse import disagreement, effective_rank


@dataclass(frozen=True)
class BestWeights:
    """The best weights so far.

    Attributes:
        round: rounds that they had done.
        score: by the criterion.
        state: weights and buffers of the network.
    """

    round: int
    score: float
    state: Mapping[str, Tensor]


class Selection:
    """Best weights of one peer so far.

    Attributes:
        config: names the rule.
        first: disagreement and effective rank at the first evaluation; None before it.
        best: None before the first evaluation, and for the rule `last`.
    """

    def __init__(self, config: SelectionConfig) -> None:
        self.config = config
        self.first: tuple[float, float] | None = None
        self.best: BestWeights | None = None

    def due(self, round_: int) -> bool:
        """Whether the weights after so many rounds are evaluated."""
        return self.config.rule != "last" and round_ % self.config.every == 0

    def criterion(self, outputs: Tensor, target: Tensor) -> float:
        """The unsupervised score of outputs [B, D] and their target [B, D]; nan where they are not finite."""
        now = disagreement(outputs, target), effective_rank(outputs)
        if self.first is None:
            self.first = now
        return unsupervised(now, self.first)

    def offer(self, round_: int, score: float, network: nn.Module) -> None:
        """Keep a network's weights if none before were as good; of equals, the earlier stay."""
        if math.isfinite(score) and (self.best is None or score > self.best.score):
            state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
            self.best = BestWeights(round_, score, state)

    def record(self) -> dict[str, Any] | None:
        """All but the weights, as JSON for a checkpoint; None where there is nothing to remember."""
        if self.best is None:
            return None
        first = None if self.first is None else list(self.first)
        return {"rule": self.config.rule, "round": self.best.round, "score": self.best.score, "first": first}

    def restore(self, record: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> None:
        """What `record` gave, and the weights that were kept with it; scores of another rule are not comparable."""
        self.first, self.best = None, None
        if record is not None and record["rule"] == self.config.rule:
            self.first = None if record["first"] is None else (record["first"][0], record["first"][1])
            self.best = BestWeights(record["round"], record["score"], dict(state))


def unsupervised(now: tuple[float, float], first: tuple[float, float]) -> float:
    """Agreement gained times rank kept, (1 - d / d_0) * (r / r_0).

    Args:
        now: disagreement and effective rank.
        first: the same at the first evaluation.

    Returns:
        at most about 1; 0 at the first evaluation, negative where disagreement has grown; nan where the first outputs
        agreed already, or had no rank: there was nothing to gain.
    """
    (d, r), (d_0, r_0) = now, first
    return (1 - d / d_0) * (r / r_0) if d_0 > 0 and r_0 > 0 else math.nan
