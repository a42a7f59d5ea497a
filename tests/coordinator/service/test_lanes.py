"""Frames go by a lane, on the host and over the network; who else may use it, and what it costs when it breaks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.certificates import make_certs
from coordinator.service.settings import Tls
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.lane import KEY_BYTES, LENGTH, READ_AHEAD, Inbox, Lane, laid
from peers.transport.values import Consensus
from protos.frames import Buffer, Frame, FrameTooLargeError
from tests.coordinator.service.processes import Coordinator, coordinator, info, together, until
from tests.coordinator.service.settled import BATCH

SHAPE = (64, 1024)
"""Of outputs that no socket takes in one piece."""
TERMS = 0, 5.0


class Watched(Lane):
    """A lane that counts what it carries, and remembers its kind."""

    made: list[Watched]
    then: Callable[[], None] | None = None
    """Happens once, between the arrival of a frame and its reading."""

    def __init__(self, connected: socket.socket, key: bytes, payload_limit: int, patience: float) -> None:
        self.sent = -1  # the key is a message, too
        super().__init__(connected, key, payload_limit, patience)
        self.key = key
        self.made.append(self)

    def send(self, message: Sequence[Buffer]) -> None:
        self.sent += 1
        super().send(message)

    def frame(self, timeout: float) -> Frame:
        frame, then = super().frame(timeout), self.then
        if then is not None:
            self.then = None
            then()
        return frame

    @property
    def raw(self) -> socket.socket:
        """The socket itself."""
        return self._socket


class Pair:
    """Two workers of a group, joined, in turn."""

    def __init__(self, service: Coordinator, clients: list[StreamClient]) -> None:
        self.service, self.clients = service, clients
        together(*(partial(one.join, info(peer, shape=SHAPE)) for peer, one in enumerate(clients)))

    def close(self) -> None:
        """Both go, without a word."""
        for client in self.clients:
            client.close()

    def publish(self, peer: int, round_: int) -> None:
        """One of them publishes."""
        self.clients[peer].publish(round_, {peer: np.full(SHAPE, peer + round_, np.float32)}, BATCH)

    def a_round(self, round_: int, published: Sequence[int] = ()) -> None:
        """A round in which all publish; who waits for a result sees to a lane that broke, so all wait side by side."""
        for peer in {0, 1} - set(published):
            self.publish(peer, round_)
        results = together(*(client.result for client in self.clients))
        for result in results:
            assert isinstance(result, Consensus), result
            assert result.total is not None
            assert result.total.shape == SHAPE
            assert (result.total == 2 * round_ + 1).all()
        assert len({result.digest for result in results if isinstance(result, Consensus)}) == 1


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """All lanes that clients of this process make."""
    Watched.made = []
    monkeypatch.setattr("peers.transport.stream.Lane", Watched)
    return Watched.made


@pytest.fixture(params=["on the host", "tcp", "tls", "mutual tls"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, lanes: list[Watched]) -> Iterator[Pair]:
    """Two workers that share memory with their coordinator, or do not."""
    service: dict[str, Any] = {}
    access: dict[str, Any] = {}
    if "tls" in request.param:
        certs, mutual = make_certs(tmp_path / "certs", ["127.0.0.1"]), request.param.startswith("mutual")
        ca = str(certs.ca)
        service["tls"] = Tls(str(certs.server), str(certs.server_key), ca if mutual else None)
        access |= {"ca": ca, **({"certificate": str(certs.peer), "key": str(certs.peer_key)} if mutual else {})}
    with coordinator(tmp_path, shape=SHAPE, **service) as at:
        clients = [at.client(shared=request.param == "on the host", **access) for _ in range(2)]
        with closing(Pair(at, clients)) as made:
            yield made


def test_every_publication_goes_by_the_lane(pair: Pair, lanes: list[Watched]) -> None:
    """One message for each, and none of them on the stream; abstaining goes that way, too."""
    for round_ in range(5):
        pair.a_round(round_)
    pair.clients[0].publish(5, {0: None}, BATCH)
    pair.publish(1, 5)
    assert [client.result() for client in pair.clients]
    assert [lane.sent for lane in lanes] == [6, 6]


def test_a_lane_that_breaks_costs_no_round(pair: Pair, lanes: list[Watched]) -> None:
    """It breaks while a publication waits for its answer: the worker connects again, and both get the sum."""
    pair.a_round(0)
    pair.publish(0, 1)
    lanes[0].raw.shutdown(socket.SHUT_RDWR)
    pair.a_round(1, published=[0])
    pair.a_round(2)
    assert len(lanes) == 3


def test_an_answer_that_comes_as_its_stream_ends_is_asked_for_again(pair: Pair, lanes: list[Watched]) -> None:
    """The memory that it lies in goes with the stream, so it is left unread; the next stream brings it."""
    pair.a_round(0)
    link: Any = pair.clients[0]._stream

    def ends() -> None:
        old = link._lane
        link._call.cancel()
        until(lambda: link._lane is not old, "the stream ends")

    next(lane for lane in lanes if lane is link._lane).then = ends
    pair.a_round(1)
    pair.a_round(2)
    assert len(lanes) == 3


def test_a_message_beyond_any_frame_ends_the_lane_alone(pair: Pair, lanes: list[Watched]) -> None:
    """Its length is refused before anything is read; the worker is still a member and has a new lane."""
    pair.a_round(0)
    lanes[0].raw.sendall(LENGTH.pack(1 << 30))
    pair.a_round(1)
    assert len(lanes) == 3


def again(pair: Pair, lane: Watched, key: bytes) -> Lane:
    """Another lane of the same kind, with a key."""
    if lane.raw.family == socket.AF_UNIX:
        return Lane.on_host(bytes(lane.raw.getpeername())[1:].decode(), key, *TERMS)
    return Lane.to_host(pair.clients[0]._access, lane.raw.getpeername()[1], key, *TERMS)


def test_strangers_get_no_lane(pair: Pair, lanes: list[Watched]) -> None:
    """Neither with a key of nobody's, nor a second one with that of a lane that stands; who has one keeps it."""
    for key in (os.urandom(KEY_BYTES), lanes[0].key, b"", os.urandom(KEY_BYTES + 1)):
        with pytest.raises(ConnectionError):
            again(pair, lanes[0], key)
    pair.a_round(0)
    assert len(lanes) == 2


