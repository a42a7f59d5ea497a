"""The newest rounds, kept at the price of a copy: two files of mapped memory, written in turn.

A round's end must be kept before anybody hears of it, and a transaction of a database would take longer than the round.
What is written here is in the kernel's hands at once: it survives the death of the process, though perhaps not that of
the machine. Each file holds one step of the coordinator, so that the one before is whole while the next is written:

    0 .. 32     magic, step, version of the facts, lengths of text and payload; zeros while the rest is being written
    32 .. 40    XXH3-64 of all that follows, and of the first 32 bytes
    40 ..       text (JSON), payload
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from protos.frames import Buffer

FILES = ("rounds.0", "rounds.1")
_MAGIC = 0x50434C31
_HEAD = struct.Struct("<IIQQQ")
_SUM = struct.Struct("<Q")
_START = _HEAD.size + _SUM.size


class DamagedError(ValueError):
    """A file says that it is whole, and is not."""


@dataclass(frozen=True)
class Entry:
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


class Ledger:
    """Two files in a folder.

    Args:
        folder: exists.

    Raises:
        OSError: it cannot be written, of `write` too.
    """

    def __init__(self, folder: Path) -> None:
        self._slots = [_Slot(folder / name) for name in FILES]

    def read(self) -> list[Entry]:
        """What is there, the newest step first.

        Raises:
            DamagedError: names the file.
        """
        found = [slot.read() for slot in self._slots]
        return sorted((entry for entry in found if entry), key=lambda entry: entry.step, reverse=True)

    def write(self, step: int, facts: int, text: bytes, payload: Sequence[Buffer]) -> None:
        """Keep a step in the place of the one before the last.

        Args:
            step: greater by one than that of the call before.
            facts: version of the facts.
            text: in JSON.
            payload: buffers that follow each other.
        """
        self._slots[step % len(self._slots)].write(step, facts, text, payload)

    def close(self) -> None:
        """Unmap the files."""
        for slot in self._slots:
            slot.close()


class _Slot:
    """One of the files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._map: mmap.mmap | None = None
        self._size = 0
        try:
            self._fit(max(_START, os.fstat(self._file).st_size))
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> Entry | None:
        view = self._view()
        magic, text, payload, step, facts = _HEAD.unpack_from(view)
        if magic == 0 and not (text or payload or step or facts):
            return None  # never written to, or its writer died while it wrote
        end = _START + text + payload
        if magic != _MAGIC or end > self._size or _SUM.unpack_from(view, _HEAD.size)[0] != _sum(view, end):
            raise DamagedError(f"{self._path.name} does not fit its checksum")
        return Entry(step, facts, bytes(view[_START : _START + text]), bytes(view[_START + text : end]))

    def write(self, step: int, facts: int, text: bytes, payload: Sequence[Buffer]) -> None:
        size = sum(len(part) for part in payload)
        self._fit(_START + len(text) + size)
        view = self._view()
        view[:_START] = bytes(_START)
        at = _START
        for part in (text, *payload):
            view[at : at + len(part)] = part
            at += len(part)
        head = _HEAD.pack(_MAGIC, len(text), size, step, facts)
        view[_HEAD.size : _START] = _SUM.pack(_sum_of(head, view, at))
        view[: _HEAD.size] = head

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        os.close(self._file)

    def _view(self) -> memoryview:
        assert self._map is not None  # noqa: S101  # mapped when it was made
        return memoryview(self._map)

    def _fit(self, size: int) -> None:
        """Make room. It is really reserved: writing to mapped memory on a full disk would kill the process."""
        if size <= self._size:
            return
        os.posix_fallocate(self._file, 0, size)
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._file, size)
        self._size = size


def _sum(view: memoryview, end: int) -> int:
    return _sum_of(view[: _HEAD.size], view, end)


def _sum_of(head: Buffer, view: memoryview, end: int) -> int:
    made = xxhash.xxh3_64(head)
    made.update(view[_START:end])
    return made.intdigest()
