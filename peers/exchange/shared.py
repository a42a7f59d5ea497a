"""Payloads through shared memory, for a peer and a coordinator on one host.

The peer creates a segment below /dev/shm with a random name and rights for its owner alone, writes a nonce at its start
and offers both. The coordinator maps it if it finds the nonce there: the two share a host, and a user. Then the peer
unlinks the name, so that nothing can be left behind whatever happens to either. Until then the creator holds a lock on
the file; `sweep` removes files whose lock nobody holds: their creators died in between.

    0 .. up            the peer's payload, written before its frame is sent
    up .. up + down    the answer's payload, written before its frame is sent

Each side writes only when the other's frame has come, so neither half is written and read at once.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np

FOLDER = Path("/dev/shm")  # noqa: S108  # shared memory itself; names in it are random and created exclusively
NONCE_BYTES = 32
_PREFIX = "peer-consensus-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")

logger = logging.getLogger(__name__)


class Segment:
    """A mapped segment; `create` and `open` make one.

    Raises:
        OSError: of all its functions, where the host cannot do it.
        ValueError: the offered segment is not what it should be.
    """

    def __init__(self, name: str, descriptor: int, up: int, down: int) -> None:
        self.name = name
        self.up = up
        self.down = down
        self._descriptor: int | None = descriptor
        self._map = mmap.mmap(descriptor, up + down)
        self._view = memoryview(self._map)

    @classmethod
    def create(cls, up: int, down: int) -> tuple[Segment, bytes]:
        """A new segment, and the nonce at its start."""
        name = _PREFIX + secrets.token_hex(16)
        path = FOLDER / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Really reserved: writing to a sparse file in a full /dev/shm would kill the process.
            os.posix_fallocate(descriptor, 0, up + down)
            segment = cls(name, descriptor, up, down)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        nonce = secrets.token_bytes(NONCE_BYTES)
        segment._view[:NONCE_BYTES] = nonce
        return segment, nonce

    @classmethod
    def open(cls, name: str, up: int, down: int, nonce: bytes) -> Segment:
        """Map a segment that another process offers, if it is the one that it says."""
        if not _NAME.fullmatch(name):
            raise ValueError("the name is not one of a segment")
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"the nonce has {len(nonce)} bytes, expected {NONCE_BYTES}")
        descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), up + down)
            segment = cls(name, descriptor, up, down)
        except BaseException:
            os.close(descriptor)
            raise
        segment._release_file()
        if not secrets.compare_digest(bytes(segment._view[:NONCE_BYTES]), nonce):
            segment.close()
            raise ValueError("the nonce is not there: another host's segment")
        return segment

    def write(self, parts: Iterable[bytes | memoryview], *, answer: bool) -> None:
        """Lay payloads down one after the other, in the peer's part or in the answer's."""
        at = self.up if answer else 0
        end = self.up + (self.down if answer else 0)
        for part in parts:
            if at + len(part) > end:
                raise ValueError(f"{at + len(part) - end} bytes more than the segment has room for")
            self._view[at : at + len(part)] = part
            at += len(part)

    def read(self, size: int, *, answer: bool) -> memoryview:
        """A copy of a payload, the reader's own: what is judged must not change afterwards."""
        at = self.up if answer else 0
        if size > (self.down if answer else self.up):
            raise ValueError(f"a payload of {size} bytes is larger than the segment's room for it")
        copy = np.empty(size, np.uint8)
        copy.data[:] = self._view[at : at + size]
        return copy.data

    def unlink(self) -> None:
        """Take the name away; the memory goes when nobody maps it any more. Any number of times."""
        if self._descriptor is not None:
            (FOLDER / self.name).unlink(missing_ok=True)
            self._release_file()

    def close(self) -> None:
        """Unlink and unmap; any number of times."""
        self.unlink()
        self._view.release()
        self._map.close()

    def _release_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def sweep() -> int:
    """Remove what dead processes of this user left behind; how many."""
    removed = 0
    for path in FOLDER.glob(f"{_PREFIX}*"):
        try:
            removed += _remove_if_dead(path)
        except FileNotFoundError:
            continue  # its creator, or another sweep, was faster
        except OSError as exc:
            logger.info("shared memory left by another process stays: %s", exc)
    return removed


def _remove_if_dead(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    except BlockingIOError:
        return False  # its creator lives
    finally:
        os.close(descriptor)


def _check(found: os.stat_result, size: int) -> None:
    if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o600 or found.st_uid != os.geteuid():
        raise ValueError("the segment is not a file that this user alone can read and write")
    if found.st_size != size:
        raise ValueError(f"the segment has {found.st_size} bytes, {size} were offered")
