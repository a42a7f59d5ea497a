"""Target `frames`: bytes that claim to be frames, the assembler, the gate of publications, tensors on the wire."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from coordinator.service.settings import ServiceSettings
from coordinator.service.validation import Refusal, ValidPublication, validate
from peers.method.target_selection import TargetSelection
from protos import frames
from protos.consensus_pb2 import FLOAT32, FrameHeader, Publish
from protos.frames import Assembler, Frame, FrameError, encode, pieces
from protos.tensors import as_sent, from_wire
from tests.fuzz.reader import Reader

CHUNK = 32
"""Bytes in a message here, instead of megabytes: frames of several messages are in a fuzzer's reach."""
LIMIT = 200
HOSTED = (1, 2)
SHAPE = (2, 3)
SETTINGS = [
    ServiceSettings(
        run_id="run", state="unused", rule=TargetSelection(name, 0), rounds=9, shape=SHAPE, group=2, max_peers=8
    )
    for name in ("mean", "roles", "median")
]


def once(data: bytes) -> None:
    """One input: a few bytes of decisions, then frames, alone or several one after the other."""
    usual, frames.CHUNK = frames.CHUNK, CHUNK
    try:
        reader = Reader(data)
        if reader.below(2):
            _raw(reader)
        else:
            _made(_any(reader) if reader.below(2) else publication(reader), reader)
    finally:
        frames.CHUNK = usual


def _raw(reader: Reader) -> None:
    """Messages as they come off a socket: a frame, nothing yet, or a FrameError, after which the stream is over."""
    assembler, taken = Assembler(LIMIT), 0
    while reader.more:
        message = reader.chunk()
        try:
            frame = assembler.feed(message)
        except FrameError:
            return
        taken += 1
        assert taken <= 1024, "a frame without end"
        if frame is not None:
            taken = 0
            assert len(frame.payload) == (0 if frame.header.in_shared else frame.header.payload) <= LIMIT
            _judge(frame, reader)


def _any(reader: Reader) -> FrameHeader:
    """Whatever header the bytes are."""
    try:
        return FrameHeader.FromString(reader.chunk())
    except DecodeError:
        return FrameHeader()


def publication(reader: Reader, hosted: tuple[int, ...] = HOSTED) -> FrameHeader:
    """A header that is nearly what it should be: each field is right, unless the bytes say otherwise."""
    said = Publish(round=reader.below(8), epoch=reader.below(8), batch=b"b" * 16, peers=hosted)
    if reader.flag():
        said.batch = reader.chunk()
    for name in ("peers", "abstains", "absent"):
        if reader.flag():
            said.ClearField(name)
            getattr(said, name).extend(reader.below(4) if reader.flag() else peer for peer in hosted[: reader.below(4)])
    said.partial_sum, said.leaving = len(said.peers) > 1 and not reader.flag(), reader.flag()
    header = FrameHeader(publish=said, dtype=FLOAT32, rows=SHAPE[0], columns=SHAPE[1])
    if reader.flag():
        header.dtype, header.rows, header.columns = reader.below(6), reader.below(6), reader.small()
    return header


def _payload(header: FrameHeader, reader: Reader) -> list[bytes]:
    """Mostly as many bytes as the header speaks of, a pattern of a few; sometimes any."""
    if reader.flag():
        return [reader.chunk() for _ in range(reader.below(3))]
    size = SHAPE[0] * SHAPE[1] * (4 if header.dtype == FLOAT32 else 2)
    pattern = reader.take(4) or b"\0"
    return [(pattern * size)[:size] for _ in range(1 if header.publish.partial_sum else len(header.publish.peers))]


def _made(header: FrameHeader, reader: Reader) -> None:
    """A frame of any header and payload comes back as it was sent, and is judged without an error."""
    payload = _payload(header, reader)
    if header.WhichOneof("kind") in (None, "part") or header.in_shared:
        return
    assembler, back = Assembler(LIMIT), None
    try:
        for message in encode(header, payload):
            assert back is None, "a frame before its last message"
            back = assembler.feed(message)
    except FrameError:
        assert sum(map(len, payload)) > LIMIT
        return
    assert back is not None
    assert back.header == header
    assert bytes(back.payload) == b"".join(payload)
    _judge(back, reader)


def _judge(frame: Frame, reader: Reader) -> None:
    header = frame.header
    for settings in SETTINGS:
        verdict = validate(frame, 1, HOSTED, settings)
        assert isinstance(verdict, ValidPublication | Refusal)
        if isinstance(verdict, ValidPublication):
            assert all(np.isfinite(block.values).all() for block in verdict.blocks)
    try:
        for piece in pieces(frame, 1 + reader.below(3)):
            values = from_wire(piece, header.dtype, header.rows, header.columns)
            if values.size:  # of nothing there is nothing to send
                assert np.array_equal(values, as_sent(values, header.dtype), equal_nan=True)
    except FrameError:
        return
