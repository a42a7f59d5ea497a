"""Connections of other processes, taken hold of from outside: dropped, silenced on both sides, or slow.

What `pidfd_getfd` returns is the process's own socket, under another descriptor. The processes notice nothing but what
becomes of their connection, which needs no proxy between them: members of a fixed group connect to one another.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

PIDFD_GETFD = 438
"""Its number on all architectures."""
SO_ATTACH_FILTER, SO_MAX_PACING_RATE = 26, 47
UNPACED = (1 << 32) - 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def between(pids: Iterable[int]) -> Iterator[list[socket.socket]]:
    """Both ends of every TCP connection between these processes; they are released, not closed, at the end.

    Raises:
        OSError: this user may not take hold of them.
    """
    ends = {}
    for pid in pids:
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.status == psutil.CONN_ESTABLISHED:
                ends[each.laddr, each.raddr] = pid, each.fd
    held = [_held(*where) for (mine, other), where in ends.items() if (other, mine) in ends]
    try:
        yield held
    finally:
        for each in held:
            each.close()


def _held(pid: int, descriptor: int) -> socket.socket:
    process = os.pidfd_open(pid)
    try:
        taken = _LIBC.syscall(PIDFD_GETFD, process, descriptor, 0)
        if taken < 0:
            raise OSError(ctypes.get_errno(), f"the connections of process {pid} are not this user's to take hold of")
        return socket.socket(fileno=taken)
    finally:
        os.close(process)


def drop(connection: socket.socket) -> None:
    """Both ends read that the other has closed it."""
    connection.shutdown(socket.SHUT_RDWR)


def silence(connection: socket.socket) -> None:
    """Whatever comes for this end is lost, acknowledgements too; nobody is told."""
    nothing = ctypes.create_string_buffer(struct.pack("<HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(nothing))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def pace(connection: socket.socket, rate: int = UNPACED) -> None:
    """Send no more than so many bytes a second."""
    connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("<I", rate))
