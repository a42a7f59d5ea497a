"""Shared memory: who may map it, and that nothing of it is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from peers.transport import shared_memory as shared
from peers.transport.client import StreamClient
from peers.transport.shared_memory import FOLDER, NONCE_BYTES, Segment, room_for, sweep
from peers.transport.values import Consensus
from protos.tensors import Float32
from tests.coordinator.service.processes import ROOT, coordinator, info, together, until
from tests.coordinator.service.settled import BATCH


def names() -> set[str]:
    """Segments that have a name."""
    return {path.name for path in FOLDER.glob("peer-consensus-*")}


def test_both_sides_see_the_same_bytes() -> None:
    """Each part carries one direction; after unlinking the name is gone and the memory still there."""
    up = room_for(64)
    mine, nonce = Segment.create(up, 100)
    assert (FOLDER / mine.name).stat().st_mode & 0o777 == 0o600
    theirs = Segment.open(mine.name, up, 100, nonce)
    mine.unlink()
    assert mine.name not in names()
    at = mine.put([b"up", memoryview(b"ward")], 6)
    assert at is not None
    theirs.answer([b"d" * 100])
    assert theirs.read(at, 6) == b"upward"
    assert mine.answered(100) == b"d" * 100
    assert mine.put([bytes(65)], 65) is None
    with pytest.raises(ValueError, match="1 bytes more"):
        theirs.answer([b"d" * 101])
    for begin, size in ((0, up + 1), (up, 1), (2**64 - 1, 6)):
        with pytest.raises(ValueError, match=f"{size} bytes at byte {begin} goes beyond byte {up}"):
            theirs.read(begin, size)
    for segment in (mine, theirs):
        segment.close()


def test_what_is_lent_is_the_borrowers_as_long_as_it_is_looked_at() -> None:
    """Two places in turn, none twice while an array of it lives; what is put, or answered, lies elsewhere."""
    shape, count = (4, 2), 2
    mine, nonce = Segment.create(room_for(64), 64)
    theirs = Segment.open(mine.name, mine.up, 64, nonce)

    def lent(value: float) -> tuple[int, list[Float32]]:
        found = mine.lend(shape, count)
        assert found is not None
        assert found.segment is mine
        for k, array in enumerate(found.arrays):
            array[:] = value + k
        return found.at, list(found.arrays)

    first, one = lent(1.0)
    second, two = lent(3.0)
    assert mine.lend(shape, count) is None
    assert mine.put([b"p" * 64], 64) not in (None, first, second)
    theirs.answer([b"a" * 64])
    for at, value in ((first, 1.0), (second, 3.0)):
        assert np.frombuffer(theirs.read(at, 64), np.float32).tolist() == [value] * 8 + [value + 1] * 8
    assert [array[0, 0] for array in one] == [1.0, 2.0]
    row = two[1][2]  # a part of one of them is enough
    del two
    assert mine.lend(shape, count) is None
    del one
    assert lent(5.0)[0] == first
    assert mine.lend((4, 5), 1) is None, "more than fits"
    for segment in (mine, theirs):
        segment.close()
    assert row.tolist() == [4.0, 4.0], "the memory goes with the last that looks at it"


def test_nothing_is_lent_of_a_segment_that_is_closed() -> None:
    """It fails, as all use of it does, instead of giving out memory that is gone."""
    mine, _nonce = Segment.create(room_for(64), 64)
    mine.close()
    with pytest.raises(ValueError, match="released"):
        mine.lend((4, 2), 1)


def counts() -> list[int]:
    """How much shared memory this process has open, named or not: segments in their folder, and what all get alike."""
    files = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # other threads open and close files of their own meanwhile
            files.append(os.readlink(path))
    return [sum("peer-consensus" in name and kind in name for name in files) for kind in (str(FOLDER), "memfd:")]


@pytest.mark.parametrize("name", ["../etc/passwd", "peer-consensus-x", "other", "", "peer-consensus-" + "0" * 33])
def test_only_names_of_segments_are_opened(name: str) -> None:
    """A name that could lead elsewhere is refused before anything is opened."""
    with pytest.raises(ValueError, match="not one of a segment"):
        Segment.open(name, 64, 64, bytes(NONCE_BYTES))


def test_what_is_not_the_offered_segment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another nonce, another size, other rights, a link: each refused."""
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    mine, nonce = Segment.create(64, 64)
    path = tmp_path / mine.name
    with pytest.raises(ValueError, match="nonce is not there"):
        Segment.open(mine.name, 64, 64, bytes(NONCE_BYTES))
    with pytest.raises(ValueError, match="128 bytes, 192 were offered"):
        Segment.open(mine.name, 64, 128, nonce)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="this user alone"):
        Segment.open(mine.name, 64, 64, nonce)
    path.chmod(0o600)
    link = tmp_path / ("peer-consensus-" + "0" * 32)
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        Segment.open(link.name, 64, 64, nonce)
    mine.close()


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not() -> None:
    """A process that died between creating and unlinking leaves a file; the next start removes it, and no other."""
    code = (
        "import os; from peers.transport.shared_memory import Segment; "
        "made = Segment.create(64, 64); print(made[0].name, flush=True); os._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    dead = done.stdout.strip()
    living, _nonce = Segment.create(64, 64)
    assert {dead, living.name} <= names()
    assert sweep() >= 1
    assert dead not in names()
    assert living.name in names()
    living.close()
    assert living.name not in names()


def test_without_shared_memory_the_stream_carries_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned off by the coordinator's settings, or impossible on the peer's side: the peers join all the same."""
    with coordinator(tmp_path, shared_memory=False) as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
        assert [client.shares_memory for client in clients] == [False, False]
        assert all(not worker.shared_memory for worker in clients[0].status().workers)
        for client in clients:
            client.close()
    (tmp_path / "two").mkdir()
    monkeypatch.setattr(shared, "FOLDER", tmp_path / "missing")
    with coordinator(tmp_path / "two") as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
        assert [client.shares_memory for client in clients] == [False, False]
        for client in clients:
            client.close()


def test_names_are_gone_once_both_sides_have_mapped(tmp_path: Path) -> None:
    """While a group runs over shared memory, no segment has a name, and descriptors do not pile up."""
    before = names()
    gc.collect()  # an earlier test's clients, if an error still held on to them
    mapped = counts()  # other tests of this process keep some for good
    with coordinator(tmp_path) as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
        assert [client.shares_memory for client in clients] == [True, True]
        assert all(worker.shared_memory for worker in clients[0].status().workers)
        # Other groups on this machine have names, too, for an instant: theirs come and go, ours must go.
        until(lambda: names() <= before, "no segment has a name")
        more = [now - then for now, then in zip(counts(), mapped, strict=True)]
        assert more == [len(clients)] * 2, "each mapping keeps one"
        for client in clients:
            client.close()
        assert counts() == mapped
    until(lambda: names() <= before, "no segment has a name")


def test_outputs_as_they_were_sent_may_be_kept(tmp_path: Path) -> None:
    """Of more rounds than places are lent: none is overwritten by a later round, or by the caller, or by leaving."""
    rounds, shape = 5, (4, 8)

    def live(client: StreamClient, peer: int) -> list[Consensus[Float32]]:
        kept = []
        client.join(info(peer))
        for round_ in range(rounds):
            outputs = np.full(shape, 10 * round_ + peer, np.float32)
            client.publish(round_, {peer: outputs}, BATCH)
            outputs.fill(np.nan)
            result = client.result(20)
            assert isinstance(result, Consensus)
            kept.append(result)
        client.leave()
        client.close()
        return kept

    with coordinator(tmp_path) as at:
        clients = [at.client(), at.client()]
        kept = together(*(lambda peer=peer: live(clients[peer], peer) for peer in (0, 1)))
    for peer, results in enumerate(kept):
        for round_, result in enumerate(results):
            assert result.total is not None
            assert (result.sent[peer] == 10 * round_ + peer).all()
            assert (result.total == 20 * round_ + 1).all()
