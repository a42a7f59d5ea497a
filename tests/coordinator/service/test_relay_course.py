"""A root and two relays in random orders of events: all or nothing across the tree, and it never gets stuck. Pure.

The wires between them are played: requests and answers wait in queues, and are carried when the dice say so.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from coordinator.service.group import Group, GroupEnded, NotOpenYet
from coordinator.service.membership import DepartedWorker, PeerRequest, WorkerRecord
from coordinator.service.relay.group import (
    AwaitRound,
    JoinUpstream,
    PartialSum,
    RelayGroup,
    UpstreamRequest,
    UpstreamRound,
)
from coordinator.service.rounds import OpenRound, Publication, SettledRound
from protos.consensus_pb2 import ENDED, EXPELLED, FORMING, INDEX_HELD, LATE, OK, OVER
from tests.coordinator.service.settled import BATCH, settings

PLACES = ((0, 1), (2, 3))


class Wire:
    """One relay, its membership above, and what is on its way in either direction."""

    def __init__(self, root: Group, relay: RelayGroup) -> None:
        self.root, self.relay = root, relay
        self.requests: deque[UpstreamRequest] = deque()
        self.news: deque[Callable[[float], None]] = deque()
        self.worker: int | None = None
        self.under_way: UpstreamRequest | None = None

    def carry(self, now: float) -> None:
        """One step of whatever is on its way; what stands in the queue waits for the answer to what went before."""
        self.requests.extend(self.relay.take_requests())
        if self.news:
            self.news.popleft()(now)
        elif self.requests and self.under_way is None:
            self.under_way = self.requests.popleft()
            self.begin(self.under_way, now)

    def answer(self, told: Callable[[float], None]) -> None:
        self.under_way = None
        self.news.append(told)

    def begin(self, request: UpstreamRequest, now: float) -> None:
        if isinstance(request, JoinUpstream):
            self.enter(request, now)
        elif isinstance(request, PartialSum):
            self.send_partial_sum(request, now)
        elif isinstance(request, AwaitRound):
            self.look_for_a_round()
        else:
            self.root.leave(self.worker or 0, now)
            self.answer(self.relay.parted)

    def enter(self, request: JoinUpstream, now: float) -> None:
        wishes = [PeerRequest(peer, 0, request.saved, peer in request.absent) for peer in self.relay._settings.ids]
        mark = f"relay {self.root.membership.numbers}"
        worker = self.root.join(wishes, name="relay", bearer=mark, request=mark, insist=True, now=now)
        if isinstance(worker, WorkerRecord):
            self.worker = worker.number
            self.root.attach(worker.number, now)
            self.look_for_a_round()
        elif worker[0] == INDEX_HELD:
            self.requests.appendleft(request)
            self.under_way = None
        else:
            assert worker[0] == ENDED
            self.over(worker[1], member=False)

    def look_for_a_round(self) -> None:
        current = self.root.rounds.current
        if self.root.phase == OVER:
            self.over(self.root.text, member=True)
        elif self.worker in self.root.membership.gone:
            self.answer(self.relay.parted)
        elif current is not None and self.worker in current.present:
            self.opened(current.round)

    def opened(self, round_: int) -> None:
        self.answer(lambda now: self.relay.opened(round_, now))

    def over(self, reason: str, *, member: bool) -> None:
        self.answer(lambda now: self.relay.ended(reason, now, member=member))

    def send_partial_sum(self, request: PartialSum, now: float) -> None:
        current, number = self.root.rounds.current, self.worker or 0
        epoch = current.epoch if current is not None and number in current.present else 0
        item = Publication(number, request.round, epoch, request.batch, request.peers, request.abstains)
        verdict = self.root.offer(Publication(**{**item._asdict(), "absent": request.absent}), now)
        assert isinstance(verdict, NotOpenYet) or verdict in (OK, LATE, EXPELLED, ENDED), verdict
        if verdict == LATE:
            self.closed(UpstreamRound(request.round, LATE, "late"))
        elif verdict == EXPELLED:
            self.closed(UpstreamRound(request.round, EXPELLED, "expelled"))
        elif verdict == ENDED:
            self.over(self.root.text, member=True)

    def closed(self, closed: UpstreamRound) -> None:
        current = self.root.rounds.current
        is_open = current is not None and self.worker in current.present and closed.code != EXPELLED
        following = {"following": self.root.rounds.upcoming, "is_open": is_open}
        self.answer(lambda now: self.relay.closed(UpstreamRound(**{**closed.__dict__, **following}), now))

    def hear(self, event: Any) -> None:
        """What happened above, where it answers what is under way."""
        request = self.under_way
        if isinstance(event, SettledRound) and isinstance(request, PartialSum) and self.worker in event.answers:
            if self.root.phase != OVER or event.code == OK:
                code = event.answers[self.worker]
                self.closed(UpstreamRound(event.round, code, event.text, event.participants if code == OK else None))
        elif isinstance(event, OpenRound) and self.worker in event.members:
            if isinstance(request, JoinUpstream | AwaitRound):
                self.opened(event.round)
            elif isinstance(request, PartialSum):
                self.closed(UpstreamRound(request.round, LATE, "another round is open"))
        elif isinstance(event, DepartedWorker) and event.number == self.worker and not event.left:
            if isinstance(request, PartialSum):
                self.closed(UpstreamRound(request.round, EXPELLED, event.reason))
            elif request is not None:
                self.answer(self.relay.parted)
        elif isinstance(event, GroupEnded) and request is not None:
            self.over(event.text, member=True)

    def die_and_come_back(self, now: float) -> None:
        """The relay is killed and started on its store; above it is a member until its silence is noticed."""
        course, roll = json.loads(json.dumps([self.relay.progress_state(), self.relay.membership_state()]))
        again = RelayGroup(self.relay._settings, now)
        again.restore(course, roll, now)
        self.__init__(self.root, again)  # type: ignore[misc]  # everything but the root is new


class TreeCourse(RuleBasedStateMachine):
    """Invariants 2, 3 and 5 of the design after every step, for everybody in the tree."""

    @initialize(least=st.integers(1, 2), quorum=st.sampled_from([0.1, 0.5, 1.0]), rounds=st.integers(3, 12))
    def begin(self, least: int, quorum: float, rounds: int) -> None:
        """A root whose group forms with four peers, and two relays with two places each."""
        self.now = 0.0
        self.root = Group(settings(group=4, min_peers=least, quorum=quorum, rounds=rounds), 0.0)
        self.wires = []
        for places in PLACES:
            own = {"peer_ids": places, "group": 2, "max_peers": 2, "min_peers": 1, "round_deadline": 5.0}
            self.wires.append(Wire(self.root, RelayGroup(settings(rounds=rounds, **own), 0.0)))
        self.closed: dict[int, SettledRound] = {}
        self.told: dict[tuple[int, int], SettledRound] = {}

    def observe(self) -> None:
        """Take what has happened, and hold each event against what must be true of it."""
        for event in self.root.take():
            if isinstance(event, SettledRound):
                assert event.round not in self.closed, "a round settled twice"
                self.closed[event.round] = event
                assert event.code != OK or event.contributors
            for wire in self.wires:
                wire.hear(event)
        for place, wire in enumerate(self.wires):
            for event in wire.relay.take():
                if isinstance(event, SettledRound):
                    self.hold(place, event)

    def hold(self, place: int, event: SettledRound) -> None:
        """A total below is the one that was closed above, with everybody in it who believes so."""
        assert (place, event.round) not in self.told, "a round was told twice"
        self.told[place, event.round] = event
        if event.announced is None:
            assert event.code != OK
            assert OK not in event.answers.values()
            return
        above = self.closed[event.round]
        assert above.code == OK, "a total that the group above did not close"
        assert event.participants.contributors == above.contributors
        assert event.participants.epoch == above.epoch
        mine = set(range(PLACES[place][0], PLACES[place][1] + 1))
        assert set(event.contributors) == mine.intersection(above.contributors)

    def leaf(self, pick: int) -> tuple[RelayGroup, WorkerRecord] | None:
        """One of the peers that are there."""
        leaves = [(wire.relay, worker) for wire in self.wires for worker in wire.relay.membership.workers.values()]
        return leaves[pick % len(leaves)] if leaves else None

    @rule(place=st.integers(0, 1))
    def join(self, place: int) -> None:
        """A peer joins a relay."""
        relay = self.wires[place].relay
        mark = f"{place} {relay.membership.numbers}"
        worker = relay.join([PeerRequest()], name="w", bearer=mark, request=mark, insist=False, now=self.now)
        if isinstance(worker, WorkerRecord):
            relay.attach(worker.number, self.now)
        self.observe()

    @rule(
        pick=st.integers(0, 9),
        batch=st.sampled_from([BATCH] * 5 + [b"x" * 16]),
        abstains=st.sampled_from([False, False, False, True]),
        leaving=st.sampled_from([False] * 5 + [True]),
    )
    def publish(self, pick: int, batch: bytes, abstains: bool, leaving: bool) -> None:
        """A peer publishes for the round that it knows of."""
        found = self.leaf(pick)
        if found is None:
            return
        relay, worker = found
        current = relay.rounds.current
        sides = ((), worker.peers) if abstains else (worker.peers, ())
        epoch = current.epoch if current else 0
        item = Publication(worker.number, relay.rounds.upcoming, epoch, batch, *sides, leaving=leaving)
        relay.offer(item, self.now)
        self.observe()

    @rule(place=st.integers(0, 1), steps=st.integers(1, 4))
    def carry(self, place: int, steps: int) -> None:
        """Something arrives, in either direction."""
        for _ in range(steps):
            self.wires[place].carry(self.now)
            self.observe()

    @rule(pick=st.integers(0, 9))
    def leave(self, pick: int) -> None:
        """A peer leaves."""
        found = self.leaf(pick)
        if found is not None:
            found[0].leave(found[1].number, self.now)
        self.observe()

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0]), silent=st.sampled_from([(), (), (), (0,), (1,), (0, 1)]))
    def pass_time(self, seconds: float, silent: tuple[int, ...]) -> None:
        """Time passes while everybody beats, but perhaps some relays, or the peers of none."""
        self.now += seconds
        for place, wire in enumerate(self.wires):
            member = self.root.membership.workers.get(wire.worker or 0)
            if place not in silent and member is not None:
                self.root.membership.beat(member.number, self.now)
                if self.root.phase != OVER:
                    self.root.set_absent(member.number, wire.relay.absent(), self.now)
            for number in wire.relay.membership.workers:
                wire.relay.membership.beat(number, self.now)
            wire.relay.tick(self.now)
        self.root.tick(self.now)
        self.observe()

    @rule(place=st.integers(0, 1))
    def kill(self, place: int) -> None:
        """A relay is killed and started again; streams of its peers stand at once."""
        wire = self.wires[place]
        if wire.relay.phase == OVER:
            return
        wire.die_and_come_back(self.now)
        for number in list(wire.relay.membership.workers):
            wire.relay.attach(number, self.now)
        self.observe()

    def teardown(self) -> None:
        """Left in peace, a tree with enough peers goes on: nothing that happened has left it stuck."""
        if not hasattr(self, "root"):
            return
        before = self.root.rounds.upcoming
        for _ in range(100):  # more than the join window
            for pick in range(4):
                self.publish(pick, BATCH, False, False)
            for place in (0, 1):
                self.carry(place, 3)
            self.pass_time(1.0, ())
        peers = sum(len(wire.relay.membership.workers) for wire in self.wires if wire.relay.phase != OVER)
        enough = peers >= (4 if self.root.phase == FORMING else self.root._settings.min_peers)
        assert self.root.phase == OVER or not enough or self.root.rounds.upcoming > before, "stuck"


TreeCourse.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=60)
TestTreeCourse = TreeCourse.TestCase
