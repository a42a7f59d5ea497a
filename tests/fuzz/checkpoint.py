"""Target `checkpoint`: one from an enemy, who can make digests fit: it is loaded, or refused as a CheckpointError.

The bytes change a good checkpoint: fields of its JSON, its tensors' names, types and shapes, or the files as such.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers do at their first step, and that may take longer than one input is given

from peers.common.errors import CheckpointError
from peers.config.loading import identity, parse
from peers.config.schema import Config
from peers.method.peer import Peer
from peers.runs.checkpoint import Checkpoints
from tests.fuzz.reader import Reader
from tests.peers.runs.test_checkpoint_enemy import step

ROUND = 3
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    0.5,
    float("nan"),
    "",
    "text",
    [],
    [0],
    {},
    {"a": 1},
    [[]],
    [{}],
    [1e9],
)


@cache
def _good() -> tuple[Config, Path, Peer, Peer, dict[str, Any], bytes]:
    """A configuration, a folder, a peer to load into, the same as it was, and a good checkpoint of it."""
    config = parse({"network": {"depth": 1, "width": 2}, "data": {"batch": 4}, "group": {"peers": 2}})
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    subject, twin = (Peer(config, 0, (1, 2, 2), 20, torch.device("cpu")) for _ in range(2))
    for each in (subject, twin):
        step(each)
    path = Checkpoints(folder, identity(config, 20)).save(subject, ROUND, {"more": 1})
    return config, folder, subject, twin, json.loads(path.read_bytes()), path.with_suffix(".safetensors").read_bytes()


def once(data: bytes) -> None:
    """One input."""
    reader = Reader(data)
    config, folder, subject, _twin, record, tensors = _good()
    record, tensors = json.loads(json.dumps(record)), _tensors(tensors, reader)
    for _ in range(reader.below(4)):
        _change(record, reader)
    if not reader.flag():
        record["tensors_digest"] = hashlib.blake2b(tensors, digest_size=16).hexdigest()
    text = json.dumps(record).encode() if not reader.flag() else reader.rest()
    (folder / f"round-{ROUND:08d}.json").write_bytes(text)
    (folder / f"round-{ROUND:08d}.safetensors").write_bytes(tensors)
    try:
        extra = Checkpoints(folder, identity(config, 20)).load(subject, ROUND)
    except CheckpointError:
        return
    assert isinstance(extra, dict)
    step(subject)  # what was loaded can be gone on with
    assert isinstance(subject.stepped + subject.bad_in_a_row + sum(subject.skips.values()), int)


def _change(record: dict[str, Any], reader: Reader) -> None:
    """Put another value somewhere, or take one away."""
    node: Any = record
    while True:
        if not isinstance(node, dict | list) or not node:
            return
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = keys[reader.below(len(keys))]
        if isinstance(node[key], dict | list) and node[key] and reader.below(2):
            node = node[key]
        elif reader.flag():
            del node[key]
            return
        else:
            node[key] = copy.deepcopy(VALUES[reader.below(len(VALUES))])
            return


def _tensors(data: bytes, reader: Reader) -> bytes:
    """A file of tensors as it was, or with another header, or any bytes."""
    kind = reader.below(4)
    if kind == 0:
        return data
    if kind == 1:
        return reader.chunk()
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(1 + reader.below(3)):
        names = sorted(header)
        name = names[reader.below(len(names))]
        about = header[name]
        if reader.flag():
            header[name + reader.chunk().decode("latin-1")] = about
            del header[name]
        elif isinstance(about, dict) and "shape" in about:
            change = reader.below(4)
            if change == 0:
                about["shape"] = [reader.below(4) for _ in range(reader.below(4))]
            elif change == 1:
                about["dtype"] = ("F32", "F16", "BF16", "I64", "BOOL", "F64", "U8", "F8_E4M3", "no")[reader.below(9)]
            elif change == 2:
                about["data_offsets"] = [reader.number(), reader.number()]
            else:
                del header[name]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if not reader.flag() else reader.number()) + text + body
