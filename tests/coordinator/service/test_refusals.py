"""Publications that must not count: refused by name, and the others' totals are what they would have been."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from peers.transport.replies import Outcome
from peers.transport.values import Consensus
from protos import consensus_pb2 as pb
from protos.frames import PREFIX, encode
from tests.coordinator.service.processes import Coordinator, coordinator, info, together, until
from tests.coordinator.service.raw import RawPeer, publication
from tests.coordinator.service.settled import BATCH

Group = tuple[Coordinator, RawPeer, pb.Next, Callable[[int], list[Outcome]]]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """Two honest peers, 0 and 1, and a raw one, 2, which is told of round 0; and how the honest make a round."""
    with coordinator(tmp_path, group=3, heartbeat=5.0, round_deadline=5.0) as at:
        honest = [at.client(), at.client()]
        raw = RawPeer(at, 2)
        raw.open()
        together(*(lambda place=place: honest[place].join(info(place)) for place in (0, 1)))
        opened = raw.read().header.opened

        def publish(place: int, round_: int) -> Outcome:
            honest[place].publish(round_, {place: np.full((4, 8), place + 1.0, np.float32)}, BATCH)
            return honest[place].result(20)

        def make_round(round_: int) -> list[Outcome]:
            return together(*(lambda place=place: publish(place, round_) for place in (0, 1)))

        yield at, raw, opened, make_round
        raw.close()
        for client in honest:
            client.close()


def unaffected(outcomes: list[Outcome]) -> None:
    """The honest peers' total is 1 + 2, with them as contributors."""
    for outcome in outcomes:
        assert isinstance(outcome, Consensus)
        assert outcome.contributors == (0, 1)
        assert outcome.total is not None
        assert np.all(outcome.total == 3.0)


NAN = np.full((4, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        ({"values": NAN}, pb.NOT_FINITE, "32 of 32 values are NaN"),
        ({"values": np.full((4, 8), 1e9, np.float32)}, pb.NORM_EXCEEDED, "root mean square 1e+09"),
        ({"values": np.zeros((5, 8), np.float32)}, pb.TOO_LARGE, "at most 128 fit"),
        ({"values": np.zeros((3, 8), np.float32)}, pb.WRONG_SHAPE, "[3, 8], expected [4, 8]"),
        ({"peers": [0]}, pb.FOREIGN_PEER, "peers [0] are not hosted by this worker, which has [2]"),
        ({"round": 7}, pb.FUTURE, "round 0 of epoch 1 is next"),
        ({"epoch": 9}, pb.WRONG_EPOCH, "epoch 9"),
        ({"batch": b""}, pb.MALFORMED, "16 bytes, found 0"),
    ],
    ids=["NaN", "norm", "too large", "shape", "foreign peer", "future", "epoch", "no digest"],
)
def test_a_bad_publication_is_refused_and_changes_nothing(
    group: Group, spoil: dict[str, Any], code: int, text: str
) -> None:
    """Its own code and a sentence; the round closes without it, and it is counted."""
    at, raw, opened, make_round = group
    reply = raw.say(*publication(opened, 2, **spoil)).header.reply
    assert reply.code == code
    assert text in reply.text
    raw.leave()
    unaffected(make_round(0))
    client = at.client()
    assert client.status().refused[pb.ReplyCode.Name(code)] == 1
    client.close()


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([b"garbage of no kind at all"], pb.MALFORMED),
        ([PREFIX.pack(2**31) + b"x" * 50], pb.MALFORMED),
        ([b""], pb.MALFORMED),
        (encode(pb.FrameHeader(part=pb.Part(offset=0)), [b"x"]), pb.MALFORMED),
        (encode(pb.FrameHeader(publish=pb.Publish(), in_shared=True, payload=64)), pb.MALFORMED),
        (encode(pb.FrameHeader(result=pb.Result())), pb.MALFORMED),
        (encode(pb.FrameHeader(publish=pb.Publish(), in_shared=True, payload=10**12)), pb.TOO_LARGE),
    ],
    ids=["garbage", "huge header", "nothing", "stray part", "no segment", "a coordinator's frame", "huge claim"],
)
def test_garbage_is_refused_and_ends_the_stream(group: Group, messages: list[bytes], code: int) -> None:
    """What is no frame, or none of a peer's, is answered by name; the stream ends, the group goes on."""
    _at, raw, _opened, make_round = group
    assert raw.say(*messages).header.reply.code == code
    with pytest.raises(EOFError):
        raw.read()
    raw.leave()
    unaffected(make_round(0))


