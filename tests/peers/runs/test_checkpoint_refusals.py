"""A checkpoint that is damaged, or of another peer, version or configuration, is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peers.common.errors import CheckpointError
from peers.config.loading import identity
from peers.config.schema import Config
from peers.method.peer import Peer
from peers.runs.checkpoint import SCHEMA, Checkpoints
from tests.peers.groups import CPU, SHAPE, config_of

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one flipped bit": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "a flipped bit in the header": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "longer": lambda data: data + b"\0",
    "something else": lambda _: b"\x80\x04K\x01.",
}


def saved(folder: Path, config: Config | None = None) -> Path:
    """The JSON of a checkpoint of peer 0 after 7 rounds."""
    return checkpoints(folder, config).save(newborn(config), 7, {})


def newborn(config: Config | None = None, peer: int = 0) -> Peer:
    """A peer at initialization."""
    return Peer(config or config_of(), peer, SHAPE, 20, CPU)


def checkpoints(folder: Path, config: Config | None = None) -> Checkpoints:
    """The checkpoints of a configuration in a folder."""
    return Checkpoints(folder, identity(config or config_of(), 20))


def refused(folder: Path, config: Config | None = None, peer: int = 0) -> str:
    """The text with which loading is refused; the peer must be as it was."""
    subject, untouched = newborn(config, peer), newborn(config, peer)
    with pytest.raises(CheckpointError) as caught:
        checkpoints(folder, config).load(subject, 7)
    for name, tensor in subject.network.state_dict().items():
        assert torch.equal(tensor, untouched.network.state_dict()[name])
    return str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors_are_refused(damage: str, tmp_path: Path) -> None:
    """Any change to the tensors is found by their digest, before anything of them is read; the file is named."""
    path = saved(tmp_path).with_suffix(".safetensors")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    text = refused(tmp_path)
    assert f"the checkpoint {path} is damaged" in text
    assert "resumes from an older one" in text


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    """A JSON without its tensors is no checkpoint."""
    path = saved(tmp_path).with_suffix(".safetensors")
    path.unlink()
    assert f"cannot read the checkpoint {path}" in refused(tmp_path)


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGE if name not in ("one flipped bit", "a flipped bit in the header")]
)
def test_damaged_json_is_refused(damage: str, tmp_path: Path) -> None:
    """A record that is not JSON any more is named."""
    path = saved(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert f"the checkpoint {path} is damaged" in refused(tmp_path)


@pytest.mark.parametrize("content", [[], 1, "text", None, {}, {"schema": SCHEMA}])
def test_json_of_another_shape_is_refused(content: Any, tmp_path: Path) -> None:
    """Valid JSON that is no record is damaged too, not an exception of Python's."""
    path = saved(tmp_path)
    path.write_text(json.dumps(content))
    assert f"the checkpoint {path} is damaged" in refused(tmp_path)


@pytest.mark.parametrize("key", ["tensors_digest", "peer", "optimizer", "stepped", "skips", "extra", "configuration"])
def test_a_record_with_a_hole_is_refused(key: str, tmp_path: Path) -> None:
    """Every part that loading needs is checked before the peer is touched."""
    path = saved(tmp_path)
    record = json.loads(path.read_bytes())
    del record[key]
    path.write_text(json.dumps(record))
    assert f"the checkpoint {path} is damaged" in refused(tmp_path)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    """Asking for a round that was not saved names the file that is not there."""
    assert str(tmp_path / "round-00000007.json") in refused(tmp_path)


def test_another_configuration_is_refused_field_by_field(tmp_path: Path) -> None:
    """Each differing field is listed with both values, fields that agree are not, and the ways out are told."""
    saved(tmp_path)
    config = config_of(optimizer={"learning_rate": 0.5, "schedule": "cosine"}, data={"batch": 8})
    lines = refused(tmp_path, config).splitlines()
    assert lines[0] == f"{tmp_path / 'round-00000007.json'} was made with another configuration:"
    assert lines[1:-1] == [
        "  data.batch: 16 in the checkpoint, 8 now",
        "  optimizer.learning_rate: 0.001 in the checkpoint, 0.5 now",
        "  optimizer.schedule: 'constant' in the checkpoint, 'cosine' now",
        "  run.rounds: None in the checkpoint, 20 now",
    ]
    assert "--set run.name=" in lines[-1]
    assert "--overwrite" in lines[-1]


def test_several_networks_are_compared_in_their_places(tmp_path: Path) -> None:
    """Values that JSON writes differently from Python (tuples) do not differ; another architecture does, by its key."""
    networks = [{"width": 8, "depth": 1}, {"width": 8, "depth": 2}]
    config = config_of_networks(networks)
    saved(tmp_path, config)
    checkpoints(tmp_path, config).load(newborn(config), 7)
    assert "network.1.depth: 2 in the checkpoint, 3 now" in refused(
        tmp_path, config_of_networks([networks[0], {"width": 8, "depth": 3}])
    )


def config_of_networks(networks: list[dict[str, int]]) -> Config:
    """The small configuration with several architectures."""
    return Config.model_validate({**config_of().model_dump(), "network": networks})


def test_what_does_not_determine_the_weights_may_change(tmp_path: Path) -> None:
    """Probes, places, threads and the length of a run at a constant rate are free."""
    saved(tmp_path)
    config = config_of(probe={"knn_k": 3}, run={"out": "elsewhere", "rounds": 99}, group={"peers": 3, "threads": 1})
    checkpoints(tmp_path, config).load(newborn(config), 7)


def test_another_peers_checkpoint_is_refused(tmp_path: Path) -> None:
    """None heals a peer from another's weights: a checkpoint belongs to one id."""
    saved(tmp_path)
    text = refused(tmp_path, peer=2)
    assert "belongs to peer 0, not to peer 2" in text


def test_another_schema_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another version is told apart from a damaged one, with both numbers."""
    path = saved(tmp_path)
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "schema": SCHEMA + 1}))
    text = refused(tmp_path)
    assert f"has schema {SCHEMA + 1}, this version reads schema {SCHEMA}" in text
    assert "damaged" not in text


def test_only_records_count_as_checkpoints(tmp_path: Path) -> None:
    """Files of other names, tensors without a record, and files aside are not listed."""
    saved(tmp_path)
    for name in ("round-00000009.safetensors", ".round-00000010.json.1.new", "round-x.json", "notes.json", ".lock"):
        (tmp_path / name).write_bytes(b"{}")
    assert checkpoints(tmp_path).rounds() == [7]
