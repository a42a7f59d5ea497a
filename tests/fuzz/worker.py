"""Target `worker`: what a worker's client makes of a coordinator that sends anything, on calls, streams and lanes.

Whatever comes, the worker's own thread gets an outcome or an ExchangeError, and its helpers' threads end in order.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import grpc
import numpy as np

from peers.common.errors import ExchangeError
from peers.transport import stream
from peers.transport.access import Access
from peers.transport.broadcast import SLOTS, Broadcast
from peers.transport.client import StreamClient
from peers.transport.lane import READY, Lane, laid
from peers.transport.values import Consensus, Expelled, Missed, PeerWish, RunEnded, WorkerInfo
from protos import consensus_pb2 as pb
from protos.frames import encode
from protos.tensors import Float32
from tests.fuzz.reader import Reader

SHAPE = (2, 2)
SOON = 0.02
"""Seconds that anything is waited for; the times of the run are as short."""
ODD = (0.0, -1.0, float("nan"), float("inf"), 1e300)


def once(data: bytes) -> None:
    """One input."""
    reader = Reader(data)
    coordinator = Coordinator(reader)
    with _played(coordinator.lanes), _no_thread_fails():
        client = StreamClient(cast(Access, coordinator), shared=reader.flag())
        try:
            _live(client)
        finally:
            client.close()


def _live(client: StreamClient) -> None:
    info = WorkerInfo("run", (PeerWish(0), PeerWish(None)), SHAPE, window=SOON)
    try:
        admission = client.join(info)
        assert len(admission.peers) == len(admission.incarnations) == len(info.peers)
        round_ = admission.first_round
        for _ in range(4):
            client.publish(round_, {peer: np.ones(SHAPE, np.float32) for peer in admission.peers}, b"b" * 16)
            outcome = client.result(SOON)
            assert isinstance(outcome, Consensus | Missed | Expelled | RunEnded)
            if isinstance(outcome, Expelled | RunEnded):
                break
            if isinstance(outcome, Consensus):
                _check(outcome)
            round_ = outcome.next_round
        assert isinstance(client.leave(dict.fromkeys(admission.peers, b"{}")), dict)
    except ExchangeError:
        return


def _check(outcome: Consensus[Float32]) -> None:
    """What reaches the training has the run's shape."""
    for values in (outcome.total, outcome.aggregate, *outcome.members.values()):
        assert values is None or (values.shape == SHAPE and values.dtype == np.float32)


