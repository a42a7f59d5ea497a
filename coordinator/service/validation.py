"""Validation of publications: whose, shape, element type, finite, norm. What fails is refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from coordinator.service.aggregate import PeerTensor
from coordinator.service.rounds import Publication
from coordinator.service.settings import ServiceSettings
from protos.consensus_pb2 import (
    FLOAT32,
    FOREIGN_PEER,
    MALFORMED,
    NORM_EXCEEDED,
    NOT_FINITE,
    WRONG_DTYPE,
    WRONG_SHAPE,
    FrameHeader,
    Publish,
    ReplyCode,
)
from protos.frames import Frame, FrameError, pieces
from protos.tensors import Float32, from_wire, name_of, size_of

BATCH_DIGEST_BYTES = 16


class Refusal(NamedTuple):
    """A publication that did not pass; `text` is one sentence: what was wrong, expected, found."""

    code: ReplyCode
    text: str


class ValidPublication(NamedTuple):
    """A publication that passed, and its tensors."""

    publication: Publication
    blocks: tuple[PeerTensor, ...]


def validate(frame: Frame, worker: int, hosted: Sequence[int], settings: ServiceSettings) -> ValidPublication | Refusal:
    """Judge one publication. Its size is the caller's matter: the frame is already in memory.

    Args:
        frame: a complete `publish` frame.
        worker: number of the membership that its stream belongs to.
        hosted: peers of that worker.
        settings: the run's.
    """
    header, publish = frame.header, frame.header.publish
    peers, abstains, absent = tuple(publish.peers), tuple(publish.abstains), tuple(publish.absent)
    if abstains or absent or peers != tuple(hosted):
        refusal = _check_peers(peers, abstains, absent, hosted)
        if refusal is not None:
            return refusal
    refusal = _check_form(header, publish, len(peers), settings)
    if refusal is not None:
        return refusal
    count = min(1, len(peers)) if settings.rule.kind == "sum" else len(peers)
    due = count * size_of(header.dtype, *settings.shape) if count else 0
    if len(frame.payload) != due:
        return Refusal(MALFORMED, f"{count} tensors have {due} bytes, found {len(frame.payload)}")
    try:
        blocks = _blocks(frame, peers, count, settings)
    except FrameError as exc:
        return Refusal(MALFORMED, str(exc))
    share = len(peers) if count == 1 else 1
    for block in blocks:
        refusal = _check_values(block, settings.norm_bound * share)
        if refusal is not None:
            return refusal
    checksum = xxhash.xxh3_64_intdigest(publish.SerializeToString(deterministic=True))
    publication = Publication(
        worker, publish.round, publish.epoch, publish.batch, peers, abstains, checksum, publish.leaving, absent
    )
    return ValidPublication(publication, blocks)


def _check_peers(
    peers: Sequence[int], abstains: Sequence[int], absent: Sequence[int], hosted: Sequence[int]
) -> Refusal | None:
    named = [*peers, *abstains, *absent]
    foreign = sorted(set(named) - set(hosted))
    if foreign:
        return Refusal(FOREIGN_PEER, f"peers {foreign} are not hosted by this worker, which has {sorted(hosted)}")
    if sorted(named) != sorted(hosted) or list(peers) != sorted(peers):
        due = f"each hosted peer, {sorted(hosted)}, contributes or abstains, or is absent"
        return Refusal(MALFORMED, f"{due}, once and in order; found {named}")
    return None


def _check_form(header: FrameHeader, publish: Publish, peers: int, settings: ServiceSettings) -> Refusal | None:
    if len(publish.batch) != BATCH_DIGEST_BYTES:
        return Refusal(MALFORMED, f"a batch digest has {BATCH_DIGEST_BYTES} bytes, found {len(publish.batch)}")
    if not peers:
        return None if not header.payload else Refusal(MALFORMED, "tensors without a peer that contributes")
    if (header.rows, header.columns) != settings.shape:
        shape, due = [header.rows, header.columns], list(settings.shape)
        return Refusal(WRONG_SHAPE, f"outputs are {shape}, expected {due}: [B, D] of the run")
    allowed = (FLOAT32,) if publish.partial_sum else settings.dtypes
    if header.dtype not in allowed:
        what, names = "partial sums" if publish.partial_sum else "outputs", [name_of(dtype) for dtype in allowed]
        return Refusal(WRONG_DTYPE, f"{what} are {name_of(header.dtype)}, expected {' or '.join(names)}")
    if publish.partial_sum and settings.rule.kind != "sum":
        return Refusal(MALFORMED, f"rule {settings.rule.name} needs each peer's outputs, found a partial sum")
    if peers > 1 and settings.rule.kind == "sum" and not publish.partial_sum:
        return Refusal(MALFORMED, f"rule {settings.rule.name} takes one partial sum of all hosted peers")
    return None


def _blocks(frame: Frame, peers: Sequence[int], count: int, settings: ServiceSettings) -> tuple[PeerTensor, ...]:
    if not count:
        return ()
    dtype, shape = frame.header.dtype, settings.shape
    cut = zip(peers, pieces(frame, count), strict=False)
    return tuple([PeerTensor(peer, dtype, data, from_wire(data, dtype, *shape)) for peer, data in cut])


def _check_values(block: PeerTensor, bound: float) -> Refusal | None:
    """One pass: the sum of squares is finite only if all values are, or their norm is far beyond any bound."""
    square = float(np.vdot(block.values, block.values))  # of BLAS, which does not warn where it overflows
    if not math.isfinite(square):
        finite = np.isfinite(block.values)
        if not finite.all():
            return _not_finite(block, finite.size - int(np.count_nonzero(finite)))
    rms = math.sqrt(square / block.values.size)
    if rms > bound:
        return Refusal(NORM_EXCEEDED, f"peer {block.peer}: root mean square {rms:.4g}, at most {bound:.4g} is allowed")
    return None


def _not_finite(block: PeerTensor, count: int) -> Refusal:
    values: Float32 = block.values
    return Refusal(NOT_FINITE, f"peer {block.peer}: {count} of {values.size} values are NaN or infinite")
