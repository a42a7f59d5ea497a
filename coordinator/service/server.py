"""Process of the coordinator: listens, lets time pass, ends when the run has, or on SIGTERM.

SIGTERM and SIGINT do not end the run: peers wait for the coordinator to come back, and the state folder knows where it
stood. `Stop` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import start_http_server

from coordinator.service.advertised import advertised
from coordinator.service.auth import Gatekeeper
from coordinator.service.group import COMPLETE
from coordinator.service.hub import Hub
from coordinator.service.lanes import Lanes
from coordinator.service.metrics import Metrics
from coordinator.service.servicer import Servicer
from coordinator.service.settings import ServiceSettings, Tls
from coordinator.service.store import StateStore
from coordinator.service.streams import Streams
from peers.common.errors import ConfigError
from peers.common.files import write_atomically
from peers.common.hosts import host_in, split
from peers.common.memory import keep_memory
from peers.transport.access import FRAME_BYTES, signs_of_life
from peers.transport.shared_memory import sweep
from protos.consensus_pb2 import DESCRIPTOR, OVER
from protos.consensus_pb2_grpc import add_CoordinatorServicer_to_server
from protos.frames import message_limit

PARTING = 1.0
"""Seconds that calls under way have to end, when the process does."""
HANDSHAKE_MS = 5000
"""Milliseconds that a connection has for TLS and HTTP/2's greeting; who falls silent in them keeps no descriptor."""

