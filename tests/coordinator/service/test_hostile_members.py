"""What a member could once end the coordinator with, or a call with an error nobody foresaw."""

from __future__ import annotations

import pytest

from coordinator.service.group import Group
from coordinator.service.join_policy import MAX_INCARNATION, check_join, peer_requests
from coordinator.service.membership import REMEMBERED, PeerRequest, WorkerRecord
from coordinator.service.rounds import Publication
from coordinator.service.servicer import _report_problem
from protos import consensus_pb2 as pb
from tests.coordinator.service.settled import BATCH, settings


def request(**wish: int) -> pb.JoinRequest:
    """A Join that fits the run, of one peer."""
    made = pb.JoinRequest(run_id="run", request=BATCH, batch=4, width=8, wire=pb.FLOAT32, rule="mean")
    made.peers.add(**wish)
    return made


def joined(group: Group, wish: PeerRequest, name: str) -> WorkerRecord:
    """A worker that has joined."""
    worker = group.join([wish], name=name, bearer=name, request=name, insist=False, now=0.0)
    assert isinstance(worker, WorkerRecord)
    return worker


def test_an_incarnation_that_leaves_no_room_for_the_next_is_refused() -> None:
    """The next newcomer under the id gets one more, which must fit into its ticket."""
    refusal = check_join(request(incarnation=2**32 - 1), settings(), {})
    assert refusal is not None
    assert refusal.code == pb.MALFORMED
    assert str(MAX_INCARNATION) in refusal.text
    highest = request(incarnation=MAX_INCARNATION)
    assert check_join(highest, settings(), {}) is None
    group = Group(settings(), 0.0)
    for round_ in range(3):
        worker = joined(group, peer_requests(highest)[0], f"w{round_}")
        assert pb.Ticket(incarnations=worker.incarnations).incarnations == [MAX_INCARNATION + round_]
        group.leave(worker.number, 0.0)


def test_who_left_so_long_ago_that_nobody_remembers_is_expelled() -> None:
    """A stream may outlast the memory of its worker; what comes on it is refused, and nothing breaks."""
    group = Group(settings(max_peers=8), 0.0)
    first = joined(group, PeerRequest(), "first")
    group.leave(first.number, 0.0)
    for count in range(REMEMBERED + 1):
        group.leave(joined(group, PeerRequest(), f"w{count}").number, 0.0)
    assert first.number not in group.membership.gone
    for round_ in (0, 5):
        late = Publication(first.number, round_, 1, BATCH, first.peers)
        assert group.offer(late, 0.0) == pb.EXPELLED


@pytest.mark.parametrize("report", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"NaN;"])
def test_last_words_that_no_parser_survives_are_refused_as_no_json(report: bytes) -> None:
    """Deeper than Python's stack, more digits than it reads, no text at all: a sentence, no error."""
    worker = joined(Group(settings(), 0.0), PeerRequest(0), "w")
    problem = _report_problem({0: report}, worker, 1024 * 1024)
    assert problem is not None
    assert "is no JSON" in problem
