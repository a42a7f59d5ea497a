"""Checks of the group's secrets: the token and the certificates."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.doctor.findings import Finding, Subject, grade, guarded
from peers.common.hosts import WILDCARDS, host_and_port, host_in

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

NAME = "certificates"
SHORTEST = 16
"""Characters that the coordinator asks of a token."""
SOON = timedelta(days=30)
"""A certificate that ends within this time is due for renewal."""
MAKE_TOKEN = "make one with `(umask 077; openssl rand -hex 32 > token)`, the same for the whole group"  # noqa: S105  # advice, no secret
RENEW = "make all of them anew with `coordinator certs NEW_DIR --host NAME`, and give the new ca.pem to every peer"


def token(subject: Subject) -> Iterator[Finding]:
    """The group's secret is long enough, and only its owner can read it."""
    from peers.config.credentials import read_token

    file, secret = subject.config.security.token_file, read_token(subject.config.security)
    if secret is None:
        yield grade("token", "none: whoever reaches the coordinator may join")
        return
    short, readable = len(secret) < SHORTEST, file is not None and _readable_by_others(Path(file))
    text = f"{len(secret)} characters, expected at least {SHORTEST}" + (", and others can read it" if readable else "")
    yield grade("token", text, MAKE_TOKEN if short else f"chmod 600 {file}", error=short, warning=readable)


def certificates(subject: Subject) -> Iterator[Finding]:
    """The files of security.certs that this machine needs are there, valid, private, and belong together."""
    security, coordinator = subject.config.security, subject.config.coordinator
    if security.certs is None:
        yield grade(NAME, "none: TLS is off")
        return
    root = Path(security.certs)
    yield from guarded(NAME, _file(root, "ca", (), subject))
    if subject.address is None or (root / "server.pem").exists():
        reached_at = subject.address or coordinator.advertise or coordinator.bind
        host = host_and_port(reached_at)[0] if reached_at == coordinator.advertise else host_in(reached_at)
        yield from guarded(NAME, _file(root, "server", () if host in WILDCARDS else (host,), subject))
    if security.mutual or (root / "peer.pem").exists():
        yield from guarded(NAME, _file(root, "peer", (), subject))


def _file(root: Path, use: str, hosts: Sequence[str], subject: Subject) -> Iterator[Finding]:
    """One certificate of a folder and, unless it is the authority's, its key."""
    from cryptography.hazmat.primitives import serialization

    path, key_path = root / f"{use}.pem", root / f"{use}.key"
    certificate = load(path)
    if use == "ca":
        yield from judge(str(path), certificate, None, hosts, subject)
        return
    authority = load(root / "ca.pem") if (root / "ca.pem").exists() else None
    yield from judge(str(path), certificate, authority, hosts, subject)
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (ValueError, TypeError) as exc:  # TypeError: it asks for a password
        raise ValueError(f"{key_path} holds no private key that opens without a password: {exc}") from exc
    fits, readable = key.public_key() == certificate.public_key(), _readable_by_others(key_path)
    text = f"{key_path} {'belongs' if fits else 'does not belong'} to {path}" + (", others can read it" * readable)
    yield grade(NAME, text, f"chmod 600 {key_path}" if fits else RENEW, error=not fits, warning=readable)


def load(path: Path) -> Certificate:
    """A certificate of a PEM file; OSError if it cannot be read, ValueError if it holds none."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as exc:
        raise ValueError(f"{path} holds no certificate: {exc}") from exc


def judge(
    name: str, certificate: Certificate, authority: Certificate | None, hosts: Sequence[str], subject: Subject
) -> Iterator[Finding]:
    """What is wrong with one certificate: its dates, its signature, the names that it was made for.

    Args:
        name: what the findings call it.
        certificate: to be judged.
        authority: that should have signed it; None where it is unknown.
        hosts: names and addresses by which its owner is reached.
        subject: gives the time.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    now, start, end = subject.now, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    text = f"{name} is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, and here it is {now:%Y-%m-%d %H:%M}"
    remedy = f"set the clock that is wrong, or {RENEW}" if now < start else RENEW
    yield grade(NAME, text, remedy, error=not start <= now <= end, warning=end - now < SOON)
    try:
        if authority is not None:
            certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):  # another key, another name, another kind of key
        yield grade(NAME, f"{name} is not signed by the authority in ca.pem", RENEW, error=True)
    names: list[str] = []
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names += extension.value.get_values_for_type(x509.DNSName)
            names += map(str, extension.value.get_values_for_type(x509.IPAddress))
    for host in hosts:
        if not any(_covers(pattern, host) for pattern in names):
            text = f"{name} is made for {', '.join(names) or 'no name'}, and peers use {host}"
            remedy = f"reach the coordinator by one of its names, or `coordinator certs NEW_DIR --host {host}`"
            yield grade(NAME, text, remedy, error=True)


def _readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o044)


def _covers(pattern: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(pattern)
    except ValueError:
        if pattern.startswith("*."):  # the star stands for one label
            return host.lower().partition(".")[2] == pattern[2:].lower()
        return host.lower() == pattern.lower()
