"""Hosts and their addresses: how they are written, what they resolve to, and by which interface one reaches another."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import NamedTuple

from peers.common.errors import ConfigError

MAX_PORT = 65535
WILDCARDS = ("", "0.0.0.0", "::", "*")  # noqa: S104  # looked for, not bound
ELSEWHERE = ("203.0.113.1", "2001:db8::1")
"""Addresses of nobody's network, which take the default route; nothing is ever sent to them."""
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Trouble(NamedTuple):
    """What stands in the way, and what its reader can do."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address without its brackets.

    Raises:
        ValueError: it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ValueError(f"{address!r}: expected HOST:PORT, for example 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def host_in(address: str) -> str:
    """Host of HOST:PORT as it is written, without brackets; empty where there is none. Checks nothing."""
    return address.rpartition(":")[0].strip("[]")


def host_and_port(told: str) -> tuple[str, int | None]:
    """Host and port of HOST or HOST:PORT.

    Raises:
        ValueError: it is neither.
    """
    try:
        return str(ipaddress.ip_address(told.strip("[]"))), None
    except ValueError:
        head, colon, port = told.rpartition(":")
    host = (head if colon and port.isdecimal() else told).strip("[]")
    number = int(port) if colon and port.isdecimal() else None
    if not host or (number is not None and not 0 < number <= MAX_PORT):
        raise ValueError(f"{told!r}: expected HOST or HOST:PORT, for example node1 or 10.0.0.5:7070")
    return host, number


def written(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def same_port(bind: str, told: str) -> str:
    """What to bind so that a service is found again where it was: a port that the system chose is asked for by number.

    Args:
        bind: HOST:PORT as it was asked for.
        told: HOST:PORT as peers were told.
    """
    host, port = split(bind)
    return written(host, port or split(told)[1])


def addresses(host: str) -> tuple[str, ...]:
    """What a host resolves to.

    Raises:
        OSError: nothing.
    """
    try:
        resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise socket.gaierror(socket.EAI_NONAME, "this is no host name") from exc
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in resolved))


def loopback(resolved: Sequence[str]) -> bool:
    """Whether all addresses are of this machine alone."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in resolved)


def stays_here(host: str) -> bool:
    """Whether a host, as it is written, means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def interface_trouble(name: str) -> Trouble | None:
    """Why an interface cannot carry the exchange."""
    import psutil

    there = psutil.net_if_stats()
    if name not in there:
        text = f"exchange.interface = {name!r} is not on this machine; it has {', '.join(sorted(there))}"
        return Trouble(text, "name one of these, or leave it out")
    if not there[name].isup:
        return Trouble(f"exchange.interface = {name!r} is down", f"`ip link set {name} up`, or name another")
    if not addresses_of(name):
        return Trouble(f"exchange.interface = {name!r} has no address", f"`ip addr add ADDRESS dev {name}`, or another")
    return None


def interface_address(name: str) -> str:
    """The address of an interface, IPv4 if it has one.

    Raises:
        ConfigError: it is not there, is down, or has none.
    """
    trouble = interface_trouble(name)
    if trouble is not None:
        raise ConfigError(str(trouble))
    return addresses_of(name)[0]


def addresses_of(name: str) -> tuple[str, ...]:
    """The addresses of an interface, IPv4 before IPv6; without those that mean nothing beyond its own link."""
    import psutil

    own = psutil.net_if_addrs().get(name, [])
    resolved = [one.address for family in FAMILIES for one in own if one.family == family]
    return tuple(address for address in resolved if not ipaddress.ip_address(address.partition("%")[0]).is_link_local)


def interface_of(address: str) -> str | None:
    """The interface that carries an address of this machine."""
    import psutil

    there = psutil.net_if_addrs()
    if loopback([address]):  # all of 127.0.0.0/8 is carried, and one address of it is listed
        address = next((one for name in there for one in addresses_of(name) if loopback([one])), address)
    return next((name for name in there if address in addresses_of(name)), None)


def local_address(host: str) -> str | None:
    """The address of this machine that packets to a host would come from; None where no way leads there."""
    try:
        resolved = addresses(host)
    except OSError:
        return None
    for address in resolved:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # of datagrams: it asks for the route, and sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def interface_to(host: str) -> str | None:
    """The interface by which a host is reached; None where no way leads there."""
    address = local_address(host)
    return None if address is None else interface_of(address)


def own_address(interface: str | None = None) -> str:
    """The address by which others reach this machine.

    That of the interface, if one is named; else of the default route; else what the host's name resolves to, where
    that is an address of this machine; else of any interface that is up. Loopback only if there is nothing else.

    Raises:
        ConfigError: the interface is not there, is down, or has no address.
    """
    if interface is not None:
        return interface_address(interface)
    import psutil

    routed = [address for target in ELSEWHERE if (address := local_address(target)) is not None]
    up = [name for name, state in psutil.net_if_stats().items() if state.isup]
    carried = [address for name in up for address in addresses_of(name)]
    try:
        named = [address for address in addresses(socket.gethostname()) if address in carried]
    except OSError:
        named = []
    return next((address for address in (*routed, *named, *carried) if not loopback([address])), "127.0.0.1")


def connection_trouble(host: str, port: int, exc: Exception) -> Trouble:
    """Why a service cannot be reached, from the error that a connection to it ended with."""
    if isinstance(exc, socket.gaierror | UnicodeError):
        remedy = "give its address, or an entry in the DNS or in /etc/hosts"
        return Trouble(f"{host} does not resolve: {_why(exc)}", remedy)
    where = f"nothing answers at {written(host, port)}"
    try:
        resolved = addresses(host)
    except OSError:
        resolved = ()
    if resolved and loopback(resolved) and not stays_here(host):
        text = f"{where}: {host} is {', '.join(resolved)}: this machine itself"
        return Trouble(text, "if it is on another machine, give its address there, or mend /etc/hosts here")
    if isinstance(exc, ConnectionRefusedError):
        beyond = "" if stays_here(host) else "; if it runs, bind it beyond loopback (coordinator.bind = 0.0.0.0:PORT)"
        return Trouble(f"{where}: the connection was refused", f"start the coordinator there{beyond}")
    remedy = "look for a firewall or a wrong network between the two; coordinator.advertise and exchange.interface"
    return Trouble(f"{where}: {_why(exc)}", f"{remedy} say which address peers are told")


def _why(exc: Exception) -> str:
    """What went wrong, without the number that Python puts before it."""
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)