def test_a_hundred_megabytes_are_refused_unread(group: Group) -> None:
    """GRPC's own limit, made for this run, ends the stream before the message is in memory."""
    at, raw, _opened, make_round = group
    with pytest.raises(grpc.RpcError) as refused:
        raw.say(bytes(100 * 1024 * 1024))
    error: Any = refused.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    raw.leave()
    unaffected(make_round(0))
    assert at.process is not None
    assert at.process.poll() is None


def test_another_batch_is_refused_with_both_digests(group: Group) -> None:
    """The first to publish, with another batch: refused at the close; the majority's total stands."""
    _at, raw, opened, make_round = group
    answers: list[pb.Reply] = []
    other = publication(opened, 2, batch=b"z" * 16)
    liar = threading.Thread(target=lambda: answers.append(raw.say(*other).header.reply))
    liar.start()
    unaffected(make_round(0))
    liar.join(20)
    assert answers[0].code == pb.BATCH_MISMATCH
    assert BATCH.hex() in answers[0].text
    assert (b"z" * 16).hex() in answers[0].text


def test_replays_are_refused_and_three_in_a_row_expel(group: Group) -> None:
    """An old publication again: stale, stale, expelled; then its bearer is told so, and nothing else."""
    at, raw, opened, make_round = group
    contributed: list[Any] = []
    for number in range(2):
        now = opened if number == 0 else contributed[0].header.result.next
        mine = publication(now, 2)
        other = threading.Thread(target=lambda mine=mine: contributed.append(raw.say(*mine)))  # type: ignore[misc]  # lambda
        other.start()
        make_round(number)
        other.join(20)
    replay = publication(opened, 2)
    codes = [raw.say(*replay).header.reply.code for _ in range(3)]
    assert codes == [pb.STALE, pb.STALE, pb.EXPELLED]
    assert raw.beat().code == pb.EXPELLED
    assert "3 publications in a row were refused" in raw.beat().text
    raw.open(pending=True)
    assert raw.say(*publication(contributed[1].header.result.next, 2)).header.reply.code == pb.EXPELLED
    unaffected(make_round(2))
    assert "3 publications in a row were refused" in at.log


def test_what_is_sent_again_is_answered_again(group: Group) -> None:
    """After a reconnect: the publication of the last round, twice, gets the same result; another one is refused."""
    _at, raw, opened, make_round = group
    mine = publication(opened, 2)
    first: list[Any] = []
    other = threading.Thread(target=lambda: first.append(raw.say(*mine)))
    other.start()
    make_round(0)
    other.join(20)
    raw.open(pending=True)
    again = raw.say(*mine)
    assert bytes(again.payload) == bytes(first[0].payload)
    assert again.header.result.digest == first[0].header.result.digest
    changed = publication(opened, 2, np.zeros((4, 8), np.float32), id=7)
    assert raw.say(*changed).header.reply.code == pb.DUPLICATE


def test_a_second_stream_takes_the_place_of_the_first(group: Group) -> None:
    """One stream for each bearer: the older one ends, the newer one works."""
    at, raw, opened, make_round = group
    older = raw._call
    raw.open(pending=True)
    with pytest.raises(grpc.RpcError) as ended:
        next(older)
    error: Any = ended.value
    assert error.code() == grpc.StatusCode.ABORTED
    answers: list[Any] = []
    other = threading.Thread(target=lambda: answers.append(raw.say(*publication(opened, 2))))
    other.start()
    outcomes = make_round(0)
    other.join(20)
    assert all(isinstance(outcome, Consensus) and outcome.contributors == (0, 1, 2) for outcome in outcomes)
    assert "its stream was down" not in at.log


def test_a_repeated_join_gives_the_same_membership(group: Group) -> None:
    """A Join whose reply was lost, sent again: the same peer id, no second worker."""
    at, raw, _opened, _make_round = group
    again = raw.stub.Join(raw.request, timeout=10)
    assert list(again.ticket.peers) == [2]
    client = at.client()
    until(lambda: len(client.status().workers) == 3, "three workers")
    client.close()


def test_publishing_too_fast_is_refused(tmp_path: Path) -> None:
    """More messages in a second than the limit: TOO_FAST, and three of them expel."""
    with coordinator(tmp_path, messages_per_second=2.0) as at:
        raw = RawPeer(at, 0)
        raw.open(pending=True)
        codes = [raw.say(*publication(pb.Next(round=5), 0)).header.reply.code for _ in range(3)]
        assert codes[0] == pb.FUTURE
        assert codes[1:3] == [pb.TOO_FAST, pb.EXPELLED]
        raw.close()
