"""A relay's machine: what it asks for above, and what its members are told. Pure, in stated orders of events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.service.group import COMPLETE, NotOpenYet
from coordinator.service.membership import PeerRequest, WorkerRecord
from coordinator.service.relay.group import (
    NO_BATCH,
    AwaitRound,
    JoinUpstream,
    LeaveUpstream,
    PartialSum,
    RelayGroup,
    UpstreamRound,
    UpstreamState,
)
from coordinator.service.rounds import Participants, Publication, SettledRound
from protos.consensus_pb2 import BATCH_MISMATCH, EXPELLED, FORMING, LATE, OK, OVER, RUNNING, VOID, WAITING
from tests.coordinator.service.settled import BATCH, settings

OTHER = b"x" * 16
WHOLE = Participants(5, (1, 4, 5), (1, 2, 4, 5, 6, 7))


def relay(**changes: Any) -> RelayGroup:
    """Of places 4 to 7."""
    values = {"peer_ids": (4, 7), "group": 4, "max_peers": 4, "min_peers": 1, **changes}
    return RelayGroup(settings(**values), 0.0)


def join(group: RelayGroup, now: float = 0.0, **wish: Any) -> WorkerRecord:
    """A newcomer with one peer, whose stream stands at once."""
    mark = str(group.membership.numbers)
    worker = group.join([PeerRequest(**wish)], name="w", bearer=mark, request=mark, insist=False, now=now)
    assert isinstance(worker, WorkerRecord)
    group.attach(worker.number, now)
    return worker


def publish(group: RelayGroup, worker: WorkerRecord, now: float = 30.0, **changes: Any) -> object:
    """What a member that knows the open round publishes."""
    current = group.rounds.current
    values = {
        "worker": worker.number,
        "round": current.round if current else group.rounds.upcoming,
        "epoch": current.epoch if current else 0,
        "batch": BATCH,
        "peers": worker.peers,
    }
    return group.offer(Publication(**{**values, **changes}), now)


def running(peers: int = 4, **changes: Any) -> tuple[RelayGroup, list[WorkerRecord]]:
    """A relay in round 3, with peers 4, 5, ..."""
    group = relay(**changes)
    workers = [join(group) for _ in range(peers)]
    for worker in workers:
        group.membership.beat(worker.number, 30.0)
    group.tick(30.0)  # half of the join window: whoever is there by now is enough
    assert isinstance(group.take_requests()[0], JoinUpstream)
    group.opened(3, 30.0)
    group.take()
    return group, workers


def settled(group: RelayGroup) -> SettledRound:
    """The one round that has settled since the last look."""
    (found,) = [event for event in group.take() if isinstance(event, SettledRound)]
    return found


def test_it_goes_up_when_its_places_are_taken() -> None:
    """Three of four wait, as a group that forms; the fourth lets it join above, with the rounds that all have saved."""
    group = relay()
    for _ in range(3):
        join(group, saved=(10, 20))
    assert (group.phase, group.text, group.take_requests()) == (FORMING, "3 of 4 peers have joined", [])
    assert join(group, saved=(10,)).peers == (7,)
    assert group.take_requests() == [JoinUpstream((), (0, 10))]
    assert (group.phase, group.text) == (FORMING, "waits for the group above to open a round")
    group.opened(10, 1.0)
    assert group.phase == RUNNING
    assert group.rounds.current is not None
    assert (group.rounds.current.round, group.rounds.current.ids) == (10, (4, 5, 6, 7))


def test_half_of_the_join_window_is_for_its_own_peers() -> None:
    """Then it goes up with those that are there, while the group above still waits; alone to the end, it ends."""
    group = relay()
    join(group, 29.0)
    group.tick(29.9)
    assert group.take_requests() == []
    group.tick(30.0)
    assert group.take_requests() == [JoinUpstream((5, 6, 7), (0,))]
    alone = relay()
    alone.tick(60.0)
    assert (alone.phase, alone.text) == (OVER, "no peer of this relay's after 60.0 s")


def test_a_round_stays_open_until_it_is_closed_above() -> None:
    """All have published: that goes up, once, and nobody is told anything; then all are told what was closed above."""
    group, workers = running(2)
    assert [publish(group, worker) for worker in workers] == [OK, OK]
    assert group.take_requests() == [PartialSum(3, BATCH, (4, 5), (), (6, 7))]
    group.tick(34.0)
    assert (group.take(), group.take_requests()) == ([], [])
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 34.0)
    event = settled(group)
    assert (event.code, event.contributors, event.answers) == (OK, (4, 5), {1: OK, 2: OK})
    assert event.participants == WHOLE
    assert group.rounds.current is not None
    assert group.rounds.current.round == 4
    assert publish(group, workers[0], round=3, epoch=1) is group.rounds.last, "a lost answer is given again"


def test_who_misses_its_deadline_is_left_out_and_late() -> None:
    """One of two publishes: it goes up without the other, whose publication is parked until the next round opens."""
    group, (one, two) = running(2)
    publish(group, one, 30.0, leaving=True)
    for worker in (one, two):
        group.membership.beat(worker.number, 39.0)
    group.tick(40.0)
    assert group.take_requests() == [PartialSum(3, BATCH, (4,), (), (5, 6, 7))]
    assert isinstance(publish(group, two, 40.0), NotOpenYet)
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 40.0)
    event = settled(group)
    assert (event.answers, event.missed, event.waited) == ({1: OK}, (2,), {2: 10.0})
    assert event.participants == Participants(5, (1, 4, 5), (1, 2, 4, 5, 6, 7), leaving=(4,))
    assert group.rounds.current is not None
    assert sorted(group.rounds.current.members) == [two.number]


@pytest.mark.parametrize(
    ("code", "due"), [(VOID, VOID), (LATE, LATE), (BATCH_MISMATCH, BATCH_MISMATCH), (EXPELLED, LATE)]
)
def test_what_is_nothing_above_is_nothing_below(code: Any, due: Any) -> None:
    """Void, late, another batch, expelled: nobody gets a total, and all are told the reason from above."""
    group, workers = running(2)
    for worker in workers:
        publish(group, worker)
    group.take_requests()
    group.closed(UpstreamRound(3, code, "the reason", following=5, is_open=code != EXPELLED), 31.0)
    event = settled(group)
    assert (event.code, event.text, event.contributors, event.announced) == (due, "the reason", (), None)
    assert event.answers == {1: due, 2: due}
    if code == EXPELLED:
        assert group.take_requests() == [JoinUpstream((6, 7), ())], "it joins again at once"
        assert group.phase == WAITING
    else:
        assert group.rounds.current is not None
        assert group.rounds.current.round == 5


def test_two_batches_among_its_own() -> None:
    """The majority's goes up, the other is refused by name; of a tie nothing goes up, whatever is closed above."""
    group, workers = running(3)
    for worker, batch in zip(workers, (BATCH, OTHER, BATCH), strict=True):
        publish(group, worker, batch=batch)
    assert group.take_requests() == [PartialSum(3, BATCH, (4, 6), (), (5, 7))]
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 31.0)
    event = settled(group)
    assert event.answers == {1: OK, 2: BATCH_MISMATCH, 3: OK}
    assert f"peers [5] saw {OTHER.hex()}" in event.text
    group, (one, two) = running(2)
    publish(group, one)
    publish(group, two, batch=OTHER)
    assert group.take_requests() == [PartialSum(3, NO_BATCH, (), (), (4, 5, 6, 7))]
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 31.0)
    event = settled(group)
    assert (event.code, set(event.answers.values()), event.announced) == (BATCH_MISMATCH, {BATCH_MISMATCH}, None)


