"""JSON lines: files of one JSON object a line that only grow, and survive a process that is killed at any time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from peers.common.errors import RunFolderError


def append(path: Path, line: bytes) -> None:
    """Append to a file in one write, all or nothing.

    Raises:
        OSError: nothing was appended, e.g. the disk is full.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        append_to(descriptor, line)
    finally:
        os.close(descriptor)


def append_to(descriptor: int, line: bytes) -> None:
    """As `append`, to an open file that nobody else writes to."""
    written = os.write(descriptor, line)
    if written != len(line):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_torn_line(path: Path) -> None:
    """Cut off what a process that was killed while it wrote has left at the end; a missing file stays missing.

    Raises:
        OSError: it cannot be read or written.
    """
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, in order; a torn last line is left out.

    Raises:
        RunFolderError: it is not there, cannot be read, or has a line that is no JSON object.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise RunFolderError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return [_parsed(path, number, line) for number, line in enumerate(data.split(b"\n")[:-1], start=1)]


def damaged(path: Path, number: int, how: str) -> RunFolderError:
    """The error of a line that cannot be what was written."""
    return RunFolderError(f"line {number} of {path} is damaged: {how}; restore the file from a copy")


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as exc:
        raise damaged(path, number, str(exc)) from exc
    if not isinstance(value, dict):
        raise damaged(path, number, f"it is a {type(value).__name__}, expected an object")
    return value
