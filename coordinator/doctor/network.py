"""Checks of the network: this machine's names and ports, and the coordinator at an address."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator.doctor.findings import Finding, Subject, grade
from coordinator.service.advertised import advertise_problem
from peers.common.errors import ConfigError
from peers.common.hosts import WILDCARDS, addresses, connection_trouble, interface_trouble, loopback, split, stays_here
from peers.runs.run_folder import run_name

PATIENCE = 5.0
"""Seconds that a connection may take."""
CLOCK_NOTED, CLOCK_WRONG = 2.0, 300.0
"""Seconds between two clocks from which on logs cannot be compared, and certificates may not be valid on both."""
HOSTS_FILE = "give it an entry with its own address, in the DNS or in /etc/hosts"


def host_name(subject: Subject) -> Iterator[Finding]:
    """This machine's name resolves, and to an address that others reach where the group is spread."""
    name = socket.gethostname()
    try:
        resolved = addresses(name)
    except OSError as exc:
        text = f"this machine's name {name!r} does not resolve: {exc.strerror or exc}"
        yield grade("host name", text, HOSTS_FILE, error=subject.spread, warning=True)
        return
    remedy = f"{HOSTS_FILE}; or set coordinator.advertise and exchange.interface"
    local = loopback(resolved) and subject.spread
    yield grade("host name", f"{name} is {', '.join(resolved)}", remedy, warning=local)


def interface(subject: Subject) -> Iterator[Finding]:
    """exchange.interface exists and is up."""
    name = subject.config.exchange.interface
    if name is not None:
        trouble = interface_trouble(name)
        yield grade("interface", *(trouble or (f"{name} is up",)), error=trouble is not None)


def advertise(subject: Subject) -> Iterator[Finding]:
    """coordinator.advertise leads peers to the coordinator."""
    config = subject.config.coordinator
    if config.advertise is not None and subject.serves_here:
        trouble = advertise_problem(config.advertise, config.bind)
        yield grade("advertise", *(trouble or (f"{config.advertise} resolves",)), error=trouble is not None)


def ports(subject: Subject) -> Iterator[Finding]:
    """The ports on which a coordinator would listen here are free."""
    if not subject.serves_here:
        return
    config = subject.config.coordinator
    host, port = split(config.bind)
    numbers = {"bind": port, "metrics_port": config.metrics_port, "lane_port": config.lane_port}
    seen: dict[int | None, str] = {}
    for field, number in numbers.items():
        if not number and field != "bind":  # none, or any free one
            continue
        where = f"coordinator.{field}: {host}:{number}"
        problem = f"the port of coordinator.{seen[number]}, too" if number in seen else _port_problem(host, number or 0)
        remedy = "choose an address of this machine and a port that `ss -ltnp` does not list; port 0 takes a free one"
        yield grade("ports", f"{where}: {problem or 'free'}", remedy, error=bool(problem))
        seen[number] = field


def _port_problem(host: str, port: int) -> str:
    """Why a listener would not get its port, or nothing: it is bound, and given back at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            None if host in WILDCARDS[2:] else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def coordinator(subject: Subject) -> Iterator[Finding]:
    """The coordinator at the address answers, is of this run, and its certificate and clock are right."""
    if subject.address is None:
        return
    host, port = split(subject.address)
    try:
        resolved = addresses(host)
    except OSError as exc:
        yield grade("name", f"{host} does not resolve: {exc.strerror or exc}", HOSTS_FILE, error=True)
        return
    local = loopback(resolved) and not stays_here(host)  # a name that leads to this machine, and does not say so
    yield grade("name", f"{host} is {', '.join(resolved)}", HOSTS_FILE, warning=local)
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as exc:
        yield grade("reachable", *connection_trouble(host, port, exc), error=True)
        return
    yield grade("reachable", f"{subject.address} takes connections")
    if subject.config.security.certs is not None:
        yield from _shown_certificate(host, port, Path(subject.config.security.certs) / "ca.pem", subject)
    yield from _status(subject, subject.address)


def _shown_certificate(host: str, port: int, ca: Path, subject: Subject) -> Iterator[Finding]:
    """The certificate that the coordinator shows; TLS does not verify it here, so that its faults can be reported."""
    from cryptography import x509

    from coordinator.doctor import credentials

    try:
        authority = credentials.load(ca)
        shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=PATIENCE).encode())
    except ssl.SSLError as exc:
        remedy = "start the coordinator with security.certs, or leave the certificates out here"
        yield grade("certificates", f"{subject.address} does not speak TLS: {exc.reason or exc}", remedy, error=True)
    except (OSError, ValueError):
        return  # the check of the certificates reports the file, the call that follows a lost connection
    else:
        yield from credentials.judge(f"the coordinator's at {subject.address}", shown, authority, (host,), subject)


def _status(subject: Subject, address: str) -> Iterator[Finding]:
    """What the coordinator says of its run and its time."""
    from coordinator import status as console
    from peers.config.credentials import access

    try:
        access_to = access(subject.config, address)
    except ConfigError:
        return  # the checks of token and certificates report it
    before = time.time()
    status = console.current(access_to)
    after = time.time()
    phase = console.PHASES.get(status.phase, "unknown")
    text = f"{address}: run {status.run_id}, {phase}, round {status.round} of {status.rounds}"
    other = subject.source is not None and status.run_id != run_name(subject.config)
    remedy = "give the address of a coordinator of this run that is not over"
    yield grade("coordinator", text, remedy, error=other, warning=phase == "over")
    tls = subject.config.security.certs is not None
    yield judge_clock(status.unix_time - (before + after) / 2, (after - before) / 2, tls=tls)


def judge_clock(ahead: float, doubt: float, *, tls: bool) -> Finding:
    """What a difference between two clocks means.

    Args:
        ahead: seconds that the coordinator's clock is before this one.
        doubt: seconds that `ahead` may be off, either way.
        tls: whether certificates are shown, which are valid by the clock.
    """
    text = f"the coordinator's clock is {ahead:+.3f} s from this one, +/- {doubt:.3f} s"
    least = abs(ahead) - doubt
    remedy = "let both machines follow a time server: `timedatectl set-ntp true`, or chrony"
    return grade("clock", text, remedy, error=least > CLOCK_WRONG and tls, warning=least > CLOCK_NOTED)
