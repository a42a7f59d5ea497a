"""Frames of a worker that shares memory go by a lane; who else may use it, and what it costs when it breaks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from peers.exchange.lane import LENGTH, Lane
from peers.exchange.stream import StreamClient
from peers.exchange.stream_outcomes import RoundResult
from tests.coordinator.service.processes import coordinator, info, together
from tests.coordinator.service.settled import BATCH


class Watched(Lane):
    """A lane that counts what it carries, and remembers its kind."""

    made: list[Watched]

    def __init__(self, name: str, nonce: bytes) -> None:
        super().__init__(name, nonce)
        self.name, self.nonce, self.sent = name, nonce, 0
        self.made.append(self)

    def send(self, message: bytes) -> None:
        self.sent += 1
        super().send(message)

    @property
    def raw(self) -> socket.socket:
        """The socket itself."""
        return self._socket


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """All lanes that clients of this process make."""
    Watched.made = []
    monkeypatch.setattr("peers.exchange.stream_link.Lane", Watched)
    return Watched.made


@pytest.fixture
def pair(tmp_path: Path, lanes: list[Watched]) -> Iterator[list[StreamClient]]:
    """Two workers of a group, joined, in turn."""
    with coordinator(tmp_path) as service:
        clients = [service.client() for _ in range(2)]
        together(*(lambda one=one, peer=peer: one.join(info(peer)) for peer, one in enumerate(clients)))
        yield clients
        for client in clients:
            client.close()


def a_round(clients: list[StreamClient], round_: int) -> list[RoundResult]:
    """A round in which all publish; who waits for a result sees to a lane that broke, so all wait side by side."""
    for peer, client in enumerate(clients):
        client.publish(round_, {peer: np.full((4, 8), peer + round_, np.float32)}, BATCH)
    outcomes = together(*(client.result for client in clients))
    assert all(isinstance(outcome, RoundResult) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, RoundResult)]


def check(results: list[RoundResult], round_: int) -> None:
    """All got the sum."""
    for result in results:
        assert result.total is not None
        assert (result.total == 2 * round_ + 1).all()
    assert len({result.digest for result in results}) == 1


def test_every_publication_goes_by_the_lane(pair: list[StreamClient], lanes: list[Watched]) -> None:
    """One message for each, and none of them on the stream; abstaining goes that way, too."""
    for round_ in range(5):
        check(a_round(pair, round_), round_)
    pair[0].publish(5, {0: None}, BATCH)
    pair[1].publish(5, {1: np.ones((4, 8), np.float32)}, BATCH)
    assert [client.result() for client in pair]
    assert [lane.sent for lane in lanes] == [6, 6]


def test_a_lane_that_breaks_costs_no_round(pair: list[StreamClient], lanes: list[Watched]) -> None:
    """It breaks while a publication waits for its answer: the worker connects again, and both get the sum."""
    check(a_round(pair, 0), 0)
    pair[0].publish(1, {0: np.full((4, 8), 1, np.float32)}, BATCH)
    lanes[0].raw.shutdown(socket.SHUT_RDWR)
    pair[1].publish(1, {1: np.full((4, 8), 2, np.float32)}, BATCH)
    found = together(pair[0].result, pair[1].result)
    check([outcome for outcome in found if isinstance(outcome, RoundResult)], 1)
    assert len(found) == 2
    check(a_round(pair, 2), 2)
    assert len(lanes) == 3


def test_a_message_beyond_any_header_ends_the_lane_alone(pair: list[StreamClient], lanes: list[Watched]) -> None:
    """Its length is refused before anything is read; the worker is still a member and has a new lane."""
    check(a_round(pair, 0), 0)
    lanes[0].raw.sendall(LENGTH.pack(1 << 30))
    check(a_round(pair, 1), 1)
    assert len(lanes) == 3


def test_strangers_get_no_lane(pair: list[StreamClient], lanes: list[Watched]) -> None:
    """Neither with a nonce of nobody's, nor a second one with that of a lane that stands; who has one keeps it."""
    with pytest.raises(ConnectionRefusedError, match="does not know the segment"):
        Lane(lanes[0].name, os.urandom(32))
    with pytest.raises(ConnectionRefusedError, match="does not know the segment"):
        Lane(lanes[0].name, lanes[0].nonce)
    check(a_round(pair, 0), 0)
    assert len(lanes) == 2