def test_abstaining_goes_up_as_such() -> None:
    """A peer without finite outputs takes part; if all of them do so, they still hear what the others' total is."""
    group, (one, two) = running(2)
    publish(group, one, peers=(), abstains=(4,))
    publish(group, two, peers=(), abstains=(5,))
    assert group.take_requests() == [PartialSum(3, BATCH, (), (4, 5), (6, 7))]
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 31.0)
    assert settled(group).participants == WHOLE


def test_without_a_round_above_there_is_none_below() -> None:
    """The group above waits for members: so does this one, and goes on with the round that opens there."""
    group, workers = running(1)
    publish(group, workers[0])
    group.take_requests()
    group.closed(UpstreamRound(3, VOID, "too few", following=4), 31.0)
    assert group.phase == WAITING
    assert group.take_requests() == [AwaitRound()]
    assert isinstance(publish(group, workers[0], 31.0), NotOpenYet)
    group.opened(4, 32.0)
    assert group.phase == RUNNING
    assert group.rounds.upcoming == 4


def test_without_peers_it_hands_in_for_nobody() -> None:
    """So nobody waits for it; a newcomer is in the round that follows, under an incarnation of its own."""
    group, workers = running(1)
    group.leave(workers[0].number, 31.0)
    assert group.take_requests() == [PartialSum(3, NO_BATCH, (), (), (4, 5, 6, 7))]
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 31.0)
    assert group.phase == WAITING
    assert group.take_requests() == [PartialSum(4, NO_BATCH, (), (), (4, 5, 6, 7))]
    newcomer = join(group, 32.0)
    assert newcomer.incarnations == (1,)
    group.tick(32.0)
    assert group.take_requests() == [], "one publication at a time"
    group.closed(UpstreamRound(4, OK, participants=WHOLE, following=5, is_open=True), 32.0)
    assert group.rounds.current is not None
    assert (group.rounds.current.round, group.rounds.current.ids) == (5, (4,))


