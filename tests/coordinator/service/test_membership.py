"""Who gets which id, and who is expelled when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.service.membership import DepartedWorker, Membership, PeerRequest, WorkerRecord
from protos.consensus_pb2 import GROUP_FULL, INDEX_HELD


def join(group: Membership, *wishes: PeerRequest, now: float = 0.0, request: str = "", insist: bool = False) -> object:
    """A newcomer with a bearer and a request of its own."""
    mark = request or f"request {group.numbers}"
    return group.join(wishes or (PeerRequest(),), name="w", bearer=f"b {mark}", request=mark, insist=insist, now=now)


def joined(group: Membership, *wishes: PeerRequest, now: float = 0.0) -> WorkerRecord:
    """A newcomer that was taken in."""
    worker = join(group, *wishes, now=now)
    assert isinstance(worker, WorkerRecord)
    return worker


def test_wishes_are_granted_where_they_can_be() -> None:
    """A free wished id is given, a held one is replaced by the lowest free one, a foolish one likewise."""
    group = Membership(5.0, range(8))
    assert joined(group, PeerRequest(3)).peers == (3,)
    assert joined(group, PeerRequest(3), PeerRequest(1), PeerRequest(99)).peers == (0, 1, 2)
    refusal = join(group, PeerRequest(3), insist=True)
    assert isinstance(refusal, tuple)
    assert refusal[0] == INDEX_HELD
    full = join(group, *[PeerRequest()] * 5)
    assert isinstance(full, tuple)
    assert full[0] == GROUP_FULL


@given(wishes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=20))
def test_incarnations_only_grow(wishes: list[tuple[int, int]]) -> None:
    """Whoever comes under an id gets a higher incarnation than anybody before, and at least the one it asks for."""
    group, seen = Membership(5.0, range(4)), dict[int, int]()
    for index, incarnation in wishes:
        worker = joined(group, PeerRequest(index, incarnation))
        assert worker.peers == (index,)
        assert worker.incarnations[0] >= incarnation
        assert worker.incarnations[0] > seen.get(index, -1)
        seen[index] = worker.incarnations[0]
        group.remove(worker.number, "test", left=False)


def test_a_repeated_join_is_the_same_membership() -> None:
    """The same request gets the same worker, reachable by the new bearer only."""
    group = Membership(5.0, range(8))
    first = joined(group)
    again = group.join([PeerRequest()], name="w", bearer="other", request="request 0", insist=False, now=1.0)
    assert again is first
    assert group.known("other") is first
    assert group.known("b request 0") is None


def test_only_newcomers_with_a_stream_are_admitted_and_the_epoch_grows() -> None:
    """Admission takes those whose stream stands, once; joining and leaving of members grow the epoch."""
    group = Membership(5.0, range(8))
    one, two = joined(group), joined(group)
    group.attach(one.number, 0.0)
    assert group.admit() == [one.number]
    assert (group.epoch, group.members()) == (1, {1: (0,)})
    assert group.admit() == []
    assert group.epoch == 1
    group.remove(two.number, "test", left=False)
    assert group.epoch == 1, "it never was a member"
    group.remove(one.number, "test", left=True)
    assert group.epoch == 2


def test_silence_and_broken_streams_expel_after_one_heartbeat_period() -> None:
    """Five seconds of silence are forgiven, a moment more is not; a broken stream has the same grace."""
    group = Membership(5.0, range(8))
    silent, broken, fine = joined(group), joined(group), joined(group)
    for worker in (silent, broken, fine):
        group.attach(worker.number, 0.0)
    group.detach(broken.number, 1.0)
    group.beat(broken.number, 4.0)
    group.beat(fine.number, 4.0)
    assert group.overdue(5.0) == {}
    assert list(group.overdue(5.1)) == [silent.number]
    assert list(group.overdue(6.1)) == [silent.number, broken.number]
    assert "stream was down" in group.overdue(6.1)[broken.number]
    group.attach(broken.number, 6.2)
    assert list(group.overdue(6.3)) == [silent.number]


def test_a_coordinator_that_was_held_up_blames_nobody() -> None:
    """Time in which the coordinator could not listen counts for nobody."""
    group = Membership(5.0, range(8))
    worker = joined(group)
    group.attach(worker.number, 0.0)
    group.forgive(60.0)
    assert group.overdue(61.0) == {}
    assert list(group.overdue(65.1)) == [worker.number]


def test_three_in_a_row_expel() -> None:
    """The third refused publication in a row is a reason to expel, and so is the third missed round; success resets."""
    group = Membership(5.0, range(8))
    number = joined(group).number
    for count in (group.refused, lambda n: group.missed(n, 1.0)):
        assert count(number) is None
        assert count(number) is None
        group.contributed(number)
        assert count(number) is None
        assert count(number) is None
        assert "3 " in (count(number) or "")
        group.contributed(number)


def test_the_expelled_stay_known_with_the_reason() -> None:
    """A bearer of an expelled worker leads to the reason."""
    group = Membership(5.0, range(8))
    worker = joined(group)
    group.remove(worker.number, "silent", left=False)
    gone = group.known(worker.bearer)
    assert isinstance(gone, DepartedWorker)
    assert gone.reason == "silent"
