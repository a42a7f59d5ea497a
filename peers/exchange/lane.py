"""The short way of frames between a worker and a coordinator on one host, for a pair that shares memory already.

The tensors lie in the shared segment; what is left of a frame are some hundred bytes. Over gRPC these take longer than
all the rest of a round, so they go over a Unix socket of the abstract namespace, which leaves no file behind:

    worker         32 bytes, the nonce of its segment       which says for which stream this lane is
    coordinator    1 byte, once the lane stands
    both           messages, each after its length (4 bytes, unsigned, little-endian)

A publication that came by the lane is answered by the lane. The stream stays: it says who lives, and takes over where
the lane breaks.
"""

from __future__ import annotations

import socket
import struct
import time

LENGTH = struct.Struct("<I")
READY = b"\x01"
CONNECT = 1.0
"""Seconds that the coordinator has to take the lane."""
CHUNK = 1 << 18


class Lane:
    """A worker's end. `send` and `receive` are called by one thread at a time each; `close` by any.

    Args:
        name: of the coordinator's socket.
        nonce: of the shared segment.

    Raises:
        OSError: it cannot be reached from here, or does not answer.
    """

    def __init__(self, name: str, nonce: bytes) -> None:
        self._unread = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(CONNECT)
            self._socket.connect(f"\0{name}")
            self._socket.sendall(nonce)
            if self._socket.recv(1) != READY:
                raise ConnectionRefusedError("the coordinator does not know the segment")
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            OSError: the lane is broken.
        """
        self._socket.sendall(LENGTH.pack(len(message)) + message)

    def receive(self, timeout: float) -> bytes:
        """The next message.

        Raises:
            TimeoutError: none has come, or not all of it.
            OSError: the lane is broken.
        """
        end = time.monotonic() + timeout
        while (message := taken(self._unread)) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            read = self._socket.recv(CHUNK)
            if not read:
                raise ConnectionResetError("the coordinator closed the lane")
            self._unread += read
        return message

    def close(self) -> None:
        """End the lane, for a thread that waits for a message too; any number of times."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed, by either side
        finally:
            self._socket.close()


def taken(unread: bytearray) -> bytes | None:
    """Take the first message off what was read; None while it is incomplete."""
    if len(unread) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack_from(unread)
    end = LENGTH.size + length
    if len(unread) < end:
        return None
    message = bytes(unread[LENGTH.size : end])
    del unread[:end]
    return message
