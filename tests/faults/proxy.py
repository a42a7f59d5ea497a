"""A way between a worker and a coordinator that can be made slow, cut, or left half open: a TCP proxy."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable

from peers.common.hosts import split

CHUNK = 1 << 16
LOOK = 0.05
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of sched.h."""


class Proxy:
    """Listens where nobody else does and passes on what comes, in both directions.

    It has an address of loopback of its own, 127.0.0.x, where it listens on the coordinator's own ports: so a worker
    that is given it finds all of the coordinator's ports there. Into another network namespace one port leads.

    Args:
        target: HOST:PORT of the coordinator.
        host: to listen on.
        namespace: of the network that the coordinator is reached from; then the port that is listened on is any.

    Attributes:
        address: HOST:PORT that a worker is given.
        delay: seconds that each piece is held back.
        accepted: connections so far.
        cut: connections that were reset.
        frozen: connections that carry nothing any more.
    """

    def __init__(self, target: str, host: str, namespace: str | None = None) -> None:
        self._target, port = split(target)
        self._host, self._namespace = host, namespace
        self.delay, self.accepted, self.cut, self.frozen = 0.0, 0, 0, 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._ways: list[_Way] = []
        self._threads: list[threading.Thread] = []
        self._ports: set[int] = set()
        self.address = f"{host}:{self._listen(0 if namespace else port, port)}"

    def follow(self, ports: Iterable[int]) -> None:
        """Listen on these ports, too: the coordinator has opened them."""
        for port in sorted(set(ports) - self._ports):
            self._listen(port, port)

    def _listen(self, port: int, to: int) -> int:
        listening = socket.create_server((self._host, port))
        listening.settimeout(LOOK)
        self._ports.add(to)
        self._begin(self._accept, listening, to)
        return int(listening.getsockname()[1])

    def drop(self) -> None:
        """Reset all connections, at both ends."""
        for way in self._standing():
            way.reset()
            self.cut += 1

    def freeze(self) -> None:
        """Let the connections that stand carry nothing any more; new ones are not concerned."""
        for way in self._standing():
            way.frozen.set()
            self.frozen += 1

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        for way in self._standing():
            way.reset()
        for thread in self._threads:
            thread.join(10)

    def _standing(self) -> list[_Way]:
        with self._lock:
            return [way for way in self._ways if not way.over.is_set()]

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket, port: int) -> None:
        if self._namespace is not None:
            _enter(self._namespace)
        with listening:
            while not self._closed.is_set():
                try:
                    near, _ = listening.accept()
                except TimeoutError:
                    continue
                self.accepted += 1
                try:
                    far = socket.create_connection((self._target, port), timeout=5)
                except OSError:
                    _reset(near)  # the coordinator is away, and the worker finds out as it would without a proxy
                    continue
                self._pass_on(near, far)

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        way = _Way(near, far)
        with self._lock:
            self._ways = [*(way for way in self._ways if not way.over.is_set()), way]
            self._threads = [thread for thread in self._threads if thread.is_alive()]
        for source, sink in ((near, far), (far, near)):
            self._begin(self._carry, way, source, sink)

    def _carry(self, way: _Way, source: socket.socket, sink: socket.socket) -> None:
        while not (way.over.is_set() or self._closed.is_set()):
            try:
                if way.frozen.is_set():
                    way.over.wait(LOOK)
                    continue
                data = source.recv(CHUNK)
                if self.delay:
                    time.sleep(self.delay)  # the fault itself
                if way.frozen.is_set():
                    continue
                if not data:
                    break
                sink.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                break
        way.reset()


class _Way:
    """One connection and its continuation."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._ends = (near, far)
        self.frozen, self.over = threading.Event(), threading.Event()
        for end in self._ends:
            end.settimeout(LOOK)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Tell both ends that the connection is gone."""
        if not self.over.is_set():
            self.over.set()
            for end in self._ends:
                _reset(end)


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        end.close()


def _enter(namespace: str) -> None:
    """Let this thread, and no other, make its connections in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(descriptor, NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    finally:
        os.close(descriptor)
