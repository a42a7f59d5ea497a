"""Comparison of a replayed peer with its checkpoint, bit for bit: weights, buffers, optimizer state, counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from coordinator.replay.result import Difference
from peers.common.errors import CheckpointError
from peers.method.peer import Peer
from peers.runs.checkpoint import Checkpoints, state_of, tensors_digest


def compare(peer: Peer, checkpoints: Checkpoints, round_: int) -> Difference | None:
    """The first difference between a peer and its checkpoint after `round_` rounds; None where all is equal."""
    return next(_differences(peer, checkpoints, round_), None)


def _differences(peer: Peer, checkpoints: Checkpoints, round_: int) -> Iterator[Difference]:
    def differs(what: str, expected: object, found: object) -> Difference:
        return Difference(round_, peer.id, what, str(expected), str(found))

    path = checkpoints.path(round_).with_suffix(".safetensors")
    try:
        record = checkpoints.record(round_)
        data = path.read_bytes()
        saved = safetensors.torch.load(data)
    except (CheckpointError, OSError, safetensors.SafetensorError) as exc:
        yield differs("its checkpoint cannot be read", "a whole one", exc)
        return
    tensors, counts = state_of(peer)
    for name in sorted({*tensors, *saved}):
        if name not in tensors or name not in saved:
            here, there = ("there" if name in each else "missing" for each in (tensors, saved))
            yield differs(f"{name} of its checkpoint", there, here)
        elif (difference := _unequal(saved[name], tensors[name])) is not None:
            yield differs(f"{name}{difference[0]} of its checkpoint", *difference[1:])
    for name, value in _as_json(counts).items():
        if record.get(name) != value:
            yield differs(f"{name} of its checkpoint", record.get(name), value)
    if record["tensors_digest"] != tensors_digest(data):
        yield differs("the digest of the tensors of its checkpoint", record["tensors_digest"], tensors_digest(data))


def _as_json(counts: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(dict(counts)))
    return values


def _unequal(one: Tensor, two: Tensor) -> tuple[str, str, str] | None:
    """Where two tensors differ first, and both values with their bits; None where all bits are equal."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return "", f"{list(one.shape)} {one.dtype}", f"{list(two.shape)} {two.dtype}"
    left, right = (tensor.contiguous().reshape(-1).view(torch.uint8).view(-1, one.itemsize) for tensor in (one, two))
    places = (left != right).any(dim=1).nonzero()
    if not len(places):
        return None
    at = int(places[0])
    where = [int(index) for index in torch.unravel_index(torch.tensor(at), one.shape)] if one.dim() else []
    shown = (
        f"{tensor.reshape(-1)[at].item()!r} ({bytes(bits[at].tolist())[::-1].hex()})"
        for tensor, bits in ((one, left), (two, right))
    )
    expected, found = shown
    return f"{where}, one of {len(places)} values that differ," if where else ",", expected, found
