"""Lane: a socket for frames between a worker and a coordinator, beside the stream and faster than it.

gRPC takes longer over a frame than all the rest of a round does, so publications and their answers go by a lane:

    a Unix socket of the abstract namespace, which leaves no file    where both share memory: the tensors lie there
    TCP, with TLS where the stream has it                            elsewhere, tensors and all

    worker         the key that the coordinator gave it on the stream: says for which stream this lane is
    coordinator    READY, once the lane stands; on its host with the descriptor of `broadcast`'s memory
    both           messages, as `protos.frames` makes them

Each is preceded by its length (4 bytes, unsigned, little-endian). A publication that came by the lane is answered by
the lane. The stream stays: it says who lives, and takes over where there is no lane, or where it breaks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence

import numpy as np

from peers.common.hosts import split
from peers.transport.access import Access
from peers.transport.broadcast import Reception
from protos.frames import PREFIX, Assembler, Buffer, Frame, FrameTooLargeError, message_limit

LENGTH = struct.Struct("<I")
READY = b"\x01"
KEY_BYTES = 32
CONNECT = 2.0
"""Seconds that the coordinator has to take the lane."""
READ_AHEAD = 16 * 1024
"""Bytes that are read before it is known how long a message is: all of it, where its tensors are elsewhere."""
ALIGNED = 64
"""Tensors begin at multiples of so many bytes: adding them up is several times slower where they do not."""


class Lane:
    """A worker's end. `send` and `frame` are called by one thread at a time each; `close` by any.

    Args:
        connected: to the coordinator; closed with the lane.
        key: that the coordinator gave for it.
        payload_limit: bytes that a frame's payload may have.
        patience: seconds without any progress after which the lane counts as broken, while a message is sent.

    Raises:
        OSError: the coordinator does not know the key, or does not answer.
    """

    def __init__(self, connected: socket.socket, key: bytes, payload_limit: int, patience: float) -> None:
        self._socket = connected
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._inbox, self._frames = Inbox(message_limit(payload_limit)), Assembler(payload_limit)
        self._patience = CONNECT
        self.reception: Reception | None = None
        """Where results lie that all get alike; on the coordinator's host, where it has such memory."""
        try:
            self.send([key])
            if self._socket.family == socket.AF_UNIX:
                self._receive_memory()
            if self._receive(CONNECT) != READY:
                raise ConnectionRefusedError("the coordinator does not know the lane's key")
        except BaseException:
            self._socket.close()
            raise
        self._patience = patience

    @classmethod
    def on_host(cls, name: str, key: bytes, payload_limit: int, patience: float) -> Lane:
        """A lane to a coordinator on this host; `name` is its socket's, the rest and errors as of the class."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connected.settimeout(CONNECT)
            connected.connect(f"\0{name}")
        except BaseException:
            connected.close()
            raise
        return cls(connected, key, payload_limit, patience)

    @classmethod
    def to_host(cls, access: Access, port: int, key: bytes, payload_limit: int, patience: float) -> Lane:
        """A lane over the network; `port` is on the host of `access`, the rest and errors as of the class."""
        host = split(access.address)[0]
        connected = socket.create_connection((host, port), CONNECT)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            give_up_after(connected, patience)
            context = access.context()
            if context is not None:
                connected = context.wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise
        return cls(connected, key, payload_limit, patience)

    def send(self, message: Sequence[Buffer]) -> None:
        """Send a message, given as buffers that follow each other.

        Raises:
            OSError: the lane is broken.
        """
        size = sum(map(len, message))
        parts = [LENGTH.pack(size), *message]
        with self._sending:
            self._socket.settimeout(self._patience)
            if size <= READ_AHEAD or isinstance(self._socket, ssl.SSLSocket):
                self._socket.sendall(b"".join(parts))
            else:
                _send_all(self._socket, parts)

    def frame(self, timeout: float) -> Frame:
        """The next frame.

        Raises:
            TimeoutError: none has come, or not all of it.
            OSError: the lane is broken.
            FrameError: it is no frame.
        """
        end = time.monotonic() + timeout
        while (frame := self._frames.feed(self._receive(end - time.monotonic()))) is None:
            pass
        return frame

    def _receive_memory(self) -> None:
        """The first bytes of the coordinator's, and the descriptor that may come with them."""
        begun, descriptors, _, _ = socket.recv_fds(self._socket, READ_AHEAD, 1, socket.MSG_CMSG_CLOEXEC)
        try:
            if descriptors:
                self.reception = Reception(descriptors[0])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._inbox.room()[: len(begun)] = begun
        self._inbox.took(len(begun))

    def _receive(self, timeout: float) -> Buffer:
        end = time.monotonic() + timeout
        with self._receiving:
            while (message := self._inbox.take()) is None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                read = self._socket.recv_into(self._inbox.room())
                if not read:
                    raise ConnectionResetError("the coordinator closed the lane")
                self._inbox.took(read)
            return message

    def close(self) -> None:
        """End the lane, for a thread that waits for a message too; any number of times."""
        with contextlib.suppress(OSError):  # it is closed, by either side
            # Not SSLSocket's own, which would let go of the keys under the thread that still reads with them.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        # Threads that wait are awake now. Before they have let go, the descriptor must not become another connection's.
        with self._sending, self._receiving:
            self._socket.close()


