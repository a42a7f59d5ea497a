"""A checkpoint brings a peer back bit for bit, survives a crash at any moment, and is refused when it does not fit."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peers.common.errors import CheckpointError, DivergedError
from peers.config.loading import identity, identity_digest
from peers.config.schema import Config
from peers.method.peer import Peer
from peers.runs.checkpoint import Checkpoints
from tests.peers.groups import CPU, SHAPE, Group, config_of, one_thread

ROUNDS = 20


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def peer() -> Peer:
    """One that has done two rounds."""
    group = Group(config_of(), ROUNDS)
    group.round(0)
    group.round(1)
    return group.peers[0]


def checkpoints_in(folder: Path, config: Config | None = None, keep: int = 2) -> Checkpoints:
    """Checkpoints in a folder, for a configuration."""
    return Checkpoints(folder, identity(config or config_of(), ROUNDS), keep)


def state_of(peer: Peer) -> dict[str, Tensor]:
    """All tensors of a peer: weights, buffers, optimizer."""
    tensors = dict(peer.network.state_dict())
    for place, state in peer.optimizer.state_dict()["state"].items():
        tensors |= {f"{place}.{key}": torch.as_tensor(value) for key, value in state.items() if value is not None}
    return tensors


def assert_equal(one: Peer, two: Peer) -> None:
    """Bit for bit, dtypes, counts and settings included."""
    left, right = state_of(one), state_of(two)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name
    assert (one.stepped, one.skips) == (two.stepped, two.skips)
    mine, others = (json.dumps(peer.optimizer.state_dict()["param_groups"]) for peer in (one, two))  # tuples as lists
    assert mine == others


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": {"name": "adam"}},
        {"optimizer": {"name": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup": 6}},
        {"optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.05}},
        {"optimizer": {"name": "sgd", "momentum": 0.0}, "network": {"norm": "layer"}},
        {"consensus": {"target": "roles"}},
        {"consensus": {"target": "random_peer", "control": "noise", "weight": 0.5}},
        {"consensus": {"control": "shuffled"}, "exchange": {"wire": "bf16"}},
        {"consensus": {"target": "frozen"}},
    ],
    ids=lambda values: "-".join(str(value) for section in values.values() for value in section.values()),
)
def test_resume_is_exact(values: dict[str, Any], tmp_path: Path) -> None:
    """What is loaded into a fresh peer equals what was saved, and so does everything after three more rounds."""
    config = config_of(**values)
    whole, resumed = Group(config, ROUNDS), Group(config, ROUNDS)
    for round_ in range(3):
        whole.round(round_)
    for one, two in zip(whole.peers, resumed.peers, strict=True):
        checkpoints = checkpoints_in(tmp_path / str(one.id), config)
        checkpoints.save(one, 3, {"note": [one.id, None, "é"]})
        assert checkpoints_in(tmp_path / str(one.id), config).load(two, 3) == {"note": [one.id, None, "é"]}
        assert_equal(one, two)
    for round_ in range(3, 6):
        assert [step.loss for step in whole.round(round_)] == pytest.approx(
            [step.loss for step in resumed.round(round_)], rel=0, abs=0, nan_ok=True
        )
    for one, two in zip(whole.peers, resumed.peers, strict=True):
        assert_equal(one, two)


def test_a_peer_that_never_stepped_can_be_saved(tmp_path: Path) -> None:
    """Without optimizer state there is still a network and its counts."""
    newborn, other = Peer(config_of(), 1, SHAPE, ROUNDS, CPU), Peer(config_of(), 1, SHAPE, ROUNDS, CPU)
    newborn.skips["stands_still"] += 4
    checkpoints_in(tmp_path).save(newborn, 4, {})
    checkpoints_in(tmp_path).load(other, 4)
    assert_equal(newborn, other)


def test_loading_replaces_what_was_there(peer: Peer, tmp_path: Path) -> None:
    """A peer that has gone elsewhere meanwhile keeps nothing of that, neither state nor counts."""
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(peer, 2, {})
    group = Group(config_of(), ROUNDS)
    for round_ in range(5):
        group.round(round_)
    group.peers[0].skips["alone"] += 1
    checkpoints.load(group.peers[0], 2)
    assert_equal(peer, group.peers[0])


def test_saving_changes_nothing_in_the_peer(peer: Peer, tmp_path: Path) -> None:
    """A peer may be saved at any time, and any number of times."""
    before = {name: tensor.clone() for name, tensor in state_of(peer).items()}
    for _ in range(2):
        checkpoints_in(tmp_path).save(peer, 2, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(peer).items())
    checkpoints_in(tmp_path).load(Peer(config_of(), 0, SHAPE, ROUNDS, CPU), 2)


def test_bad_rounds_before_a_checkpoint_count_after_it(tmp_path: Path) -> None:
    """Resume is exact for a peer in trouble too: it gives up in the round in which it would have without a pause."""
    config = config_of(consensus={"max_skips": 3})
    group, resumed = Group(config, ROUNDS), Group(config, ROUNDS)
    with torch.no_grad():
        next(iter(group.peers[0].network.parameters())).fill_(float("nan"))
    for round_ in range(2):
        group.round(round_)
    for one, two in zip(group.peers, resumed.peers, strict=True):
        checkpoints_in(tmp_path / str(one.id), config).save(one, 2, {})
        checkpoints_in(tmp_path / str(one.id), config).load(two, 2)
    for either in (group, resumed):
        with pytest.raises(DivergedError, match="3 rounds in a row"):
            either.round(2)


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_are_kept(peer: Peer, keep: int, tmp_path: Path) -> None:
    """Older ones go, both of their files; `latest` leads to the newest; nothing else is left in the folder."""
    checkpoints = checkpoints_in(tmp_path / "new" / "folder", keep=keep)
    assert checkpoints.rounds() == []
    for done in range(1, 6):
        path = checkpoints.save(peer, 10 * done, {})
        assert checkpoints.rounds() == [10 * d for d in range(1, 6) if done - keep < d <= done]
        assert (checkpoints.folder / "latest").resolve() == path.resolve()
        assert json.loads((checkpoints.folder / "latest").read_bytes())["round"] == 10 * done
    files = {f"round-{r:08d}.{kind}" for r in checkpoints.rounds() for kind in ("json", "safetensors")}
    assert {path.name for path in checkpoints.folder.iterdir()} == {*files, "latest"}


def test_no_pickle_anywhere(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving and loading never touch pickle or torch.save: tensors are safetensors, all else is JSON."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("pickle was used")

    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    checkpoints = checkpoints_in(tmp_path)
    path = checkpoints.save(peer, 2, {"seconds": 1.5})
    checkpoints.load(Peer(config_of(), 0, SHAPE, ROUNDS, CPU), 2)
    data = path.with_suffix(".safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {f"network.{name}" for name in peer.network.state_dict()} <= header.keys()
    record = json.loads(path.read_bytes())
    assert (record["round"], record["peer"], record["incarnation"], record["stepped"]) == (2, 0, 0, 2)
    assert record["configuration"] == identity(config_of(), ROUNDS)
    assert record["configuration_digest"] == identity_digest(record["configuration"])
    assert record["extra"] == {"seconds": 1.5}


class Crashed(BaseException):
    """The process dies here."""


# Everything that changes a file or its name. Writing itself goes to a file aside, which nobody reads.
OPERATIONS: list[tuple[Any, str]] = [
    (os, "replace"),
    (os, "fsync"),
    (Path, "unlink"),
    (Path, "symlink_to"),
    (Path, "open"),
]


def crash_at(step: int, what: type[BaseException], patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let the process die, or a file operation fail, at the n-th operation; says whether it came to that."""
    seen = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            seen[0] += 1
            if seen[0] == step:
                raise what("no space left on device")
            return real(*arguments, **options)

        return operation

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: seen[0] >= step


