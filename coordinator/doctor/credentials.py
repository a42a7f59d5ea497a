"""Are the group's token and certificates there, private, and of one make?"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from coordinator.doctor.places import coordinator_hosts
from peers.common.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SHORTEST = 16
"""Characters that the coordinator asks of a token."""
MAKE_TOKEN = "make one with `(umask 077; openssl rand -hex 32 > token)`, the same for the whole group"  # noqa: S105  # advice, no secret


def token(subject: Subject) -> Iterator[Finding]:
    """The group's secret can be read, by its owner alone."""
    from peers.config.credentials import TOKEN_VARIABLE, read_token

    file = subject.config.security.token_file
    try:
        secret = read_token(subject.config.security)
    except ConfigError as exc:
        yield error("token", str(exc), MAKE_TOKEN)
        return
    where = f"the environment's {TOKEN_VARIABLE}" if file is None else f"security.token_file = {file!r}"
    if secret is None:
        yield ok("token", "none: whoever reaches the coordinator may join")
    elif len(secret) < SHORTEST:
        yield error("token", f"{where} has {len(secret)} characters, expected at least {SHORTEST}", MAKE_TOKEN)
    elif file is not None and (mode := _open_to_others(Path(file))):
        yield warning("token", f"{where} can be read by others (mode {mode})", f"chmod 600 {file}")
    else:
        yield ok("token", where)


def certificates(subject: Subject) -> Iterator[Finding]:
    """The files of security.certs that this machine needs: the coordinator's where it runs, the peers' if asked for."""
    if subject.config.security.certs is None:
        yield ok("certificates", "none: TLS is off")
        return
    root = Path(subject.config.security.certs)
    authority = yield from _authority(root, subject)
    needed = {"server": subject.address is None, "peer": subject.config.security.mutual}
    for use, here in needed.items():
        if here or (root / f"{use}.pem").exists():
            yield from _certificate_and_key(root, use, authority, subject)


def _authority(root: Path, subject: Subject) -> Generator[Finding, None, Certificate | None]:
    from coordinator.doctor.certificate import dates

    found = _read(root / "ca.pem")
    if isinstance(found, Finding):
        yield found
        return None
    yield dates(root / "ca.pem", found, subject.now)
    return found


def _certificate_and_key(root: Path, use: str, ca: Certificate | None, subject: Subject) -> Iterator[Finding]:
    from coordinator.doctor.certificate import judge

    path = root / f"{use}.pem"
    found = _read(path)
    if isinstance(found, Finding):
        yield found
        return
    yield from judge(path, found, ca, coordinator_hosts(subject) if use == "server" else (), subject.now)
    yield _key(root / f"{use}.key", path, found)


def _key(path: Path, certificate: Path, found: Certificate) -> Finding:
    from cryptography.hazmat.primitives import serialization

    from coordinator.doctor.certificate import NAME, RENEW

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as exc:
        return error(NAME, f"{path} cannot be read: {exc.strerror}", f"copy it from where {certificate} was made")
    except (ValueError, TypeError) as exc:
        return error(NAME, f"{path} holds no private key that opens without a password: {exc}", RENEW)
    if key.public_key() != found.public_key():
        return error(NAME, f"{path} is not the key of {certificate}", "copy both from one folder")
    if mode := _open_to_others(path):
        return warning(NAME, f"{path} can be read by others (mode {mode})", f"chmod 600 {path}")
    return ok(NAME, f"{path} belongs to {certificate}, for its owner alone")


def _read(path: Path) -> Certificate | Finding:
    from cryptography import x509

    from coordinator.doctor.certificate import NAME, RENEW

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as exc:
        remedy = "copy it from where the certificates were made, or make some with `coordinator certs DIR --host NAME`"
        return error(NAME, f"{path} cannot be read: {exc.strerror}", remedy)
    except ValueError as exc:
        return error(NAME, f"{path} holds no certificate: {exc}", RENEW)


def _open_to_others(path: Path) -> str:
    """A file's mode, if group or others may read it; otherwise nothing."""
    mode = path.stat().st_mode & 0o777
    return f"{mode:04o}" if mode & 0o044 else ""
