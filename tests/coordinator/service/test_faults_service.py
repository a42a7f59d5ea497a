"""Peers and coordinators that die, stop and come back: real processes, real signals."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from coordinator.certificates import make_certs
from coordinator.service.settings import Tls
from coordinator.service.store import FILE
from coordinator.status import current
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.shared_memory import FOLDER
from peers.transport.values import Consensus, RunEnded
from tests.coordinator.service.processes import (
    ROOT,
    Coordinator,
    LightPeer,
    coordinator,
    info,
    receipts_agree,
    together,
    until,
)
from tests.coordinator.service.settled import BATCH
from tests.faults.proxy import Proxy

FAR = "127.0.0.9"
TIMES = {"heartbeat": 1.0, "round_deadline": 2.0, "join_window": 20.0, "max_peers": 8}


@pytest.fixture
def peers() -> Iterator[list[LightPeer]]:
    """Light peers that a test starts; reaped afterwards."""
    started: list[LightPeer] = []
    yield started
    for peer in started:
        peer.reap()


def start(peers: list[LightPeer], at: Coordinator, count: int, *arguments: str) -> None:
    """Start light peers 0, 1, ..., and wait until all are under way."""
    for number in range(count):
        peers.append(LightPeer(at, f"peer{number}", "--peer", str(number), "--pause", "0.01", *arguments))
    until(lambda: all(len(peer.lines("Consensus")) > 5 for peer in peers), "rounds close")


def rounds_go_on(peer: LightPeer, beyond: int) -> None:
    """Wait until a peer has been told of so many rounds."""
    until(lambda: len(peer.lines("Consensus")) > beyond, "rounds go on")


def longest_stall(peer: LightPeer) -> float:
    """Longest time between two outcomes of a peer, seconds."""
    times = [line["at"] for line in peer.lines() if "at" in line]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def shared_memory() -> set[str]:
    """Segments that have a name."""
    return {path.name for path in FOLDER.glob("peer-consensus-*")}


def test_a_killed_peer_is_not_waited_for_and_may_come_back(tmp_path: Path, peers: list[LightPeer]) -> None:
    """SIGKILL: the others go on within heartbeat and a second; the peer comes back under its id, incarnation 1."""
    with coordinator(tmp_path, group=3, rounds=100000, **TIMES) as at:
        start(peers, at, 3)
        peers[2].reap()
        reached = len(peers[0].lines("Consensus"))
        rounds_go_on(peers[0], reached + 20)
        assert peers[0].lines("Consensus")[-1]["contributors"] == [0, 1]
        until(lambda: "its stream was down" in at.log or "silent for more" in at.log, "it is expelled")
        peers.append(LightPeer(at, "peer2", "--peer", "2"))
        again = until(lambda: peers[3].lines("joined")[1:], "it joins again")[0]
        assert (again["peers"], again["incarnations"]) == ([2], [1])
        until(lambda: peers[0].lines("Consensus")[-1]["contributors"] == [0, 1, 2], "it contributes again")
        receipts_agree(peers)
        assert longest_stall(peers[0]) < TIMES["round_deadline"] + 1


def test_a_stopped_peer_is_expelled_told_so_and_rejoins(tmp_path: Path, peers: list[LightPeer]) -> None:
    """SIGSTOP beyond the heartbeat: expelled; when it wakes it reads the reason and joins as a new incarnation."""
    with coordinator(tmp_path, group=3, rounds=100000, **TIMES) as at:
        start(peers, at, 3)
        os.kill(peers[1].process.pid, signal.SIGSTOP)
        until(lambda: peers[0].lines("Consensus")[-1]["contributors"] == [0, 2], "it is expelled")
        os.kill(peers[1].process.pid, signal.SIGCONT)
        told = until(lambda: peers[1].lines("Expelled"), "it is told")[0]
        assert "heartbeat period" in told["reason"]
        again = until(lambda: peers[1].lines("joined")[1:], "it joins again")[0]
        assert again["incarnations"] == [1]
        until(lambda: len(peers[0].lines("Consensus")[-1]["contributors"]) == 3, "it contributes again")
        receipts_agree(peers)
        assert longest_stall(peers[0]) < TIMES["round_deadline"] + 1


@pytest.mark.parametrize("arguments", [[], ["--stream"]], ids=["shared memory", "stream"])
def test_a_killed_coordinator_comes_back_and_no_round_is_lost(
    tmp_path: Path, peers: list[LightPeer], arguments: list[str]
) -> None:
    """SIGKILL, twice, at arbitrary moments: peers reconnect, rounds go on without a gap, receipts agree."""
    before = shared_memory()
    with coordinator(tmp_path, group=3, rounds=100000, **TIMES) as at:
        start(peers, at, 3, *arguments)
        for _ in range(2):
            reached = len(peers[0].lines("Consensus"))
            at.kill()
            at.start()
            rounds_go_on(peers[0], reached + 10)
        client = at.client()
        client.stop("enough")
        client.close()
        for peer in peers:
            assert peer.process.wait(20) == 0
            assert not peer.lines("Expelled")
            assert all("stopped: enough" in line["reason"] for line in peer.lines("void"))
        rounds = receipts_agree(peers)
        assert sorted(rounds) == list(range(len(rounds))), "a round is missing"
        assert all(receipt[1] == (0, 1, 2) for receipt in rounds.values())
        assert at.ended() == 0
    # Other groups on this machine have names, too, for an instant: theirs come and go, ours must be gone.
    until(lambda: shared_memory() <= before, "no segment is left")


def test_answers_that_were_lost_are_given_by_the_next_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round closed, the coordinator died before a peer read its answer: the next one has it, the same bytes."""
    with coordinator(tmp_path, **{**TIMES, "heartbeat": 1.4}) as at:
        clients = [at.client(), at.client()]
        together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
        link = clients[0]._stream
        assert link is not None
        taken = link._handle
        lose = lambda frame, lane=None: None if frame.kind == "result" else taken(frame, lane)  # noqa: E731  # one use
        monkeypatch.setattr(link, "_handle", lose)
        for place, client in enumerate(clients):
            client.publish(0, {place: np.full((4, 8), place, np.float32)}, BATCH)
        there = clients[1].result(20)
        at.kill()
        monkeypatch.undo()
        at.start()
        here = clients[0].result(20)
        assert isinstance(here, Consensus)
        assert isinstance(there, Consensus)
        assert (here.digest, here.contributors, here.epoch) == (there.digest, there.contributors, there.epoch)
        assert here.total is not None
        assert there.total is not None
        assert here.total.tobytes() == there.total.tobytes()
        for client in clients:
            client.close()


