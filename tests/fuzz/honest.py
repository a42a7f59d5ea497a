"""A worker as it should be, in a simulated coordinator: joins, beats, publishes in each round, and counts them."""

from __future__ import annotations

import asyncio
from typing import Any

from protos import consensus_pb2 as pb
from protos.frames import Assembler, encode
from tests.fuzz.simulated import TOKEN, Context, Service

PAUSE, BEAT = 4.0, 2.0
"""Seconds between two rounds, and between two heartbeats."""
SHAPE = (2, 2)
BATCH = b"b" * 16


def joining(index: int | None, request: bytes, **changes: Any) -> pb.JoinRequest:
    """A request as a worker of one peer makes it."""
    values = {"run_id": "run", "batch": SHAPE[0], "width": SHAPE[1], "wire": pb.FLOAT32, "rule": "mean", "name": "w"}
    made = pb.JoinRequest(request=request, **{**values, **changes})
    made.peers.add(index=index)
    return made


def publication(opened: pb.Next, peers: list[int], **changes: Any) -> pb.FrameHeader:
    """The header of a publication for a round."""
    said = {"round": opened.round, "epoch": opened.epoch, "batch": BATCH, "peers": peers, "partial_sum": len(peers) > 1}
    publish = pb.Publish(**{**said, **changes})
    return pb.FrameHeader(publish=publish, dtype=pb.FLOAT32, rows=SHAPE[0], columns=SHAPE[1])


class Honest:
    """One of them.

    Args:
        service: the coordinator.
        index: its peer id.
    """

    def __init__(self, service: Service, index: int) -> None:
        self.closed = 0
        self.ended = ""
        self._service = service
        self._index = index
        self._context: Context | None = None
        self._assembler = Assembler(10**6)
        self.life = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        request = joining(self._index, bytes([self._index]) * 16)
        (reply,) = await self._service.call("/consensus.Coordinator/Join", request.SerializeToString(), TOKEN)
        assert reply.code == pb.OK, reply.text
        assert list(reply.ticket.peers) == [self._index]
        bearer = reply.ticket.bearer
        context = self._context = await self._service.stream(bearer)
        beating = asyncio.ensure_future(self._beat(bearer))
        try:
            self._say(context, pb.FrameHeader(attach=pb.Attach()))
            assert (await self._read(context)).header.attached is not None
            opened = (await self._read(context)).header.opened
            while not self.ended:
                opened = await self._round(context, opened)
        finally:
            beating.cancel()

    async def _round(self, context: Context, opened: pb.Next) -> pb.Next:
        """Publish; the round that follows."""
        self._say(context, publication(opened, [self._index]), bytes([0, 0, 128, 63] * 4))
        header = (await self._read(context)).header
        kind = header.WhichOneof("kind")
        if kind == "opened":
            return header.opened
        if kind == "result":
            assert self._index in header.result.contributors, "an honest member's outputs are not in the sum"
            assert header.result.digest
            self.closed += 1
            await asyncio.sleep(PAUSE)
            return header.result.next
        if header.reply.code in (pb.EXPELLED, pb.ENDED):
            self.ended = f"{pb.ReplyCode.Name(header.reply.code)}: {header.reply.text}"
        else:
            assert header.reply.code in (pb.VOID, pb.LATE), header.reply.text
        return header.reply.next

    async def _beat(self, bearer: str) -> None:
        while True:
            await asyncio.sleep(BEAT)
            await self._service.call("/consensus.Coordinator/Heartbeat", b"", bearer)

    @staticmethod
    def _say(context: Context, header: pb.FrameHeader, *payload: bytes) -> None:
        for message in encode(header, payload):
            context.incoming.put_nowait(message)

    async def _read(self, context: Context) -> Any:
        while True:
            frame = self._assembler.feed(await context.outgoing.get())
            if frame is not None:
                return frame
