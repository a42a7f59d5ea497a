"""Snapshots of the newest rounds: two files of mapped memory, written in turn, at the price of a copy.

A round's end must be kept before anybody hears of it, and a transaction of a database would take longer than the round.
What is written here is in the kernel's hands at once: it survives the death of the process, though perhaps not that of
the machine. Each file holds one step of the coordinator, so that the one before is whole while the next is written:

    0 .. 32     magic, step, version of the facts, lengths of text and payload; zeros while the rest is being written
    32 .. 40    XXH3-64 of the first 32 bytes, of the text, and of the XXH3-128 of the payload, which is mostly known
    64 ..       payload, text (JSON)

A sum may be made where it is kept from the start (`RoundSnapshots.room`), which saves its copy.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from coordinator.service.aggregate import digest
from protos.frames import Buffer
from protos.tensors import Float32

FILES = ("rounds.0", "rounds.1")
TEXT = 64 * 1024
"""Bytes that are set aside for the text behind a payload, so that files seldom grow once results are made in them."""
_MAGIC = 0x50434C32
_HEAD = struct.Struct("<IIQQQ")
_SUM = struct.Struct("<Q")
_START = 64
"""Where the payload begins, aligned for arithmetic."""


class DamagedError(ValueError):
    """A file says that it is whole, and is not."""


@dataclass(frozen=True)
class RoundSnapshot:
    """One step.

    Attributes:
        step: its number.
        facts: version of the facts that it goes with; see `Store`.
        text: what it says.
        payload: its bytes.
    """

    step: int
    facts: int
    text: bytes
    payload: bytes


class RoundSnapshots:
    """Two files in a folder.

    Args:
        folder: exists.

    Raises:
        OSError: it cannot be written, of `write` too.
    """

    def __init__(self, folder: Path) -> None:
        self._slots = [_SnapshotFile(folder / name) for name in FILES]

    def read(self) -> list[RoundSnapshot]:
        """What is there, the newest step first.

        Raises:
            DamagedError: names the file.
        """
        snapshots = [slot.read() for slot in self._slots]
        return sorted((entry for entry in snapshots if entry), key=lambda entry: entry.step, reverse=True)

    def room(self, step: int, shape: tuple[int, int]) -> Float32:
        """Where the payload of a step will be kept: [B, D] float32, of unknown values, to be written before `write`."""
        return self._slots[step % len(self._slots)].room(shape)

    def write(self, step: int, facts: int, text: bytes, payload: Sequence[Buffer], known: bytes = b"") -> None:
        """Keep a step in the place of the one before the last.

        Args:
            step: greater than that of the call before; by one, unless the steps between were kept elsewhere.
            facts: version of the facts.
            text: in JSON.
            payload: buffers that follow each other; not copied where it is what `room` has given.
            known: their digest, where it is known.
        """
        self._slots[step % len(self._slots)].write(step, facts, text, payload, known or digest(payload))

    def close(self) -> None:
        """Unmap the files."""
        for slot in self._slots:
            slot.close()


class _SnapshotFile:
    """One of the files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._map: mmap.mmap | None = None
        self._size = 0
        self._room: Float32 | None = None
        try:
            self._fit(max(_START, os.fstat(self._file).st_size))
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> RoundSnapshot | None:
        view = self._view()
        magic, text, payload, step, facts = _HEAD.unpack_from(view)
        if magic == 0 and not (text or payload or step or facts):
            return None  # never written to, or its writer died while it wrote
        middle, end = _START + payload, _START + payload + text
        if magic == _MAGIC and end <= self._size:
            payload_bytes, text_bytes = bytes(view[_START:middle]), bytes(view[middle:end])
            if _SUM.unpack_from(view, _HEAD.size)[0] == _sum(view[: _HEAD.size], text_bytes, digest([payload_bytes])):
                return RoundSnapshot(step, facts, text_bytes, payload_bytes)
        raise DamagedError(f"{self._path.name} does not fit its checksum")

    def write(self, step: int, facts: int, text: bytes, payload: Sequence[Buffer], known: bytes) -> None:
        size = sum(map(len, payload))
        self._fit(_START + size + len(text))
        view = self._view()
        view[:_START] = bytes(_START)
        at = _START
        for part in payload:
            if not self._holds(part):
                view[at : at + len(part)] = part
            at += len(part)
        view[at : at + len(text)] = text
        self._room = None
        head = _HEAD.pack(_MAGIC, len(text), size, step, facts)
        view[_HEAD.size : _HEAD.size + _SUM.size] = _SUM.pack(_sum(head, text, known))
        view[: _HEAD.size] = head

    def room(self, shape: tuple[int, int]) -> Float32:
        size = 4 * shape[0] * shape[1]
        self._fit(_START + size + TEXT)
        view = self._view()
        view[:_START] = bytes(_START)  # what was here is no more
        self._room = np.frombuffer(view[_START : _START + size], np.float32).reshape(shape)
        return self._room

    def _holds(self, part: Buffer) -> bool:
        """Whether a part of a payload is what `room` has given."""
        owner: object = part.obj if isinstance(part, memoryview) else part
        return self._room is not None and owner is self._room

    def close(self) -> None:
        self._let_go()
        os.close(self._file)

    def _let_go(self) -> None:
        if self._map is not None:
            with suppress(BufferError):  # a result that was made there is still looked at, and keeps it
                self._map.close()

    def _view(self) -> memoryview:
        assert self._map is not None  # noqa: S101  # mapped when it was made
        return memoryview(self._map)

    def _fit(self, size: int) -> None:
        """Make room. It is really reserved: writing to mapped memory on a full disk would kill the process."""
        if size <= self._size:
            return
        os.posix_fallocate(self._file, 0, size)
        self._let_go()
        self._map = mmap.mmap(self._file, size)
        self._size = size


def _sum(head: Buffer, text: bytes, payload: bytes) -> int:
    checksum = xxhash.xxh3_64(head)
    checksum.update(text)
    checksum.update(payload)
    return checksum.intdigest()
