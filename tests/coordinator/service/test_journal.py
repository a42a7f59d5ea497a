"""The coordinator's journal tells what the store has kept: no more, no less, whenever the coordinator dies."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.replay.history import RoundSequence, read_history
from coordinator.service.aggregate import Aggregation
from coordinator.service.group import Group
from coordinator.service.journal import FILE
from coordinator.service.membership import WorkerRecord
from coordinator.service.rounds import SettledRound
from coordinator.service.store import StateStore, forget
from peers.common.errors import RunFolderError
from peers.common.json_lines import objects
from protos.consensus_pb2 import FLOAT32, OK, TOTAL
from tests.coordinator.service import settled as made
from tests.coordinator.service.test_group import join, publish

COURSE = st.lists(st.sampled_from(["round", "round", "late", "join", "leave", "expel", "quiet"]), max_size=14)


class Driven:
    """A group of small outputs, its store, and what the store was told, step by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = StateStore(str(folder), "run", "digest")
        self.group = Group(made.settings(), 0.0)
        self.now, self.version = 0.0, -1
        kept = self.store.load()
        if kept is not None:
            self.group.restore(kept.progress, kept.membership, self.now)
            for worker in list(self.group.membership.workers):
                self.group.attach(worker, self.now)

    def step(self, what: str) -> None:
        """Let one thing happen, and keep it."""
        workers = [worker for worker in self.group.membership.workers.values() if worker.member]
        if what in ("round", "late"):
            self._publish(workers[1:] if what == "late" and len(workers) > 1 else workers)
        elif what == "join" and self.group.membership.peers() < 8:
            join(self.group, self.now)
        elif what == "leave" and len(workers) > 2:
            self.group.leave(workers[0].number, self.now)
        elif what == "expel" and len(workers) > 2:
            self.group.expel(workers[-1].number, "silent")
            self.group.tick(self.now)
        self.keep()

    def _publish(self, workers: Sequence[WorkerRecord]) -> None:
        for worker in workers:
            if self.group.rounds.current is not None and worker.number in self.group.rounds.current.present:
                publish(self.group, worker, self.now)
        self.now += 10.0  # the round's deadline
        for worker in self.group.membership.workers:
            self.group.membership.beat(worker, self.now)
        self.group.tick(self.now)

    def keep(self) -> None:
        """As the hub does: facts where they changed, and the round that has just settled."""
        settled = [event for event in self.group.take() if isinstance(event, SettledRound)]
        version = self.group.membership.version
        roll = self.group.membership_state() if version != self.version else None
        self.version = version
        self.store.save(
            self.group.progress_state(), roll, {} if roll else None, outcome_of(settled[-1]) if settled else None
        )


def outcome_of(settled: SettledRound) -> Aggregation:
    """A result whose digest tells its round."""
    if settled.code != OK:
        return Aggregation(settled)
    return Aggregation(settled, TOTAL, settled.round.to_bytes(16, "big"), FLOAT32, {-1: bytes(128)})


def running(folder: Path) -> Driven:
    """Three workers; round 0 is open."""
    driven = Driven(folder)
    for _ in range(3):
        driven.step("join")
    return driven


def test_each_kind_of_line(tmp_path: Path) -> None:
    """Members and contributors stand where they changed; an ordinary round takes a few dozen bytes."""
    driven = running(tmp_path)
    for what in ("round", "round", "late", "join", "round", "round", "round", "leave"):
        driven.step(what)
    driven.store.close()
    lines = objects(tmp_path / FILE)
    first = ["begun", "joined", "joined", "formed", "joined", "round", "round", "round", "joined"]
    assert [next(iter(line)) for line in lines] == [*first, "round", "round", "round", "gone"]
    assert lines[3] == {"formed": 0, "epoch": 1}
    digests = [f"{number:032x}" for number in range(4)]
    assert lines[5] == {"round": 0, "epoch": 1, "digest": digests[0], "contributors": [0, 1], "members": [0, 1]}
    assert lines[6] == {"round": 1, "epoch": 2, "digest": digests[1], "contributors": [0, 1, 2], "members": [0, 1, 2]}
    assert lines[7] == {"round": 2, "epoch": 2, "digest": digests[2], "contributors": [1, 2]}
    assert lines[12] == {"gone": 1, "left": True, "why": "it left"}
    ordinary = [line for line in (tmp_path / FILE).read_bytes().splitlines() if b"contributors" not in line]
    assert max(len(line) for line in ordinary if line.startswith(b'{"round"')) < 100
    rounds = read_history(tmp_path / FILE)[0].rounds
    assert [round_.number for round_ in rounds] == list(range(6))
    assert rounds[2].contributors == (1, 2)
    assert rounds[2].members == (0, 1, 2)


