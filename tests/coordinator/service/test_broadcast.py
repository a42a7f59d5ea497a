"""Results that are laid down once for all: who may write them, who finds out that one is gone, and what that costs."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.service.lanes import Lanes
from peers.method.target_selection import TargetSelection
from peers.transport.broadcast import SLOTS, Broadcast, OverwrittenError, Reception
from peers.transport.client import StreamClient
from peers.transport.values import Consensus
from tests.coordinator.service.processes import coordinator, info, together
from tests.coordinator.service.settled import BATCH


def test_two_results_stand_and_the_third_takes_the_place_of_the_first() -> None:
    """A generation is read as it was written, or not at all; what is read is the reader's own."""
    ours = Broadcast(100)
    theirs = Reception(ours.descriptor)
    first, second = ours.write([b"a" * 60, memoryview(b"b" * 40)]), ours.write([b"second"])
    read = theirs.read(first, 100)
    assert read == b"a" * 60 + b"b" * 40
    assert theirs.read(second, 6) == b"second"
    third = ours.write([b"c" * 100])
    assert third % SLOTS == first % SLOTS
    with pytest.raises(OverwrittenError, match="result 1 was replaced"):
        theirs.read(first, 100)
    assert read == b"a" * 60 + b"b" * 40
    assert theirs.read(third, 100) == b"c" * 100
    with pytest.raises(OverwrittenError):
        theirs.read(third + SLOTS, 100)
    with pytest.raises(ValueError, match="larger than its slot"):
        theirs.read(third, 129)
    ours.close()
    assert theirs.read(second, 6) == b"second"


def test_a_result_that_is_being_replaced_is_noticed() -> None:
    """While a slot is written it is of no generation."""
    ours = Broadcast(8)
    theirs = Reception(ours.descriptor)
    generations = [ours.write([b"x" * 8]) for _ in range(SLOTS)]

    def parts() -> Iterator[bytes]:
        yield b"half"
        with pytest.raises(OverwrittenError):
            theirs.read(generations[0], 8)
        yield b"done"

    newest = ours.write(parts())
    assert theirs.read(newest, 8) == b"halfdone"
    ours.close()


def test_only_the_coordinator_writes() -> None:
    """Who holds the descriptor can neither map it to write, nor write to it, nor change its size."""
    ours = Broadcast(8)
    size = os.fstat(ours.descriptor).st_size
    for attempt in (
        lambda: mmap.mmap(ours.descriptor, size),
        lambda: os.pwrite(ours.descriptor, b"x", 0),
        lambda: os.ftruncate(ours.descriptor, size // 2),
        lambda: os.ftruncate(ours.descriptor, size * 2),
    ):
        with pytest.raises(PermissionError):
            attempt()
    ours.close()


def test_memory_that_could_vanish_under_its_reader_is_refused(tmp_path: Path) -> None:
    """A file, memory without seals, or of a size that holds no results."""
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(PermissionError, match="not sealed"):
        Reception(descriptor)
    os.close(descriptor)
    with (tmp_path / "file").open("wb+") as file, pytest.raises(OSError, match="Invalid argument"):
        Reception(file.fileno())
    empty = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(empty, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(PermissionError, match="has 0 bytes"):
        Reception(empty)
    os.close(empty)


def test_a_host_without_such_memory_gives_every_worker_its_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for all is no error: lanes hand none out, and ask the host once."""
    asked = []

    def refuses(*_: object) -> int:
        asked.append(True)
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuses)
    lanes = Lanes(1024, 5.0, 128)
    assert lanes.shared() is None
    assert lanes.shared() is None
    assert lanes.broadcast is None
    assert asked == [True]
    assert Lanes(1024, 5.0).shared() is None


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_members_read_the_same_result_and_one_that_is_too_late_asks_again(tmp_path: Path, rule: str) -> None:
    """Results of several rounds, right in each member; one of them finds a replaced one, once, and loses no round."""
    with coordinator(tmp_path, rule=TargetSelection(rule, 0)) as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place, rule=rule)) for place in (0, 1)))
        for round_ in range(5):
            if round_ == 3:
                _misplace(clients[1])
            for peer, client in enumerate(clients):
                client.publish(round_, {peer: np.full((4, 8), round_ + peer, np.float32)}, BATCH)
            for result in together(*(client.result for client in clients)):
                assert isinstance(result, Consensus), result
                found = result.total if rule == "mean" else result.aggregate
                assert found is not None
                assert (found == (2 * round_ + 1 if rule == "mean" else round_ + 0.5)).all()
        for client in clients:
            assert client._stream is not None
            assert client._stream._lane is not None
            assert client._stream._lane.reception is not None
            client.close()


def _misplace(client: StreamClient) -> None:
    """Let a client look for its next result where another stands."""
    assert client._stream is not None
    lane = client._stream._lane
    assert lane is not None
    other = Broadcast(4 * 8 * 4)
    lane.reception = Reception(other.descriptor)
    other.close()
