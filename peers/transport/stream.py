"""The stream of one worker to a coordinator: it carries publications and answers, and it is kept up by a thread.

The way of a publication:

    publish     remembers it as under way, and sends it (`_route`, `_send`): by the lane where there is one, else by the
                stream; its tensors through shared memory where both are on one host. Without a stream it waits.
    arrival     waits for the answer: the caller's own thread reads the lane, the stream's thread reads the stream and
                passes on what came. `_handle` takes the tensors out of shared memory; now nothing is under way.
    a break     whoever notices closes the lane and the stream. The thread connects again, says hello (`_hello`), and
                when the coordinator has attached the new stream (`_attached`) sends what is still under way again: the
                same bytes, with the same id, so that the coordinator can tell it from a second publication.
    the end     an answer after which nothing comes (EXPELLED, ENDED), or `Lost` when the coordinator stays away for
                longer than the join window.

Threads: `publish` and `arrival` belong to the caller's; `give_up` and `close` may come from any. `_lock` guards what
both sides change: what is under way, and by which way it goes.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import grpc

from peers.transport.access import Access
from peers.transport.lane import Lane
from peers.transport.shared_memory import Lent, Segment
from protos.consensus_pb2 import ENDED, EXPELLED, Attach, Attached, FrameHeader, Reply, SharedOffer, Ticket
from protos.frames import Assembler, Buffer, Frame, FrameError, encode, messages

FINAL = (EXPELLED, ENDED)
SLOWEST = 1.0
"""Seconds between two tries at most: a coordinator that is back waits one heartbeat period for its workers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """The coordinator is gone for longer than the join window, or speaks another language."""

    text: str


Arrival: TypeAlias = Frame | Lost
_READ_THE_LANE = Lost("")
"""Wakes the caller: what it waits for will come by another way."""


class _Unanswered(NamedTuple):
    """A publication that has no answer yet."""

    header: FrameHeader
    payload: Sequence[Buffer]
    lent: Lent | None = None


class _Outgoing(NamedTuple):
    """A publication on its way out: its messages, and by what they go."""

    messages: list[tuple[Buffer, ...]]
    way: Lane | queue.SimpleQueue[bytes | None]


