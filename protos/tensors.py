"""Tensors on the wire: the element types, to and from float32 arrays of numpy.

bfloat16 is the upper half of a float32: it is made by rounding to the nearest, ties to even, and read by appending
zeros. Numpy has no such type, so it stands as uint16. All of them are little-endian.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from protos.consensus_pb2 import BFLOAT16, FLOAT16, FLOAT32, WireDtype
from protos.frames import Buffer, FrameError

Float32: TypeAlias = npt.NDArray[np.float32]

NAMES: dict[str, WireDtype] = {"float32": FLOAT32, "bf16": BFLOAT16, "float16": FLOAT16}
"""Element types as configurations call them."""

_STORED: dict[int, np.dtype[Any]] = {FLOAT32: np.dtype("<f4"), BFLOAT16: np.dtype("<u2"), FLOAT16: np.dtype("<f2")}
_QUIET_NAN = np.uint16(0x7FC0)


def name_of(dtype: WireDtype) -> str:
    """What configurations call an element type; "unknown" for a number that is none."""
    return next((name for name, value in NAMES.items() if value == dtype), "unknown")


def size_of(dtype: WireDtype, rows: int, columns: int) -> int:
    """Bytes of one [rows, columns] tensor.

    Raises:
        FrameError: no such element type.
    """
    if not rows or not columns:
        raise FrameError(f"a tensor is [{rows}, {columns}], expected at least one row and one column")
    stored = _STORED.get(dtype)
    if stored is None:
        raise FrameError(f"element type {int(dtype)} is none of {', '.join(NAMES)}")
    return rows * columns * stored.itemsize


def from_wire(buffer: Buffer, dtype: WireDtype, rows: int, columns: int) -> Float32:
    """Read one tensor.

    Returns:
        [rows, columns] float32; of float32 a view of the buffer, which may be read-only, otherwise a new array.

    Raises:
        FrameError: no such element type, or the buffer is not of the tensor's size.
    """
    due = size_of(dtype, rows, columns)
    if len(buffer) != due:
        raise FrameError(f"a [{rows}, {columns}] {name_of(dtype)} tensor has {due} bytes, not {len(buffer)}")
    stored = np.frombuffer(buffer, _STORED[dtype]).reshape(rows, columns)
    if dtype == FLOAT32:
        return stored
    if dtype == BFLOAT16:
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return stored.astype(np.float32)


def to_wire(array: Float32, dtype: WireDtype) -> memoryview:
    """Bytes of one float32 array, rounded where the element type is narrower; of float32 a view of the array."""
    if dtype == FLOAT32:
        return np.ascontiguousarray(array, np.float32).data.cast("B")
    if dtype == BFLOAT16:
        return _rounded(np.ascontiguousarray(array, np.float32)).data.cast("B")
    with np.errstate(over="ignore"):  # beyond half precision is infinity, which the receiver's gate refuses by name
        return array.astype(_STORED[dtype], order="C").data.cast("B")


def as_sent(array: Float32, dtype: WireDtype) -> Float32:
    """The array as its receivers will read it: a float32 copy, rounded to the element type. Never an alias."""
    if dtype == FLOAT32:
        return np.array(array, np.float32)
    return from_wire(to_wire(array, dtype), dtype, array.shape[0], array.shape[1])


def _rounded(array: Float32) -> npt.NDArray[np.uint16]:
    bits = array.view(np.uint32)
    # Half of the last kept place, and one more if that place is odd: ties go to even. The sum of a finite number's
    # bits cannot overflow 32 bits; a NaN's can, and is set apart.
    upper = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), _QUIET_NAN, upper)
