"""Authentication of calls: the group's token, or the bearer of one worker. Strangers learn nothing.

The operator's log gets the reason. The check runs before a request is read. Secrets are compared in constant time and
never logged.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from coordinator.service.hub import Hub
from coordinator.service.limits import Bucket
from coordinator.service.membership import DepartedWorker, WorkerRecord

HEADER = "authorization"
SCHEME = "Bearer "
WORKERS_ONLY = frozenset(
    {"/consensus.Coordinator/Heartbeat", "/consensus.Coordinator/Leave", "/consensus.Exchange/Stream"}
)
WORKERS_TOO = frozenset({f"/consensus.Coordinator/{name}" for name in ("GetStatus", "WatchStatus", "Reports")})
OPEN = "/grpc.health.v1.Health/"
"""Probes may ask without a secret: it says no more than that the service listens."""

logger = logging.getLogger(__name__)


def secret_of(metadata: Any) -> str | None:
    """The secret that a call carries; None without one."""
    for key, value in metadata or ():
        if key == HEADER and isinstance(value, str) and value.startswith(SCHEME):
            return value[len(SCHEME) :]
    return None


def caller(hub: Hub, context: Any) -> WorkerRecord | DepartedWorker:
    """The worker that a call speaks for; the interceptor has let it pass."""
    worker = hub.known(secret_of(context.invocation_metadata()) or "")
    if worker is None:
        raise LookupError("its bearer was forgotten between the check and the call")
    return worker


class Gatekeeper(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types, so its classes are Any
    """Turns away calls without the secret that they need."""

    def __init__(self, hub: Hub, token: str | None) -> None:
        self._hub = hub
        self._token = token
        self._lines = Bucket(1.0, 20.0, hub.clock())  # strangers must not fill the disk; the metrics count them all

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Let a call pass to its handler, or to one that refuses it."""
        handler = await continuation(details)
        reason = self._problem(details.method, secret_of(details.invocation_metadata))
        if reason is None or handler is None:
            return handler
        self._hub.metrics.strangers.labels(reason).inc()
        return _refusing(handler, details.method, reason, loud=not self._lines.take(self._hub.clock()))

    def _problem(self, method: str, secret: str | None) -> str | None:
        """Why a call is turned away, for the operator; None if it is not."""
        if method.startswith(OPEN):
            return None
        if method in WORKERS_ONLY:
            if secret is None:
                return "no bearer"
            return None if self._hub.known(secret) else "unknown bearer"
        if self._token is None:
            return None
        if secret is None:
            return "no token"
        if hmac.compare_digest(secret.encode(), self._token.encode()):
            return None
        if method in WORKERS_TOO and self._hub.known(secret):
            return None
        return "wrong token"


def _refusing(handler: Any, method: str, reason: str, *, loud: bool) -> Any:
    """A handler of the same kind that refuses; request and reply types do not matter."""

    async def refuse(_request: Any, context: Any) -> None:
        level = logging.WARNING if loud else logging.DEBUG
        details = {"code": grpc.StatusCode.UNAUTHENTICATED.name}
        logger.log(level, "call of %s from %s refused: %s", method, context.peer(), reason, extra=details)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
