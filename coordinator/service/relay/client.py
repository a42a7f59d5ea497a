"""Client of a relay: a `StreamClient` that publishes partial sums, and that another thread can interrupt."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from coordinator.service.relay.group import PartialSum
from peers.common.errors import ExchangeError
from peers.transport.access import Access
from peers.transport.client import CALL, StreamClient
from peers.transport.replies import Outcome, RefusedError
from peers.transport.stream import Stream
from protos import consensus_pb2 as pb
from protos.frames import Frame
from protos.tensors import Float32, to_wire


class RelayClient(StreamClient):
    """One relay's membership of the group above.

    Args:
        access: where the coordinator above is, and what opens it.
        shared: use shared memory where it is on the same host.
    """

    def __init__(self, access: Access, *, shared: bool) -> None:
        super().__init__(access, shared=shared)
        self._cancelled = threading.Event()

    @property
    def following(self) -> pb.Next:
        """The round that is next; epoch 0 where it is not open for this relay."""
        return self._next

    def cancel(self) -> None:
        """From another thread: whatever waits, now or later, ends with an ExchangeError."""
        self._cancelled.set()
        stream = self._stream
        if stream is not None:
            stream.give_up("given up: the relay stops")

    def look(self, patience: float) -> pb.StatusReply:
        """The state of the group above.

        Args:
            patience: seconds to try to reach it.

        Raises:
            ExchangeError: it cannot be reached, or does not accept this caller.
        """
        ask = pb.StatusRequest()
        reply = self._call(lambda: self._stub.GetStatus(ask, metadata=self._access.metadata(), timeout=CALL), patience)
        assert isinstance(reply, pb.StatusReply)  # noqa: S101  # the generated stub carries no types
        return reply

    def send_partial_sum(self, partial: PartialSum, total: Float32 | None) -> None:
        """Publish a sum; its bytes must not change until the answer has come.

        Args:
            partial: whose it is.
            total: [B, D] float32; None where nobody contributes.
        """
        assert self._stream is not None  # noqa: S101  # requests come after Enter
        self._id += 1
        publish = pb.Publish(
            id=self._id,
            round=partial.round,
            epoch=self._next.epoch if self._next.round == partial.round else 0,
            batch=partial.batch,
            peers=partial.peers,
            abstains=partial.abstains,
            absent=partial.absent,
            partial_sum=total is not None,
        )
        header = pb.FrameHeader(publish=publish, dtype=pb.FLOAT32)
        if total is not None:
            header.rows, header.columns = total.shape
        self._sent, self._awaits = {}, partial.round
        self._stream.publish(header, [] if total is None else [to_wire(total, pb.FLOAT32)])

    def report(self, reports: Mapping[int, bytes]) -> None:
        """Hand in last words of some peers, ahead of `leave`.

        Raises:
            ExchangeError: as `leave`.
        """
        request = pb.LeaveRequest(reports=reports, more=True)
        metadata = self._access.metadata(self._ticket.bearer)
        reply = self._call(lambda: self._stub.Leave(request, metadata=metadata, timeout=CALL), CALL)
        if reply.code != pb.OK:
            raise RefusedError(reply.code, reply.text)

    def opening(self) -> Outcome | int:
        """Wait until a round is open: on a new stream, as after `join`.

        Returns:
            the round's number, or how the membership ended.
        """
        assert self._stream is not None  # noqa: S101  # requests come after Enter
        assert self._info is not None  # noqa: S101  # see above
        self._stream.close()
        room = self._room(self._info) if self._shared else None
        self._stream = Stream(self._access, self._channel, self._ticket, room)
        frame = self._arrival(self._ticket.join_window + self._ticket.round_deadline)
        if frame.kind == "opened":
            self._next = frame.header.opened
            return self._next.round
        return self._reply(0, frame.header.reply)

    def _arrival(self, timeout: float) -> Frame:
        if self._cancelled.is_set():
            raise ExchangeError("given up: the relay stops")
        return super()._arrival(timeout)

    def _pause(self, seconds: float) -> None:  # type: ignore[override]  # the base needs no instance for it
        if self._cancelled.wait(seconds):
            raise ExchangeError("given up: the relay stops")
