"""Placement of a worker: its rank among the others, its device, and the peers that it hosts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peers.common.errors import ConfigError
from peers.config.loading import updated
from peers.config.schema import Config

if TYPE_CHECKING:
    import torch

DEFAULT_PEERS = 4


@dataclass(frozen=True)
class Placement:
    """Placement of a worker among the processes that torchrun started; without torchrun it is alone.

    Attributes:
        rank: number of this worker.
        world: number of workers.
        local_rank: number of this worker on its host.
        local_world: number of workers on its host.
        restarts: how often the group has been started again.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    restarts: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Placement:
        """The placement that torchrun's variables describe.

        Raises:
            ConfigError: they are there but incomplete.
        """
        if "RANK" not in environment and "WORLD_SIZE" not in environment:
            return cls()
        try:
            rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local_rank = int(environment.get("LOCAL_RANK", rank))
            local_world = int(environment.get("LOCAL_WORLD_SIZE", world))
            restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", 0))
        except (KeyError, ValueError) as exc:
            raise ConfigError(
                f"the environment has part of torchrun's variables, but not a whole number in {exc}; start workers "
                f"with torchrun, or unset RANK and WORLD_SIZE"
            ) from exc
        return cls(rank, world, local_rank, local_world, restarts)


def with_group(config: Config, placement: Placement) -> Config:
    """The configuration with `group.peers` settled for the processes there are.

    Raises:
        ConfigError: processes and peers do not fit.
    """
    per_worker = config.group.peers_per_worker
    peers = config.group.peers
    if peers is None:
        peers = placement.world * per_worker if placement.world > 1 else DEFAULT_PEERS
    if config.exchange.elastic:
        return updated(config, group={"peers": peers})
    if placement.world == 1:
        return updated(config, group={"peers": peers, "peers_per_worker": peers})
    needed = -(-peers // per_worker)
    if needed != placement.world:
        raise ConfigError(
            f"group.peers = {peers} with group.peers_per_worker = {per_worker} needs {needed} processes, and there "
            f"are {placement.world}: start torchrun with --nproc_per_node={needed}, or set group.peers or "
            f"group.peers_per_worker"
        )
    if config.exchange.kind == "inprocess":
        raise ConfigError(
            f"exchange.kind = 'inprocess' hosts all peers in one process, and there are {placement.world}: "
            f"use collective"
        )
    return updated(config, group={"peers": peers})


def hosted(config: Config, placement: Placement) -> tuple[int, ...]:
    """Ids of the peers that fall to a worker: `peers_per_worker` in a row, the last worker may have fewer."""
    per_worker = config.group.peers_per_worker
    return tuple(range(config.group.peers or 0))[placement.rank * per_worker : (placement.rank + 1) * per_worker]


def device_of(config: Config, placement: Placement) -> torch.device:
    """Where the peers of a worker compute.

    Raises:
        ConfigError: cuda is asked for and there is none, or workers would share a GPU over NCCL.
    """
    import torch  # here, so that a plan can be printed without it

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cpu" or (config.device == "auto" and gpus == 0):
        return torch.device("cpu")
    if gpus == 0:
        raise ConfigError("device = 'cuda': no GPU is visible to this process; use auto or cpu")
    if placement.local_world > gpus:
        raise ConfigError(
            f"{placement.local_world} workers on this host and {gpus} GPUs: NCCL refuses two ranks on one GPU; host "
            f"several peers in a worker with group.peers_per_worker = {-(-(config.group.peers or 1) // gpus)}"
        )
    device = torch.device("cuda", placement.local_rank)
    torch.cuda.set_device(device)
    return device


def compute_threads(wanted: int | None, peers_on_host: int) -> int:
    """Compute threads of one peer: as configured, or the host's cores shared out among its peers.

    It follows from the number of peers on the host alone, not from how they are packed into workers, so that every
    packing does the same arithmetic.
    """
    return wanted or max(1, len(os.sched_getaffinity(0)) // peers_on_host)
