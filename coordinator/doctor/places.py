"""Who is where: addresses as a configuration writes them, and what they resolve to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from coordinator.doctor.findings import Subject

MAX_PORT = 65535
WILDCARDS = ("", "0.0.0.0", "::", "*")  # noqa: S104  # looked for, not bound


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address without its brackets.

    Raises:
        ValueError: it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ValueError(f"{address!r}: expected HOST:PORT, for example 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def host_of(advertised: str) -> str:
    """The host of HOST or HOST:PORT."""
    try:
        ipaddress.ip_address(advertised.strip("[]"))
    except ValueError:
        head, colon, port = advertised.rpartition(":")
        return (head if colon and port.isdecimal() else advertised).strip("[]")
    return advertised.strip("[]")


def addresses(host: str) -> tuple[str, ...]:
    """What a host resolves to.

    Raises:
        OSError: nothing.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def loopback(found: Sequence[str]) -> bool:
    """Whether all addresses are of this machine alone."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def stays_here(host: str) -> bool:
    """Whether a host, as it is written, means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serves_here(subject: Subject) -> bool:
    """Whether the group's coordinator would run on this machine."""
    launcher = subject.config.launcher
    elsewhere = launcher.kind == "slurm" or (launcher.kind == "ray" and launcher.ray.coordinator == "actor")
    return subject.address is None and not elsewhere


def beyond(subject: Subject) -> bool:
    """Whether the group reaches beyond this machine."""
    config = subject.config
    hosts = [config.coordinator.bind.rpartition(":")[0].strip("[]")]
    if subject.address is not None:
        hosts.append(subject.address.rpartition(":")[0].strip("[]"))
    clusters = (config.launcher.kind == "slurm", config.launcher.kind == "ray" and config.launcher.ray.address)
    return any(clusters) or not all(map(stays_here, hosts))


def coordinator_hosts(subject: Subject) -> tuple[str, ...]:
    """By which names peers reach the coordinator, as far as the configuration says."""
    asked = subject.config.coordinator
    if subject.address is not None:
        return (subject.address.rpartition(":")[0].strip("[]"),)
    if asked.advertise is not None:
        return (host_of(asked.advertise),)
    host = asked.bind.rpartition(":")[0].strip("[]")
    return () if host in WILDCARDS else (host,)
