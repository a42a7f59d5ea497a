"""A group through which peers come, go and die, and whose coordinator dies: its journals lead to the same weights."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from coordinator import status as console
from coordinator.replay import replay
from coordinator.service.journal import FILE
from peers.common.json_lines import objects
from peers.transport.access import Access
from tests.commands import TINY, rounds_recorded
from tests.conftest import Start
from tests.faults.elastic import ElasticGroup

TIMES = ("exchange.heartbeat=2", "exchange.round_deadline=4", "exchange.join_window=60")
RUN = ("group.peers=3", "run.rounds=100000", "checkpoint.every=10", "probe.every=0", "data.batch=128")


def test_a_faulty_run_is_replayed_bit_for_bit(start: Start, tmp_path: Path) -> None:
    """One is killed and resumes, one is stopped past its heartbeat, one is new; the coordinator is killed."""
    group = ElasticGroup(start, tmp_path, *TINY[:-1], *TIMES, *RUN)
    for peer in range(3):
        group.worker("--peer", str(peer))
    group.reached(25)
    group.workers[2].process.kill()
    back, newcomer = group.worker("--peer", "2", "--resume", "auto"), group.worker("--peer", "3")
    group.workers[1].process.send_signal(signal.SIGSTOP)
    group.workers[0].until(lambda: 1 not in group.members())
    group.workers[1].process.send_signal(signal.SIGCONT)
    group.workers[1].until(lambda: "expelled: " in group.workers[1].output.read_text())
    back.until(lambda: "peer 2 resumed at round" in back.output.read_text())
    newcomer.until(lambda: group.members() == {0, 1, 2, 3})
    group.restart_coordinator()
    group.reached(rounds_recorded(group.folder) + 15)
    console.stop(Access(group.address), "enough for today")
    for worker in (*group.workers[:2], back, newcomer):
        code, output = worker.wait()
        assert code == 0, output
    group.close()

    state = tmp_path / "state"
    found = replay(group.folder, state)
    assert found.differences == ()
    assert found.peers == (0, 1, 2, 3)
    assert (found.receipts, found.lives) == (found.rounds, 5)
    missed = [line.get("skipped") for line in objects(group.folder / "journal" / "peer-001.jsonl")]
    assert missed.count("expelled") == 1
    _alter(state / FILE)
    differences = replay(group.folder, state).differences
    assert [(each.round, each.peer, each.expected[1:] == each.found[1:]) for each in differences] == [(9, None, True)]


def _alter(path: Path) -> None:
    """Another letter, one bit away, at the beginning of the digest of round 9."""
    head = next(line for line in path.read_text().splitlines() if line.startswith('{"round": 9,')).partition("digest")
    digest = json.loads("".join(head))["digest"]
    path.write_text(path.read_text().replace(digest, f"{int(digest[0], 16) ^ 1:x}{digest[1:]}"))