@pytest.mark.parametrize(("above", "sent"), [(3, True), (7, False)])
def test_after_its_own_death_it_enters_anew(above: int, sent: bool) -> None:
    """Its members publish again: in the same round above that goes up, in a later one they were late."""
    group, (one, two) = running(2)
    publish(group, one)
    again = relay()
    again.restore(*json.loads(json.dumps([group.progress_state(), group.membership_state()])), 50.0)
    again.take()
    assert [publish(again, worker, 50.0) for worker in (one, two)] == [OK, OK]
    assert again.take_requests() == [JoinUpstream((6, 7), ())]
    again.opened(above, 51.0)
    if sent:
        assert again.take_requests() == [PartialSum(3, BATCH, (4, 5), (), (6, 7))]
        return
    event = settled(again)
    assert (event.code, event.answers) == (LATE, {1: LATE, 2: LATE})
    assert again.rounds.current is not None
    assert again.rounds.current.round == 7


def test_it_leaves_last() -> None:
    """The last round is closed: complete here, too; when its members have left, it leaves the group above."""
    group, workers = running(2, rounds=4)
    for worker in workers:
        publish(group, worker)
    group.take_requests()
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4), 31.0)
    assert (group.phase, group.text) == (OVER, COMPLETE)
    group.leave(workers[0].number, 31.0)
    assert group.take_requests() == []
    group.leave(workers[1].number, 31.0)
    assert group.take_requests() == [LeaveUpstream()]
    group.parted(32.0)
    assert (group.above, group.take_requests()) == (UpstreamState.OUT, [])


@pytest.mark.parametrize("member", [True, False])
def test_the_end_above_is_the_end_below(member: bool) -> None:
    """For the same reason; the open round is void. It has to leave only where it is a member."""
    group, workers = running(1)
    publish(group, workers[0])
    group.take_requests()
    group.ended("stopped: enough", 31.0, member=member)
    assert (group.phase, group.text) == (OVER, "stopped: enough")
    assert settled(group).code == VOID
    group.leave(workers[0].number, 31.0)
    assert group.take_requests() == [LeaveUpstream()] * member
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 32.0)
    assert group.take_requests() == [], "what comes too late changes nothing"


def test_what_was_closed_survives_as_json() -> None:
    """The receipt of the whole group is kept with the round."""
    group, workers = running(1)
    publish(group, workers[0])
    group.closed(UpstreamRound(3, OK, participants=WHOLE, following=4, is_open=True), 31.0)
    last = group.rounds.last
    assert last is not None
    assert SettledRound.from_json(json.loads(json.dumps(last.as_json()))) == last
