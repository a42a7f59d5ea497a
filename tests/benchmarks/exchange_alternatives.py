"""What one might use instead: a unary gRPC service of protobuf messages, and hivemind's averager.

Ray is in `exchange_ray`. Each is written as its documentation would have it.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from tests.benchmarks.exchange_groups import Group, group, processes
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

SERVICE, METHOD = "benchmark.Exchange", "Sum"
PARTING = 5.0
"""Seconds that calls under way have to end."""
SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextmanager
def unary(setting: Setting) -> Iterator[Group]:
    """Each peer calls a method with its outputs in a message, and gets the sum in another."""
    ports = processes.SimpleQueue()
    peers = [partial(_unary_peer, ports, peer, setting) for peer in range(setting.peers)]
    with group("unary gRPC", [*peers, partial(UnaryServer, ports, setting)]) as started:
        yield started


class UnaryPeer:
    """A stub."""

    def __init__(self, port: int, setting: Setting) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", SIZES)
        self._shape = setting.shape
        self._sum = self._channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )

    def exchange(self, round_: int, outputs: Array) -> Array:
        reply = self._sum(BytesValue(value=outputs.tobytes()), timeout=PATIENCE, wait_for_ready=True)
        return np.frombuffer(reply.value, np.float32).reshape(self._shape)

    def close(self) -> None:
        self._channel.close()


class UnaryServer:
    """A thread for each peer; they wait for each other."""

    def __init__(self, ports: Any, setting: Setting) -> None:
        self._setting = setting
        self._changed = threading.Condition()
        self._arrived = self._closed = self._due = 0
        self._total: Array = np.zeros(setting.shape, np.float32)
        self._answer = BytesValue()
        self._server = grpc.server(ThreadPoolExecutor(setting.peers), options=SIZES)
        method = grpc.unary_unary_rpc_method_handler(
            self._exchange,
            request_deserializer=BytesValue.FromString,
            response_serializer=BytesValue.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        for _ in range(setting.peers):
            ports.put(port)

    def run(self, rounds: int) -> list[Served]:
        cpu, every = processor_time(), LEADING + rounds
        self._due += every
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed >= self._due, PATIENCE):
                raise TimeoutError(f"{self._closed} of {self._due} rounds closed within {PATIENCE:g} s")
        return [Served((processor_time() - cpu) / every, peak())]

    def close(self) -> None:
        self._server.stop(PARTING).wait()

    def _exchange(self, request: Any, context: Any) -> Any:
        outputs = np.frombuffer(request.value, np.float32).reshape(self._setting.shape)
        with self._changed:
            round_ = self._closed
            self._total += outputs
            self._arrived += 1
            if self._arrived == self._setting.peers:
                self._answer = BytesValue(value=self._total.tobytes())
                self._total[:] = 0
                self._arrived, self._closed = 0, round_ + 1
                self._changed.notify_all()
            elif not self._changed.wait_for(lambda: self._closed > round_, PATIENCE):
                raise TimeoutError(f"{self._arrived} of {self._setting.peers} peers came within {PATIENCE:g} s")
            return self._answer


def _unary_peer(ports: Any, peer: int, setting: Setting) -> Peer:
    return Peer(UnaryPeer(ports.get(), setting), Outputs(peer, setting))


@contextmanager
def hivemind(setting: Setting, *, python: str) -> Iterator[Group]:
    """A `DecentralizedAverager` for each peer, in the environment of another Python."""
    addresses = processes.SimpleQueue()
    relays = [partial(HivemindRelay, python, addresses, peer, setting) for peer in range(setting.peers)]
    with group("hivemind", relays) as started:
        yield started


class HivemindRelay:
    """Passes on what it is told to a process of `exchange_hivemind`, and back."""

    def __init__(self, python: str, addresses: Any, peer: int, setting: Setting) -> None:
        command = [python, "-m", "tests.benchmarks.exchange_hivemind", str(peer), str(setting.peers)]
        command += [*map(str, setting.shape), *([] if peer == 0 else [addresses.get()])]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if peer == 0:
            address = self._heard()
            for _ in range(setting.peers - 1):
                addresses.put(address)
        self._heard()  # ready

    def run(self, rounds: int) -> list[Pass]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        return [Pass(**self._heard())]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"hivemind's process ended with {self._process.wait(PATIENCE)}: see its errors above")
        return json.loads(line)
