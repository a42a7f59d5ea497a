"""Broadcast memory: a result is written once for all workers on the coordinator's host, not once for each.

The coordinator makes memory without a name, sealed: it cannot shrink, and nobody else can write to it. It hands it to
each worker as a descriptor when their lane stands, so it goes with the last of them, whatever happens to any.

The memory holds two results in turn, each in a slot behind its generation: a number that its frame says, too, and that
grows with every result. A slot is written again two results later, when all members have published since they were told
of it: only a worker that its group has given up can be too late, and it finds another generation than it was told.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable

import numpy as np

SLOTS = 2
_GENERATION = struct.Struct("<Q")
_START = 64
"""Bytes before a slot's result, which is aligned to them."""
_SEAL_FUTURE_WRITE = 0x10
"""Of Linux 5.1 and later; Python does not name it yet."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE


class OverwrittenError(ConnectionError):
    """A result was replaced before it could be read: as good as an answer that never arrived."""


class Broadcast:
    """The coordinator's side.

    Args:
        size: bytes of a result.

    Raises:
        OSError: this host cannot do it.
    """

    def __init__(self, size: int) -> None:
        self.generation = 0
        """Of the newest result; 0 before the first."""
        stride = _stride(size)
        self.descriptor = os.memfd_create("peer-consensus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Really reserved: writing to memory that the host does not have would kill the process.
            os.posix_fallocate(self.descriptor, 0, SLOTS * stride)
            self._map = mmap.mmap(self.descriptor, SLOTS * stride)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._slots = [memoryview(self._map)[at * stride : (at + 1) * stride] for at in range(SLOTS)]

    def write(self, parts: Iterable[bytes | memoryview]) -> int:
        """Lay a result down, given as buffers that follow each other; its generation."""
        self.generation += 1
        slot = self._slots[self.generation % SLOTS]
        _GENERATION.pack_into(slot, 0, 0)
        at = _START
        for part in parts:
            slot[at : at + len(part)] = part
            at += len(part)
        _GENERATION.pack_into(slot, 0, self.generation)
        return self.generation

    def close(self) -> None:
        """Let it go; workers that map it still may."""
        for slot in self._slots:
            slot.release()
        self._map.close()
        os.close(self.descriptor)


class Reception:
    """A worker's side; the memory goes with the object.

    Args:
        descriptor: that the coordinator gave; it remains the caller's.

    Raises:
        OSError: it cannot be mapped, or could shrink under the reader.
    """

    def __init__(self, descriptor: int) -> None:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise PermissionError("the memory for results is not sealed")
        size = os.fstat(descriptor).st_size
        if size < SLOTS * _START or size % (SLOTS * _START):
            raise PermissionError(f"the memory for results has {size} bytes")
        whole = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
        stride = size // SLOTS
        self._slots = [whole[at * stride : (at + 1) * stride] for at in range(SLOTS)]

    def read(self, generation: int, size: int) -> memoryview:
        """A copy of a result.

        Args:
            generation: that its frame says.
            size: its bytes.

        Raises:
            ValueError: no result has so many.
            OverwrittenError: another result stands there.
        """
        slot = self._slots[generation % SLOTS]
        if size > len(slot) - _START:
            raise ValueError(f"a result of {size} bytes is larger than its slot")
        copy = np.empty(size, np.uint8)
        copy.data[:] = slot[_START : _START + size]
        (found,) = _GENERATION.unpack_from(slot)  # last: what was copied before stood there until now
        if found != generation:
            raise OverwrittenError(f"result {generation} was replaced before it was read")
        return copy.data


def _stride(size: int) -> int:
    return _START + -(-size // _START) * _START
