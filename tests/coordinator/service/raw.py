"""A peer that says what it likes: joins as it should, then puts any bytes on its stream."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np

from peers.transport.access import Access
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub
from protos.frames import Assembler, Frame, encode
from protos.tensors import NAMES, to_wire
from tests.coordinator.service.processes import Coordinator
from tests.coordinator.service.settled import BATCH


class RawPeer:
    """One worker with one peer; closes what it opened with `close`."""

    def __init__(self, at: Coordinator, index: int) -> None:
        self._channel = Access(at.address).channel()
        self.stub: Any = CoordinatorStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        request = pb.JoinRequest(
            run_id="run", request=bytes([index]) * 16, batch=4, width=8, wire=pb.FLOAT32, rule="mean"
        )
        request.peers.add(index=index)
        self.request = request
        reply = self.stub.Join(request, timeout=10)
        assert reply.code == pb.OK, reply.text
        self.ticket = reply.ticket
        self.metadata = (("authorization", f"Bearer {reply.ticket.bearer}"),)
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._assembler = Assembler(10**9)
        self._call: Any = None

    def open(self, *, pending: bool = False) -> Frame:
        """Open the stream and say hello; the answer."""
        self._out = queue.SimpleQueue()
        stub = self._channel.stream_stream("/consensus.Exchange/Stream")
        self._call = stub(iter(self._out.get, None), metadata=self.metadata, timeout=30)
        return self.say(*encode(pb.FrameHeader(attach=pb.Attach(pending=pending))))

    def say(self, *messages: bytes) -> Frame:
        """Send messages; the next frame that comes back."""
        for message in messages:
            self._out.put(message)
        return self.read()

    def read(self) -> Frame:
        """The next frame."""
        for message in self._call:
            frame = self._assembler.feed(message)
            if frame is not None:
                return frame
        raise EOFError("the stream ended")

    def beat(self) -> Any:
        """One heartbeat."""
        return self.stub.Heartbeat(pb.HeartbeatRequest(), metadata=self.metadata, timeout=10)

    def leave(self) -> None:
        """Leave the group, so that nobody waits for it."""
        assert self.stub.Leave(pb.LeaveRequest(), metadata=self.metadata, timeout=10).code == pb.OK

    def close(self) -> None:
        """End the stream."""
        self._out.put(None)
        if self._call is not None:
            self._call.cancel()
        self._channel.close()


def publication(opened: pb.Next, peer: int, values: Any = None, **changes: Any) -> list[bytes]:
    """Messages of a publication for an open round, right but for the changes."""
    values = np.full((4, 8), peer, np.float32) if values is None else values
    said: dict[str, Any] = {"round": opened.round, "epoch": opened.epoch, "batch": BATCH, "peers": [peer]}
    said.update(changes)
    header = pb.FrameHeader(publish=pb.Publish(**said), dtype=NAMES["float32"])
    header.rows, header.columns = values.shape
    return encode(header, [to_wire(values, NAMES["float32"])])
