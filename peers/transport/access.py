"""Access to a coordinator: address, secrets, certificates, and a diagnosis when it cannot be reached."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from peers.common.errors import ConfigError
from peers.common.hosts import connection_trouble, split
from protos.frames import CHUNK, HEADER_LIMIT, PREFIX

FRAME_BYTES = 16 * 1024 * 1024 - 1
PATIENCE = 5.0
"""Seconds that a diagnosis may take."""
CONNECTING = 3000
"""Milliseconds that one attempt to connect may take: four round trips of a long way with TLS, or a host that is busy; a
way that swallows packets is tried anew as often."""


def signs_of_life(seconds: float) -> list[tuple[str, int]]:
    """Options of gRPC, on either side: ask an idle connection for a sign of life and wait so long for it."""
    milliseconds = int(max(1.0, seconds) * 1000)
    return [
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.http2.ping_timeout_ms", milliseconds),  # or a minute, whatever the one before
        ("grpc.keepalive_permit_without_calls", 1),
    ]


@dataclass(frozen=True)
class Access:
    """Where a coordinator is, and what opens it.

    Attributes:
        address: HOST:PORT.
        token: the group's secret; None where the coordinator asks for none.
        ca: PEM file of the authority that signed the coordinator's certificate; None is plain text.
        certificate: PEM file of the peer's own certificate, for mutual TLS.
        key: PEM file of its private key.
        keepalive: seconds between two signs of life on an idle connection, and to wait for the answer to one.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    keepalive: float = 10.0

    def channel(self) -> Any:
        """A gRPC channel with a connection of its own.

        Raises:
            ConfigError: a certificate cannot be read.
        """
        options = [
            ("grpc.max_receive_message_length", -1),  # the coordinator is trusted, and bounds its frames itself
            ("grpc.max_send_message_length", max(CHUNK + HEADER_LIMIT + PREFIX.size, FRAME_BYTES)),
            ("grpc.http2.max_frame_size", FRAME_BYTES),
            *signs_of_life(self.keepalive),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", CONNECTING),  # its name misleads: how long an attempt may take
            ("grpc.max_reconnect_backoff_ms", 250),  # a coordinator that is back is tried at once
            ("grpc.enable_http_proxy", 0),
        ]
        if self.ca is None:
            return grpc.insecure_channel(self.address, options)
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))
        return grpc.secure_channel(self.address, credentials, options)

    def context(self) -> ssl.SSLContext | None:
        """What a connection of its own beside gRPC's needs for TLS; None is plain text.

        Raises:
            OSError: a certificate cannot be read.
        """
        if self.ca is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def metadata(self, bearer: str | None = None) -> tuple[tuple[str, str], ...]:
        """What a call carries: a worker's bearer, or the group's token."""
        secret = bearer if bearer is not None else self.token
        return () if secret is None else (("authorization", f"Bearer {secret}"),)

    def diagnose(self) -> tuple[str, bool]:
        """Why the coordinator cannot be reached.

        Returns:
            a sentence for the operator, and whether trying again is pointless.
        """
        try:
            host, port = split(self.address)
        except ValueError as exc:
            return f"the coordinator's address is {exc}", True
        try:
            with socket.create_connection((host, port), PATIENCE) as plain:
                plain.settimeout(PATIENCE)
                return self._shake_hands(plain, host)
        except (OSError, UnicodeError) as exc:
            return str(connection_trouble(host, port, exc)), False

    def _shake_hands(self, plain: socket.socket, host: str) -> tuple[str, bool]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        if self.ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context.load_verify_locations(self.ca)
        try:
            with context.wrap_socket(plain, server_hostname=host):
                pass
        except ssl.SSLCertVerificationError as exc:
            text = f"the coordinator's certificate is not one of the authority in {self.ca}: {exc.verify_message}"
            return f"{text}; give the ca.pem that belongs to it, and the host name it was made for", True
        except OSError as exc:
            if self.ca is None:
                return f"{self.address} is open, but did not answer in time", False
            return f"{self.address} does not speak TLS ({exc}): turn TLS on there, or leave the certificates out", True
        if self.ca is None:
            return f"the coordinator at {self.address} speaks TLS: give its authority's certificate (ca.pem)", True
        if self.certificate is None:
            return f"{self.address} speaks TLS and ends the connection: it may ask for a peer's certificate", False
        return f"{self.address} speaks TLS and ends the connection: it may not accept {self.certificate}", False


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"certificate {path} cannot be read: {exc}; make one with `coordinator certs`") from exc
