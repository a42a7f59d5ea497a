"""The loop: the same for one peer in a worker and for many."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peers.config import Config
from peers.crew import Crew
from peers.data import Data, Schedule, batch_digest
from peers.exchange.base import Consensus, Exchange
from peers.metrics import Recorder
from peers.peer import Peer, Step
from peers.probes.collapse import deviation, disagreement, effective_rank

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Runs the rounds of the peers that one worker hosts.

    Attributes:
        config: of the run.
        peers: the hosted peers.
        exchange: joined.
        data: images; peers see `data.train`.
        rounds: length of the run.
        crew: runs the peers side by side.
        recorder: where metrics go.
        live: k-NN of a peer as it is now, in percent, on validation images.
        save: called with (peer, rounds done) when a checkpoint is due.
        stopping: whether this worker was asked to stop.
    """

    config: Config
    peers: Sequence[Peer]
    exchange: Exchange
    data: Data
    rounds: int
    crew: Crew
    recorder: Recorder
    live: Callable[[Peer], float]
    save: Callable[[Peer, int], object]
    stopping: Callable[[], bool]
    last_live: dict[int, float] = field(default_factory=dict)

    def run(self, first: int) -> int:
        """Run rounds from `first` until the last, or until a member of a fixed group leaves.

        Returns:
            rounds done in all; below `rounds` when the group was stopped.
        """
        schedule = Schedule(len(self.data.train), self.config.data.batch, self.config.run.seed)
        ours, theirs = itertools.tee(schedule.from_round(first))
        batches = self.data.train.stream(theirs)
        for round_ in range(first, self.rounds):
            digest = batch_digest(round_, next(ours), self.data.fingerprint)
            began = time.perf_counter()
            consensus, steps = self.round(round_, next(batches), digest)
            self._record(round_, consensus, steps, time.perf_counter() - began)
            stopped = bool(consensus.leaving) and not self.exchange.elastic
            if stopped or (round_ + 1) % self.config.checkpoint.every == 0 or round_ + 1 == self.rounds:
                self.crew.map(functools.partial(self._save, done=round_ + 1), self.peers)
            if stopped:
                return round_ + 1
        return self.rounds

    def round(self, round_: int, images: Tensor, digest: bytes) -> tuple[Consensus, list[Step]]:
        """One round: forward, publish, wait for the consensus, step toward it."""
        images = images.contiguous(memory_format=torch.channels_last)  # once, instead of in each peer's first layer
        outputs = self.crew.map(lambda peer: peer.forward(images), self.peers)
        published = {peer.id: z for peer, z in zip(self.peers, outputs, strict=True)}
        consensus = self.exchange.publish(round_, published, digest, leaving=self.stopping()).result()
        steps = self.crew.map(lambda peer: peer.step(consensus), self.peers)
        return consensus, steps

    def _save(self, peer: Peer, done: int) -> None:
        self.save(peer, done)

    def _record(self, round_: int, consensus: Consensus, steps: Sequence[Step], seconds: float) -> None:
        probing = self.config.probe.every > 0 and (round_ + 1) % self.config.probe.every == 0
        last = round_ + 1 == self.rounds
        if probing:
            scores = self.crew.map(self.live, self.peers)
            self.last_live = {peer.id: score for peer, score in zip(self.peers, scores, strict=True)}
        skipped = [step for step in steps if step.skipped]
        if not (probing or last or skipped or round_ % self.config.metrics.every == 0):
            return
        for peer, step in zip(self.peers, steps, strict=True):
            values = {**_signs(step), "count": consensus.count, "seconds": seconds, "receipt": consensus.receipt.digest}
            if probing:
                values["knn_live"] = self.last_live[peer.id]
            self.recorder.record(peer.id, round_, values)
        if probing or last:
            logger.info("round %d of %d: %s", round_ + 1, self.rounds, self._line(steps))

    def _line(self, steps: Sequence[Step]) -> str:
        parts = []
        for peer, step in zip(self.peers, steps, strict=True):
            score = f", k-NN {self.last_live[peer.id]:.1f}" if peer.id in self.last_live else ""
            what = f"skipped ({step.skipped})" if step.skipped else f"loss {step.loss:.4f}"
            parts.append(f"peer {peer.id} {what}, rank {effective_rank(step.outputs):.1f}{score}")
        return "; ".join(parts)


def _signs(step: Step) -> Mapping[str, Any]:
    """Signs of learning and of collapse, of one step."""
    return {
        "loss": step.loss,
        "gradient": step.gradient,
        "effective_rank": effective_rank(step.outputs),
        "deviation": deviation(step.outputs),
        "disagreement": disagreement(step.outputs, step.target) if step.target is not None else float("nan"),
        "skipped": step.skipped,
    }