def _by_network(at: Coordinator) -> Pair:
    """Two workers that share no memory with their coordinator."""
    return Pair(at, [at.client(shared=False) for _ in range(2)])


def test_without_a_port_everything_goes_by_the_stream(tmp_path: Path, lanes: list[Watched]) -> None:
    """The coordinator offers none, or what it offers cannot be reached: the same sums."""
    with coordinator(tmp_path, shape=SHAPE, lane_port=None) as at, closing(_by_network(at)) as pair:
        pair.a_round(0)
    assert lanes == []


def test_a_lane_that_cannot_be_reached_is_done_without(
    tmp_path: Path, lanes: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a firewall: the worker says so and takes the stream."""

    def unreachable(*_: object) -> Lane:
        raise TimeoutError("timed out")

    monkeypatch.setattr(Watched, "to_host", unreachable)
    with coordinator(tmp_path, shape=SHAPE) as at, closing(_by_network(at)) as pair:
        pair.a_round(0)
    assert lanes == []


def test_those_who_show_no_key_are_few_and_do_not_stay(tmp_path: Path, lanes: list[Watched]) -> None:
    """Of a hundred silent connections most are closed at once and all soon; a worker gets its lane afterwards."""
    with coordinator(tmp_path, shape=SHAPE) as at, closing(_by_network(at)) as pair:
        where = lanes[0].raw.getpeername()
        strangers = [socket.create_connection(where) for _ in range(100)]
        for stranger in strangers:
            assert stranger.recv(1) == b""
            stranger.close()
        lanes[0].raw.shutdown(socket.SHUT_RDWR)
        pair.a_round(0)
        assert len(lanes) == 3


def test_a_flood_of_messages_waits_in_the_sockets(pair: Pair, lanes: list[Watched]) -> None:
    """Who sends on while an answer is due is not read any more, however much it is; the group goes on without it."""
    pair.a_round(0)
    lanes[0].raw.settimeout(1.0)
    before = _memory(pair.service)
    pair.publish(0, 1)
    with pytest.raises(OSError):  # noqa: PT011  # the socket is full, or the coordinator has closed it
        _flood(lanes[0])
    assert _memory(pair.service) - before < 16 * 2**20
    lanes[0].raw.close()


def _flood(lane: Lane) -> None:
    while True:
        lane.send([bytes(SHAPE[0] * SHAPE[1] * 4)])


def _memory(service: Coordinator) -> int:
    """Bytes that the coordinator holds."""
    assert service.process is not None
    fields = Path(f"/proc/{service.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """The coordinator does not start, and says which setting it is."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        made = Coordinator(tmp_path, lane_port=port)
        with pytest.raises(AssertionError, match=rf"coordinator\.lane_port = {port}: cannot listen on 127\.0\.0\.1"):
            made.start()
        assert made.ended() == 2


@given(
    sizes=st.lists(st.one_of(st.integers(0, 300), st.integers(READ_AHEAD - 9, READ_AHEAD + 9)), max_size=8),
    cuts=st.lists(st.integers(1, 2 * READ_AHEAD), min_size=1),
)
def test_messages_come_out_as_they_went_in(sizes: list[int], cuts: list[int]) -> None:
    """Whatever pieces a socket reads them in."""
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    stream, inbox, found, turn = laid([[one] for one in sent]), Inbox(2 * READ_AHEAD), [], 0
    while stream:
        room = inbox.room()
        took = min(len(stream), len(room), cuts[turn % len(cuts)])
        room[:took] = stream[:took]
        inbox.took(took)
        stream, turn = stream[took:], turn + 1
        while (message := inbox.take()) is not None:
            found.append(bytes(message))
    assert found == sent


def test_no_room_is_made_for_a_message_that_is_too_long() -> None:
    """Its length alone is read."""
    inbox = Inbox(1000)
    inbox.room()[: LENGTH.size] = LENGTH.pack(1001)
    inbox.took(LENGTH.size)
    with pytest.raises(FrameTooLargeError, match="a message of 1001 bytes, at most 1000"):
        inbox.take()


def test_a_key_that_is_not_answered_makes_no_lane() -> None:
    """Who listens there is silent: the worker waits so long and no longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        Lane.to_host(Access("127.0.0.1:1"), silent.getsockname()[1], os.urandom(KEY_BYTES), *TERMS)
