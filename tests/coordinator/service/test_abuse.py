"""Strangers and members with bad intent, at full speed: the honest group goes on, and the coordinator stays small.

Each attack goes on for as long as rounds are counted without it. What a share of them, and what growth of memory, is
demanded stands with each.
"""

from __future__ import annotations

import gzip
import hmac
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.certificates import make_certs
from coordinator.service import auth
from coordinator.service.settings import Tls
from peers.transport.access import Access
from peers.transport.lane import KEY_BYTES, LENGTH
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.coordinator.service.besieged import SETTLED, TOKEN, Besieged, besieged
from tests.coordinator.service.http2 import PREFACE, Connection, frame, message
from tests.coordinator.service.processes import until

JOIN = "/consensus.Coordinator/Join"
STATUS = "/consensus.Coordinator/GetStatus"
WATCH = "/consensus.Coordinator/WatchStatus"
STREAM = "/consensus.Exchange/Stream"
TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + os.urandom(160)
PLAIN = b"GET / HTTP/1.1\r\nHost: coordinator\r\nContent-Length: 999999\r\n\r\n"


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    """An honest group, which must have come through all of it."""
    with besieged(tmp_path_factory.mktemp("besieged")) as made:
        yield made
        made.check()


@pytest.fixture
def opened() -> Iterator[list[Any]]:
    """What an attack has open; closed at its end."""
    held: list[Any] = []
    yield held
    for each in held:
        each.close()


def raw(address: str) -> socket.socket:
    """A TCP connection."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def closing(held: list[Any], most: int, make: Callable[[], Any]) -> None:
    """Open one more; beyond so many the oldest goes."""
    held.append(make())
    if len(held) > most:
        held.pop(0).close()


def test_streams_that_never_finish_a_frame(group: Besieged, opened: list[Any]) -> None:
    """480 calls whose message comes a byte at a time, all with the right token."""
    calls: list[tuple[Connection, int]] = []

    def attack() -> None:
        if len(opened) < 8:
            connection = Connection(group.at.address)
            opened.append(connection)
            for path in (STATUS, JOIN, WATCH, STREAM) * 15:
                stream = connection.call(path, TOKEN)
                connection.data(stream, message(b"", claimed=1000))
                calls.append((connection, stream))
        for connection, stream in calls:
            with suppress(OSError):  # the coordinator has ended it
                connection.data(stream, b"x")

    group.withstands(attack, opened, share=0.3, mib=32)


def test_a_flood_of_connections(group: Besieged, opened: list[Any]) -> None:
    """400 at a time, silent or with half a greeting, 100 a second and more."""

    def attack() -> None:
        for greeting in (b"", PREFACE[:10], PREFACE, PREFACE + frame(4, 0, 0)):
            closing(opened, 400, lambda: raw(group.at.address))
            opened[-1].sendall(greeting)

    group.withstands(attack, opened, share=0.3, mib=32)


def test_silent_connections_are_cut(group: Besieged, opened: list[Any]) -> None:
    """Who connects and does not greet loses the descriptor, without closing anything."""
    before = group.descriptors
    opened.extend(raw(group.at.address) for _ in range(50))
    for connection in opened[:25]:
        connection.sendall(PREFACE)
    until(lambda: group.descriptors >= before + 40, "all have connected")
    until(lambda: group.descriptors <= before + SETTLED, "the silent are cut")


def test_messages_beyond_any_limit(group: Besieged, opened: list[Any]) -> None:
    """A length of 4 GiB, and megabytes after it, on calls and on the stream."""

    def attack() -> None:
        for path in (JOIN, STREAM):
            closing(opened, 8, lambda: Connection(group.at.address))
            with suppress(OSError):  # refused before all of it is sent
                opened[-1].data(opened[-1].call(path, TOKEN), message(b"x" * 2**20, claimed=2**32 - 1))

    group.withstands(attack, opened, share=0.3, mib=32)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A message of 200 KiB that would be 200 MiB."""
    return message(gzip.compress(bytes(200 * 2**20)), compressed=True)


@pytest.mark.parametrize("secret", [None, TOKEN], ids=["stranger", "member"])
def test_compressed_bombs(group: Besieged, opened: list[Any], bomb: bytes, secret: str | None) -> None:
    """200 KiB that would be 200 MiB, again and again, and groups nested beyond any parser."""
    nested = message(b"\x0b" * 100_000)

    def attack() -> None:
        closing(opened, 4, lambda: Connection(group.at.address))
        with suppress(OSError):  # refused before all of it is sent
            opened[-1].data(opened[-1].call(JOIN, secret, grpc_encoding="gzip"), bomb)
            opened[-1].data(opened[-1].call(JOIN, secret), nested)

    group.withstands(attack, opened, share=0.3, mib=32)


