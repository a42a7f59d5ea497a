"""Ray, as one might use it instead: peers and a summing actor, outputs and sums through the object store.

Imports neither torch nor gRPC: an actor's process imports this module.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from coordinator.launch.ray.launcher import SETTINGS
from tests.benchmarks.exchange_groups import Group, group
from tests.benchmarks.exchange_rounds import (
    LEADING,
    PATIENCE,
    Array,
    Outputs,
    Pass,
    Peer,
    Served,
    Setting,
)
from tests.benchmarks.service_load import ROOT
from tests.benchmarks.usage import peak, processor_time

STORE = 256 * 1024 * 1024
"""Least size of the object store, bytes."""


@contextmanager
def ray(setting: Setting) -> Iterator[Group]:
    """A cluster of this machine alone, in a process that drives it."""
    with group("Ray", [partial(RayDriver, setting)]) as started:
        yield started


class RayDriver:
    """Starts the cluster and its actors, and tells them when."""

    def __init__(self, setting: Setting) -> None:
        os.environ.update(SETTINGS, PYTHONPATH=str(ROOT))  # of the actors' processes
        import ray  # not preloaded: it starts threads

        self._ray = ray
        ray.init(
            address="local",
            num_cpus=setting.peers + 1,
            num_gpus=0,
            object_store_memory=max(STORE, 8 * (setting.peers + 1) * setting.bytes),
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        self._summing = ray.remote(Summing).options(max_concurrency=setting.peers + 2).remote(setting)
        actor = ray.remote(RayPeer)
        self._peers = [actor.remote(self._summing, peer, setting) for peer in range(setting.peers)]
        self.run(1)  # waits until all have started

    def run(self, rounds: int) -> list[Pass | Served]:
        begun = self._ray.get(self._summing.used.remote(), timeout=PATIENCE)
        said = self._ray.get([peer.run.remote(rounds) for peer in self._peers], timeout=PATIENCE)
        ended = self._ray.get(self._summing.used.remote(), timeout=PATIENCE)
        served = Served((ended.cpu - begun.cpu) / (LEADING + rounds), ended.peak)
        return [*(each for passes in said for each in passes), served]

    def close(self) -> None:
        self._ray.shutdown()


class RayPeer:
    """An actor: one peer."""

    def __init__(self, summing: Any, peer: int, setting: Setting) -> None:
        self._peer = Peer(RayEndpoint(summing), Outputs(peer, setting))

    def run(self, rounds: int) -> list[Pass]:
        return self._peer.run(rounds)


class RayEndpoint:
    """Calls of the summing actor; Ray itself puts large arguments and results into the object store."""

    def __init__(self, summing: Any) -> None:
        import ray

        self._get, self._summing = ray.get, summing

    def exchange(self, round_: int, outputs: Array) -> Array:
        total: Array = self._get(self._summing.exchange.remote(outputs), timeout=PATIENCE)
        return total

    def close(self) -> None: ...


class Summing:
    """An actor: adds the peers' outputs; its calls wait for each other."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._arrived = 0
        self._total: Array = np.zeros(setting.shape, np.float32)
        self._closed: asyncio.Future[Array] | None = None

    async def exchange(self, outputs: Array) -> Array:
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
        closed = self._closed
        self._total += outputs
        self._arrived += 1
        if self._arrived == self._setting.peers:
            closed.set_result(self._total)
            self._arrived, self._closed = 0, None
            self._total = np.zeros(self._setting.shape, np.float32)
        return await closed

    async def used(self) -> Served:
        return Served(processor_time(), peak())