class Stream:
    """The stream of one membership; see the module for its course.

    Args:
        access: where the coordinator is.
        channel: to it; the owner closes it after the stream.
        ticket: of the membership.
        room: bytes to share with a coordinator on this host, up and down; None for the stream alone.
    """

    def __init__(self, access: Access, channel: Any, ticket: Ticket, room: tuple[int, int] | None) -> None:
        self.shares = False
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._metadata = access.metadata(ticket.bearer)
        self._stub = channel.stream_stream("/consensus.Exchange/Stream")
        self._access = access
        self._limit = ticket.payload_limit
        self._window = ticket.join_window
        self._slowest = min(SLOWEST, ticket.heartbeat / 4)
        self._heartbeat = ticket.heartbeat
        self._room = room
        self._segment: Segment | None = None
        self._lane: Lane | None = None
        self._by_lane: Lane | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._outbox: queue.SimpleQueue[bytes | None] | None = None
        self._call: Any = None
        self._underway: _Unanswered | None = None
        self._begun = False
        self._thread = threading.Thread(target=self._run, name="consensus-stream", daemon=True)
        self._thread.start()

    def lend(self, shape: tuple[int, int], count: int) -> Lent | None:
        """Memory for the payload of the next publication, shared with the coordinator; see `Segment.lend`."""
        with self._lock:
            return self._segment.lend(shape, count) if self._segment is not None and self.shares and count else None

    def publish(self, header: FrameHeader, payload: Sequence[Buffer], lent: Lent | None = None) -> None:
        """Send a publication, now or as soon as the stream stands.

        Args:
            header: not to be changed until its answer; no more is the payload.
            payload: its tensors.
            lent: where they lie, if they do in what was lent.
        """
        with self._lock:
            self._underway = _Unanswered(header, payload, lent)
            outgoing = self._route()
        if outgoing is not None:
            self._send(outgoing)

    def arrival(self, timeout: float) -> Arrival:
        """What comes next.

        Args:
            timeout: seconds.

        Raises:
            queue.Empty: nothing has come.
        """
        end = time.monotonic() + timeout
        while True:
            left, lane = max(0.0, end - time.monotonic()), self._by_lane
            if lane is None:
                arrival = self._arrivals.get(timeout=left)
                if arrival is not _READ_THE_LANE:
                    return arrival
                continue
            try:
                frame = self._handle(lane.frame(left), lane)
                if frame is not None:
                    self._ended = self._ended or _is_last(frame)
                    return frame
            except TimeoutError:
                raise queue.Empty from None
            except OSError as exc:
                self._lane_broke(lane, exc)
            except (FrameError, ValueError) as exc:
                return self._no_frame(exc)

    def give_up(self, text: str) -> None:
        """From another thread: whoever waits, or will, gets this."""
        self._arrivals.put(Lost(text))
        with self._lock:
            lane, self._by_lane = self._by_lane, None
        if lane is not None:
            lane.close()

    def close(self) -> None:
        """End the stream and the thread; any number of times."""
        self._closed.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join(10.0)
        self._unshare()

    def _run(self) -> None:
        down: float | None = None
        tries = 0
        while not self._closed.is_set():
            ended, heard = self._stream()
            if ended or self._ended or self._closed.is_set():
                return
            now = time.monotonic()
            down, tries = (now, 0) if heard or down is None else (down, tries + 1)
            if now - down > self._window:
                text = f"the coordinator at {self._access.address} did not come back within {self._window} s"
                self._arrivals.put(Lost(text))
                return
            if tries == 0:
                logger.warning("the stream to %s broke; connecting again", self._access.address)
            pause = min(self._slowest, 0.05 * 2 ** min(tries, 10))
            self._closed.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the load, no secret

    def _stream(self) -> tuple[bool, bool]:
        """One stream, from hello to its end: whether nothing more will come, and whether it stood at all."""
        outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        assembler = Assembler(self._limit)
        heard = False
        try:
            for message in self._hello(outbox):
                outbox.put(message)
            call = self._stub(iter(outbox.get, None), metadata=self._metadata)
            with self._lock:
                self._call = call
            if self._closed.is_set():
                call.cancel()
            for message in call:
                heard = True
                frame = assembler.feed(message)
                if frame is None:
                    continue
                if frame.kind == "attached":
                    self._attached(frame, outbox)
                    continue
                answer = self._handle(frame)
                if answer is not None:
                    self._arrivals.put(answer)
                    if _is_last(answer):
                        return True, heard
            return False, heard
        except grpc.RpcError as exc:
            return self._is_final(exc), heard
        except (FrameError, ValueError) as exc:
            self._arrivals.put(self._no_frame(exc))
            return True, heard
        finally:
            outbox.put(None)
            with self._lock:
                self._outbox = None
            self._unshare()

    def _hello(self, outbox: queue.SimpleQueue[bytes | None]) -> list[bytes]:
        attach = Attach(pending=self._begun)
        if self._room is not None:
            try:
                self._segment, nonce = Segment.create(*self._room)
                offer = SharedOffer(name=self._segment.name, up=self._room[0], down=self._room[1], nonce=nonce)
                attach.shared.CopyFrom(offer)
            except OSError as exc:
                logger.info("no shared memory on this host, the stream carries everything: %s", exc)
                self._room = None
        return encode(FrameHeader(attach=attach))

    def _is_final(self, error: Any) -> bool:
        """What a broken stream means: whether trying again is pointless."""
        code = error.code()
        if self._closed.is_set():
            return True
        if code == grpc.StatusCode.UNAUTHENTICATED:
            text = "the coordinator does not know this worker any more"
            self._arrivals.put(Frame(FrameHeader(reply=Reply(code=EXPELLED, text=text))))
            return True
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._arrivals.put(Lost(f"the coordinator at {self._access.address} refused the stream: {error.details()}"))
            return True
        logger.info("stream to %s: %s: %s", self._access.address, code, error.details())
        return False

    def _handle(self, frame: Frame, lane: Lane | None = None) -> Frame | None:
        """Handle a frame of the coordinator, from the stream or a lane; what there is of it for the caller."""
        kind = frame.kind
        if kind == "opened":
            return self._opened(frame, lane)
        if kind not in ("result", "reply"):
            raise FrameError(f"a {kind} is nothing that a coordinator sends")
        with self._lock:
            if self._is_old(lane):
                return None
            fetched = self._fetched(frame, lane)
            self._underway = self._by_lane = None
        return fetched

    def _is_old(self, lane: Lane | None) -> bool:
        """Whether a lane's stream has ended, and the memory that it shared is gone; the lock is held.

        What comes by it is left: the publication is sent again where the next stream stands, and answered there.
        """
        return lane is not None and lane is not self._lane

    def _attached(self, frame: Frame, outbox: queue.SimpleQueue[bytes | None]) -> None:
        attached = frame.header.attached
        if self._segment is not None:
            self._segment.unlink()
            self.shares = attached.shared
            if not attached.shared:
                logger.info("no shared memory with the coordinator: %s", attached.note)
                self._unshare()
                self._room = None
        lane = self._new_lane(attached)
        with self._lock:
            self._outbox, self._lane = outbox, lane
            outgoing = self._route()
        self._send_for_caller(outgoing)

    def _new_lane(self, attached: Attached) -> Lane | None:
        terms = attached.key, self._limit, self._heartbeat
        try:
            if self.shares and attached.lane:
                return Lane.on_host(attached.lane, *terms)
            if attached.port and not self.shares:
                return Lane.to_host(self._access, attached.port, *terms)
        except OSError as exc:
            where = f"port {attached.port} of the coordinator's host" if attached.port else "the coordinator's socket"
            logger.info("no lane to %s, the stream carries every frame, more slowly: %s", where, exc)
        return None

    def _opened(self, frame: Frame, lane: Lane | None) -> Frame | None:
        """A round is open: for the first time, or at last, for a publication that came before it."""
        opened = frame.header.opened
        with self._lock:
            if self._is_old(lane):
                return None
            first, self._begun = not self._begun, True
            underway = self._underway
            if underway is None or underway.header.publish.round != opened.round:
                self._underway = self._by_lane = None
                return frame if first or underway is not None else None
            underway.header.publish.epoch = opened.epoch
            outgoing = self._route()
        self._send_for_caller(outgoing)
        return None

    def _route(self) -> _Outgoing | None:
        """What is under way, and how it goes; None where nothing is, or no stream stands. The lock is held."""
        underway, outbox = self._underway, self._outbox
        if underway is None or outbox is None:
            return None
        header, payload, lent = underway
        at = None
        if self._segment is not None and self.shares and payload:
            size = sum(map(len, payload))
            # Else it was made elsewhere, or where an earlier stream shared memory.
            at = lent.at if lent is not None and lent.segment is self._segment else self._segment.put(payload, size)
        header.in_shared = at is not None
        if at is not None:
            header.payload, header.shared_at, payload = size, at, ()
        self._by_lane = self._lane
        return _Outgoing(messages(header, payload), self._lane or outbox)

    def _send_for_caller(self, outgoing: _Outgoing | None) -> None:
        """From the stream's thread: whoever waits for the answer must know where it will come."""
        if outgoing is not None:
            self._send(outgoing)
            if isinstance(outgoing.way, Lane):
                self._arrivals.put(_READ_THE_LANE)

    @staticmethod
    def _send(outgoing: _Outgoing) -> None:
        """Without the lock: a slow network takes its time, and others may close the lane meanwhile."""
        way = outgoing.way
        if not isinstance(way, Lane):
            for parts in outgoing.messages:
                way.put(b"".join(parts))
            return
        try:
            for parts in outgoing.messages:
                way.send(parts)
        except OSError as exc:
            logger.info("the lane broke: %s", exc)  # whoever waits for the answer finds out, too, and sees to it

    def _lane_broke(self, lane: Lane, exc: OSError) -> None:
        """The stream has to be made anew: what is under way is sent again when it stands."""
        with self._lock:
            if self._by_lane is lane:
                self._by_lane = None
            call = self._call if self._lane is lane else None
            self._lane = None if self._lane is lane else self._lane
        lane.close()
        if call is not None and not self._closed.is_set():
            logger.info("the lane broke (%s): connecting again", exc)
            call.cancel()

    def _no_frame(self, exc: Exception) -> Lost:
        return Lost(f"the coordinator at {self._access.address} sent what is no frame: {exc}")

    def _fetched(self, frame: Frame, lane: Lane | None) -> Frame:
        header = frame.header
        if not header.in_shared:
            return frame
        if header.broadcast:
            if lane is None or lane.reception is None:
                raise FrameError("the payload is said to lie where it does for all, but no such memory is shared")
            return Frame(header, lane.reception.read(header.broadcast, header.payload))
        if self._segment is None:
            raise FrameError("the payload is said to lie in shared memory, but no segment is shared")
        return Frame(header, self._segment.answered(header.payload))

    def _unshare(self) -> None:
        with self._lock:
            segment, self._segment, self.shares = self._segment, None, False
            lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()
        if segment is not None:
            segment.close()


def _is_last(frame: Frame) -> bool:
    """Whether nothing will ever come after it."""
    return frame.kind == "reply" and frame.header.reply.code in FINAL