def test_sigterm_is_no_end_of_the_run(tmp_path: Path, peers: list[LightPeer]) -> None:
    """SIGTERM ends the process with 0; started again, the run goes on; `stop` ends it."""
    with coordinator(tmp_path, group=2, rounds=100000, **TIMES) as at:
        start(peers, at, 2)
        assert at.process is not None
        at.process.terminate()
        assert at.ended() == 0
        reached = len(peers[0].lines("Consensus"))
        at.start()
        rounds_go_on(peers[0], reached + 5)
        client = at.client()
        client.stop("by the test")
        client.close()
        for peer in peers:
            peer.process.wait(20)
            assert peer.lines()[-1]["kind"] == RunEnded.__name__
            assert peer.lines()[-1]["reason"] == "stopped: by the test"
        assert at.ended() == 0


def refused(at: Coordinator, *arguments: str) -> str:
    """What a coordinator says that does not start; its exit code must be 2."""
    command = [sys.executable, "-m", "coordinator.service", "--settings", str(at.folder / "settings.json"), *arguments]
    done = subprocess.run(command, cwd=ROOT, timeout=20, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_coordinator_refuses_what_it_cannot_continue(tmp_path: Path) -> None:
    """A port or a state folder in use, another run's state, a damaged one: exit code 2 and a sentence."""
    with coordinator(tmp_path) as at:
        assert "in use by another coordinator" in refused(at)
        other = str(tmp_path / "other")
        assert "cannot listen on" in refused(at, "--bind", at.address, "--state", other)
    database = sqlite3.connect(tmp_path / "state" / FILE)
    with database:
        database.execute("UPDATE facts SET value = '\"elsewhere\"' WHERE name = 'run_id'")
    database.close()
    assert "belongs to another run: its run_id is elsewhere, expected run" in refused(at)
    (tmp_path / "state" / FILE).write_bytes(b"damage" * 1000)
    assert "is damaged" in refused(at)


def test_starts_in_about_a_second(tmp_path: Path) -> None:
    """Until it listens it has used less of a processor's time than importing torch alone would; it stays small."""
    with coordinator(tmp_path) as at:
        assert at.process is not None
        process = psutil.Process(at.process.pid)
        assert sum(process.cpu_times()[:2]) < 2.0
        assert process.memory_info().rss < 120 * 2**20


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_coordinator_far_away_is_reached(tmp_path: Path, tls: bool) -> None:
    """Each piece is 0.15 s under way: slower than peers try anew, and a connection takes several."""
    certs = make_certs(tmp_path / "certs", [FAR])
    secured = {"tls": Tls(str(certs.server), str(certs.server_key))} if tls else {}
    with coordinator(tmp_path, **secured) as at:
        way = Proxy(at.address, FAR)
        way.delay = 0.15
        access = Access(way.address, ca=str(certs.ca) if tls else None)
        clients = [StreamClient(access), StreamClient(access)]
        try:
            assert current(access).text == "0 of 2 peers have joined"
            together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
            for place, client in enumerate(clients):
                client.publish(0, {place: np.ones((4, 8), np.float32)}, BATCH)
            assert all(isinstance(client.result(20), Consensus) for client in clients)
        finally:
            for client in clients:
                client.close()
            way.close()
