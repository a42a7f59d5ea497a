"""Server side of `peers.transport.lane`: frames by a socket of their own, past gRPC.

A lane is the short way of frames, on this host and over the network. Who opens one shows the key that its stream was
given; before that nothing else is read, and the time for it is short.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.service.eager import begin
from coordinator.service.replies import ReplyFrame
from peers.common.errors import ConfigError
from peers.transport.broadcast import Broadcast
from peers.transport.lane import KEY_BYTES, READY, Inbox, give_up_after, laid
from protos.frames import Buffer, FrameTooLargeError

logger = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
STRANGERS = 64
"""Connections at a time that have not shown a key yet; more are closed at once."""
SHOW = 5.0
"""Seconds to shake hands, and as many again to show a key."""
Answering = Callable[[Buffer], Coroutine[Any, Any, bytes]]
"""What a stream does with a message of its lane: what answers it, as it stands on the lane; may be empty."""


class Lanes:
    """Sockets, and the streams that offer a lane, by its key.

    Args:
        limit: bytes that a message may have.
        patience: seconds after which a lane is closed whose other end does not answer any more.
        common: bytes of a result that all get alike; 0 where a run has none.
    """

    def __init__(self, limit: int, patience: float, common: int = 0) -> None:
        self.limit = limit
        self.patience = patience
        self.broadcast: Broadcast | None = None
        """Where such results lie for the workers of this host, once there is one."""
        self._common = common
        self._newest: ReplyFrame | None = None
        self._told = b""
        self.name = f"peer-consensus-{secrets.token_hex(16)}"
        self.port = 0
        """Of TCP; 0 where there is none."""
        self.strangers = 0
        self._offers: dict[bytes, Answering] = {}
        self._standing: dict[bytes, _Lane] = {}
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        """Listen on this host, in the abstract namespace: no file has to be looked after."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(lambda: _Lane(self), f"\0{self.name}"))

    async def open_port(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Listen to the network.

        Args:
            host: name or address to bind, as the service's.
            port: 0 takes a free one.
            context: for TLS.

        Raises:
            ConfigError: the port is taken.
        """
        try:
            where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            dual = where[4][0] == "::" and socket.has_dualstack_ipv6()
            bound = socket.create_server(where[4][:2], family=where[0], backlog=512, dualstack_ipv6=dual)
        except OSError as exc:
            raise ConfigError(
                f"coordinator.lane_port = {port}: cannot listen on {host}: {exc.strerror or exc}; give another port, "
                f"0 for a free one, or none"
            ) from exc
        self.port = bound.getsockname()[1]
        shake = None if context is None else SHOW
        server = asyncio.get_running_loop().create_server(
            lambda: _Lane(self), sock=bound, ssl=context, ssl_handshake_timeout=shake
        )
        self._servers.append(await server)

    async def close(self) -> None:
        """Listen no more, and close what stands."""
        for key in list(self._offers):
            self.withdraw(key)
        for server in self._servers:
            server.close()
            await server.wait_closed()
        if self.broadcast is not None:
            self.broadcast.close()
            self.broadcast = None

    def offer(self, answering: Answering) -> bytes:
        """Let a stream have a lane; the key that opens it."""
        key = secrets.token_bytes(KEY_BYTES)
        self._offers[key] = answering
        return key

    def withdraw(self, key: bytes) -> None:
        """A stream has ended: its lane ends with it."""
        self._offers.pop(key, None)
        lane = self._standing.pop(key, None)
        if lane is not None:
            lane.close()

    def claimed(self, key: bytes, lane: _Lane) -> Answering | None:
        """What answers on a lane that has just been made; None for a key of no stream's, or a second lane."""
        answering = self._offers.get(key)
        if answering is None or key in self._standing:
            return None
        self._standing[key] = lane
        return answering

    def shared(self) -> int | None:
        """Descriptor of the memory where common results will lie; None where there are none, or no such memory."""
        if self.broadcast is None and self._common:
            try:
                self.broadcast = Broadcast(self._common)
            except OSError as exc:
                self._common = 0
                logger.info("every worker gets its own copy of a result: no memory for all of them: %s", exc)
        return None if self.broadcast is None else self.broadcast.descriptor

    def for_all(self, answer: ReplyFrame) -> bytes:
        """A common answer as it stands on a lane, its payload laid down once; nothing where there is no such memory."""
        if self.broadcast is None:
            return b""
        if answer is not self._newest:
            self._newest, self._told = answer, answer.in_broadcast_on_lane(self.broadcast.write(answer.payload))
        return self._told


class _Lane(asyncio.BufferedProtocol):
    """One lane: a message is answered before the next one is looked at."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._inbox = Inbox(KEY_BYTES)
        self._answering: Answering | None = None
        self._serving: asyncio.Future[None] | None = None
        self._paused = False
        self._transport: Any = None
        self._stranger: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected, who has not shown a key."""
        self._transport = transport
        connected = transport.get_extra_info("socket")
        if connected.family == socket.AF_UNIX:
            ours = _of_this_user(connected)
        else:
            ours = True
            give_up_after(connected, self._lanes.patience)
        self._lanes.strangers += 1
        self._stranger = asyncio.get_running_loop().call_later(SHOW, self.close)
        if not ours or self._lanes.strangers > STRANGERS:
            self.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._inbox.room()

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        self._inbox.took(nbytes)
        if self._serving is None or self._serving.done():
            self._serving = begin(self._serve())
        if not self._inbox.room() and not self._transport.is_closing():
            self._transport.pause_reading()  # a worker waits for its answers; this one floods
            self._paused = True

    def close(self) -> None:
        """End the lane; what was written is sent."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker's end is gone: its stream says what that means. The answer under way is nobody's any more."""
        self._no_stranger()
        if self._serving is not None:
            self._serving.cancel()

    def _no_stranger(self) -> None:
        if self._stranger is not None:
            self._stranger.cancel()
            self._stranger = None
            self._lanes.strangers -= 1

    async def _serve(self) -> None:
        """Answer what has been read, a message at a time."""
        try:
            while not self._transport.is_closing() and (message := self._inbox.take()) is not None:
                if self._answering is None:
                    self._meet(bytes(message))
                    continue
                answer = await self._answering(message)
                if answer and not self._transport.is_closing():
                    self._transport.write(answer)
        except FrameTooLargeError:
            self.close()
        except Exception:
            logger.exception("a lane could not be answered")  # as gRPC does for a stream
            self.close()
        if self._paused and self._inbox.room() and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _meet(self, key: bytes) -> None:
        self._answering = self._lanes.claimed(key, self)
        if self._answering is None:
            self.close()
            return
        self._no_stranger()
        self._inbox.limit = self._lanes.limit
        connected, ready = self._transport.get_extra_info("socket"), laid([[READY]])
        descriptor = self._lanes.shared() if connected.family == socket.AF_UNIX else None
        if descriptor is None:
            self._transport.write(ready)
            return
        try:
            with connected.dup() as own:  # nothing was written yet: there is room
                socket.send_fds(own, [ready], [descriptor])
        except OSError as exc:
            logger.info("a lane broke as it was made: %s", exc)
            self.close()


def _of_this_user(connected: Any) -> bool:
    """Whether the other end is a process of the coordinator's own user: they alone could have mapped a segment."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())
