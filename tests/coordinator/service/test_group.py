"""A run's whole course, in stated and in random orders of events."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.service.group import COMPLETE, Group, GroupEnded, NotOpenYet
from coordinator.service.membership import DepartedWorker, PeerRequest, WorkerRecord
from coordinator.service.rounds import OpenRound, Publication, SettledRound
from protos.consensus_pb2 import (
    ENDED,
    EXPELLED,
    FORMING,
    LATE,
    OK,
    OVER,
    RUNNING,
    STALE,
    VOID,
    WAITING,
)
from tests.coordinator.service.settled import BATCH, settings


def join(group: Group, now: float, *, peers: int = 1, saved: tuple[int, ...] = ()) -> WorkerRecord:
    """A newcomer whose stream stands at once."""
    mark = str(group.membership.numbers)
    worker = group.join(
        [PeerRequest(saved=saved)] * peers, name="w", bearer=f"b{mark}", request=mark, insist=False, now=now
    )
    assert isinstance(worker, WorkerRecord)
    group.attach(worker.number, now)
    return worker


def publish(group: Group, worker: WorkerRecord, now: float, **changes: Any) -> object:
    """What a worker that knows the open round publishes."""
    current = group.rounds.current
    values = {
        "worker": worker.number,
        "round": current.round if current else group.rounds.upcoming,
        "epoch": current.epoch if current else 0,
        "batch": BATCH,
        "peers": tuple(sorted(worker.peers)),
    }
    return group.offer(Publication(**{**values, **changes}), now)


def running(**changes: Any) -> tuple[Group, WorkerRecord, WorkerRecord]:
    """Two workers in round 0."""
    group = Group(settings(**changes), 0.0)
    one, two = join(group, 0.0), join(group, 0.0)
    assert group.phase == RUNNING
    return group, one, two


def test_the_group_forms_with_its_size() -> None:
    """One of two peers waits, visibly; the second opens round 0 with epoch 1."""
    group = Group(settings(), 0.0)
    join(group, 0.0)
    assert (group.phase, group.text) == (FORMING, "1 of 2 peers have joined")
    join(group, 1.0)
    assert group.phase == RUNNING
    assert group.rounds.current is not None
    assert (group.rounds.current.round, group.rounds.current.epoch) == (0, 1)


def test_the_window_ends_the_forming() -> None:
    """At the end of the join window the minimum suffices; below it the run ends and says why."""
    group = Group(settings(group=3, heartbeat=10.0), 0.0)
    join(group, 59.0)
    join(group, 59.0)
    group.tick(59.9)
    assert group.phase == FORMING
    group.tick(60.0)
    assert group.phase == RUNNING
    alone = Group(settings(heartbeat=10.0), 0.0)
    join(alone, 59.0)
    alone.tick(60.0)
    assert alone.phase == OVER
    assert "1 peers after 60.0 s, at least 2 are needed" in alone.text


def test_a_group_resumes_at_the_newest_common_round() -> None:
    """Saved rounds 3 and 5, and 3 alone: the group starts at 3."""
    group = Group(settings(), 0.0)
    join(group, 0.0, saved=(3, 5))
    join(group, 0.0, saved=(3,))
    assert group.rounds.upcoming == 3


def test_newcomers_wait_for_the_next_round() -> None:
    """Who joins while a round is open is parked when it publishes, and a member of the next round."""
    group, one, two = running()
    three = join(group, 1.0)
    assert isinstance(publish(group, three, 1.0), NotOpenYet)
    assert publish(group, one, 1.0) == OK
    assert publish(group, two, 1.0) == OK
    current = group.rounds.current
    assert current is not None
    assert (current.round, current.epoch, sorted(current.members)) == (1, 2, [1, 2, 3])


def test_below_the_minimum_the_group_waits_and_then_ends() -> None:
    """One peer left: WAITING, its publication parked; a newcomer opens the next round; nobody ends the run."""
    group, one, two = running()
    publish(group, one, 0.0, leaving=True)
    publish(group, two, 0.0)
    assert group.phase == WAITING
    assert isinstance(publish(group, two, 1.0), NotOpenYet)
    three = join(group, 2.0)
    assert group.phase == RUNNING
    group.leave(three.number, 3.0)
    publish(group, two, 3.0)
    assert group.phase == WAITING
    for now in range(4, 64):
        group.membership.beat(two.number, float(now))
        group.tick(float(now))
    assert group.phase == OVER
    assert publish(group, two, 64.0) == ENDED


def test_the_last_round_completes_the_run() -> None:
    """After round `rounds` - 1 the run is over, complete; its answer can still be had."""
    group, one, two = running(rounds=1)
    publish(group, one, 0.0)
    publish(group, two, 0.0)
    assert (group.phase, group.text) == (OVER, COMPLETE)
    assert isinstance(publish(group, one, 1.0, round=0, epoch=1), SettledRound)
    assert publish(group, one, 1.0, round=1) == ENDED


def test_stopping_voids_the_open_round() -> None:
    """All or nothing: those that published get no result of a round that was stopped."""
    group, one, _two = running()
    publish(group, one, 0.0)
    group.stop("by the operator", 1.0)
    settled, ended = group.take()[-2:]
    assert isinstance(settled, SettledRound)
    assert settled.code == VOID
    assert ended == GroupEnded("stopped: by the operator")


def test_three_replays_expel() -> None:
    """The third refused publication in a row expels, and the next is told so."""
    group, one, two = running()
    for number in range(2):
        publish(group, one, 0.0)
        publish(group, two, 0.0)
        assert group.rounds.upcoming == number + 1
    assert [publish(group, one, 0.0, round=0) for _ in range(4)] == [STALE, STALE, STALE, EXPELLED]


def test_members_that_never_publish_are_expelled_after_three_rounds() -> None:
    """A member that only beats delays three rounds by the deadline, then nobody any more."""
    group = Group(settings(group=3), 0.0)
    one, two, hung = (join(group, 0.0) for _ in range(3))
    now = 0.0
    for _round in range(3):
        assert hung.number in group.membership.workers
        publish(group, one, now)
        publish(group, two, now)
        for _second in range(10):
            now += 1.0
            for number in group.membership.workers:
                group.membership.beat(number, now)
            group.tick(now)
    assert hung.number in group.membership.gone
    assert "3 rounds in a row ended without it" in group.membership.gone[hung.number].reason


def test_a_restored_group_goes_on_where_it_was() -> None:
    """What is kept as JSON brings back the open round with its epoch, and the answer of the round before."""
    group, one, two = running()
    publish(group, one, 0.0)
    publish(group, two, 0.0)
    group.take()
    publish(group, one, 1.0)
    course, roll = json.loads(json.dumps([group.progress_state(), group.membership_state()]))
    again = Group(settings(), 100.0)
    again.restore(course, roll, 100.0)
    (event,) = again.take()
    assert isinstance(event, OpenRound)
    assert (event.round, event.epoch, event.publications) == (1, 1, {})
    answer = publish(again, two, 100.0, round=0, epoch=1)
    assert isinstance(answer, SettledRound)
    assert answer == group.rounds.last
    assert publish(again, one, 100.0, epoch=1) == OK
    assert publish(again, two, 100.0, epoch=1) == OK
    assert again.rounds.upcoming == 2


def test_a_stopped_run_forms_anew() -> None:
    """Stopped is not complete: the same state folder lets a group form again, under new incarnations."""
    group, one, _two = running()
    group.stop("", 1.0)
    again = Group(settings(), 2.0)
    again.restore(json.loads(json.dumps(group.progress_state())), json.loads(json.dumps(group.membership_state())), 2.0)
    assert again.phase == FORMING
    worker = join(again, 2.0)
    assert worker.peers == one.peers
    assert worker.incarnations == (1,)


class Course(RuleBasedStateMachine):
    """Random orders of everything that can happen to a group; invariants 2 to 5 of the design after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.settled: dict[int, SettledRound] = {}
        self.accepted: dict[tuple[int, int], Publication] = {}
        self.epoch = 0
        self.incarnations: dict[int, int] = {}
        self.opened: OpenRound | None = None

    @initialize(
        group=st.integers(1, 4),
        least=st.integers(1, 2),
        quorum=st.sampled_from([0.1, 0.5, 1.0]),
        rounds=st.integers(2, 9),
    )
    def begin(self, group: int, least: int, quorum: float, rounds: int) -> None:
        """A run of some size."""
        self.settings = settings(group=max(group, least), min_peers=least, quorum=quorum, rounds=rounds)
        self.group = Group(self.settings, 0.0)

    def worker(self, pick: int) -> WorkerRecord | None:
        """One of the workers that are there."""
        workers = list(self.group.membership.workers.values())
        return workers[pick % len(workers)] if workers else None

    def observe(self) -> None:
        """Take what has happened, and hold each event against what must be true of it."""
        for event in self.group.take():
            if isinstance(event, SettledRound):
                self.hold_settled(event)
            elif isinstance(event, OpenRound):
                assert len(event.ids) >= self.settings.min_peers
                assert self.opened is None or event.round == self.opened.round + 1, "a round was skipped or repeated"
                self.opened = event
            elif isinstance(event, DepartedWorker):
                assert event.number not in self.group.membership.workers

    def hold_settled(self, event: SettledRound) -> None:
        """All or nothing, one batch, only what was accepted, never twice."""
        assert event.round not in self.settled, "a round settled twice"
        self.settled[event.round] = event
        mine = {key[0]: item for key, item in self.accepted.items() if key[1] == event.round}
        assert event.answers.keys() == mine.keys() == event.published.keys()
        included = {worker for worker, code in event.answers.items() if code == OK}
        assert event.contributors == tuple(sorted(peer for worker in included for peer in mine[worker].peers))
        assert {mine[worker].batch for worker in included} <= {event.batch}, "two batches in one sum"
        if event.code == OK:
            assert event.contributors
            assert 2 * sum(mine[w].votes for w in included) > sum(item.votes for item in mine.values())
            assert sum(mine[worker].votes for worker in included) >= self.settings.min_peers
        else:
            assert not included

    @rule(peers=st.integers(1, 2), attached=st.booleans())
    def join(self, peers: int, attached: bool) -> None:
        """Somebody joins, perhaps without ever opening its stream."""
        mark = str(self.group.membership.numbers)
        worker = self.group.join(
            [PeerRequest()] * peers, name="w", bearer=mark, request=mark, insist=False, now=self.now
        )
        if isinstance(worker, WorkerRecord):
            for peer, incarnation in zip(worker.peers, worker.incarnations, strict=True):
                assert incarnation > self.incarnations.get(peer, -1)
                self.incarnations[peer] = incarnation
            if attached:
                self.group.attach(worker.number, self.now)
        self.observe()

    @rule(
        pick=st.integers(0, 9),
        off=st.sampled_from([0, 0, 0, 0, 0, -1, -2, 1]),
        stale_epoch=st.sampled_from([0, 0, 0, 1]),
        batch=st.sampled_from([BATCH, BATCH, BATCH, b"x" * 16]),
        checksum=st.sampled_from([0, 0, 0, 1]),
        abstains=st.sampled_from([False, False, True]),
        leaving=st.sampled_from([False, False, False, True]),
    )
    def publish(
        self, pick: int, off: int, stale_epoch: int, batch: bytes, checksum: int, abstains: bool, leaving: bool
    ) -> None:
        """A worker publishes: rightly, or for a wrong round, epoch or batch, again, or something else."""
        worker = self.worker(pick)
        if worker is None:
            return
        current = self.group.rounds.current
        upcoming = self.group.rounds.upcoming
        round_ = max(0, upcoming + off)
        epoch = (current.epoch if current else 0) + stale_epoch
        peers = tuple(sorted(worker.peers))
        sides = ((), peers) if abstains else (peers, ())
        item = Publication(worker.number, round_, epoch, batch, *sides, checksum=checksum, leaving=leaving)
        verdict = self.group.offer(item, self.now)
        if verdict == OK:
            self.accepted.setdefault((worker.number, round_), item)
            assert round_ == upcoming
            assert not stale_epoch
        if isinstance(verdict, SettledRound):
            assert verdict == self.settled[round_], "everybody gets the same answer"
        if verdict == LATE:
            assert round_ <= upcoming
        self.observe()

    @rule(pick=st.integers(0, 9), what=st.sampled_from(["beat", "detach", "attach", "leave"]))
    def move(self, pick: int, what: str) -> None:
        """A worker beats, loses its stream, finds it again, or leaves."""
        worker = self.worker(pick)
        if worker is None:
            return
        if what == "beat":
            self.group.membership.beat(worker.number, self.now)
        else:
            getattr(self.group, what)(worker.number, self.now)
        self.observe()

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.group.tick(self.now)
        self.observe()

    @rule(seconds=st.sampled_from([1.0, 4.0]))
    def pass_time_alive(self, seconds: float) -> None:
        """Time passes while everybody beats."""
        self.now += seconds
        for number in self.group.membership.workers:
            self.group.membership.beat(number, self.now)
        self.group.tick(self.now)
        self.observe()

    @rule()
    def die_and_come_back(self) -> None:
        """The coordinator is killed and started on its store: open publications are forgotten, nothing else."""
        course, roll = json.loads(json.dumps([self.group.progress_state(), self.group.membership_state()]))
        over = self.group.phase == OVER
        again = Group(self.settings, self.now)
        again.restore(course, roll, self.now)
        again.take()
        if over:
            return  # whether it forms anew is another test's matter
        assert again.rounds.last == self.group.rounds.last
        assert again.membership.epoch == self.group.membership.epoch
        open_round = again.rounds.upcoming if again.rounds.current else -1
        self.accepted = {key: item for key, item in self.accepted.items() if key[1] != open_round}
        self.group = again

    @precondition(lambda self: self.group.phase == RUNNING)
    @rule()
    def stop(self) -> None:
        """The operator ends the run; seldom, so that runs get somewhere."""
        if self.now > 60.0:
            self.group.stop("", self.now)
            self.observe()

    @invariant()
    def holds(self) -> None:
        """Membership, epochs and times are as the design says."""
        if not hasattr(self, "group"):
            return
        it = self.group.membership
        hosted = [peer for worker in it.workers.values() for peer in worker.peers]
        assert len(hosted) == len(set(hosted)), "two workers host one peer"
        assert it.epoch >= self.epoch
        self.epoch = it.epoch
        current = self.group.rounds.current
        assert (current is not None) == (self.group.phase == RUNNING)
        if current is not None:
            assert current.present <= set(it.members())
            assert current.outstanding, "a round that everybody published in stayed open"
            deadline = self.group.rounds.deadline()
            assert deadline is None or deadline > self.now, "a round outlived its deadline"
        silent = max((self.now - worker.heard for worker in it.workers.values()), default=0.0)
        assert silent <= it.heartbeat, "a silent worker outlived its heartbeat period"


Course.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=50)
TestCourse = Course.TestCase
