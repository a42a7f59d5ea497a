"""Shared memory: who may map it, and that nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from peers.exchange import shared
from peers.exchange.shared import FOLDER, NONCE_BYTES, Segment, sweep
from tests.coordinator.service.processes import ROOT, coordinator, info, together, until


def names() -> set[str]:
    """Segments that have a name."""
    return {path.name for path in FOLDER.glob("peer-consensus-*")}


def test_both_sides_see_the_same_bytes() -> None:
    """Each half carries one direction; after unlinking the name is gone and the memory still there."""
    mine, nonce = Segment.create(64, 100)
    assert (FOLDER / mine.name).stat().st_mode & 0o777 == 0o600
    theirs = Segment.open(mine.name, 64, 100, nonce)
    mine.unlink()
    assert mine.name not in names()
    mine.write([b"up", memoryview(b"ward")], answer=False)
    theirs.write([b"d" * 100], answer=True)
    assert theirs.read(6, answer=False) == b"upward"
    assert mine.read(100, answer=True) == b"d" * 100
    with pytest.raises(ValueError, match="1 bytes more"):
        theirs.write([b"d" * 101], answer=True)
    with pytest.raises(ValueError, match="65 bytes is larger"):
        theirs.read(65, answer=False)
    for segment in (mine, theirs):
        segment.close()


def descriptors(kind: str = "") -> list[str]:
    """Shared memory that this process has open, named or not: segments in their folder, or what all get alike."""
    files = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # other threads open and close files of their own meanwhile
            files.append(os.readlink(path))
    return [name for name in files if "peer-consensus" in name and kind in name]


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
        "import os; from peers.exchange.shared import Segment; "
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
    with coordinator(tmp_path) as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
        assert [client.shares_memory for client in clients] == [True, True]
        assert all(worker.shared_memory for worker in clients[0].status().workers)
        # Other groups on this machine have names, too, for an instant: theirs come and go, ours must go.
        until(lambda: names() <= before, "no segment has a name")
        segments, common = (len(descriptors(kind)) for kind in (str(FOLDER), "memfd:"))
        assert (segments, common) == (len(clients), len(clients)), "each mapping keeps one"
        for client in clients:
            client.close()
        assert not descriptors()
    until(lambda: names() <= before, "no segment has a name")
