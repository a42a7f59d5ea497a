"""A finished run as one looks back on it: its images, its result, and its networks as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from peers.common.errors import RunFolderError
from peers.config.schema import Config
from peers.method.peer import Peer
from peers.networks import registry as networks
from peers.probes.features import with_norm_statistics
from peers.runs import snapshots
from peers.runs.run_folder import RunFolder
from peers.worker.placement import Placement, device_of
from peers.worker.preflight import RunContext, check


class Past:
    """The networks of a run at the rounds of which their weights were kept.

    Args:
        config: of a run that has ended.

    Attributes:
        config: the same.
        summary: its result.
        device: where its networks are measured.
        grounds: its images and what else it stands on.
        peers: ids of the peers that ended it.
        rounds: rounds that all of them have weights of, ascending; 0, the initial network, is the first.

    Raises:
        RunFolderError: the run has not ended, or kept no weights.
        PeersError: the images are not what they were.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = RunFolder.of(config)
        self.summary = _summary(folder)
        self.device = device_of(config, Placement())
        self.grounds: RunContext = check(config, self.device)
        self._incarnations = {int(report["peer"]): int(report["incarnation"]) for report in self.summary["per_peer"]}
        self.peers = tuple(sorted(self._incarnations))
        kept = [{0, *self._snapshots(peer), *self._checkpoint(peer)} for peer in self.peers]
        self.rounds = tuple(sorted(set.intersection(*kept)))
        if len(self.rounds) < 2:
            raise RunFolderError(
                f"{folder.path} has no weights to look at: there is neither a snapshot that all its peers have, nor a "
                f"checkpoint of their last round ({self.summary['rounds']}); run it again with --overwrite"
            )

    def network(self, peer: int, round_: int) -> nn.Module:
        """As `weights`, with batch-norm statistics re-estimated on the run's training images."""
        train, probe = self.grounds.data.train, self.config.probe
        return with_norm_statistics(self.weights(peer, round_), train, probe.norm_images, self.config.run.seed)

    def weights(self, peer: int, round_: int) -> nn.Module:
        """A peer's network after so many rounds, as it was saved.

        Raises:
            CheckpointError: its weights are damaged, or were made with another configuration.
        """
        config, incarnation = self.config, self._incarnations[peer]
        shape = self.grounds.data.shape
        network = networks.build(
            config.network_of(peer), shape, seed=config.run.seed, peer=peer, incarnation=incarnation
        )
        if round_ in self._snapshots(peer):
            network.load_state_dict(snapshots.load(self.grounds.folder, peer, round_))
        elif round_ > 0:
            host = Peer(config, peer, shape, self.grounds.rounds, self.device, incarnation)
            self.grounds.checkpoints(config, peer).load(host, round_)
            network = host.network
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _snapshots(self, peer: int) -> list[int]:
        return [round_ for round_ in snapshots.rounds(self.grounds.folder, peer) if round_ <= self.summary["rounds"]]

    def _checkpoint(self, peer: int) -> set[int]:
        """The last round, if there is a checkpoint of it."""
        return {self.summary["rounds"]} & set(self.grounds.checkpoints(self.config, peer).rounds())


def _summary(folder: RunFolder) -> Mapping[str, Any]:
    if not folder.summary.is_file():
        raise RunFolderError(
            f"{folder.path} has no {folder.summary.name}: only a run that has ended can be analysed; finish it with "
            f"--resume auto, or check run.out and run.name"
        )
    found: dict[str, Any] = json.loads(folder.summary.read_bytes())
    return found