def assert_sound(checkpoints: Checkpoints) -> None:
    """Every checkpoint that is listed loads, and `latest` leads to one of them."""
    rounds = checkpoints.rounds()
    for round_ in rounds:
        checkpoints.load(Peer(config_of(), 0, SHAPE, ROUNDS, CPU), round_)
    latest = checkpoints.folder / "latest"
    assert latest.is_symlink() == bool(rounds)
    if rounds:
        assert json.loads(latest.read_bytes())["round"] in rounds


ACTIONS: dict[str, Callable[[Checkpoints, Peer], object]] = {
    "save": lambda checkpoints, peer: checkpoints.save(peer, 40, {}),
    "save the newest again": lambda checkpoints, _: checkpoints.save(Peer(config_of(), 0, SHAPE, ROUNDS, CPU), 30, {}),
    "discard": lambda checkpoints, _: checkpoints.discard_after(10),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_crash_at_any_moment_leaves_whole_checkpoints(action: str, peer: Peer, tmp_path: Path) -> None:
    """Wherever a process dies, what is left loads, `latest` leads to it, and the next save or discard succeeds."""
    for step in range(1, 60):
        checkpoints = checkpoints_in(tmp_path / str(step), keep=3)
        for done in (10, 20, 30):
            checkpoints.save(peer, done, {})
        with pytest.MonkeyPatch.context() as patch:
            died = crash_at(step, Crashed, patch)
            with contextlib.suppress(Crashed):
                ACTIONS[action](checkpoints, peer)
        assert_sound(checkpoints)
        assert set(checkpoints.rounds()) & ({10} if action == "discard" else {20, 30})
        if not died():
            break
        checkpoints.save(peer, 50, {})
        assert_sound(checkpoints)
        assert checkpoints.rounds()[-1] == 50
        checkpoints.discard_after(50)
    else:
        pytest.fail("there is no end to the operations")
    assert step > 4


def test_a_full_disk_at_any_moment_is_an_error_of_ours(peer: Peer, tmp_path: Path) -> None:
    """When a file operation fails the error names peer and folder, and the checkpoints before it still load."""
    for step in range(1, 60):
        checkpoints = checkpoints_in(tmp_path / str(step))
        checkpoints.save(peer, 10, {})
        checkpoints.save(peer, 20, {})
        with pytest.MonkeyPatch.context() as patch:
            failed = crash_at(step, OSError, patch)
            try:
                checkpoints.save(peer, 30, {})
            except CheckpointError as exc:
                text = str(exc)
            else:
                text = ""
        assert_sound(checkpoints)
        assert 20 in checkpoints.rounds()
        if not failed():
            break
        assert re.search(rf"peer 0: cannot save a checkpoint in {checkpoints.folder}: no space left", text)
    else:
        pytest.fail("there is no end to the operations")
    assert step > 4


def test_a_failed_replace_leaves_no_files_aside(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written aside is removed again when it cannot take its place."""
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(peer, 10, {})
    before = {path.name for path in tmp_path.iterdir()}

    def refuse(*_: Any) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="read-only file system"):
        checkpoints.save(peer, 20, {})
    assert {path.name for path in tmp_path.iterdir()} == before


@settings(max_examples=25)
@given(data=st.data())
def test_latest_is_never_dangling(data: st.DataObject, peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After any saves of growing rounds and any discards, `latest` is the last of the rounds that should be there."""
    checkpoints = checkpoints_in(tmp_path_factory.mktemp("c"), keep=2)
    expected: list[int] = []
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            round_ = (expected[-1] if expected else 0) + data.draw(st.integers(1, 5))
            checkpoints.save(peer, round_, {})
            expected = [*expected, round_][-2:]
        else:
            limit = data.draw(st.integers(0, 20))
            if checkpoints.folder.is_dir():
                checkpoints.discard_after(limit)
            expected = [round_ for round_ in expected if round_ <= limit]
        assert checkpoints.rounds() == expected
        latest = checkpoints.folder / "latest"
        assert latest.is_symlink() == bool(expected)
        if expected:
            assert json.loads(latest.read_bytes())["round"] == expected[-1]
        assert len(list(checkpoints.folder.glob("*.safetensors"))) == len(expected)
