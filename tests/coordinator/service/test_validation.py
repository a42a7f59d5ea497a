"""The gate: each way not to pass has its own name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.service.validation import Refusal, ValidPublication, validate
from peers.method.target_selection import TargetSelection
from protos.consensus_pb2 import (
    BFLOAT16,
    FLOAT32,
    FOREIGN_PEER,
    MALFORMED,
    NORM_EXCEEDED,
    NOT_FINITE,
    WRONG_DTYPE,
    WRONG_SHAPE,
    FrameHeader,
    Publish,
)
from protos.frames import Frame
from protos.tensors import to_wire
from tests.coordinator.service.settled import BATCH, settings

GOOD = np.ones((4, 8), np.float32)


def frame(values: Any = GOOD, peers: tuple[int, ...] = (1,), **changes: Any) -> Frame:
    """A publication of worker 5, which hosts peer 1."""
    said = {"round": 0, "epoch": 1, "batch": BATCH, "peers": peers}
    header = {"dtype": FLOAT32, "rows": values.shape[0], "columns": values.shape[1]}
    said.update({name: value for name, value in changes.items() if name not in header})
    header.update({name: value for name, value in changes.items() if name in header})
    data = to_wire(values, header["dtype"])
    return Frame(FrameHeader(publish=Publish(**said), payload=len(data), **header), data)


def spoiled(value: float) -> Any:
    """Good outputs with one other value."""
    values = GOOD.copy()
    values[2, 3] = value
    return values


def test_a_good_publication_passes() -> None:
    """Its tensors come out as they went in, and its checksum tells it from another, by the id."""
    one, again, two = (validate(frame(id=number), 5, [1], settings()) for number in (3, 3, 4))
    assert isinstance(one, ValidPublication)
    assert isinstance(again, ValidPublication)
    assert isinstance(two, ValidPublication)
    assert np.array_equal(one.blocks[0].values, GOOD)
    assert one.publication.worker == 5
    assert one.publication.checksum == again.publication.checksum != two.publication.checksum


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (frame(spoiled(np.nan)), NOT_FINITE, "peer 1: 1 of 32 values are NaN or infinite"),
        (frame(spoiled(-np.inf)), NOT_FINITE, "1 of 32"),
        (frame(spoiled(1e30)), NORM_EXCEEDED, "at most 1e+06"),
        (frame(spoiled(3e38)), NORM_EXCEEDED, "root mean square inf"),
        (frame(np.ones((4, 9), np.float32)), WRONG_SHAPE, "outputs are [4, 9], expected [4, 8]"),
        (frame(dtype=BFLOAT16), WRONG_DTYPE, "outputs are bf16, expected float32"),
        (frame(peers=(2,)), FOREIGN_PEER, "peers [2] are not hosted by this worker, which has [1]"),
        (frame(peers=()), MALFORMED, "contributes or abstains"),
        (frame(peers=(), abstains=[1]), MALFORMED, "tensors without a peer"),
        (frame(peers=(1, 1)), MALFORMED, "once and in order"),
        (frame(batch=b"short"), MALFORMED, "16 bytes, found 5"),
        (Frame(frame().header, b"x" * 100), MALFORMED, "1 tensors have 128 bytes, found 100"),
    ],
    ids=lambda value: None if isinstance(value, Frame) else str(value)[:24],
)
def test_what_fails_is_refused_by_name(bad: Frame, code: int, text: str) -> None:
    """NaN, infinity, norms, shapes, types, foreign peers and nonsense, each with its sentence."""
    refusal = validate(bad, 5, [1], settings(wires=("float32",)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert text in refusal.text


def test_several_peers_publish_one_sum_or_each_its_own() -> None:
    """Rules on the sum take a partial sum, float32, standing at the lowest contributor; others take each tensor."""
    two = np.concatenate([GOOD, 2 * GOOD])
    partial = validate(frame(peers=(2, 3), abstains=[1], partial_sum=True), 5, [1, 2, 3], settings())
    assert isinstance(partial, ValidPublication)
    assert [block.peer for block in partial.blocks] == [2]
    each = Frame(frame(peers=(2, 3)).header, to_wire(two, FLOAT32))
    roles = settings(rule=TargetSelection("roles", 0))
    separate = validate(each, 5, [2, 3], roles)
    assert isinstance(separate, ValidPublication)
    assert [float(block.values[0, 0]) for block in separate.blocks] == [1.0, 2.0]
    for wrong, rule in ((frame(peers=(2, 3)), "mean"), (frame(peers=(2, 3), partial_sum=True), "roles")):
        refusal = validate(wrong, 5, [2, 3], settings(rule=TargetSelection(rule, 0)))
        assert isinstance(refusal, Refusal)
        assert refusal.code == MALFORMED
    narrow = validate(frame(peers=(2, 3), partial_sum=True, dtype=BFLOAT16), 5, [2, 3], settings())
    assert isinstance(narrow, Refusal)
    assert narrow.code == WRONG_DTYPE


def test_a_partial_sum_may_have_the_norm_of_its_peers() -> None:
    """The bound is for one peer's outputs; the sum of two may be twice as long."""
    bounded = settings(norm_bound=1.5)
    double = 2 * GOOD
    assert isinstance(validate(frame(double), 5, [1], bounded), Refusal)
    assert isinstance(validate(frame(double, peers=(1, 2), partial_sum=True), 5, [1, 2], bounded), ValidPublication)


def test_abstaining_needs_no_tensor() -> None:
    """A worker whose peers all abstain sends a header alone."""
    said = Publish(round=0, epoch=1, batch=BATCH, abstains=[1])
    admitted = validate(Frame(FrameHeader(publish=said)), 5, [1], settings())
    assert isinstance(admitted, ValidPublication)
    assert (admitted.blocks, admitted.publication.abstains) == ((), (1,))
