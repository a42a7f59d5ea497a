"""Shared memory segments: tensors between a worker and a coordinator on one host.

The peer creates a segment below /dev/shm with a random name and rights for its owner alone, writes a nonce at its start
and offers both. The coordinator maps it if it finds the nonce there: the two share a host, and a user. Then the peer
unlinks the name, so that nothing can be left behind whatever happens to either. Until then the creator holds a lock on
the file; `sweep` removes files whose lock nobody holds: their creators died in between.

    0 .. up            the peer's payload, written before its frame is sent, which says where it begins
    up .. up + down    the answer's payload, written before its frame is sent

Each side writes only when the other's frame has come, so no payload is written and read at once.

The peer's part has three places for a payload. A peer looks at its own outputs, as they were sent, until it has made
its step: it lays them down in a place that is lent to it (`Segment.lend`), one copy instead of two. Two places are lent
in turn; the third never is, for payloads that are made elsewhere, or while both are still looked at.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FOLDER = Path("/dev/shm")  # noqa: S108  # shared memory itself; names in it are random and created exclusively
NONCE_BYTES = 32
PLACES = 3
ANSWERS = 8
"""Peers' outputs that an answer's part has room for, where the rule needs them one by one; more come on the stream."""
ALIGNED = 64
"""Places begin at multiples of so many bytes."""
_PREFIX = "peer-consensus-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")

logger = logging.getLogger(__name__)


class Lent(NamedTuple):
    """A place that is its borrower's for as long as an array in it is looked at.

    Attributes:
        segment: whose place it is.
        at: where it begins.
        arrays: each [B, D] float32, one after the other.
    """

    segment: Segment
    at: int
    arrays: tuple[npt.NDArray[np.float32], ...]


def room_for(payload: int) -> int:
    """Bytes of a peer's part whose payloads have at most so many."""
    return PLACES * -(-payload // ALIGNED) * ALIGNED


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
        self._lent: list[weakref.ref[Any] | None] = [None] * (PLACES - 1)

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

    def lend(self, shape: tuple[int, int], count: int) -> Lent | None:
        """Memory for a payload of `count` tensors [B, D] float32, to be filled in; None where there is no room."""
        items = shape[0] * shape[1]
        size, stride = 4 * items * count, self.up // PLACES
        for place, lent in enumerate(self._lent):
            if size <= stride and (lent is None or lent() is None):
                at = place * stride
                whole = np.frombuffer(self._view[at : at + size], np.float32)
                self._lent[place] = weakref.ref(whole)  # every array made of it keeps it alive
                return Lent(self, at, tuple([whole[k * items : (k + 1) * items].reshape(shape) for k in range(count)]))
        return None

    def put(self, parts: Iterable[bytes | memoryview], size: int) -> int | None:
        """Lay a payload down, given as buffers that follow each other; where it begins, None where there is no room."""
        stride = self.up // PLACES
        if size > stride:
            return None
        self._lay(parts, self.up - stride, self.up)
        return self.up - stride

    def answer(self, parts: Iterable[bytes | memoryview]) -> None:
        """Lay an answer's payload down, given as buffers that follow each other."""
        self._lay(parts, self.up, self.up + self.down)

    def answered(self, size: int) -> memoryview:
        """A copy of an answer's payload: the next one takes its place."""
        return self._copy(self.up, size, self.up + self.down)

    def read(self, at: int, size: int) -> memoryview:
        """A copy of the peer's payload, the reader's own: what is judged must not change afterwards."""
        return self._copy(at, size, self.up)

    def _lay(self, parts: Iterable[bytes | memoryview], at: int, end: int) -> None:
        for part in parts:
            if at + len(part) > end:
                raise ValueError(f"{at + len(part) - end} bytes more than the segment has room for")
            self._view[at : at + len(part)] = part
            at += len(part)

    def _copy(self, at: int, size: int, end: int) -> memoryview:
        if at + size > end:
            raise ValueError(f"a payload of {size} bytes at byte {at} goes beyond byte {end}, the end of its part")
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
        with suppress(BufferError):  # somebody still looks at what was lent: the memory goes with the last array
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


def _check(status: os.stat_result, size: int) -> None:
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != 0o600 or status.st_uid != os.geteuid():
        raise ValueError("the segment is not a file that this user alone can read and write")
    if status.st_size != size:
        raise ValueError(f"the segment has {status.st_size} bytes, {size} were offered")
