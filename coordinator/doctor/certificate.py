"""One certificate, judged: its dates, its authority, the names that it was made for. Pure; the clock comes as `now`."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from coordinator.doctor.findings import Finding, error, ok, warning

NAME = "certificates"
SOON = datetime.timedelta(days=30)
"""Before the end of a certificate's days, when its renewal is due."""
RENEW = "make all of them anew with `coordinator certs NEW_DIR --host NAME`, and give the new ca.pem to every peer"


def judge(
    whose: Path | str,
    found: x509.Certificate,
    ca: x509.Certificate | None,
    hosts: Sequence[str],
    now: datetime.datetime,
) -> Iterator[Finding]:
    """Everything about one certificate.

    Args:
        whose: what it is called.
        found: the certificate.
        ca: the authority that should have signed it; None where it is unknown.
        hosts: names and addresses by which its owner is reached.
        now: UTC.
    """
    yield dates(whose, found, now)
    if ca is not None and not _issued(found, ca):
        yield error(NAME, f"{whose} is not signed by the authority in ca.pem", f"use files of one folder, or {RENEW}")
    covered = _names(found)
    for host in hosts:
        if not any(_covers(name, host) for name in covered):
            text = f"{whose} is made for {', '.join(covered) or 'no name'}, and peers use {host}"
            remedy = "reach the coordinator by a name that it is made for, or make others: `coordinator certs NEW_DIR "
            yield error(NAME, text, f"{remedy}--host {host}`")


def dates(whose: Path | str, found: x509.Certificate, now: datetime.datetime) -> Finding:
    """Whether a certificate is valid, and for how long."""
    start, end = found.not_valid_before_utc, found.not_valid_after_utc
    if now < start:
        text = f"{whose} is not valid before {start:%Y-%m-%d %H:%M} UTC, and here it is {now:%Y-%m-%d %H:%M} UTC"
        return error(NAME, text, f"set the clock that is wrong, here or where it was made; or {RENEW}")
    if now > end:
        return error(NAME, f"{whose} expired on {end:%Y-%m-%d %H:%M} UTC", RENEW)
    text = f"{whose} is valid until {end:%Y-%m-%d}"
    if end - now < SOON:
        return warning(NAME, f"{text}, for another {(end - now).days} days", RENEW)
    return ok(NAME, text)


def _issued(found: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        found.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):  # another key, another name, another kind of key
        return False
    return True


def _names(found: x509.Certificate) -> list[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _covers(name: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(name)
    except ValueError:
        if name.startswith("*."):
            return host.lower().partition(".")[2] == name[2:].lower()
        return host.lower() == name.lower()