class Inbox:
    """Puts messages together from what a socket reads straight into its buffers.

    Args:
        limit: bytes that a message may have; may be changed between two messages.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._ahead = memoryview(bytearray(READ_AHEAD))
        self._first = self._end = 0
        self._message: memoryview | None = None
        self._have = 0

    def room(self) -> memoryview:
        """Where the next bytes belong; empty while messages lie there that nobody takes."""
        return self._ahead[self._end :] if self._message is None else self._message[self._have :]

    def took(self, count: int) -> None:
        """So many bytes were read into `room`."""
        if self._message is None:
            self._end += count
        else:
            self._have += count

    def take(self) -> Buffer | None:
        """The next message; None while it is incomplete.

        Raises:
            FrameTooLargeError: it is longer than any may be.
        """
        if self._message is None:
            return self._from_ahead()
        if self._have < len(self._message):
            return None
        message, self._message = self._message, None
        return message

    def _from_ahead(self) -> Buffer | None:
        if self._first == self._end:
            self._first = self._end = 0
            return None
        unread = self._ahead[self._first : self._end]
        if len(unread) < LENGTH.size:
            self._ahead[: len(unread)] = bytes(unread)
            self._first, self._end = 0, len(unread)
            return None
        (length,) = LENGTH.unpack_from(unread)
        if length > self.limit:
            raise FrameTooLargeError(f"a message of {length} bytes, at most {self.limit} are allowed")
        body = unread[LENGTH.size : LENGTH.size + length]
        if len(body) == length:
            self._first += LENGTH.size + length
            return bytes(body)
        self._message, self._have = _room_for(length, body), len(body)
        self._message[: len(body)] = body
        self._first = self._end = 0
        return None


def _send_all(connected: socket.socket, parts: Sequence[Buffer]) -> None:
    left = [memoryview(part) for part in parts]
    while left:
        sent = connected.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def laid(messages: Sequence[Sequence[Buffer]]) -> bytes:
    """Messages as they stand on a lane, in one piece; each is given as buffers that follow each other."""
    return b"".join(part for each in messages for part in (LENGTH.pack(sum(map(len, each))), *each))


def give_up_after(connected: socket.socket, seconds: float) -> None:
    """Let a connection whose other end does not answer any more break after about so many seconds."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    whole = max(1, round(seconds / 3))
    for option, value in {
        socket.TCP_USER_TIMEOUT: round(1000 * seconds),
        socket.TCP_KEEPIDLE: whole,
        socket.TCP_KEEPINTVL: whole,
        socket.TCP_KEEPCNT: 3,
    }.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


def _room_for(length: int, begun: memoryview) -> memoryview:
    """Memory for a message whose first bytes are there; what follows the frame's header will be aligned."""
    header = PREFIX.size + PREFIX.unpack_from(begun)[0] if len(begun) >= PREFIX.size else 0
    memory = np.empty(length + ALIGNED, np.uint8)
    skipped = -(memory.ctypes.data + header) % ALIGNED
    return memory.data[skipped : skipped + length]
