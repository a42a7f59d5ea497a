"""Can this machine be found, and are the ports free that it is to be found at?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from coordinator.doctor.places import beyond, serves_here
from coordinator.service.advertised import advertise_problem
from peers.common.hosts import WILDCARDS, addresses, addresses_of, host_and_port, interface_trouble, loopback, split

HOSTS_FILE = "give it an entry with this machine's own address, in the DNS or in /etc/hosts"


def host_name(subject: Subject) -> Iterator[Finding]:
    """This machine's name leads to it, from elsewhere too where the group is spread."""
    name = socket.gethostname()
    try:
        found = addresses(name)
    except OSError as exc:
        text = f"this machine's name {name!r} does not resolve: {exc.strerror or exc}"
        yield error("host name", text, HOSTS_FILE) if beyond(subject) else warning("host name", text, HOSTS_FILE)
        return
    text = f"{name} is {', '.join(found)}"
    if loopback(found) and beyond(subject):
        remedy = f"{HOSTS_FILE}; or say coordinator.advertise and exchange.interface"
        yield warning("host name", f"{text}: nobody else reaches this machine by it", remedy)
    else:
        yield ok("host name", text)


def interface(subject: Subject) -> Iterator[Finding]:
    """exchange.interface is there and up."""
    wanted = subject.config.exchange.interface
    if wanted is None:
        return
    trouble = interface_trouble(wanted)
    if trouble is None:
        yield ok("interface", f"{wanted} is up: {', '.join(addresses_of(wanted))}")
    else:
        yield error("interface", trouble.text, trouble.remedy)


def advertise(subject: Subject) -> Iterator[Finding]:
    """What peers are told of the coordinator leads to it."""
    told = subject.config.coordinator.advertise
    if told is None or not serves_here(subject):
        return
    trouble = advertise_problem(told, subject.config.coordinator.bind)
    if trouble is None:
        yield ok("advertise", f"{told} is {', '.join(addresses(host_and_port(told)[0]))}")
    else:
        yield error("advertise", trouble.text, trouble.remedy)


def ports(subject: Subject) -> Iterator[Finding]:
    """The ports that a coordinator would listen on here are free."""
    if not serves_here(subject):
        return
    asked = subject.config.coordinator
    try:
        host, port = split(asked.bind)
    except ValueError as exc:
        yield error("ports", f"coordinator.bind = {exc}", "say where to listen")
        return
    yield _free("coordinator.bind", host, port)
    taken = {port: "coordinator.bind"}
    for field in ("metrics_port", "lane_port"):
        other = getattr(asked, field)
        if not other:
            continue
        if other in taken:
            text = f"coordinator.{field} = {other} is the port of {taken[other]}, too"
            yield error("ports", text, "choose another, or 0 for a free one")
        else:
            taken[other] = f"coordinator.{field}"
            yield _free(f"coordinator.{field}", host, other)


def _free(field: str, host: str, port: int) -> Finding:
    """Whether a listener would get its port: it is bound, and given back at once."""
    where = f"{field}: {host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            None if host in WILDCARDS[2:] else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as exc:
        return error("ports", f"{where}: {host} does not resolve: {exc.strerror}", "give an address of this machine")
    except OSError as exc:
        return _taken(where, port, exc)
    return ok("ports", f"{where} {'takes any free port' if port == 0 else 'is free'}")


def _taken(where: str, port: int, exc: OSError) -> Finding:
    if exc.errno == errno.EADDRINUSE:
        remedy = "stop what listens there, or choose another port; port 0 takes a free one"
        return error("ports", f"{where} is taken{_holder(port)}", remedy)
    if exc.errno == errno.EADDRNOTAVAIL:
        remedy = "give one of its addresses, or bind to 0.0.0.0 and say coordinator.advertise"
        return error("ports", f"{where}: this machine has no such address", remedy)
    return error("ports", f"{where} cannot be used: {exc.strerror}", "choose a port above 1023, or another address")


def _holder(port: int) -> str:
    """Who listens on a port, where this user may know."""
    import psutil

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
                return f" by {psutil.Process(found.pid).name()} (process {found.pid})"
    except psutil.Error:
        pass  # not ours to see, or just gone: the port is taken all the same
    return ""
