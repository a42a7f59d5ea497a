"""Client of a coordinator: join a group, publish outputs round after round, leave. Numpy, without torch.

    client = StreamClient(Access("127.0.0.1:7070"))
    ticket = client.join(info)               blocks until a round is open for the worker
    client.publish(round, outputs, digest)   returns at once; the outputs may be reused
    outcome = client.result()                Consensus | Missed | Expelled | RunEnded
    client.leave(reports)                    once, last
    client.close()                           any time, any number of times

`publish` and `result` alternate, from one thread. Two threads of its own keep the stream up (`stream`) and send
heartbeats. What is published is copied, so the caller may change it at once. Arrays of a result may lie in memory that
gRPC received: read them, never write to them. After Expelled `join` may be called again; after RunEnded, or an error,
only `leave` and `close`.

Several hosted peers publish one sum where the rule lives on sums. They are added here in the coordinator's order, so an
aligned block of 2^m ids gives the same bits as if each had published alone.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import grpc

from peers.common.errors import DisagreementError, ExchangeError
from peers.common.summation import tree_sum
from peers.transport.access import Access
from peers.transport.replies import (
    NoAnswerError,
    Outcome,
    RefusedError,
    checked,
    consensus_of,
    late,
    outcome_of,
    pause_of,
)
from peers.transport.shared_memory import ANSWERS, Lent, room_for
from peers.transport.stream import Lost, Stream
from peers.transport.values import Consensus, Ticket, WorkerInfo
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub
from protos.frames import Frame, FrameError
from protos.tensors import NAMES, Float32, as_sent, size_of, to_wire

CALL = 10.0
"""Seconds that one control call may take."""

logger = logging.getLogger(__name__)


class StreamClient:
    """One worker's membership of a group that a coordinator keeps.

    Args:
        access: where the coordinator is, and what opens it.
        shared: use shared memory where the coordinator is on the same host.
    """

    def __init__(self, access: Access, *, shared: bool = True) -> None:
        self._access = access
        self._shared = shared
        self._channel = access.channel()
        self._stub: Any = CoordinatorStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._stream: Stream | None = None
        self._ticket = pb.Ticket()
        self._info: WorkerInfo | None = None
        self._beating = threading.Event()
        self._beats: threading.Thread | None = None
        self._next = pb.Next()
        self._id = secrets.randbits(63)
        self._sent: dict[int, Float32] = {}
        self._awaits: int | None = None
        self.absent: tuple[int, ...] = ()
        """Of a relay: hosted peers that nobody holds now; told with each heartbeat."""

    @property
    def shares_memory(self) -> bool:
        """Whether payloads go through shared memory at the moment."""
        return self._stream is not None and self._stream.shares

    @property
    def patience(self) -> float:
        """Seconds to wait for a result, after which something is wrong: the round deadline and the join window."""
        return self._ticket.round_deadline + self._ticket.join_window

    @property
    def stopping_patience(self) -> float:
        """Seconds that a worker which was asked to stop still waits for a result: a round's, and a heartbeat."""
        return self._ticket.round_deadline + self._ticket.heartbeat

    def join(self, info: WorkerInfo) -> Ticket:
        """Become a member; blocks until a round is open for this worker.

        Raises:
            DisagreementError: the coordinator runs another run, or the group has another configuration.
            RefusedError: it takes no more, or the run is over.
            ExchangeError: it cannot be reached, or the group did not form in time.
        """
        self._end_stream()
        self._info = info
        self._ticket = self._admitted(info)
        room = self._room(info) if self._shared else None
        self._stream = Stream(self._access, self._channel, self._ticket, room)
        self._beating.clear()
        self._beats = threading.Thread(target=self._beat, name="consensus-heartbeat", daemon=True)
        self._beats.start()
        arrival = self._arrival(self.patience)
        if arrival.kind != "opened":
            self._end_stream()
            raise RefusedError(arrival.header.reply.code, arrival.header.reply.text)
        self._next = arrival.header.opened
        incarnations = dict(zip(self._ticket.peers, self._ticket.incarnations, strict=True))
        return Ticket(tuple(self._next.members), self._next.round, self._next.epoch, incarnations)

    def publish(
        self, round_: int, outputs: Mapping[int, Float32 | None], digest: bytes, *, leaving: bool = False
    ) -> None:
        """Hand in the outputs of the hosted peers; they are copied.

        Args:
            round_: number of the round.
            outputs: {peer: [B, D] float32} for each hosted peer; None abstains.
            digest: 16 bytes, the batch digest.
            leaving: this worker leaves after this round.

        Raises:
            ExchangeError: not joined, or the publication before has no result yet.
        """
        if self._stream is None or self._info is None:
            raise ExchangeError("publish comes after join: this worker is not a member")
        if self._awaits is not None:
            raise ExchangeError(f"round {self._awaits} was published, take its result before round {round_}")
        # Outputs as they travel: where the coordinator reads them if possible, else copies rounded to the wire's type.
        wire = NAMES[self._info.wire]
        self._sent = {}  # first: its shared place, or its memory that is still in the cache, takes the new outputs
        given = {peer: values for peer, values in sorted(outputs.items()) if values is not None}
        lent = self._lent(given, wire)
        if lent is not None:
            self._sent = dict(zip(given, lent.arrays, strict=True))
        else:
            self._sent = {peer: as_sent(values, wire) for peer, values in given.items()}
        # Whose they are, for which round and batch.
        header = pb.FrameHeader(dtype=wire)
        publish = header.publish  # filled in where it stands: making it apart and copying it takes twice as long
        self._id += 1
        publish.round, publish.batch, publish.leaving, publish.id = round_, digest, leaving, self._id
        publish.epoch = self._next.epoch if self._next.round == round_ else 0
        publish.peers.extend(self._sent)
        if len(given) < len(outputs):
            publish.abstains.extend(sorted(outputs.keys() - given.keys()))
        # One sum instead of all of them, where the rule lives on sums. It is float32: rounding it would change it.
        tensors = list(self._sent.values())
        if self._ticket.partial_sums and len(tensors) > 1:
            tensors, header.dtype, header.publish.partial_sum = [tree_sum(self._sent)], pb.FLOAT32, True
        if tensors:
            header.rows, header.columns = tensors[0].shape
        self._awaits = round_
        self._stream.publish(header, [to_wire(values, header.dtype) for values in tensors], lent)

    def _lent(self, given: Mapping[int, Float32], wire: pb.WireDtype) -> Lent | None:
        """The outputs where the coordinator will read them, if they can be there just as they are."""
        assert self._stream is not None  # noqa: S101  # the caller has looked
        assert self._info is not None  # noqa: S101  # it has joined
        shape, apart = self._info.shape, len(given) == 1 or not self._ticket.partial_sums
        if wire != pb.FLOAT32 or not apart or any(values.shape != shape for values in given.values()):
            return None
        lent = self._stream.lend(shape, len(given))
        if lent is not None:
            for array, values in zip(lent.arrays, given.values(), strict=True):
                array[:] = values
        return lent

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait for what became of the publication.

        Args:
            timeout: seconds; by default the round deadline and the join window, after which something is wrong.

        Raises:
            DisagreementError: members saw different batches.
            RefusedError: the publication was refused.
            ExchangeError: the coordinator is gone, or no answer came in time.
        """
        if self._awaits is None:
            raise ExchangeError("result comes after publish")
        frame = self._arrival(self.patience if timeout is None else timeout)
        round_, self._awaits = self._awaits, None
        if frame.kind == "result":
            return self._result(frame)
        if frame.kind == "opened":
            self._next = frame.header.opened
            return late(round_, self._next.round)
        return self._reply(round_, frame.header.reply)

    def leave(self, reports: Mapping[int, bytes] | None = None, wait: float = 0.0) -> dict[int, bytes]:
        """Leave the group with the final report of each hosted peer.

        Args:
            reports: {peer: JSON}.
            wait: seconds to wait for the others' reports.

        Returns:
            {peer: JSON} of all that have left.

        Raises:
            ExchangeError: the coordinator is gone, or refuses the reports.
        """
        request = pb.LeaveRequest(reports=reports or {}, wait=wait)
        metadata = self._access.metadata(self._ticket.bearer)
        reply = self._call(lambda: self._stub.Leave(request, metadata=metadata, timeout=wait + CALL), CALL)
        self._end_stream()
        if reply.code != pb.OK:
            raise RefusedError(reply.code, reply.text)
        return dict(reply.reports)

    def status(self) -> pb.StatusReply:
        """The group's state, now."""
        reply = self._stub.GetStatus(pb.StatusRequest(), metadata=self._access.metadata(), timeout=CALL)
        assert isinstance(reply, pb.StatusReply)  # noqa: S101  # the generated stub carries no types
        return reply

    def stop(self, reason: str) -> None:
        """End the run, for all."""
        self._stub.Stop(pb.StopRequest(reason=reason), metadata=self._access.metadata(), timeout=CALL)

    def close(self) -> None:
        """Release the stream and the threads; nothing is said to the coordinator."""
        self._end_stream()
        self._channel.close()

    def _end_stream(self) -> None:
        self._beating.set()
        if self._beats is not None:
            self._beats.join(CALL)
            self._beats = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._awaits, self._sent = None, {}

    def _room(self, info: WorkerInfo) -> tuple[int, int]:
        one = size_of(pb.FLOAT32, *info.shape)
        up = one if self._ticket.partial_sums else one * len(info.peers)
        down = one if self._ticket.partial_sums else min(self._ticket.payload_limit, ANSWERS * one)
        return room_for(max(up, 32)), max(down, 32)

    def _admitted(self, info: WorkerInfo) -> pb.Ticket:
        """Ask for membership until there is an answer."""
        request = pb.JoinRequest(
            run_id=info.run_id,
            request=secrets.token_bytes(16),
            peers=[pb.PeerWish(**asdict(wish)) for wish in info.peers],
            insist=info.insist,
            batch=info.shape[0],
            width=info.shape[1],
            wire=NAMES[info.wire],
            rule=info.rule,
            agreed=dict(info.agreed),
            name=info.name or f"pid {os.getpid()}",
        )
        metadata, end = self._access.metadata(), time.monotonic() + info.window
        while True:
            left = end - time.monotonic()
            reply = self._call(lambda: self._stub.Join(request, metadata=metadata, timeout=CALL), left)
            if reply.code == pb.OK:
                ticket = pb.Ticket()
                ticket.CopyFrom(reply.ticket)
                return checked(ticket, len(info.peers))
            if reply.code in (pb.WRONG_RUN, pb.DISAGREES):
                raise DisagreementError(f"the coordinator at {self._access.address} refuses this worker: {reply.text}")
            pause = pause_of(reply.retry_after)
            if reply.code not in (pb.INDEX_HELD, pb.TOO_FAST) or time.monotonic() + pause > end:
                raise RefusedError(reply.code, reply.text)
            self._pause(pause)

    def _call(self, call: Callable[[], Any], patience: float) -> Any:
        """A control call, tried again while the coordinator is away; its refusals in words."""
        end, tries = time.monotonic() + patience, 0
        while True:
            try:
                return call()
            except grpc.RpcError as exc:
                error: Any = exc
                if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                    what = "this token" if self._access.token else "a worker without the group's token"
                    raise ExchangeError(
                        f"the coordinator at {self._access.address} does not accept {what}: give the one it was "
                        f"started with"
                    ) from exc
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise ExchangeError(f"the coordinator at {self._access.address}: {error.details()}") from exc
                text, hopeless = self._access.diagnose()
                if hopeless or time.monotonic() > end:
                    raise ExchangeError(f"the coordinator cannot be reached: {text}") from exc
                if tries == 0:
                    logger.warning("%s; trying again for up to %.0f s", text, patience)
            tries += 1
            self._pause(min(1.0, 0.1 * 2 ** min(tries, 10)))

    @staticmethod
    def _pause(seconds: float) -> None:
        threading.Event().wait(seconds * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the load, no secret

    def _beat(self) -> None:
        """Say that the worker lives, three times in each heartbeat period."""
        metadata = self._access.metadata(self._ticket.bearer)
        while not self._beating.wait(self._ticket.heartbeat / 3):
            try:
                request = pb.HeartbeatRequest(absent=self.absent)
                self._stub.Heartbeat(request, metadata=metadata, timeout=self._ticket.heartbeat)
            except grpc.RpcError as exc:
                logger.debug("heartbeat: %s", exc)  # the link sees to a coordinator that is gone

    def _arrival(self, timeout: float) -> Frame:
        assert self._stream is not None  # noqa: S101  # all callers have looked
        try:
            arrival = self._stream.arrival(timeout)
        except queue.Empty:
            raise NoAnswerError(self._access.address, timeout) from None
        if isinstance(arrival, Lost):
            raise ExchangeError(arrival.text)
        return arrival

    def _reply(self, round_: int, reply: pb.Reply) -> Outcome:
        if reply.HasField("next"):
            self._next = reply.next
        return outcome_of(reply, round_, self._next.round)

    def _result(self, frame: Frame) -> Consensus[Float32]:
        assert self._info is not None  # noqa: S101  # it has published
        try:
            consensus = consensus_of(frame, self._info.shape, self._sent)
        except FrameError as exc:
            raise ExchangeError(f"the coordinator at {self._access.address} sent what is no result: {exc}") from exc
        self._next = frame.header.result.next
        return consensus
