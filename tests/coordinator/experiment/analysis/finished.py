"""Runs that have ended, made up: nothing is trained, the weights at later rounds are the first ones, disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peers.config.loading import parse
from peers.config.schema import Config
from peers.networks import registry as networks
from peers.runs import snapshots
from peers.runs.run_folder import RunFolder

SECTIONS: dict[str, Any] = {
    "data": {"name": "synthetic", "image_size": 8, "channels": 3, "images": 200, "batch": 16},
    "network": {"depth": 2, "width": 6},
    "group": {"peers": 2},
    "probe": {"knn_k": 5, "linear_l2": [0.01], "linear_steps": 5},
    "device": "cpu",
}


def config_of(out: Path, **sections: Any) -> Config:
    """A small configuration, changed section by section."""
    tree = {**SECTIONS, **{name: _merged(SECTIONS.get(name), value) for name, value in sections.items()}}
    return parse({**tree, "run": {"name": "made-up-seed3", "seed": 3, "out": str(out)}})


def disturbed(config: Config, peer: int, round_: int, incarnation: int = 0) -> nn.Module:
    """A network as it might be after so many rounds; other for each peer and round, 0 the initial one."""
    shape = (config.data.channels, config.data.image_size or 8, config.data.image_size or 8)
    network = networks.build(config.network_of(peer), shape, seed=config.run.seed, peer=peer, incarnation=incarnation)
    generator = torch.Generator().manual_seed(100 * peer + round_)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * round_**0.5 * torch.randn(weight.shape, generator=generator)
    return network


def end(config: Config, kept: Mapping[int, Iterable[int]], rounds: int = 9, incarnation: int = 0) -> RunFolder:
    """Leave the folder of a run that has ended.

    Args:
        config: of the run.
        kept: rounds that each peer has a snapshot of.
        rounds: of the run.
        incarnation: of every peer.
    """
    folder = RunFolder.of(config)
    folder.prepare(config, "overwrite")
    for peer, chosen in kept.items():
        for round_ in chosen:
            snapshots.save(folder, peer, round_, disturbed(config, peer, round_, incarnation))
    per_peer = [{"peer": peer, "incarnation": incarnation} for peer in kept]
    folder.summary.write_text(json.dumps({"rounds": rounds, "per_peer": per_peer}))
    return folder


def _merged(before: object, value: Any) -> Any:
    return {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
