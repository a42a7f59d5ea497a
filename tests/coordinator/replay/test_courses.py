"""Any course of a group, however faulty, is replayed from its journals alone: the checkpoints come out the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.replay import replay
from coordinator.replay.closing import replay_round
from coordinator.replay.history import Round
from coordinator.service.journal import FILE
from peers.config import loading as configfile
from peers.data.batches import Schedule
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.runs.journal import Life, PeerJournal, Skip, Terms
from peers.runs.run_folder import RunFolder
from peers.worker.preflight import check
from tests.peers.groups import CPU, one_thread

CONFIG = configfile.parse(
    {
        "run": {"name": "run", "rounds": 40},
        "data": {"name": "synthetic", "images": 120, "image_size": 4, "channels": 1, "batch": 8},
        "network": {"depth": 2, "width": 8},
        "group": {"peers": 3},
        "exchange": {"kind": "coordinator", "wire": "bf16"},
        "probe": {"norm_images": 20, "knn_k": 3, "live_images": 16},
    }
)
PEERS, ROUNDS, EVERY = 4, 14, 3
EVENTS = ("step", "step", "step", "late", "away", "expelled", "killed", "told", "ends", "stopped")
"""What may become of a peer in a round: it steps; it is late, and perhaps away for the next round, too; it is expelled
after it published; it dies before it publishes, or after; it goes in order, after the round or in the middle of it."""


@pytest.fixture(scope="module", autouse=True)
def single() -> Iterator[None]:
    """One compute thread."""
    with one_thread():
        yield


class Course:
    """A run that is made up, round by round, with real peers and what they and their coordinator write down."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.folder.enter(CONFIG)
        self.grounds = replace(check(CONFIG, CPU), folder=self.folder)
        self.rule = TargetSelection.of(CONFIG.consensus, CONFIG.run.seed)
        self.schedule = Schedule(len(self.grounds.data.train), CONFIG.data.batch, CONFIG.run.seed)
        self.state = folder / "coordinator"
        self.state.mkdir()
        self.living: dict[int, Peer] = {}
        self.journals: dict[int, PeerJournal] = {}
        self.at: dict[int, int] = {}
        self.admitted: dict[int, int] = {}
        self.epoch = 0
        self._tell({"begun": "ab", "run": "run"}, {"formed": 0, "epoch": 1})

    def begin(self, round_: int, peer: int, *, resume: bool) -> None:
        """A worker comes, with its newest checkpoint or without any."""
        checkpoints = self.grounds.checkpoints(CONFIG, peer)
        saved = [round_ for round_ in checkpoints.rounds() if resume and round_ > 0]
        self._join(peer)
        incarnation = checkpoints.record(saved[-1])["incarnation"] if saved else self.admitted[peer]
        self.living[peer] = Peer(CONFIG, peer, self.grounds.data.shape, 40, CPU, incarnation)
        if saved:
            checkpoints.load(self.living[peer], saved[-1])
        checkpoints.discard_after(saved[-1] if saved else 0)
        self.journals[peer] = PeerJournal(self.folder, [peer])
        terms = Terms((peer,), "coordinator", 1)
        source = saved[-1] if saved else 0
        self.journals[peer].begin(peer, Life(round_, incarnation, source, self.admitted[peer], self.epoch + 1, terms))
        self.at[peer] = round_

    def _join(self, peer: int) -> None:
        self.admitted[peer] = self.admitted.get(peer, -1) + 1
        self._tell({"joined": 10, "peers": [peer], "incarnations": [self.admitted[peer]]})

    def round(self, round_: int, events: dict[int, str], again: set[int], *, void: bool) -> None:
        """One round of all that live; `events` by peer; `again`: who was expelled before it opened, and is back."""
        images = self.grounds.data.train.batch(self.schedule.indices(round_))
        images = images.contiguous(memory_format=torch.channels_last)
        for peer in again:
            self.living[peer].forward(images)
            self._miss(peer, Skip(round_, "expelled", round_))
            self._join(peer)
        self.epoch += 1  # somebody has come or gone, or might have
        members = tuple(sorted(self.living))
        acting = {peer: what for peer, what in events.items() if self.at[peer] == round_}
        outputs = {peer: self.living[peer].forward(images) for peer in sorted(acting) if acting[peer] != "killed"}
        late = {peer for peer in outputs if acting[peer] in ("late", "away")}
        sent = {peer: z for peer, z in outputs.items() if z is not None and peer not in late}
        void = void or len(sent) < 2
        told = Round(round_, self.epoch, members, tuple(sent))
        closed = replay_round(told, sent, {}, self.rule, CONFIG.exchange.wire)
        line: dict[str, Any] = {"round": round_, "epoch": self.epoch, "members": list(members)}
        more = {"void": "made up"} if void else {"digest": closed.digest, "contributors": list(sent)}
        self._tell({**line, **more})
        for peer, what in acting.items():
            if what in ("killed", "told"):
                self._forget(peer)
            elif what == "stopped":
                self.living[peer].undo_forward()
                self._done(peer, round_, what)
            elif what in ("late", "away", "expelled") or void:
                self._pass(peer, round_, what)
            else:
                self.living[peer].step(closed.consensus((peer,)))
                self._done(peer, round_ + 1, what)

    def _pass(self, peer: int, round_: int, what: str) -> None:
        reason = what if what in ("late", "expelled") else "late" if what == "away" else "void"
        self._miss(peer, Skip(round_, reason, round_ + (2 if what == "away" else 1)))
        if what == "expelled":
            self._join(peer)

    def _miss(self, peer: int, skip: Skip) -> None:
        self.journals[peer].skip(skip)
        self.living[peer].skip(skip.reason)
        self.at[peer] = skip.next

    def _done(self, peer: int, done: int, what: str) -> None:
        self.at[peer] = done
        if what in ("ends", "stopped"):
            self.journals[peer].end(done, what)
        if what in ("ends", "stopped") or done % EVERY == 0:
            self.grounds.checkpoints(CONFIG, peer).save(self.living[peer], done, {})
        if what in ("ends", "stopped"):
            self._forget(peer)

    def _forget(self, peer: int) -> None:
        del self.living[peer], self.journals[peer], self.at[peer]

    def _tell(self, *lines: dict[str, Any]) -> None:
        with (self.state / FILE).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


@settings(max_examples=15)
@given(data=st.data())
def test_any_course(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Peers come, come back, miss rounds, are expelled, die at any point; rounds are void."""
    course = Course(tmp_path_factory.mktemp("course") / "run")
    for round_ in range(ROUNDS):
        for peer in range(PEERS):
            if peer not in course.living and (round_ == 0 or data.draw(st.booleans())):
                course.begin(round_, peer, resume=data.draw(st.booleans()))
        events = {peer: data.draw(st.sampled_from(EVENTS)) for peer in course.living if course.at[peer] == round_}
        again = {peer for peer in events if data.draw(st.integers(0, 9)) == 0}
        course.round(round_, events, again, void=data.draw(st.integers(0, 9)) == 0)
    found = replay(course.folder.path)
    assert found.differences == ()
    assert found.rounds + found.voided == ROUNDS
    assert found.receipts == found.rounds
    saved = {peer for peer in range(PEERS) if course.grounds.checkpoints(CONFIG, peer).rounds()}
    assert set(found.peers) == saved
