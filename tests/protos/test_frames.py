"""Frames: what is encoded comes back, and no bytes whatever do more than raise FrameError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.consensus_pb2 import FLOAT32, FrameHeader, Part, Publish
from protos.frames import (
    CHUNK,
    HEADER_LIMIT,
    PREFIX,
    Assembler,
    FrameError,
    FrameTooLargeError,
    decode,
    encode,
    message_limit,
    pieces,
)

LIMIT = 3 * CHUNK


def header(**fields: object) -> FrameHeader:
    """A publication of two peers."""
    return FrameHeader(publish=Publish(round=3, peers=[0, 1]), dtype=FLOAT32, **fields)


@given(parts=st.lists(st.binary(max_size=200), max_size=4))
def test_a_frame_comes_back_as_it_was(parts: list[bytes]) -> None:
    """One message carries a small frame, and its payload is the buffers one after the other."""
    (message,) = encode(header(), parts)
    frame = Assembler(LIMIT).feed(message)
    assert frame is not None
    assert frame.kind == "publish"
    assert bytes(frame.payload) == b"".join(parts)
    assert frame.header.payload == len(frame.payload)


@pytest.mark.parametrize(("size", "messages"), [(CHUNK - 1, 1), (CHUNK, 1), (CHUNK + 1, 2), (2 * CHUNK + 5, 3)])
def test_large_payloads_travel_in_chunks(size: int, messages: int) -> None:
    """[2048, 512] float32 is exactly one chunk; beyond, no message grows, and the pieces join to the same bytes."""
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sent = encode(header(), [payload])
    assert len(sent) == messages
    assert max(len(message) for message in sent) <= message_limit(size)
    assembler = Assembler(LIMIT)
    frames = [assembler.feed(message) for message in sent]
    assert frames[:-1] == [None] * (messages - 1)
    assert frames[-1] is not None
    assert frames[-1].payload == payload


@given(data=st.binary(max_size=300))
def test_fuzzed_bytes_raise_frame_error_or_nothing(data: bytes) -> None:
    """Arbitrary bytes are a frame or a FrameError, never another exception."""
    try:
        frame = decode(data, LIMIT)
    except FrameError:
        return
    assert frame.header.payload <= LIMIT


@given(at=st.integers(0, 60), value=st.integers(0, 255), cut=st.integers(0, 60))
@settings(max_examples=300)
def test_damaged_frames_raise_frame_error_or_nothing(at: int, value: int, cut: int) -> None:
    """A frame with one byte changed, or cut short, is taken or refused, and never crashes what reads it."""
    message = bytearray(encode(header(), [b"payload of thirty-two bytes, fine"])[0])
    message[at % len(message)] = value
    for damaged in (bytes(message), bytes(message[: cut % len(message)])):
        try:
            Assembler(LIMIT).feed(damaged)
        except FrameError:
            continue


def test_a_claim_beyond_the_limit_is_refused_before_anything_is_kept() -> None:
    """The first message of a frame that claims too much raises, though it carries little."""
    message = encode(FrameHeader(publish=Publish(), payload=LIMIT + 1, in_shared=True))[0]
    with pytest.raises(FrameTooLargeError, match=f"claims {LIMIT + 1} bytes of tensors, at most {LIMIT}"):
        Assembler(LIMIT).feed(message)
    with pytest.raises(FrameError, match="header claims"):
        decode(struct.pack("<I", HEADER_LIMIT + 1) + b"x" * (HEADER_LIMIT + 1), LIMIT)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"abc", "starts with 4 bytes, this one has 3"),
        (PREFIX.pack(10) + b"short", "claims 10 bytes, 5 are there"),
        (PREFIX.pack(2) + b"\xff\xff", "no FrameHeader"),
        (PREFIX.pack(0), "does not say what it is"),
        (encode(header())[0] + b"more", "promises 0 bytes of tensors in its message, 4 follow"),
        (encode(FrameHeader(part=Part(offset=4)))[0], "a part without the frame"),
    ],
)
def test_what_is_wrong_is_named(message: bytes, text: str) -> None:
    """Each way to be no frame has its own sentence."""
    with pytest.raises(FrameError, match=text):
        Assembler(LIMIT).feed(message)


def test_parts_must_follow_in_order() -> None:
    """A part with a gap, a part too short, or another frame in between is refused."""
    first, second, third = encode(header(), [bytes(2 * CHUNK + 100)])
    for wrong in (third, second[:-1], first):
        assembler = Assembler(LIMIT)
        assert assembler.feed(first) is None
        with pytest.raises(FrameError, match="a part"):
            assembler.feed(wrong)


def test_headers_are_bounded_when_sent() -> None:
    """A header that no receiver would take is not sent."""
    with pytest.raises(FrameError, match="at most"):
        encode(FrameHeader(publish=Publish(batch=b"x" * HEADER_LIMIT)))


def test_payloads_are_cut_evenly_or_not_at_all() -> None:
    """Four bytes are two pieces of two; five are not."""
    frame = Assembler(LIMIT).feed(encode(header(), [b"abcd"])[0])
    assert frame is not None
    assert [bytes(piece) for piece in pieces(frame, 2)] == [b"ab", b"cd"]
    with pytest.raises(FrameError, match="not 3 equal ones"):
        list(pieces(frame, 3))