class CallError(grpc.RpcError):  # type: ignore[misc]  # grpc ships no types
    """As gRPC raises them."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "as the bytes want it"


class Stream:
    """One exchange stream: yields what was decided, then stands until it is cancelled, or ends with a code."""

    def __init__(self, messages: list[bytes], code: grpc.StatusCode, *, stands: bool) -> None:
        self._messages, self._code, self._stands = messages, code, stands
        self._cancelled = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for message in self._messages:
            if self._cancelled.is_set():
                raise CallError(grpc.StatusCode.CANCELLED)
            yield message
        if self._stands:
            self._cancelled.wait(SOON * 2)
        raise CallError(self._code)

    def cancel(self) -> None:
        self._cancelled.set()


class Coordinator:
    """In place of `Access` and its channel: answers as the bytes want it, all of it decided at once.

    Args:
        reader: of the bytes.
    """

    address = "coordinator:1"
    token = None

    def __init__(self, reader: Reader) -> None:
        self._replies = {name: self._reply(name, reader) for name in ("Join", "Heartbeat", "Leave")}
        count = 1 + reader.below(3)
        self.lanes = [_lane(reader) for _ in range(count)]
        self._streams = [_stream(reader) for _ in range(count)]

    def channel(self) -> Coordinator:
        return self

    def close(self) -> None:
        """As a channel has it."""

    def metadata(self, _bearer: str | None = None) -> tuple[tuple[str, str], ...]:
        return ()

    def diagnose(self) -> tuple[str, bool]:
        return "the coordinator is as it is", True

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **_: Any) -> Any:
        reply = self._replies.get(method.rpartition("/")[2], b"")

        def call(_request: Any, **_: Any) -> Any:
            if reply is None:
                raise CallError(grpc.StatusCode.INTERNAL)
            try:
                return response_deserializer(reply)
            except Exception:
                raise CallError(grpc.StatusCode.INTERNAL) from None

        return call

    def unary_stream(self, *_: Any, **__: Any) -> None:
        """Not called."""

    def stream_stream(self, _method: str) -> Callable[..., Stream]:
        return lambda _requests, **_: (
            self._streams.pop(0) if self._streams else Stream([], grpc.StatusCode.UNAUTHENTICATED, stands=False)
        )

    @staticmethod
    def _reply(name: str, reader: Reader) -> bytes | None:
        if reader.flag():
            return reader.chunk() if reader.flag() else None
        if name == "Heartbeat":
            return pb.HeartbeatReply(code=reader.below(25)).SerializeToString()
        if name == "Leave":
            return pb.LeaveReply(code=pb.OK, reports={0: b"{}"}).SerializeToString()
        ticket = pb.Ticket(bearer="b", peers=[0, 1], incarnations=[0, 0], payload_limit=64, partial_sums=True)
        for time in ("heartbeat", "round_deadline", "join_window"):
            setattr(ticket, time, ODD[reader.below(len(ODD))] if reader.flag() else SOON / 4)
        if reader.flag():
            ticket.peers.append(reader.small())
        if reader.flag():
            ticket.payload_limit = reader.number()
        ticket.partial_sums = not reader.flag()
        reply = pb.JoinReply(code=pb.OK, ticket=ticket)
        if reader.flag():
            reply.code, reply.retry_after = reader.below(40), ODD[reader.below(len(ODD))]
        return reply.SerializeToString()


def _stream(reader: Reader) -> Stream:
    attached = pb.Attached(shared=reader.flag(), port=reader.below(2), lane="lane", key=reader.take(2))
    opened = pb.Next(round=1, epoch=1, members=[0, 1])
    messages = [*encode(pb.FrameHeader(attached=attached)), *encode(pb.FrameHeader(opened=opened))]
    messages = [] if reader.flag() else messages
    messages += [message for _ in range(reader.below(6)) for message in _messages(reader)]
    codes = list(grpc.StatusCode)
    code = codes[reader.below(len(codes))] if reader.flag() else grpc.StatusCode.UNAUTHENTICATED
    return Stream(messages, code, stands=not reader.flag())


def _messages(reader: Reader) -> list[bytes]:
    """Mostly an answer that fits, or nearly; sometimes any bytes."""
    following = pb.Next(round=reader.below(4) + 1, epoch=reader.below(3), members=[0, 1])
    kind = reader.below(5)
    if kind == 0:
        return [reader.chunk()]
    if kind == 1:
        return encode(pb.FrameHeader(opened=following))
    if kind == 2:
        return encode(pb.FrameHeader(reply=pb.Reply(code=reader.below(40), text="so", round=1, next=following)))
    said = pb.Result(round=1, epoch=1, contributors=[0, 1], members=[0, 1], content=pb.TOTAL, next=following)
    header = pb.FrameHeader(result=said, dtype=pb.FLOAT32, rows=SHAPE[0], columns=SHAPE[1])
    payload = bytes(16)
    if reader.flag():
        header.result.content = reader.below(6)
        header.result.peers.extend(reader.numbers(3))
        payload = payload * len(header.result.peers)
    if reader.flag():
        header.dtype, header.rows, header.columns = reader.below(6), reader.small(), reader.small()
        payload = reader.chunk()
    if kind == 4:
        header.in_shared, header.payload, payload = True, reader.number() if reader.flag() else 16, b""
        header.broadcast = reader.below(4) if reader.flag() else reader.number()
    return encode(header, [payload])


def _lane(reader: Reader) -> tuple[bytes, int]:
    """What comes on a lane: bytes, and which descriptors with them."""
    if reader.flag():
        return reader.chunk(), reader.below(4)
    messages = laid([_messages(reader) for _ in range(reader.below(4))])
    return laid([[READY]]) + messages + reader.take(reader.below(2)), reader.below(4)


@cache
def _descriptors() -> Sequence[list[int]]:
    """None; memory with results; memory without seals; the first and one too many."""
    broadcast, plain = Broadcast(16), os.memfd_create("fuzz")
    for _ in range(SLOTS):
        broadcast.write([bytes(16)])
    os.ftruncate(plain, os.fstat(broadcast.descriptor).st_size)
    return [], [broadcast.descriptor], [plain], [broadcast.descriptor, plain]


@contextmanager
def _played(incoming: list[tuple[bytes, int]]) -> Iterator[None]:
    """Lanes lead nowhere, and what comes on them is decided."""

    class Played(Lane):
        @classmethod
        def on_host(cls, _name: str, *terms: Any) -> Lane:
            mine, other = socket.socketpair()
            sent, kind = incoming.pop(0) if incoming else (b"", 0)
            with other:
                if sent:
                    socket.send_fds(other, [sent], _descriptors()[kind])
            return cls(mine, *terms)

        @classmethod
        def to_host(cls, _access: Access, _port: int, *terms: Any) -> Lane:
            return cls.on_host("", *terms)

    usual, stream.Lane = stream.Lane, Played  # type: ignore[misc]
    try:
        yield
    finally:
        stream.Lane = usual  # type: ignore[misc]


@contextmanager
def _no_thread_fails() -> Iterator[None]:
    """An error in a thread is an error of the input."""
    failed: list[BaseException] = []
    usual, threading.excepthook = threading.excepthook, lambda about: failed.append(about.exc_value or SystemError())
    try:
        yield
    finally:
        threading.excepthook = usual
    for error in failed:
        raise error
