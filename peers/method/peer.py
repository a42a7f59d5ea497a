"""One peer: a network with its optimizer, its forward pass and its step toward a consensus.

Calls alternate: `forward`, then for a consensus `evaluate` where it is due, `backward` and `advance`; for a missed
round `skip`; and `undo_forward` where the run ends before the round closes.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peers.common.errors import DivergedError
from peers.config.schema import Config, OptimizerConfig
from peers.method.best_checkpoint import Selection
from peers.method.flat import Flat
from peers.method.losses import loss
from peers.method.targets import Missing, controlled, peer_target
from peers.networks import registry as networks
from peers.transport.values import Consensus

NON_FINITE = ("abstained", "non_finite_loss", "non_finite_gradient")


@dataclass(frozen=True)
class Step:
    """What a peer did with a consensus.

    Attributes:
        skipped: why there was no step, or None.
        loss: value of the loss; NaN without a step.
        gradient: norm of the gradient; NaN without a step.
        outputs: [B, D], the peer's own, detached.
        target: [B, D], the rule's target before controls; None without one.
    """

    skipped: str | None
    loss: float
    gradient: float
    outputs: Tensor
    target: Tensor | None


@dataclass(frozen=True)
class _Backward:
    """A gradient that waits for its step.

    Attributes:
        round: whose consensus it leads to.
        read: [2], the loss and the norm of the gradient.
        outputs: [B, D], the peer's own, detached.
        target: [B, D], the rule's.
    """

    round: int
    read: Tensor
    outputs: Tensor
    target: Tensor


class Peer:
    """A randomly initialized network that steps toward its group's consensus.

    Its weights are private: nothing in here sends them, or takes them from another.

    Args:
        config: of the run.
        peer: id in the group.
        shape: (C, H, W) of the images.
        rounds: length of the run, for the learning-rate schedule.
        device: where the network lives.
        incarnation: grows when a peer starts anew; a fresh network each time.
    """

    def __init__(
        self,
        config: Config,
        peer: int,
        shape: tuple[int, int, int],
        rounds: int,
        device: torch.device,
        incarnation: int = 0,
    ) -> None:
        self.config = config
        self.id = peer
        self.shape = shape
        self.rounds = rounds
        self.device = device
        self.incarnation = incarnation
        self.network = self.initial_network()
        self._flat = Flat(self.network)
        self.optimizer = make_optimizer(config.optimizer, self._flat)
        # Probes go through the network itself: compiling for their shapes, too, would take longer than they do.
        self._train: Callable[[Tensor], Tensor] = torch.compile(self.network) if config.compile else self.network
        self.frozen = copy.deepcopy(self.network) if config.consensus.target == "frozen" else None
        self.stepped = 0
        self.skips: Counter[str] = Counter()
        self.bad_in_a_row = 0
        self.selection = Selection(config.selection)
        self._abstains = False
        self._outputs: Tensor | None = None
        self._under_way: _Backward | Step | None = None
        self._before: list[Tensor] = []

    def initial_network(self) -> nn.Module:
        """The network as it was at initialization: built again from the seed, bit for bit."""
        network = networks.build(
            self.config.network_of(self.id),
            self.shape,
            seed=self.config.run.seed,
            peer=self.id,
            incarnation=self.incarnation,
        )
        return network.to(self.device).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor | None:
        """Outputs [B, D] to publish for images [B, C, H, W], float32 and detached; None if they are not finite."""
        if self.config.exchange.elastic:  # the only exchange that may end a run before a round closes
            # What `undo_forward` restores: batch-norm statistics are all that a forward pass changes.
            self._before = [buffer.clone() for buffer in self.network.buffers()]
        if not self.network.training:  # walking through all its modules in every round takes its time
            self.network.train()
        with self._precision():
            self._outputs = self._train(images).float()
            published = self._outputs.detach()
            self._abstains = not _finite(published)
            if self.frozen is not None:
                with torch.no_grad():
                    published = self.frozen.train()(images).float()
                self._abstains |= not _finite(published)
        return None if self._abstains else published

    def _precision(self) -> AbstractContextManager[object]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def undo_forward(self) -> None:
        """Bring batch-norm statistics back to what they were before `forward`: the round did not happen."""
        self._outputs = None
        for buffer, before in zip(self.network.buffers(), self._before, strict=True):
            buffer.copy_(before)

    def evaluate(self, consensus: Consensus[Tensor], live: Callable[[Peer], float]) -> None:
        """Evaluate the weights that made this round's outputs, and keep them if they are the best so far.

        Args:
            consensus: of the round.
            live: k-NN of a peer on validation images.
        """
        if self.config.selection.rule == "validation":
            self.selection.offer(consensus.round, live(self), self.network)
            return
        target = peer_target(consensus, self.id, self.config.consensus)
        if self._outputs is not None and not isinstance(target, Missing):
            score = self.selection.criterion(self._outputs.detach(), target)
            self.selection.offer(consensus.round, score, self.network)

    def selected_network(self) -> nn.Module:
        """The network that the final probes see: as it is now, or a copy with the best weights."""
        if self.selection.best is None:
            return self.network
        network = copy.deepcopy(self.network)
        network.load_state_dict(dict(self.selection.best.state))
        return network

    def step(self, consensus: Consensus[Tensor]) -> Step:
        """`backward`, then `advance`."""
        self.backward(consensus)
        return self.advance()

    def backward(self, consensus: Consensus[Tensor]) -> None:
        """The gradient toward the consensus of the round whose outputs `forward` made.

        On a GPU it is only queued: several peers of a worker queue theirs before any waits for its own in `advance`.

        Raises:
            DivergedError: values were not finite for `consensus.max_skips` rounds in a row.
        """
        if self._outputs is None:
            raise RuntimeError("backward came before forward")
        outputs, self._outputs = self._outputs, None
        target = peer_target(consensus, self.id, self.config.consensus)
        if isinstance(target, Missing):
            self._under_way = self._skip(target.reason, outputs, None)
            return
        goal = controlled(target, outputs, self.config.consensus, self.config.run.seed, self.id, consensus.round)
        value = loss(outputs, goal, self.config.consensus)
        if self.config.consensus.control == "independent":
            # The gradient at one's own outputs is zero; its rounding is not, and Adam would make full steps of it.
            value = (outputs * 0).sum()
        self._flat.clear()
        value.backward()  # type: ignore[no-untyped-call]  # torch annotates it only in part
        norm = torch.linalg.vector_norm(self._flat.gradient)
        read = torch.stack([value.detach(), norm.to(value.dtype)])  # both come to the host at once
        self._under_way = _Backward(consensus.round, read, outputs.detach(), target)

    def advance(self) -> Step:
        """One optimizer step along the gradient that `backward` made, or a counted skip.

        Raises:
            DivergedError: values were not finite for `consensus.max_skips` rounds in a row.
        """
        waiting, self._under_way = self._under_way, None
        if waiting is None:
            raise RuntimeError("advance came before backward")
        if isinstance(waiting, Step):
            return waiting
        value, norm = waiting.read.tolist()
        if not math.isfinite(value):
            return self._skip("non_finite_loss", waiting.outputs, waiting.target)
        if not math.isfinite(norm):
            return self._skip("non_finite_gradient", waiting.outputs, waiting.target)
        rate = learning_rate(self.config.optimizer, waiting.round, self.rounds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.stepped += 1
        self.bad_in_a_row = 0
        return Step(None, value, norm, waiting.outputs, waiting.target)

    def skip(self, reason: str) -> None:
        """Count a round without a step; if the peer has abstained from it, as that.

        Raises:
            DivergedError: values were not finite for `consensus.max_skips` rounds in a row.
        """
        self._outputs = None
        reason = "abstained" if self._abstains else reason
        self.skips[reason] += 1
        if reason in NON_FINITE:
            self.bad_in_a_row += 1
            if self.bad_in_a_row >= self.config.consensus.max_skips:
                raise DivergedError(
                    f"peer {self.id}: non-finite values for {self.bad_in_a_row} rounds in a row, the last one "
                    f"{reason.replace('_', ' ')} (consensus.max_skips = {self.config.consensus.max_skips}); lower "
                    f"optimizer.learning_rate = {self.config.optimizer.learning_rate:g} or use a bounded loss (cosine)"
                )
        else:
            self.bad_in_a_row = 0

    def _skip(self, reason: str, outputs: Tensor, target: Tensor | None) -> Step:
        self.skip(reason)
        return Step(reason, math.nan, math.nan, outputs.detach(), target)


def _finite(values: Tensor) -> bool:
    """Whether all values are finite. Their sum tells at a tenth of the price, unless it overflows by itself."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def make_optimizer(config: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a configuration names, fused: one kernel for a step instead of several for each tensor."""
    parameters = list(network.parameters())
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=config.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay, fused=True)


def learning_rate(config: OptimizerConfig, round_: int, rounds: int) -> float:
    """Learning rate of a round: linear from zero through the warm-up, then constant, or a cosine that ends at zero."""
    if round_ < config.warmup:
        return config.learning_rate * (round_ + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (round_ - config.warmup) / max(1, rounds - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
