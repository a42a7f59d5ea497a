"""Exchange stream of one worker: frames in, frames out, one reply for each.

    Attach -> Attached, then `opened` once a round is open for the worker (at once where it is a member)
    Publish -> Result, Reply, or `opened` where no round was open for it: then it publishes again

While a publication waits for its round, nothing more is read, so a peer that floods is held up by flow control.
Publications may come by a lane as well, whose answers go back by it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from coordinator.service.auth import caller
from coordinator.service.hub import Hub
from coordinator.service.lanes import Lanes
from coordinator.service.limits import Bucket
from coordinator.service.membership import DepartedWorker, WorkerRecord
from coordinator.service.replies import ReplyFrame
from peers.transport.shared_memory import Segment, room_for
from protos.consensus_pb2 import MALFORMED, TOO_FAST, TOO_LARGE, Attached, FrameHeader, ReplyCode, SharedOffer
from protos.frames import Assembler, Buffer, Frame, FrameError, FrameTooLargeError, encode
from protos.tensors import NAMES, size_of

logger = logging.getLogger(__name__)


class Streams:
    """All exchange streams; one for each worker: a new one takes the place of the one before.

    Args:
        hub: the run.
        lanes: where streams offer a lane.
    """

    def __init__(self, hub: Hub, lanes: Lanes) -> None:
        self._hub = hub
        self._lanes = lanes
        self._sessions: dict[int, Session] = {}

    def handler(self) -> Any:
        """For a gRPC server: raw bytes in both directions."""
        stream = grpc.stream_stream_rpc_method_handler(self.stream)
        return grpc.method_handlers_generic_handler("consensus.Exchange", {"Stream": stream})

    def uses_shared(self, worker: int) -> bool:
        """Whether a worker's payloads go through shared memory."""
        session = self._sessions.get(worker)
        return session is not None and session.segment is not None

    async def stream(self, _requests: Any, context: Any) -> None:
        """Serve one stream until either side ends it."""
        worker = caller(self._hub, context)
        earlier = self._sessions.get(worker.number)
        if earlier is not None:
            earlier.replace()
        session = Session(self._hub, worker, context, self._lanes)
        self._sessions[worker.number] = session
        try:
            await session.serve()
        finally:
            session.close()
            if self._sessions.get(worker.number) is session:
                del self._sessions[worker.number]
                await self._hub.detach(worker.number)


