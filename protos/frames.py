"""Frames of the exchange stream: a small protobuf header, then raw tensor bytes.

    bytes 0..3      length h of the header, unsigned, little-endian; at most `HEADER_LIMIT`
    bytes 4..4+h    the header, a serialized `FrameHeader`
    the rest        payload

`FrameHeader.payload` states the payload's bytes. Up to `CHUNK` of them travel in the frame itself. A larger payload
fills the frame with exactly `CHUNK` bytes and continues in frames whose header is a `Part`, each with `CHUNK` bytes but
the last. A payload in shared memory is stated, but nothing follows the header.

Nothing here allocates by a length that a sender merely claims: a claim is checked against the receiver's limit, and
pieces are joined when all of them have arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from protos.consensus_pb2 import FrameHeader, Part

Buffer: TypeAlias = bytes | memoryview

PREFIX = struct.Struct("<I")
HEADER_LIMIT = 64 * 1024
"""Bytes of a header: room for three lists of 4,096 peer ids."""
CHUNK = 4 * 1024 * 1024
"""Bytes of payload in one message. A [2048, 512] float32 tensor is exactly one."""


class FrameError(ValueError):
    """Bytes that are no frame, or not the frame that is due; the text names what is wrong."""


class FrameTooLargeError(FrameError):
    """A frame that claims more bytes of tensors than its receiver takes."""


class Frame(NamedTuple):
    """A complete frame.

    Attributes:
        header: what it says.
        payload: its tensor bytes, all parts joined; empty where they lie in shared memory.
    """

    header: FrameHeader
    payload: Buffer = b""

    @property
    def kind(self) -> str:
        """Which of `FrameHeader.kind` it is."""
        return str(self.header.WhichOneof("kind"))


def message_limit(payload_limit: int) -> int:
    """Bytes of the largest message, for gRPC's own limit, where a frame's payload has at most `payload_limit`."""
    return PREFIX.size + HEADER_LIMIT + min(CHUNK, payload_limit)


def encode(header: FrameHeader, payload: Sequence[Buffer] = ()) -> list[bytes]:
    """The messages that carry a frame, each in one piece; arguments and errors as of `messages`."""
    return [b"".join(parts) for parts in messages(header, payload)]


def messages(header: FrameHeader, payload: Sequence[Buffer] = ()) -> list[tuple[Buffer, ...]]:
    """The messages that carry a frame, one, or several for a payload above `CHUNK`: each as buffers to be sent in turn.

    Args:
        header: `payload` is filled in here; `in_shared` headers keep theirs.
        payload: buffers that make the payload one after the other.

    Raises:
        FrameError: the header is longer than `HEADER_LIMIT`.
    """
    total = sum(map(len, payload))
    if not header.in_shared:
        header.payload = total
    if total <= CHUNK:
        return [_message(header, *payload)]
    whole = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
    rest = (_message(FrameHeader(part=Part(offset=at)), whole[at : at + CHUNK]) for at in range(CHUNK, total, CHUNK))
    return [_message(header, whole[:CHUNK]), *rest]


def decode(message: Buffer, payload_limit: int) -> Frame:
    """Take one message apart; the payload is a view of it, perhaps only the first piece.

    Args:
        message: as it arrived.
        payload_limit: bytes that a frame's payload may have, all parts together.

    Raises:
        FrameTooLargeError: it claims a larger payload.
        FrameError: it is no frame.
    """
    if len(message) < PREFIX.size:
        raise FrameError(f"a frame starts with {PREFIX.size} bytes, this one has {len(message)}")
    (length,) = PREFIX.unpack_from(message)
    if length > HEADER_LIMIT:
        raise FrameError(f"the header claims {length} bytes, at most {HEADER_LIMIT} are allowed")
    end = PREFIX.size + length
    if end > len(message):
        raise FrameError(f"the header claims {length} bytes, {len(message) - PREFIX.size} are there")
    try:
        header = FrameHeader.FromString(bytes(message[PREFIX.size : end]))
    except DecodeError as exc:
        raise FrameError(f"the header is no FrameHeader: {exc}") from exc
    if header.WhichOneof("kind") is None:
        raise FrameError("the header does not say what it is")
    if header.payload > payload_limit:
        raise FrameTooLargeError(f"the frame claims {header.payload} bytes of tensors, at most {payload_limit} fit")
    return Frame(header, memoryview(message)[end:])


class Assembler:
    """Joins the messages of one direction of one stream into frames."""

    def __init__(self, payload_limit: int) -> None:
        self._limit = payload_limit
        self._header: FrameHeader | None = None
        self._pieces: list[Buffer] = []
        self._have = 0

    def feed(self, message: Buffer) -> Frame | None:
        """Take the next message; the frame that it completes, or None.

        Raises:
            FrameError: it is no frame, or not the piece that is due; the stream cannot be used further.
        """
        frame = decode(message, self._limit)
        size = len(frame.payload)
        if self._header is None:
            return self._first(frame, size)
        if frame.kind != "part":
            raise FrameError(f"a part was due at byte {self._have} of {self._header.payload}, not a {frame.kind}")
        due = min(CHUNK, self._header.payload - self._have)
        if frame.header.part.offset != self._have or size != due:
            raise FrameError(
                f"a part of {due} bytes was due at byte {self._have}, "
                f"not one of {size} at byte {frame.header.part.offset}"
            )
        self._pieces.append(frame.payload)
        self._have += size
        if self._have < self._header.payload:
            return None
        whole = Frame(self._header, b"".join(self._pieces))
        self._header, self._pieces, self._have = None, [], 0
        return whole

    def _first(self, frame: Frame, size: int) -> Frame | None:
        if frame.kind == "part":
            raise FrameError("a part without the frame that it continues")
        due = 0 if frame.header.in_shared else min(CHUNK, frame.header.payload)
        if size != due:
            raise FrameError(f"the header promises {due} bytes of tensors in its message, {size} follow")
        if frame.header.in_shared or size == frame.header.payload:
            return frame
        self._header, self._pieces, self._have = frame.header, [frame.payload], size
        return None


def pieces(frame: Frame, count: int) -> Iterator[Buffer]:
    """The payload cut into `count` equal buffers, views of it.

    Raises:
        FrameError: it cannot be cut evenly.
    """
    size, rest = divmod(len(frame.payload), count)
    if rest:
        raise FrameError(f"{len(frame.payload)} bytes of tensors are not {count} equal ones")
    view = memoryview(frame.payload)
    if count == 1:
        return iter((view,))
    return (view[at * size : (at + 1) * size] for at in range(count))


def _message(header: FrameHeader, *payload: Buffer) -> tuple[Buffer, ...]:
    head = header.SerializeToString()
    if len(head) > HEADER_LIMIT:
        raise FrameError(f"a header of {len(head)} bytes, at most {HEADER_LIMIT} are allowed")
    return PREFIX.pack(len(head)) + head, *payload
