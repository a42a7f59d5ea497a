"""The project's own exchanges, and gloo's all_reduce, as cases of the exchange benchmark."""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from coordinator.certificates import make_certs
from coordinator.service.settings import Tls
from peers.common.memory import keep_memory
from peers.exchange.base import Exchange, Hello
from peers.exchange.collective import CollectiveExchange
from peers.exchange.coordinated import CoordinatedExchange
from peers.exchange.inprocess import InProcessGroup
from peers.method.target_selection import TargetSelection
from peers.transport.access import Access
from peers.transport.values import Consensus
from tests.benchmarks.exchange_groups import Group, group
from tests.benchmarks.exchange_rounds import Array, Outputs, Peer, Setting, Threads
from tests.benchmarks.service_load import service
from tests.coordinator.service.light_peer import batch

CPU = torch.device("cpu")
TIMES = {"heartbeat": 60.0, "round_deadline": 120.0, "join_window": 300.0}
"""A group is idle while the others have their turn: nothing may beat or run out in the meantime."""
ROUNDED = 1e-2
"""Relative error of a sum of bf16 outputs that is none."""


class Ours:
    """One peer of one of the project's exchanges, joined to its group."""

    def __init__(self, exchange: Exchange, peer: int, setting: Setting, wire: str = "float32") -> None:
        keep_memory()  # as a worker does
        self._exchange, self._peer = exchange, peer
        rule = TargetSelection("mean", 0)
        exchange.join(Hello((peer,), setting.peers, setting.shape, {}, {peer: ()}, rule, wire))

    def exchange(self, round_: int, outputs: Array) -> Array:
        outcome = self._exchange.publish(round_, {self._peer: torch.from_numpy(outputs)}, batch(round_)).result()
        if not isinstance(outcome, Consensus) or outcome.total is None:
            raise TypeError(f"expected a consensus in round {round_}, found {outcome}")
        return outcome.total.numpy()

    def close(self) -> None:
        self._exchange.close()


class Gloo:
    """All-reduce of torch.distributed, of a copy: a peer needs its own outputs afterwards."""

    def __init__(self, port: int, peer: int, setting: Setting) -> None:
        _meet(port, peer, setting)
        dist.init_process_group("gloo")
        self._total = torch.empty(setting.shape)

    def exchange(self, round_: int, outputs: Array) -> Array:
        self._total.copy_(torch.from_numpy(outputs))
        dist.all_reduce(self._total)
        return self._total.numpy()

    def close(self) -> None:
        dist.destroy_process_group()


@contextmanager
def gloo(setting: Setting) -> Iterator[Group]:
    """The yardstick."""
    store = _store()
    with group("gloo", [partial(_gloo_peer, store.port, peer, setting) for peer in range(setting.peers)]) as started:
        yield started


@contextmanager
def collective(setting: Setting) -> Iterator[Group]:
    """Over torch.distributed, in the order of peer ids."""
    store = _store()
    peers = [partial(_collective_peer, store.port, peer, setting) for peer in range(setting.peers)]
    with group("collective", peers) as started:
        yield started


@contextmanager
def inprocess(setting: Setting) -> Iterator[Group]:
    """Peers in the threads of one process."""
    with group("in process", [partial(_threads, setting)]) as started:
        yield started


@contextmanager
def stream(setting: Setting, *, wire: str = "float32", secure: bool = False) -> Iterator[Group]:
    """Through a coordinator, all payloads on its stream."""
    name = " ".join(["stream", *(["bf16"] if wire != "float32" else []), *(["TLS"] if secure else [])])
    with TemporaryDirectory() as folder, _coordinator(setting, Path(folder) if secure else None) as (access, process):
        peers = [partial(_coordinated, access, peer, setting, wire, shared=False) for peer in range(setting.peers)]
        with group(name, peers, server=process) as started:
            yield started


@contextmanager
def shared(setting: Setting) -> Iterator[Group]:
    """Through a coordinator, payloads in shared memory."""
    with _coordinator(setting, None) as (access, process):
        peers = [partial(_coordinated, access, peer, setting, "float32", shared=True) for peer in range(setting.peers)]
        with group("shared memory", peers, server=process) as started:
            yield started


@contextmanager
def _coordinator(setting: Setting, certs: Path | None) -> Iterator[tuple[Access, Any]]:
    """A coordinator's process; with a folder for certificates, behind TLS and a token."""
    opened: dict[str, Any] = {}
    secure: dict[str, Any] = {}
    if certs is not None:
        made, token = make_certs(certs / "certs", ["127.0.0.1"]), secrets.token_hex(32)
        opened, secure = {"token": token, "ca": str(made.ca)}, {"tls": Tls(str(made.server), str(made.server_key))}
        secure["token"] = token
    unlimited = {"rounds": 2**31 - 1, "messages_per_second": 1e9}
    with service(shape=setting.shape, group=setting.peers, **TIMES, **unlimited, **secure) as (address, process, _):
        yield Access(address, **opened), process


def _coordinated(access: Access, peer: int, setting: Setting, wire: str, *, shared: bool) -> Peer:
    window = TIMES["join_window"]
    exchange = CoordinatedExchange(access, "run", CPU, join_window=window, shared_memory=shared)
    ours = Ours(exchange, peer, setting, wire)
    if exchange.shares_memory is not shared:
        raise RuntimeError(f"expected shared memory: {shared}, found: {exchange.shares_memory}")
    return Peer(ours, Outputs(peer, setting, 0.0 if wire == "float32" else ROUNDED))


def _gloo_peer(port: int, peer: int, setting: Setting) -> Peer:
    return Peer(Gloo(port, peer, setting), Outputs(peer, setting))


def _collective_peer(port: int, peer: int, setting: Setting) -> Peer:
    _meet(port, peer, setting)
    exchange = CollectiveExchange(
        CPU, round_deadline=TIMES["round_deadline"], join_window=TIMES["join_window"], interface=None
    )
    return Peer(Ours(exchange, peer, setting), Outputs(peer, setting))


def _threads(setting: Setting) -> Threads:
    meeting = InProcessGroup(setting.peers, round_deadline=TIMES["round_deadline"])
    exchanges = [meeting.exchange() for _ in range(setting.peers)]
    with ThreadPoolExecutor(setting.peers) as pool:  # to join waits for all
        joined = list(pool.map(lambda peer: Ours(exchanges[peer], peer, setting), range(setting.peers)))
    return Threads([Peer(ours, Outputs(peer, setting), resource.RUSAGE_THREAD) for peer, ours in enumerate(joined)])


def _meet(port: int, peer: int, setting: Setting) -> None:
    """Where the members of torch.distributed meet, in the environment, as torchrun tells it."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(peer),
        WORLD_SIZE=str(setting.peers),
        TORCHELASTIC_USE_AGENT_STORE="True",  # the store lives with the benchmark, never in a peer
    )


def _store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