class Session:
    """One stream.

    Args:
        hub: the run.
        worker: whose stream it is.
        context: gRPC's.
        lanes: where it may offer one.
    """

    def __init__(self, hub: Hub, worker: WorkerRecord | DepartedWorker, context: Any, lanes: Lanes) -> None:
        self.segment: Segment | None = None
        self._hub = hub
        self._number = worker.number
        self._hosted = tuple(sorted(worker.peers))
        self._context = context
        self._lanes = lanes
        self._key = b""
        self._replaced = asyncio.Event()
        self._said_all = asyncio.Event()
        one = size_of(NAMES["float32"], *hub.settings.shape)
        self._limit = one if hub.settings.rule.kind == "sum" else one * len(self._hosted)
        self._assembler = Assembler(self._limit)
        rate = hub.settings.messages_per_second
        self._bucket = Bucket(rate, rate, hub.clock())

    def replace(self) -> None:
        """Another stream of the same worker takes over."""
        self._replaced.set()

    def close(self) -> None:
        """Let the lane and the shared memory go."""
        self._lanes.withdraw(self._key)
        if self.segment is not None:
            self.segment.close()
            self.segment = None

    async def serve(self) -> None:
        """Answer frames until the peer ends the stream, all has been said, or another stream takes over."""
        replaced = asyncio.ensure_future(self._replaced.wait())
        said_all = asyncio.ensure_future(self._said_all.wait())
        answering = asyncio.ensure_future(self._run())
        try:
            await asyncio.wait([replaced, said_all, answering], return_when=asyncio.FIRST_COMPLETED)
            if replaced.done():
                await self._context.abort(grpc.StatusCode.ABORTED, "another stream of this worker took over")
            if answering.done():
                answering.result()
        finally:
            for task in (replaced, said_all, answering):
                task.cancel()

    async def by_lane(self, message: Buffer) -> bytes:
        """What answers a message of the lane, as it stands there; nothing while its frame is incomplete."""
        answer = await self._answer(message, "publish")
        if answer is None:
            return b""
        if answer.last:
            asyncio.get_running_loop().call_soon(self._said_all.set)  # once it is written
        laid_down = self._lanes.for_all(answer) if answer.common and self.segment is not None else b""
        if laid_down:
            self._hub.metrics.sent["shared"] += answer.size
            return laid_down
        return answer.in_shared_on_lane if self._laid_down(answer, "lane") else answer.on_lane

    async def _run(self) -> None:
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                return
            answer = await self._answer(message, "attach", "publish")
            if answer is None:
                continue
            await self._write(answer)
            if answer.last:
                return

    async def _answer(self, message: Buffer, *kinds: str) -> ReplyFrame | None:
        """What a message is answered; None while its frame is incomplete, or where all has been said."""
        if self._bucket.take(self._hub.clock()):
            return await self._refuse(TOO_FAST, "more messages in a second than this coordinator takes")
        try:
            frame = self._assembler.feed(message)
            if frame is None:
                return None
            if frame.kind not in kinds:
                raise FrameError(f"{' or '.join(kinds)} was due, not {frame.kind}")
            if frame.kind == "attach":
                return await self._attach(frame)
            return await self._hub.publish(self._number, self._hosted, self._fetched(frame))
        except FrameTooLargeError as exc:
            return await self._refuse(TOO_LARGE, str(exc), last=True)
        except FrameError as exc:
            return await self._refuse(MALFORMED, str(exc), last=True)

    async def _refuse(self, code: ReplyCode, text: str, *, last: bool = False) -> ReplyFrame:
        return await self._hub.refuse(self._number, code, text, last=last)

    async def _attach(self, frame: Frame) -> ReplyFrame | None:
        attach = frame.header.attach
        self.close()
        note = self._share(attach.shared) if attach.HasField("shared") else ""
        first = await self._hub.attach(self._number, pending=attach.pending)
        shared = self.segment is not None
        self._key = self._lanes.offer(self.by_lane)
        lane, port = (self._lanes.name, 0) if shared else ("", self._lanes.port)
        attached = Attached(shared=shared, note=note, lane=lane, port=port, key=self._key)
        for message in encode(FrameHeader(attached=attached)):
            await self._context.write(message)
        return None if first is None else await first

    def _share(self, offer: SharedOffer) -> str:
        """Map an offered segment; why not, where it cannot be."""
        if not self._hub.settings.shared_memory:
            return "the coordinator's settings do not allow it"
        up, down = room_for(self._limit), self._hub.settings.payload_limit
        if offer.up > up or offer.down > down or min(offer.up, offer.down) < 32:
            return f"{offer.up} + {offer.down} bytes do not fit this run"
        try:
            self.segment = Segment.open(offer.name, offer.up, offer.down, offer.nonce)
        except (OSError, ValueError) as exc:
            details = {"worker": self._number, "peers": self._hosted}
            logger.info("worker %d: no shared memory: %s", self._number, exc, extra=details)
            return "the segment cannot be mapped here: another host, user or container"
        return ""

    def _fetched(self, frame: Frame) -> Frame:
        """The frame with its payload, where that lies in shared memory: a copy, judged and used as it is now."""
        if not frame.header.in_shared:
            return frame
        if self.segment is None:
            raise FrameError("the payload is said to lie in shared memory, but no segment is shared")
        try:
            return Frame(frame.header, self.segment.read(frame.header.shared_at, frame.header.payload))
        except ValueError as exc:
            raise FrameTooLargeError(str(exc)) from exc

    async def _write(self, answer: ReplyFrame) -> None:
        for message in answer.in_shared if self._laid_down(answer, "stream") else answer.messages:
            await self._context.write(message)

    def _laid_down(self, answer: ReplyFrame, way: str) -> bool:
        """Whether an answer's payload lies in shared memory now; it does where it fits. Otherwise it goes that way."""
        segment = self.segment
        shared = segment is not None and 0 < answer.size <= segment.down
        if segment is not None and shared:
            segment.answer(answer.payload)
        self._hub.metrics.sent["shared" if shared else way] += answer.size
        return shared