def rounds_of(sequences: list[RoundSequence]) -> list[object]:
    """What a replay goes by; not by which workers joined when."""
    return [replace(round_, blocks={}) for sequence in sequences for round_ in sequence.rounds]


@settings(max_examples=25)
@given(before=COURSE, after=COURSE, share=st.floats(0, 1))
def test_a_coordinator_that_dies_between_store_and_journal(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str], share: float
) -> None:
    """What the last step appended is cut anywhere: at the next start the history is what it would have been."""
    folder, whole = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("whole")
    path = folder / FILE
    driven = running(folder)
    size = path.stat().st_size
    for what in before:
        size = path.stat().st_size
        driven.step(what)
    driven.store.close()
    complete = path.read_bytes()
    shutil.copy(path, whole / FILE)
    path.write_bytes(complete[: size + int(share * (len(complete) - size))])
    again = Driven(folder)
    assert rounds_of(read_history(path)) == rounds_of(read_history(whole / FILE))
    for what in after:
        again.step(what)
    again.store.close()
    numbers = [round_.number for sequence in read_history(path) for round_ in sequence.rounds]
    assert numbers == list(range(len(numbers)))
    living = {worker.number for worker in again.group.membership.workers.values()}
    joined = {line["joined"] for line in objects(path) if "joined" in line}
    assert joined - {line["gone"] for line in objects(path) if "gone" in line} == living


@settings(max_examples=25)
@given(before=COURSE, beyond=COURSE)
def test_what_the_store_does_not_know_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], beyond: list[str]
) -> None:
    """After the death of a machine the store may be older than the journal: rounds that it lacks did not happen."""
    folder = tmp_path_factory.mktemp("state")
    driven = running(folder)
    for what in before:
        driven.step(what)
    driven.store.close()
    older = tmp_path_factory.mktemp("older")
    shutil.copytree(folder, older, dirs_exist_ok=True)
    driven = Driven(folder)
    for what in beyond:
        driven.step(what)
    driven.store.close()
    due = rounds_of(read_history(older / FILE))
    shutil.copy(folder / FILE, older / FILE)
    again = Driven(older)
    assert rounds_of(read_history(older / FILE)) == due
    again.step("round")
    again.store.close()
    assert rounds_of(read_history(older / FILE))[: len(due)] == due


def test_a_new_store_in_the_same_folder_begins_a_new_stretch(tmp_path: Path) -> None:
    """A run that is launched anew: what led to its checkpoints stays, and numbers may begin again."""
    for _ in range(2):
        driven = running(tmp_path)
        driven.step("round")
        driven.store.close()
        forget(tmp_path)
    first, second = read_history(tmp_path / FILE)
    assert (first.store, second.store) == (0, 1)
    assert [len(first.rounds), len(second.rounds)] == [1, 1]


def test_a_store_without_its_journal_goes_on(tmp_path: Path) -> None:
    """Somebody has removed the file: the run goes on; that its beginning is missing, a replay says."""
    driven = running(tmp_path)
    driven.step("round")
    driven.store.close()
    (tmp_path / FILE).unlink()
    again = Driven(tmp_path)
    again.step("round")
    again.store.close()
    with pytest.raises(RunFolderError, match="tells of round 0, and none before of where the group began"):
        read_history(tmp_path / FILE)


def test_a_full_disk_stops_the_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that the journal cannot tell is not told to anybody."""
    driven = running(tmp_path)

    def full(file: int, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coordinator.service.journal.append_to", full)
    with pytest.raises(RunFolderError, match=r"cannot be written: .*No space left on device"):
        driven.step("round")
    driven.store.close()
