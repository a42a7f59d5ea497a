"""Does the coordinator answer from here, is it the right one, and do the clocks agree?"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from peers.common.errors import ConfigError, ExchangeError
from peers.common.hosts import addresses, connection_trouble, loopback, split, stays_here
from peers.runs.run_folder import run_name

if TYPE_CHECKING:
    from peers.transport.access import Access
    from protos.consensus_pb2 import StatusReply

PATIENCE = 5.0
"""Seconds that a connection may take."""
CLOCK_NOTED = 2.0
"""Seconds from which on logs of two machines cannot be read side by side."""
CLOCK_WRONG = 300.0
"""Seconds from which on certificates made on one machine may not be valid on another."""
SET_CLOCK = "let both machines follow a time server: `timedatectl set-ntp true`, or chrony"


def coordinator(subject: Subject) -> Iterator[Finding]:
    """Name, port, certificate, secret, run and clock of the coordinator at an address."""
    if subject.address is None:
        return
    try:
        host, port = split(subject.address)
    except ValueError as exc:
        yield error("coordinator", f"address {exc}", "give --address HOST:PORT, or exchange.address")
        return
    names = list(_resolved(host))
    yield from names
    if any(finding.level == "error" for finding in names):
        return
    unreachable = _unreachable(host, port)
    yield unreachable or ok("reachable", f"{subject.address} takes connections")
    if unreachable is None:
        yield from _answers(subject, host, port)


def judge_clock(ahead: float, doubt: float, *, tls: bool) -> Finding:
    """What a difference of clocks means.

    Args:
        ahead: seconds that the coordinator's clock is before this one.
        doubt: seconds that `ahead` may be off, either way.
        tls: whether certificates are shown, which are valid by the clock.
    """
    text = f"the coordinator's clock is {abs(ahead):.3f} s {'ahead' if ahead >= 0 else 'behind'}, +/- {doubt:.3f} s"
    least = abs(ahead) - doubt
    if least > CLOCK_WRONG and tls:
        return error("clock", f"{text}: certificates are not valid at the same time on both machines", SET_CLOCK)
    if least > CLOCK_NOTED:
        return warning("clock", f"{text}: logs of the two cannot be compared", SET_CLOCK)
    return ok("clock", text)


def _resolved(host: str) -> Iterator[Finding]:
    try:
        found = addresses(host)
    except OSError as exc:
        text = f"{host} does not resolve: {exc.strerror or exc}"
        yield error("name", text, "give its address, or an entry in the DNS or in /etc/hosts")
        return
    text = f"{host} is {', '.join(found)}"
    if loopback(found) and not stays_here(host):
        remedy = "if the coordinator is on another machine, give its address, or mend /etc/hosts here"
        yield warning("name", f"{text}: this machine itself", remedy)
    else:
        yield ok("name", text)


def _unreachable(host: str, port: int) -> Finding | None:
    try:
        with socket.create_connection((host, port), PATIENCE):
            return None
    except OSError as exc:
        trouble = connection_trouble(host, port, exc)
        return error("reachable", trouble.text, trouble.remedy)


def _answers(subject: Subject, host: str, port: int) -> Iterator[Finding]:
    from coordinator import status as console
    from peers.config.credentials import access

    tls = subject.config.security.certs is not None
    try:
        where = access(subject.config, subject.address or "")
        if tls:
            yield from _certificate(where, host, port, subject)
        before = time.time()
        status = console.current(where)
        after = time.time()
    except ConfigError:
        return  # the checks of token and certificates say so
    except ExchangeError as exc:
        remedy = "give the certificates and the token that it was started with: --certs DIR, --token-file FILE"
        yield error("coordinator", str(exc), remedy)
        return
    yield from _run(status, subject)
    if status.unix_time:
        yield judge_clock(status.unix_time - (before + after) / 2, (after - before) / 2, tls=tls)
    else:
        yield warning("clock", "the coordinator does not say its time", "give it the version that is installed here")


def _certificate(where: Access, host: str, port: int, subject: Subject) -> Iterator[Finding]:
    """The certificate that is shown at the address, whatever it is worth: that is judged here."""
    from cryptography import x509

    from coordinator.doctor.certificate import NAME, judge

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert(binary_form=True) or b""
        with open(where.ca or "", "rb") as file:
            ca = x509.load_pem_x509_certificate(file.read())
        yield from judge(
            f"the coordinator's at {where.address}", x509.load_der_x509_certificate(shown), ca, (host,), subject.now
        )
    except ssl.SSLError as exc:
        text = f"{where.address} does not speak TLS: {exc.reason or exc}"
        yield error(NAME, text, "start the coordinator with security.certs, or leave the certificates out here")
    except (OSError, ValueError):
        return  # the file is judged by the check of certificates; a lost connection by the call that follows


def _run(status: StatusReply, subject: Subject) -> Iterator[Finding]:
    """Whether the coordinator's run is the configuration's."""
    from coordinator.status import PHASES

    phase = PHASES.get(status.phase, "unknown")
    text = f"{subject.address} answers: run {status.run_id}, {phase}, round {status.round} of {status.rounds}"
    if subject.source is not None and status.run_id != run_name(subject.config):
        remedy = "give the address of this run's coordinator, or this run's configuration and run.name"
        yield error("coordinator", f"{text}; the configuration's run is {run_name(subject.config)}", remedy)
    elif phase == "over":
        yield warning("coordinator", f"{text}: {status.text}", "start another coordinator: nobody can join this one")
    else:
        yield ok("coordinator", text)