MakeHub: TypeAlias = Callable[[ServiceSettings, StateStore, Metrics], Hub]
"""Makes the hub of a run, in the event loop. A relay hands in its own here; the server knows no more of relays."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """A coordinator that listens.

    Attributes:
        hub: its state.
        address: HOST:PORT that peers are told.
        bound: HOST:PORT that it listens on.
    """

    hub: Hub
    address: str
    bound: str


def serve(settings: ServiceSettings, address_file: str | None = None, make_hub: MakeHub = Hub) -> int:
    """Run a coordinator until its run has ended or it is asked to stop.

    Args:
        settings: the operator's.
        address_file: gets HOST:PORT, as peers are told, as soon as the coordinator listens.
        make_hub: what drives the run.

    Returns:
        0 where the run is complete, or the coordinator was stopped; 3 where the run ended before its last round.

    Raises:
        RunFolderError: the state folder cannot be used.
        ConfigError: the address, what peers are told of it, or the certificates cannot be used.
    """
    return asyncio.run(_serve(settings, address_file, make_hub))


async def _serve(settings: ServiceSettings, address_file: str | None, make_hub: MakeHub) -> int:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)

    def listens(address: str) -> None:
        if address_file is not None:
            write_atomically(Path(address_file), address.encode())

    return await attend(settings, asked, listens, make_hub)


async def attend(
    settings: ServiceSettings, asked: asyncio.Event, listens: Callable[[str], None], make_hub: MakeHub = Hub
) -> int:
    """Run a coordinator in this event loop until its run has ended, or `asked` is set.

    Args:
        settings: the operator's.
        asked: ends the process, not the run.
        listens: called with HOST:PORT, as peers are told, as soon as the coordinator listens.
        make_hub: what drives the run.

    Returns, Raises: as `serve`.
    """
    keep_memory()
    async with listen(settings, make_hub) as listening:
        listens(listening.address)
        stop: asyncio.Future[Any] = asyncio.ensure_future(asked.wait())
        over: asyncio.Future[Any] = asyncio.ensure_future(_parted(listening.hub))
        failed: asyncio.Future[Any] = listening.hub.failed
        try:
            await asyncio.wait([stop, over, failed], return_when=asyncio.FIRST_COMPLETED)
            if listening.hub.failed.done():
                listening.hub.failed.result()
        finally:
            stop.cancel()
            over.cancel()
        group = listening.hub.group
        why = group.text if group.phase == OVER else "asked to; the run is not over"
        logger.info("coordinator stops: %s", why, extra={"round": group.rounds.upcoming})
        return 0 if group.phase != OVER or group.text == COMPLETE or group.text.startswith("stopped") else 3


@asynccontextmanager
async def listen(settings: ServiceSettings, make_hub: MakeHub = Hub) -> AsyncIterator[Listening]:
    """A coordinator that listens as long as the context lasts; arguments as of `attend`, raises as `serve` does."""
    where = await asyncio.to_thread(advertised, settings)  # looks names up, and comes before anything is written
    logger.info("shared memory of dead processes removed: %d", sweep())
    store = StateStore(settings.state, settings.run_id, settings.digest)
    hub = None
    try:
        hub = make_hub(settings, store, Metrics())
        async with _server(settings, hub) as bound:
            address = where.at(split(bound)[1])
            if address != bound:
                logger.info("peers are told that the coordinator is at %s", address)
            hub.listening()
            ticking = asyncio.ensure_future(_tick(hub))
            try:
                yield Listening(hub, address, bound)
            finally:
                ticking.cancel()
                await asyncio.wait([ticking])
                if not ticking.cancelled() and ticking.exception() is not None:
                    logger.error("the coordinator could not go on", exc_info=ticking.exception())
    finally:
        if hub is not None:
            hub.close()
        store.close()


@asynccontextmanager
async def _server(settings: ServiceSettings, hub: Hub) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=[Gatekeeper(hub, settings.token)], options=_options(settings))
    lanes = Lanes(message_limit(settings.payload_limit), settings.heartbeat, settings.common_result)
    streams = Streams(hub, lanes)
    add_CoordinatorServicer_to_server(Servicer(hub, streams), server)  # type: ignore[no-untyped-call]  # generated
    server.add_generic_rpc_handlers((streams.handler(),))
    probes = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(probes, server)
    names = [service.full_name for service in DESCRIPTOR.services_by_name.values()]
    address = _bind(server, settings)
    await _open(lanes, settings)
    await server.start()
    for name in ("", *names):
        await probes.set(name, health_pb2.HealthCheckResponse.SERVING)
    metrics = _start_metrics(settings, hub)
    logger.info("coordinator of run %s listens on %s", settings.run_id, address)
    try:
        yield address
    finally:
        await probes.enter_graceful_shutdown()
        await server.stop(PARTING)
        await lanes.close()
        if metrics:
            await asyncio.to_thread(metrics[0].shutdown)
            metrics[0].server_close()
            metrics[1].join()


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    limit = message_limit(settings.payload_limit)
    reports = settings.report_bytes * settings.max_peers
    return [
        ("grpc.max_receive_message_length", max(limit, settings.report_bytes * 2)),
        ("grpc.max_send_message_length", max(limit, reports)),
        ("grpc.max_concurrent_streams", 64),  # of one connection: a peer has its stream, heartbeats and a status
        ("grpc.http2.max_frame_size", FRAME_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),  # gRPC's own default is two minutes
        *signs_of_life(settings.heartbeat),
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.so_reuseport", 0),  # two coordinators on one port would share the peers between them
    ]


def _bind(server: Any, settings: ServiceSettings) -> str:
    host, _, _port = settings.bind.rpartition(":")
    try:
        if settings.tls is None:
            port = server.add_insecure_port(settings.bind)
        else:
            port = server.add_secure_port(settings.bind, _credentials(settings.tls))
    except RuntimeError as exc:
        raise ConfigError(
            f"cannot listen on {settings.bind}: {exc}; stop whatever listens there, or bind to another port"
        ) from exc
    return f"{host}:{port}"


async def _open(lanes: Lanes, settings: ServiceSettings) -> None:
    await lanes.open()
    if settings.lane_port is None:
        return
    context = None if settings.tls is None else _context(settings.tls)
    await lanes.open_port(host_in(settings.bind), settings.lane_port, context)
    logger.info("frames of workers that share no memory with it go by port %d", lanes.port)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _credentials(tls: Tls) -> Any:
    try:
        key, chain = Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()
        authority = Path(tls.client_ca).read_bytes() if tls.client_ca else None
    except OSError as exc:
        raise ConfigError(f"certificates cannot be read: {exc}; make them with `coordinator certs`") from exc
    return grpc.ssl_server_credentials([(key, chain)], authority, require_client_auth=authority is not None)


def _start_metrics(settings: ServiceSettings, hub: Hub) -> Any:
    if settings.metrics_port is None:
        return None
    host = host_in(settings.bind)
    hub.metrics.members.set_function(lambda: hub.group.membership.peers(member=True))
    hub.metrics.epoch.set_function(lambda: hub.group.membership.epoch)
    hub.metrics.round.set_function(lambda: hub.group.rounds.upcoming)
    started = start_http_server(settings.metrics_port, host, hub.metrics.registry)
    logger.info("metrics on http://%s:%d/metrics", host, started[0].server_port)
    return started


async def _tick(hub: Hub) -> None:
    """Let time pass, until the process ends or the hub has failed, which `Hub.failed` carries to `serve`."""
    period = min(0.25, hub.settings.heartbeat / 10, hub.settings.round_deadline / 10)
    while not hub.failed.done():
        await asyncio.sleep(period)
        await hub.tick()


async def _parted(hub: Hub) -> None:
    """Return when the run has ended and everybody has left, or had the join window to do so."""
    await hub.over.wait()
    while True:
        changed = hub.changed
        if not hub.settings.linger:
            left = hub.settings.join_window - (hub.clock() - hub.group.since)
            if not hub.awaits_leave or left <= 0:
                return
        waiting = asyncio.ensure_future(changed.wait())
        await asyncio.wait([waiting], timeout=0.5)
        waiting.cancel()
