"""Checks before a worker starts: images, widths, lengths, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from peers.config.loading import identity, rounds_of
from peers.config.schema import Config
from peers.data.batches import Data, Schedule, open_data
from peers.networks import registry as networks
from peers.probes.evaluator import Evaluator
from peers.runs.checkpoint import Checkpoints
from peers.runs.run_folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """What a run is made of, once checked: images, probes, sizes and the folder.

    Attributes:
        data: the images.
        width: D, common to all networks of the group.
        rounds: length of the run.
        facts: identity of the configuration, which checkpoints must share.
        evaluator: probes of this run.
        folder: of the run.
    """

    data: Data
    width: int
    rounds: int
    facts: Mapping[str, Any]
    evaluator: Evaluator
    folder: RunFolder

    def checkpoints(self, config: Config, peer: int) -> Checkpoints:
        """The checkpoints of one peer."""
        return Checkpoints(self.folder.checkpoints(peer), self.facts, config.checkpoint.keep)


def check(config: Config, device: torch.device) -> RunContext:
    """Open the images and check everything that needs no other worker and no weights.

    Args:
        config: with `group.peers` settled.
        device: where the images are to live.

    Raises:
        PeersError: the first thing that is wrong: images, their number, widths that differ, too large a k.
    """
    data = open_data(config.data, config.run.seed, device)
    members = range(config.group.peers or 0)
    width = networks.check_widths([config.network_of(peer) for peer in members], data.shape)
    schedule = Schedule(len(data.train), config.data.batch, config.run.seed)
    rounds = rounds_of(config, schedule.rounds_per_epoch)
    evaluator = Evaluator(config.probe, data, config.run.seed, device)
    return RunContext(data, width, rounds, identity(config, rounds), evaluator, RunFolder.of(config))


def saved_rounds(config: Config, context: RunContext, peers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """For each peer the rounds of its checkpoints, as far as the run is long; checks that they fit.

    Raises:
        CheckpointError: a checkpoint is damaged, or was made with another configuration.
    """
    saved = {}
    for peer in peers:
        checkpoints = context.checkpoints(config, peer)
        rounds = checkpoints.rounds()
        for round_ in rounds:
            checkpoints.record(round_)
        saved[peer] = tuple(round_ for round_ in rounds if round_ <= context.rounds)
    return saved
