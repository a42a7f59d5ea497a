"""The training loop of a worker: one round after the other, for all peers that it hosts."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peers.config.schema import Config
from peers.data.batches import Data, Schedule, batch_digest
from peers.exchange.base import Exchange, Outcome
from peers.method.peer import Peer, Step
from peers.runs.journal import PeerJournal, Skip
from peers.runs.metrics import Recorder
from peers.runs.records import Records
from peers.transport.values import Consensus, Missed, RunEnded
from peers.worker.pool import PeerPool

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
        pool: runs the peers side by side.
        recorder: where metrics go.
        live: k-NN of a peer as it is now, in percent, on validation images.
        save: called with (peer, rounds done) when a checkpoint is due.
        keep: called with (peer, rounds done) when a snapshot is due.
        snapshots: numbers of rounds done after which it is.
        journal: where missed rounds and the end go; None keeps none.
        stopping: whether this worker was asked to stop.
        live_before: live k-NN of each hosted peer at initialization; goes into the first record.
        last_live: the newest live k-NN of each hosted peer, percent.
        ended: why the exchange ended the run before its last round; None if it did not.
    """

    config: Config
    peers: Sequence[Peer]
    exchange: Exchange
    data: Data
    rounds: int
    pool: PeerPool
    recorder: Recorder
    live: Callable[[Peer], float]
    save: Callable[[Peer, int], object]
    stopping: Callable[[], bool]
    live_before: dict[int, float]
    keep: Callable[[Peer, int], object]
    snapshots: Collection[int]
    journal: PeerJournal | None = None
    last_live: dict[int, float] = field(default_factory=dict)
    ended: str | None = None
    _records: Records = field(init=False)

    def run(self, first: int) -> int:
        """Run rounds from `first` until the last, or until the run ends for this worker before that.

        Returns:
            rounds done; below `rounds` when this worker, or its whole group, was stopped.
        """
        with closing(Records(self.recorder, self.rounds, self.peers[0].device)) as self._records:
            return self._run(first)

    def _run(self, first: int) -> int:
        schedule = Schedule(len(self.data.train), self.config.data.batch, self.config.run.seed)
        batches = self._images(schedule, first)
        round_ = first
        while round_ < self.rounds:
            began = time.perf_counter()
            digest = batch_digest(round_, schedule.indices(round_), self.data.fingerprint)
            outcome, steps = self.round(round_, next(batches), digest)
            if isinstance(outcome, RunEnded):
                return self._end_early(round_, outcome)
            if isinstance(outcome, Missed):
                self._miss(outcome)
                if outcome.next_round != round_ + 1:  # the group is further than one round: go to its batch
                    batches = self._images(schedule, outcome.next_round)
                round_ = outcome.next_round
                continue
            self._record(round_, outcome, steps, time.perf_counter() - began)
            round_ += 1
            self._snapshot(round_)
            if self._must_leave(outcome):
                return self._stop(round_)
            if round_ % self.config.checkpoint.every == 0 and round_ < self.rounds:
                self._save_all(round_)
        return self._stop(self.rounds)

    def round(self, round_: int, images: Tensor, digest: bytes) -> tuple[Outcome, list[Step]]:
        """One round of all hosted peers: forward, publish, evaluate, backward, step.

        Args:
            round_: number of the round.
            images: [B, C, H, W], the same batch for all peers of the group.
            digest: 16 bytes, which prove that it is the same.

        Returns:
            what became of the publication, and the step of each peer; no steps without a consensus.
        """
        # Forward. The layout is changed once here, instead of in the first layer of each peer.
        images = images.contiguous(memory_format=torch.channels_last)
        outputs = self.pool.map(lambda peer: peer.forward(images), self.peers)
        published = {peer.id: z for peer, z in zip(self.peers, outputs, strict=True)}

        # Publish, and wait until the round closes. This is the only place where a worker waits for others.
        outcome = self.exchange.publish(round_, published, digest, leaving=self.stopping()).result()
        if not isinstance(outcome, Consensus):
            return outcome, []

        # Evaluate before the step: the weights are still those that made the outputs.
        if self.peers[0].selection.due(round_):
            self.pool.map(lambda peer: peer.evaluate(outcome, self.live), self.peers)

        # Backward for all peers, then step for all: a GPU computes all gradients before any peer waits for its own.
        self.pool.map(lambda peer: peer.backward(outcome), self.peers)
        return outcome, self.pool.map(lambda peer: peer.advance(), self.peers)

    def _must_leave(self, consensus: Consensus[Tensor]) -> bool:
        """Whether this round was the worker's last: a fixed group ends with the first member that leaves."""
        if not self.exchange.elastic:
            return bool(consensus.leaving)
        return bool(consensus.leaving & {peer.id for peer in self.peers})

    def _end_early(self, round_: int, ended: RunEnded) -> int:
        """The run is over, and the round that was under way never closed: what its forward pass changed is undone."""
        self.ended = ended.text
        for peer in self.peers:
            peer.undo_forward()
        return self._stop(round_)

    def _images(self, schedule: Schedule, first: int) -> Iterator[Tensor]:
        """Batches of the rounds from `first` on, read ahead where they come from files."""
        return self.data.train.stream(itertools.islice(schedule.from_round(first), self.rounds - first))

    def _miss(self, missed: Missed) -> None:
        """Count a round without a step, in the log, the journal and the metrics."""
        logger.warning("round %d skipped (%s): %s", missed.round, missed.reason, missed.text)
        self._records.flush()
        if self.journal is not None:
            self.journal.skip(Skip(missed.round, missed.reason, missed.next_round))
        for peer in self.peers:
            peer.skip(missed.reason)
            self.recorder.record(peer.id, missed.round, {"skipped": missed.reason})

    def _stop(self, done: int) -> int:
        """Save all peers after `done` rounds, and end their journals; returns `done`."""
        if self.journal is not None:  # before the checkpoint, which is this life's only if the journal says so
            why = "complete" if done >= self.rounds else self.ended or "stopped"
            self.journal.end(done, why)
        self._save_all(done)
        return done

    def _snapshot(self, done: int) -> None:
        if done in self.snapshots:
            self.pool.map(lambda peer: self.keep(peer, done), self.peers)

    def _save_all(self, done: int) -> None:
        self._records.flush()  # a run that resumes here finds the records of all rounds before
        self.pool.map(lambda peer: self.save(peer, done), self.peers)

    def _record(self, round_: int, consensus: Consensus[Tensor], steps: Sequence[Step], seconds: float) -> None:
        """Write a record of the round where one is due, with live k-NN where that is due."""
        probing = self.config.probe.every > 0 and (round_ + 1) % self.config.probe.every == 0
        last = round_ + 1 == self.rounds
        if probing:
            scores = self.pool.map(self.live, self.peers)
            self.last_live = {peer.id: score for peer, score in zip(self.peers, scores, strict=True)}
        skipped = [step for step in steps if step.skipped]
        if not (probing or last or skipped or self.live_before or round_ % self.config.metrics.every == 0):
            return
        values: dict[int, dict[str, Any]] = {peer.id: {"seconds": seconds} for peer in self.peers}
        for peer in self.peers:
            if probing:
                values[peer.id]["knn_live"] = self.last_live[peer.id]
            if self.live_before:
                values[peer.id]["knn_live_baseline"] = self.live_before[peer.id]
        # Only now, and not before the first round: until it closes, the lead may be trimming the file of an older life.
        self.live_before = {}
        steps_of = {peer.id: step for peer, step in zip(self.peers, steps, strict=True)}
        self._records.keep(consensus, steps_of, values, self.last_live if probing or last else None)
