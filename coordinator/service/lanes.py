"""The coordinator's ends of `peers.exchange.lane`: the short way of frames of workers on its host."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.service.eager import begin
from peers.exchange.lane import LENGTH, READY, taken
from peers.exchange.shared import NONCE_BYTES

logger = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
Answering = Callable[[bytes], Coroutine[Any, Any, list[bytes]]]
"""What a stream does with a message of its lane: the messages that answer it; empty closes the lane."""


class Lanes:
    """A socket, and the streams that offer a lane, by the nonces of their segments.

    Args:
        limit: bytes that a message may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.name = f"peer-consensus-{secrets.token_hex(16)}"
        self._offers: dict[bytes, Answering] = {}
        self._standing: dict[bytes, _Lane] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, in the abstract namespace: no file has to be looked after."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Lane(self), f"\0{self.name}")

    async def close(self) -> None:
        """Listen no more, and close what stands."""
        for nonce in list(self._offers):
            self.withdraw(nonce)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def offer(self, nonce: bytes, answering: Answering) -> None:
        """Let a stream have a lane."""
        self._offers[nonce] = answering

    def withdraw(self, nonce: bytes) -> None:
        """A stream has ended: its lane ends with it."""
        self._offers.pop(nonce, None)
        lane = self._standing.pop(nonce, None)
        if lane is not None:
            lane.close()

    def claimed(self, nonce: bytes, lane: _Lane) -> Answering | None:
        """What answers on a lane that has just been made; None for a nonce that nobody offered, or a second lane."""
        answering = self._offers.get(nonce)
        if answering is None or nonce in self._standing:
            return None
        self._standing[nonce] = lane
        return answering


class _Lane(asyncio.Protocol):
    """One lane: a message is answered before the next one is looked at."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._unread = bytearray()
        self._answering: Answering | None = None
        self._task: asyncio.Future[None] | None = None
        self._paused = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Only processes of the coordinator's own user: they alone could have mapped the segment."""
        self._transport = transport
        found = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(found)[1] != os.geteuid():
            self.close()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._unread += data
        if self._task is not None and len(self._unread) > self._lanes.limit:
            self._transport.pause_reading()  # a worker waits for its answers; this one floods
            self._paused = True
        if self._answering is None:
            if len(self._unread) < NONCE_BYTES:
                return
            self._answering = self._lanes.claimed(bytes(self._unread[:NONCE_BYTES]), self)
            del self._unread[:NONCE_BYTES]
            if self._answering is None:
                self.close()
                return
            self._transport.write(READY)
        if self._task is None:
            self._next()

    def close(self) -> None:
        """End the lane."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker's end is gone: its stream says what that means. The answer under way is nobody's any more."""
        if self._task is not None:
            self._task.cancel()

    def _next(self) -> None:
        """Answer what has been read, a message at a time."""
        while not self._transport.is_closing():
            if len(self._unread) >= LENGTH.size and LENGTH.unpack_from(self._unread)[0] > self._lanes.limit:
                self.close()
                return
            message = taken(self._unread)
            if message is None or self._answering is None:
                return
            task = begin(self._answer(self._answering, message))
            if not task.done():
                self._task = task
                task.add_done_callback(self._answered)
                return

    def _answered(self, task: asyncio.Future[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        self._next()

    async def _answer(self, answering: Answering, message: bytes) -> None:
        try:
            answers = await answering(message)
        except Exception:
            logger.exception("a lane could not be answered")  # as gRPC does for a stream
            answers = []
        if self._transport.is_closing():
            return
        if not answers:
            self.close()
            return
        self._transport.write(b"".join(part for each in answers for part in (LENGTH.pack(len(each)), each)))
