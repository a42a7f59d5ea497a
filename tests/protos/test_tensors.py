"""Element types on the wire: the same bits as torch's, and exact refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protos.consensus_pb2 import BFLOAT16, FLOAT16, FLOAT32
from protos.frames import FrameError
from protos.tensors import NAMES, Float32, as_sent, from_wire, name_of, size_of, to_wire

anything = arrays(np.uint32, (3, 4), elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))


@given(values=anything)
def test_bfloat16_rounds_as_torch_does(values: Float32) -> None:
    """Every float32, NaN and infinity included, becomes the bfloat16 that torch makes of it."""
    ours = as_sent(values, BFLOAT16)
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    finite = ~np.isnan(ours)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


@given(values=anything)
def test_float32_comes_back_to_the_bit(values: Float32) -> None:
    """float32 is carried, not converted."""
    back = from_wire(to_wire(values, FLOAT32), FLOAT32, 3, 4)
    assert back.tobytes() == values.tobytes()


def test_float16_rounds_and_overflows_to_infinity() -> None:
    """Half precision rounds to the nearest; beyond its range is infinity, without a warning."""
    back = as_sent(np.array([[1.0, 1.0001, 70000.0]], np.float32), FLOAT16)
    assert back.tolist() == [[1.0, 1.0, float("inf")]]


def test_as_sent_is_never_an_alias() -> None:
    """What was sent does not change when its maker goes on."""
    values = np.ones((2, 2), np.float32)
    for dtype in NAMES.values():
        sent = as_sent(values, dtype)
        values[:] += 1
        assert not np.array_equal(sent, values)


def test_sizes_and_types_are_checked() -> None:
    """A buffer of another size, or a number that is no element type, is a FrameError."""
    assert size_of(BFLOAT16, 3, 4) == 24
    with pytest.raises(FrameError, match="48 bytes, not 47"):
        from_wire(bytes(47), FLOAT32, 3, 4)
    with pytest.raises(FrameError, match="element type 9"):
        from_wire(bytes(48), 9, 3, 4)  # type: ignore[arg-type]  # what a stranger may send
    assert name_of(9) == "unknown"  # type: ignore[arg-type]  # what a stranger may send
