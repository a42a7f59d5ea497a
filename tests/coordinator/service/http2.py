"""As much of HTTP/2 and gRPC as an attacker needs: frames by hand, so that none has to be whole."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, *, compressed: bool = False, claimed: int | None = None) -> bytes:
    """One message of gRPC; `claimed`: another length than it has."""
    return struct.pack(">BI", compressed, len(data) if claimed is None else claimed) + data


class Connection:
    """A connection of its own.

    Args:
        address: HOST:PORT.
        context: for TLS.
    """

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 10)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self._stream = -1
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))

    def call(self, path: str, secret: str | None = None, **more: str) -> int:
        """Begin a call; the number of its stream. Names of `more` have underscores for hyphens."""
        self._stream += 2
        fields: dict[str, str] = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "coordinator"}
        fields |= {"te": "trailers", "content-type": "application/grpc"}
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        if secret is not None:
            fields["authorization"] = f"Bearer {secret}"
        self.send(frame(HEADERS, END_HEADERS, self._stream, _packed(fields)))
        return self._stream

    def data(self, stream: int, data: bytes) -> None:
        """Bytes of a call's messages, at most as many as fit into frames of 16 KiB each."""
        for at in range(0, len(data), 16384):
            self.send(frame(DATA, 0, stream, data[at : at + 16384]))

    def send(self, data: bytes) -> None:
        """Any bytes."""
        self.socket.sendall(data)

    def read(self) -> bytes:
        """What the other side has said and is at hand, without waiting; empty at the end, too."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        finally:
            self.socket.settimeout(10)

    def close(self) -> None:
        """End it."""
        self.socket.close()


def _packed(fields: Mapping[str, str]) -> bytes:
    """HPACK: every field as a literal, nothing indexed, nothing compressed."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, size = len(data) - 127, bytearray([127])
    while rest >= 128:
        size.append(rest % 128 + 128)
        rest //= 128
    return bytes(size) + bytes([rest]) + data
