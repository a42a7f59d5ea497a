"""Certificates for a coordinator beyond loopback: an authority, the coordinator's, and one that all peers may show.

`make_certs` writes PEM files into a folder:

    ca.pem          the authority; every peer needs it, it is no secret
    server.pem, server.key   the coordinator's
    peer.pem, peer.key       the peers', for mutual TLS

The authority's own key is used once and never written, so nothing more can be signed by it: to renew, make all anew.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peers.common.errors import ConfigError

VALID_DAYS = 825
"""Longest validity that common TLS implementations accept of a server's certificate."""
_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Certificates:
    """Where the files are."""

    ca: Path
    server: Path
    server_key: Path
    peer: Path
    peer_key: Path


def make_certs(folder: str | os.PathLike[str], hosts: Sequence[str], *, days: int = VALID_DAYS) -> Certificates:
    """Make an authority, and certificates of the coordinator and of its peers.

    Args:
        folder: made if it is missing; must not hold certificates yet.
        hosts: names and addresses by which peers reach the coordinator, e.g. "node1", "10.0.0.5".
        days: validity.

    Raises:
        ConfigError: no host, or the folder holds certificates or cannot be written.
    """
    if not hosts:
        raise ConfigError("a certificate needs the names by which peers reach the coordinator: give --host NAME")
    root = Path(folder)
    paths = Certificates(*(root / name for name in ("ca.pem", "server.pem", "server.key", "peer.pem", "peer.key")))
    there = [path.name for path in vars(paths).values() if path.exists()]
    if there:
        raise ConfigError(f"{root} holds {', '.join(there)} already: move them away, or give another folder")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key, days)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write(paths.ca, authority.public_bytes(serialization.Encoding.PEM), 0o644)
        for use, certificate, key in (("server", paths.server, paths.server_key), ("peer", paths.peer, paths.peer_key)):
            _issue(use, hosts, certificate, key, authority, authority_key, days)
    except OSError as exc:
        raise ConfigError(f"certificates cannot be written to {root}: {exc}") from exc
    return paths


def _authority(key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    name = _name("peer consensus authority")
    return (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _issue(
    use: str,
    hosts: Sequence[str],
    certificate: Path,
    key_file: Path,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(f"peer consensus {use}"), authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if use == "server":
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(authority_key, hashes.SHA256())
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key_file, plain, 0o600)
    _write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)  # clocks of a cluster differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
