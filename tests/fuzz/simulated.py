"""A coordinator in this process: the real hub, servicer, streams and lanes; only time, network and disk are played.

Time passes in jumps: whenever nobody has anything to do, it is the moment that somebody waits for. So a minute takes
milliseconds, and an input does the same each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np

from coordinator.service import membership
from coordinator.service.aggregate import Aggregation
from coordinator.service.auth import Gatekeeper
from coordinator.service.hub import Hub
from coordinator.service.lanes import Lanes, _Lane
from coordinator.service.metrics import Metrics
from coordinator.service.servicer import Servicer
from coordinator.service.settings import ServiceSettings
from coordinator.service.streams import Streams
from protos.consensus_pb2_grpc import add_CoordinatorServicer_to_server
from protos.frames import message_limit
from protos.tensors import Float32

TICK = 1.0
TOKEN = "the token of a group of tests"  # noqa: S105  # of these tests alone
REMEMBERED = 3
"""Departed workers whose bearers are remembered, instead of a thousand: what comes after is in a fuzzer's reach."""


class _Jumping(selectors.DefaultSelector):
    """Waits for nobody: where nothing has come, the time that could have been waited for is over."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits, for nothing")
            self.now += timeout
        return found


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps, and whose executors work at once."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as exc:
            future.set_exception(exc)
        return future


class Kept:
    """In place of the store: what cannot be kept as JSON, or as a report, is an error here, too."""

    def load(self) -> None:
        """Nothing: a new run."""

    def room(self, shape: tuple[int, int]) -> Float32:
        return np.full(shape, np.nan, np.float32)

    def save(
        self,
        course: Mapping[str, Any],
        roll: Mapping[str, Any] | None = None,
        agreed: Mapping[str, str] | None = None,
        outcome: Aggregation | None = None,
        reports: Mapping[int, bytes] | None = None,
    ) -> None:
        json.dumps([course, roll, agreed])
        for peer, report in (reports or {}).items():
            assert 0 <= peer < 2**63
            assert isinstance(report, bytes)


class AbortedError(Exception):
    """A call ended with a status."""


class Context:
    """A call as gRPC hands it to a handler.

    Args:
        secret: of its metadata; None carries none.
    """

    def __init__(self, secret: str | None) -> None:
        self._secret = secret
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.outgoing: asyncio.Queue[bytes] = asyncio.Queue()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._secret is None else (("authorization", f"Bearer {self._secret}"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> Any:
        return await self.incoming.get()

    async def write(self, message: bytes) -> None:
        assert isinstance(message, bytes)
        self.outgoing.put_nowait(message)

    async def abort(self, code: Any, _details: str) -> None:
        raise AbortedError(code)


class Lane:
    """A connection to the coordinator's socket, by a process of this user."""

    family = socket.AF_UNIX

    def __init__(self, lanes: Lanes) -> None:
        self.closed = self.paused = False
        self.written = 0
        self._protocol = _Lane(lanes)
        self._protocol.connection_made(self)  # type: ignore[arg-type]

    def say(self, data: bytes) -> None:
        """Bytes come; those that the coordinator does not read wait in the socket, and are left there."""
        while data and not self.closed and not self.paused:
            room = self._protocol.get_buffer(-1)
            assert room, "nowhere to read to, and reading goes on"
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self._protocol.buffer_updated(count)
            data = data[count:]

    # What the coordinator does with it.

    def get_extra_info(self, _name: str) -> Any:
        return self

    def getsockopt(self, *_which: int) -> bytes:
        return b"".join(number.to_bytes(4, "little") for number in (os.getpid(), os.geteuid(), os.getegid()))

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        """Either side ends it."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class Service:
    """A coordinator, and the calls that it is sent. Made in a running `Loop`."""

    def __init__(self, settings: ServiceSettings) -> None:
        membership.REMEMBERED = REMEMBERED
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._unexpected)
        self.hub = Hub(settings, Kept(), Metrics(), self.loop.time)  # type: ignore[arg-type]
        self.lanes = Lanes(message_limit(settings.payload_limit), settings.heartbeat, settings.common_result)
        self.streams = Streams(self.hub, self.lanes)
        self.errors: list[BaseException] = []
        self._handlers: list[Any] = [self.streams.handler()]
        add_CoordinatorServicer_to_server(Servicer(self.hub, self.streams), self)  # type: ignore[no-untyped-call]
        self._gate = Gatekeeper(self.hub, settings.token)
        self._open: list[asyncio.Future[None]] = []
        self.hub.listening()
        self._ticking = asyncio.ensure_future(self._tick())

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """As a server has it."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, _service: str, _handlers: Any) -> None:
        """As a server has it."""

    async def call(self, method: str, body: bytes, secret: str | None, answers: int = 3) -> list[Any]:
        """A call with one request: its answers, none where it was refused; raises what nobody may see."""
        context = Context(secret)
        handler = await self._handler(method, context)
        try:
            request = handler.request_deserializer(body) if handler.request_deserializer else body
        except Exception:
            return []  # gRPC answers INTERNAL
        made: list[Any] = []
        with suppress(AbortedError):
            if handler.response_streaming and handler.request_deserializer:
                stream = handler.unary_stream(request, context)
                async for answer in stream:
                    made.append(answer)
                    if len(made) == answers:
                        break
                await stream.aclose()
            else:
                made.append(await (handler.unary_unary or handler.unary_stream)(request, context))
        return [type(answer).FromString(answer.SerializeToString()) for answer in made]

    async def stream(self, secret: str | None) -> Context:
        """Open an exchange stream."""
        context = Context(secret)
        handler = await self._handler("/consensus.Exchange/Stream", context)
        serving = asyncio.ensure_future(handler.stream_stream(None, context))
        serving.add_done_callback(self._ended)
        context.serving = serving  # type: ignore[attr-defined]
        return context

    def check(self) -> None:
        """Raise what went wrong behind the callers' backs."""
        for error in self.errors:
            raise error
        if self.hub.failed.done():
            self.hub.failed.result()
        if self._ticking.done():
            self._ticking.result()

    async def close(self) -> None:
        """End it."""
        self._ticking.cancel()
        await asyncio.wait([self._ticking])
        self.hub.close()

    async def _handler(self, method: str, context: Context) -> Any:
        details = SimpleNamespace(method=method, invocation_metadata=context.invocation_metadata())

        async def found(asked: Any) -> Any:
            return next(made for handler in self._handlers if (made := handler.service(asked)) is not None)

        return await self._gate.intercept_service(found, details)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            await self.hub.tick()

    def _ended(self, serving: asyncio.Future[None]) -> None:
        if not serving.cancelled() and serving.exception() is not None:
            error = serving.exception()
            if error is not None and not isinstance(error, AbortedError):
                self.errors.append(error)

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, about: Mapping[str, Any]) -> None:
        error = about.get("exception")
        self.errors.append(error if isinstance(error, BaseException) else RuntimeError(about["message"]))