def test_guessing_the_token(group: Besieged) -> None:
    """Every guess is refused with the same bare code, the log keeps a bounded number of lines, none with a guess."""
    channel = Access(group.at.address).channel()
    stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
    guesses = [TOKEN[:-1], TOKEN + "x", "", "x", TOKEN.upper(), "x" * 4000]
    tried = 0

    def attack() -> None:
        nonlocal tried
        calls = []
        for guess in guesses * 5:
            metadata = (("authorization", f"Bearer {guess}"),)
            calls.append(stub.GetStatus.future(pb.StatusRequest(), metadata=metadata, timeout=20))
            calls.append(stub.Heartbeat.future(pb.HeartbeatRequest(), metadata=metadata, timeout=20))
        for call in calls:
            assert (call.code(), call.details()) == (grpc.StatusCode.UNAUTHENTICATED, "")
        tried += len(calls)

    lines = group.at.log.count("refused: ")
    group.withstands(attack, share=0.3, mib=32)
    channel.close()
    assert tried >= 120
    told = group.at.log.count("refused: ") - lines
    assert 0 < told <= min(120, tried / 2), f"{told} lines of {tried} guesses"
    assert "xxxx" not in group.at.log


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token by `hmac.compare_digest`; of a bearer only the hash is looked up."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    class Nobody:
        def clock(self) -> float:
            return 0.0

        def known(self, _bearer: str) -> None:
            return None

    monkeypatch.setattr(hmac, "compare_digest", compare)
    gate = auth.Gatekeeper(Nobody(), TOKEN)  # type: ignore[arg-type]
    assert gate._problem(STATUS, "guess") == "wrong token"
    assert gate._problem(STATUS, TOKEN) is None
    assert compared == [(b"guess", TOKEN.encode()), (TOKEN.encode(), TOKEN.encode())]


def test_a_flood_of_joins(group: Besieged) -> None:
    """Newcomers that never open a stream, until all places are taken: the members of before go on."""
    channel = Access(group.at.address, token=TOKEN).channel()
    stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
    codes: set[int] = set()

    def attack() -> None:
        calls = []
        for _ in range(20):
            request = pb.JoinRequest(
                run_id="run", request=os.urandom(16), batch=4, width=8, wire=pb.FLOAT32, rule="mean", name="n" * 10_000
            )
            request.peers.add()
            calls.append(stub.Join.future(request, metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=20))
        codes.update(call.result().code for call in calls)

    group.withstands(attack, share=0.3, mib=32)
    channel.close()
    assert codes <= {pb.OK, pb.GROUP_FULL, pb.TOO_FAST}
    assert pb.GROUP_FULL in codes


def test_a_flood_of_watchers(group: Besieged, opened: list[Any]) -> None:
    """240 that want to be told of every change as often as can be, and read nothing of it."""
    asked = message(pb.WatchRequest(interval=0.001).SerializeToString())

    def attack() -> None:
        if len(opened) < 4:
            opened.append(Connection(group.at.address))
            for _ in range(60):
                opened[-1].data(opened[-1].call(WATCH, TOKEN), asked)

    group.withstands(attack, opened, share=0.3, mib=32)


def lane_sockets() -> list[str]:
    """Abstract sockets of lanes on this host."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sorted({line.split()[-1][1:] for line in lines if "@peer-consensus-" in line})


def lane_port(group: Besieged) -> int:
    """Where the coordinator listens for lanes over the network."""
    return int(group.at.log.split("go by port ")[1].split()[0])


def test_garbage_on_every_port(group: Besieged, opened: list[Any]) -> None:
    """Plain HTTP, TLS, random bytes, keys of nobody's, lengths beyond any limit, wherever it listens."""
    garbage = [
        PLAIN,
        TLS_HELLO,
        os.urandom(2000),
        LENGTH.pack(KEY_BYTES) + os.urandom(KEY_BYTES),
        LENGTH.pack(2**32 - 1),
    ]

    def attack() -> None:
        for data in garbage:
            for where in (group.at.address, f"127.0.0.1:{lane_port(group)}"):
                closing(opened, 100, lambda where=where: raw(where))
                with suppress(OSError):  # closed already: what more could be asked for
                    opened[-1].sendall(data)
            for name in lane_sockets():
                closing(opened, 100, lambda: socket.socket(socket.AF_UNIX))
                with suppress(OSError):
                    opened[-1].connect(f"\0{name}")
                    opened[-1].sendall(data)

    group.withstands(attack, opened, share=0.3, mib=32)


def test_handshakes_that_never_finish(tmp_path: Path, opened: list[Any]) -> None:
    """Under TLS: 200 connections that greet and fall silent, or speak plain text."""
    certs = make_certs(tmp_path / "certs", ["127.0.0.1"])
    with besieged(tmp_path, "--ca", str(certs.ca), tls=Tls(str(certs.server), str(certs.server_key))) as group:

        def attack() -> None:
            for greeting in (TLS_HELLO, TLS_HELLO[:20], PLAIN, PREFACE):
                for where in (group.at.address, f"127.0.0.1:{lane_port(group)}"):
                    closing(opened, 200, lambda where=where: raw(where))
                    with suppress(OSError):
                        opened[-1].sendall(greeting)

        group.withstands(
            attack, opened, share=0.3, mib=192
        )  # BoringSSL's, given back seconds later; no more if it goes on
        group.check()
        assert len(group.at.log) < 16 * 1024, "a line for each stranger"
