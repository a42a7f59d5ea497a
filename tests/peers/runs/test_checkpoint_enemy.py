"""Checkpoints of an enemy, who makes the digest fit: refused with the field or the tensor, and no code is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from peers.method.peer import Peer
from tests.peers.groups import config_of
from tests.peers.runs.test_checkpoint_refusals import checkpoints, newborn, refused

Tensors = dict[str, torch.Tensor]
ADAM = config_of(optimizer={"name": "adam"})


def step(peer: Peer) -> None:
    """One step of the peer's optimizer, whatever it holds."""
    for group in peer.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    peer.optimizer.step()


def saved(folder: Path) -> Path:
    """The JSON of a checkpoint of peer 0 after 7 rounds and one step."""
    peer = newborn(ADAM)
    step(peer)
    return checkpoints(folder, ADAM).save(peer, 7, {})


def forged(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Change the tensors of a checkpoint, and the digest with them."""
    path = saved(folder)
    tensors = safetensors.torch.load(path.with_suffix(".safetensors").read_bytes())
    change(tensors)
    rewrite(path, safetensors.torch.save(tensors))


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes in place of the tensors, with their digest."""
    path.with_suffix(".safetensors").write_bytes(data)
    record = json.loads(path.read_bytes())
    record["tensors_digest"] = hashlib.blake2b(data, digest_size=16).hexdigest()
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("network.2.bias"), "has no tensor 'network.2.bias'"),
        (lambda t: t.update({"network.9.bias": torch.zeros(1)}), "a strange tensor 'network.9.bias'"),
        (lambda t: t.update({"network.2.bias": torch.zeros(1)}), "'network.2.bias' is torch.float32 [1], expected"),
        (lambda t: t.update({"network.2.bias": t["network.2.bias"].double()}), "is torch.float64"),
        (lambda t: t.update({"evil": torch.zeros(1)}), "tensor 'evil' is none of a peer's"),
        (lambda t: t.update({"optimizer.0.evil": torch.zeros(1)}), "'optimizer.0.evil' is none of this optimizer's"),
        (lambda t: t.update({"optimizer.99.step": torch.zeros(())}), "'optimizer.99.step' is none"),
        (lambda t: t.pop("optimizer.0.exp_avg"), "has no tensor 'optimizer.0.exp_avg'"),
        (lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(1)}), "'optimizer.0.exp_avg' is torch.float32 [1]"),
        (lambda t: t.update({"selected.x": torch.zeros(1)}), "selected."),
    ],
)
def test_tensors_that_are_not_this_peers_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    """By name, before any of them reaches the peer."""
    forged(tmp_path, change)
    text = refused(tmp_path, ADAM)
    assert "is damaged" in text
    assert words in text


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 100, b"\x80\x04cos\nsystem\n(S'true'\ntR."], ids=["none", "bits", "pickle"]
)
def test_what_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    """A pickle is never opened as one."""
    rewrite(saved(tmp_path), data)
    assert "is damaged" in refused(tmp_path, ADAM)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stepped", "many"),
        ("stepped", -1),
        ("stepped", True),
        ("bad_in_a_row", None),
        ("skips", [1]),
        ("skips", {"late": "x"}),
        ("optimizer", {}),
        ("optimizer", []),
        ("optimizer", [{"lr": "x"}]),
        ("optimizer", [{"lr": float("inf")}]),
        ("optimizer", [{"params": [0]}]),
        ("optimizer", [{"betas": [0.9]}]),
        ("optimizer", [{"strange": 1}]),
        ("optimizer", [{"amsgrad": True}]),
        ("optimizer", [{"lr": -1.0}]),
        ("selection", 3),
        ("selection", {"rule": "last"}),
        ("extra", 7),
        ("configuration", []),
        ("tensors_digest", 0),
        ("peer", "0"),
    ],
)
def test_fields_of_another_kind_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    """The field is named; nothing of it is used."""
    path = saved(tmp_path)
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, field: value}))
    text = refused(tmp_path, ADAM)
    assert "is damaged" in text
    assert field in text


def test_json_deeper_than_the_stack_is_refused(tmp_path: Path) -> None:
    """A parser that gives up is a damaged file, like any other."""
    saved(tmp_path).write_text('{"schema":' * 100_000)
    assert "RecursionError" in refused(tmp_path, ADAM)
