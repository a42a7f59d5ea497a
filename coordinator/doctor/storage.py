"""Is there room: for checkpoints where the run is kept, for payloads in shared memory?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from coordinator.doctor.sizes import checkpoint_bytes, output_bytes, shown
from peers.common.errors import ConfigError
from peers.method.target_selection import Rule

SHARED = Path("/dev/shm")  # noqa: S108  # shared memory itself
LOGS = 64 * 2**20
"""Room for what is not checkpoints: logs, metrics, TensorBoard."""


def disk(subject: Subject) -> Iterator[Finding]:
    """The folder of runs can be written, and has room for the checkpoints of all peers."""
    yield from _room("run.out", subject.config.run.out, subject)
    state = subject.config.coordinator.state
    if state is not None and subject.address is None:
        yield from _writable("coordinator.state", state)


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """Shared memory of this machine, where payloads travel through it."""
    try:
        free = _probe(SHARED)
    except OSError as exc:
        text = f"{SHARED} cannot be written: {exc.strerror or exc}"
        yield warning("shared memory", text, "mount a tmpfs there; in a container, --shm-size or --ipc=host")
        return
    if not (subject.elastic and subject.config.exchange.shared_memory):
        yield ok("shared memory", f"{SHARED}: {shown(free)} free; this exchange does not use it")
        return
    try:
        need = _segments(subject)
    except ConfigError:
        return  # the networks' widths differ: the check of the data says so
    text = f"{SHARED}: {shown(free)} free, {subject.peers} peers on one machine need {shown(need)}"
    if free < need:
        remedy = "enlarge it (in a container, --shm-size), or exchange.shared_memory = false; payloads take the stream"
        yield warning("shared memory", text, remedy)
    else:
        yield ok("shared memory", text)


def _segments(subject: Subject) -> int:
    """Bytes of shared memory if all workers share this machine: what each publishes, and what each or all get."""
    from peers.transport.broadcast import SLOTS  # bring numpy, whose absence the doctor has to tell
    from peers.transport.shared_memory import ANSWERS, room_for

    one, rule = output_bytes(subject), Rule.of(subject.config.consensus, subject.config.run.seed)
    common = SLOTS * one if rule.kind == "sum" or rule.aggregated else 0
    if rule.kind == "sum":
        return subject.workers * (room_for(one) + one) + common
    return room_for(subject.peers * one) + subject.workers * min(ANSWERS, subject.peers) * one + common


def _room(field: str, folder: str, subject: Subject) -> Iterator[Finding]:
    nearest = _nearest(folder)
    try:
        free = _probe(nearest)
    except OSError as exc:
        yield _cannot(field, folder, exc)
        return
    one = checkpoint_bytes(subject)
    need = subject.peers * (subject.config.checkpoint.keep + 1) * one  # the newest is whole before the oldest goes
    text = f"{field} = {folder!r}: {shown(free)} free"
    if not one:
        yield ok("disk", f"{text}; what checkpoints need is known once the images are")
        return
    kept = f"{subject.config.checkpoint.keep} checkpoints of {shown(one)} for each of {subject.peers} peers"
    text += f", {kept} need {shown(need)}"
    remedy = "free some, choose another folder with --set run.out=DIR, or lower checkpoint.keep"
    if free < need:
        yield error("disk", text, remedy)
    elif free < 2 * need + LOGS:
        yield warning("disk", f"{text}, logs and metrics some more", remedy)
    else:
        yield ok("disk", text)


def _writable(field: str, folder: str) -> Iterator[Finding]:
    try:
        _probe(_nearest(folder))
    except OSError as exc:
        yield _cannot(field, folder, exc)
    else:
        yield ok("disk", f"{field} = {folder!r} can be written")


def _cannot(field: str, folder: str, exc: OSError) -> Finding:
    text = f"{field} = {folder!r} cannot be written: {exc.strerror or exc}"
    return error("disk", text, f"choose another folder with --set {field}=DIR, or make this one writable")


def _nearest(folder: str) -> Path:
    """The folder, or the nearest one above it that is there: nothing is made for a look."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _probe(folder: Path) -> int:
    """Bytes that are free in a folder; raises OSError where nothing can be written."""
    with tempfile.TemporaryFile(dir=folder):
        pass
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
