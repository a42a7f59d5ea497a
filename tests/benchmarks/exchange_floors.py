"""What a transport costs by itself: sums in a star over bare TCP sockets, and over bare shared memory.

Neither frames, checks, counts nor names anything, and a lost peer would hang them: what works must take longer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from peers.transport.shared_memory import FOLDER
from tests.benchmarks.exchange_groups import Group, group, processes
from tests.benchmarks.exchange_rounds import (
    LEADING,
    PATIENCE,
    Array,
    Outputs,
    Peer,
    Served,
    Setting,
)
from tests.benchmarks.usage import peak, processor_time


@contextmanager
def tcp(setting: Setting) -> Iterator[Group]:
    """Each peer sends its outputs to one process and gets their sum."""
    with socket.create_server(("127.0.0.1", 0), backlog=setting.peers) as listener:
        port = listener.getsockname()[1]
        peers = [partial(_tcp_peer, port, peer, setting) for peer in range(setting.peers)]
        with group("bare TCP", [*peers, partial(TcpServer, listener, setting)]) as started:
            yield started


class TcpPeer:
    """A connection to the summing process."""

    def __init__(self, port: int, setting: Setting) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._total: Array = np.empty(setting.shape, np.float32)

    def exchange(self, round_: int, outputs: Array) -> Array:
        self._socket.sendall(outputs.data)
        _receive(self._socket, self._total)
        return self._total

    def close(self) -> None:
        self._socket.close()


class TcpServer:
    """The summing process: takes the peers' outputs one after the other; those of the others wait in the kernel."""

    def __init__(self, listener: socket.socket, setting: Setting) -> None:
        listener.settimeout(PATIENCE)
        self._sockets = [listener.accept()[0] for _ in range(setting.peers)]
        listener.close()
        for each in self._sockets:
            each.settimeout(PATIENCE)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._total: Array = np.empty(setting.shape, np.float32)
        self._part: Array = np.empty(setting.shape, np.float32)

    def run(self, rounds: int) -> list[Served]:
        return _served(self._round, rounds)

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def _round(self) -> None:
        first, *others = self._sockets
        _receive(first, self._total)
        for each in others:
            _receive(each, self._part)
            np.add(self._total, self._part, out=self._total)
        for each in self._sockets:
            each.sendall(self._total.data)


@contextmanager
def shared(setting: Setting) -> Iterator[Group]:
    """Each peer copies its outputs into its part of a segment; one process adds the parts; each copies the sum out."""
    with NamedTemporaryFile(dir=FOLDER, prefix="exchange-benchmark-") as file:
        file.truncate((setting.peers + 1) * setting.bytes)
        published = processes.Semaphore(0)
        closed = [processes.Semaphore(0) for _ in range(setting.peers)]
        path = Path(file.name)
        peers = [partial(_shared_peer, path, peer, setting, published, closed[peer]) for peer in range(setting.peers)]
        server = partial(SharedServer, path, setting, published, closed)
        with group("bare shared memory", [*peers, server]) as started:
            yield started


class SharedPeer:
    """A part of the segment."""

    def __init__(self, path: Path, peer: int, setting: Setting, published: Any, closed: Any) -> None:
        parts = _parts(path, setting)
        self._part, self._sum = parts[peer], parts[-1]
        self._published, self._closed = published, closed
        self._total: Array = np.empty(setting.shape, np.float32)

    def exchange(self, round_: int, outputs: Array) -> Array:
        np.copyto(self._part, outputs)
        self._published.release()
        _take(self._closed)
        np.copyto(self._total, self._sum)
        return self._total

    def close(self) -> None: ...


class SharedServer:
    """The summing process; a semaphore for each peer, so that none takes another's turn."""

    def __init__(self, path: Path, setting: Setting, published: Any, closed: Sequence[Any]) -> None:
        *self._parts, self._sum = _parts(path, setting)
        self._published, self._closed = published, closed

    def run(self, rounds: int) -> list[Served]:
        return _served(self._round, rounds)

    def close(self) -> None: ...

    def _round(self) -> None:
        for _ in self._parts:
            _take(self._published)
        np.add(self._parts[0], self._parts[1], out=self._sum)
        for part in self._parts[2:]:
            np.add(self._sum, part, out=self._sum)
        for semaphore in self._closed:
            semaphore.release()


def _tcp_peer(port: int, peer: int, setting: Setting) -> Peer:
    return Peer(TcpPeer(port, setting), Outputs(peer, setting))


def _shared_peer(path: Path, peer: int, setting: Setting, published: Any, closed: Any) -> Peer:
    return Peer(SharedPeer(path, peer, setting, published, closed), Outputs(peer, setting))


def _served(round_: Callable[[], None], rounds: int) -> list[Served]:
    cpu = processor_time()
    for _ in range(LEADING + rounds):
        round_()
    return [Served((processor_time() - cpu) / (LEADING + rounds), peak())]


def _receive(from_: socket.socket, into: Array) -> None:
    view = memoryview(into).cast("B")
    while view:
        count = from_.recv_into(view)
        if not count:
            raise ConnectionError("the other side closed the connection")
        view = view[count:]


def _parts(path: Path, setting: Setting) -> list[Array]:
    """The peers' parts of the segment, and the sum's."""
    return list(np.memmap(path, np.float32, "r+", shape=(setting.peers + 1, *setting.shape)))


def _take(semaphore: Any) -> None:
    if not semaphore.acquire(timeout=PATIENCE):
        raise TimeoutError(f"nobody released the semaphore within {PATIENCE:g} s")
