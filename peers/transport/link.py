"""The stream of one worker, kept up by a thread of its own: it reconnects, says hello again, and repeats what is open.

A publication is under way from `publish` until its answer has come; if the stream breaks meanwhile, or the coordinator
dies and comes back, it is sent again, the same bytes. The coordinator knows it by its id.

Where they can, publications and their answers go by a `Lane`, which the caller's own thread writes and reads.
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
_LOOK_AT_LANE = Lost("")
"""Wakes the caller: what it waits for will come by another way."""


class Underway(NamedTuple):
    """A publication that has no answer yet."""

    header: FrameHeader
    payload: Sequence[Buffer]
    lent: Lent | None = None


class _Leaving(NamedTuple):
    """A publication on its way out: its messages, and by what they go."""

    messages: list[tuple[Buffer, ...]]
    way: Lane | queue.SimpleQueue[bytes | None]


class Link:
    """The stream of one membership.

    Args:
        access: where the coordinator is.
        channel: to it; the owner closes it after the link.
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
        self._said_all = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._outbox: queue.SimpleQueue[bytes | None] | None = None
        self._call: Any = None
        self._underway: Underway | None = None
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
            self._underway = Underway(header, payload, lent)
            goes = self._route()
        if goes is not None:
            self._send(goes)

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
                if arrival is not _LOOK_AT_LANE:
                    return arrival
                continue
            try:
                frame = self._taken(lane.frame(left), lane)
                if frame is not None:
                    self._said_all = self._said_all or _is_last(frame)
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
            if ended or self._said_all or self._closed.is_set():
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
                taken = self._taken(frame)
                if taken is not None:
                    self._arrivals.put(taken)
                    if _is_last(taken):
                        return True, heard
            return False, heard
        except grpc.RpcError as exc:
            return self._judge(exc), heard
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

    def _judge(self, error: Any) -> bool:
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

    def _taken(self, frame: Frame, lane: Lane | None = None) -> Frame | None:
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
        said = frame.header.attached
        if self._segment is not None:
            self._segment.unlink()
            self.shares = said.shared
            if not said.shared:
                logger.info("no shared memory with the coordinator: %s", said.note)
                self._unshare()
                self._room = None
        lane = self._new_lane(said)
        with self._lock:
            self._outbox, self._lane = outbox, lane
            goes = self._route()
        self._send_for_caller(goes)

    def _new_lane(self, said: Attached) -> Lane | None:
        terms = said.key, self._limit, self._heartbeat
        try:
            if self.shares and said.lane:
                return Lane.on_host(said.lane, *terms)
            if said.port and not self.shares:
                return Lane.to_host(self._access, said.port, *terms)
        except OSError as exc:
            where = f"port {said.port} of the coordinator's host" if said.port else "the coordinator's socket"
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
            goes = self._route()
        self._send_for_caller(goes)
        return None

    def _route(self) -> _Leaving | None:
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
        return _Leaving(messages(header, payload), self._lane or outbox)

    def _send_for_caller(self, leaving: _Leaving | None) -> None:
        """From the stream's thread: whoever waits for the answer must know where it will come."""
        if leaving is not None:
            self._send(leaving)
            if isinstance(leaving.way, Lane):
                self._arrivals.put(_LOOK_AT_LANE)

    @staticmethod
    def _send(leaving: _Leaving) -> None:
        """Without the lock: a slow network takes its time, and others may close the lane meanwhile."""
        way = leaving.way
        if not isinstance(way, Lane):
            for parts in leaving.messages:
                way.put(b"".join(parts))
            return
        try:
            for parts in leaving.messages:
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
