"""The group's secret and certificates, as a configuration names them; nothing of it is ever logged."""

from __future__ import annotations

import os
from pathlib import Path

from peers.common.errors import ConfigError
from peers.config.schema import Config, SecurityConfig
from peers.transport.access import Access

TOKEN_VARIABLE = "PEERS_TOKEN"  # noqa: S105  # the name of a variable, not a secret

MAX_PORT = 65535


def read_token(security: SecurityConfig) -> str | None:
    """The group's token: from the file that is named, otherwise from the environment, otherwise none.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if security.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = Path(security.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"security.token_file = {security.token_file!r} cannot be read: {exc}") from exc
    if not token:
        raise ConfigError(f"security.token_file = {security.token_file!r} is empty: put the group's token into it")
    return token


def access(config: Config, address: str) -> Access:
    """How to reach the coordinator at an address, with the secrets that the configuration names.

    Raises:
        ConfigError: a secret cannot be read, or the address is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:  # gRPC would take a larger one modulo 65536
        raise ConfigError(f"the coordinator's address is {address!r}: expected HOST:PORT, for example 127.0.0.1:7070")
    certs, mutual = config.security.certs, config.security.mutual
    return Access(
        address,
        token=read_token(config.security),
        ca=None if certs is None else str(Path(certs) / "ca.pem"),
        certificate=str(Path(certs) / "peer.pem") if certs is not None and mutual else None,
        key=str(Path(certs) / "peer.key") if certs is not None and mutual else None,
        keepalive=config.exchange.heartbeat,
    )
