"""Peers come, go and fail, the coordinator dies; the others go on, and nobody trains on anything but the consensus."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import TINY, summary
from tests.conftest import Start
from tests.faults.conftest import TIMES, Through
from tests.faults.elastic import ElasticGroup
from tests.faults.faulty_exchange import Fault
from tests.faults.judge import judge
from tests.faults.plan import NOBODY, FaultPlan

Elastic = Callable[..., ElasticGroup]

DIGITS = (*TIMES, "device=cpu", "checkpoint.every=5", "metrics.every=1", "metrics.tensorboard=false", "probe.every=0")


@pytest.fixture
def elastic(start: Start, tmp_path: Path) -> Iterator[Elastic]:
    """Starts elastic groups; what is left of them is reaped."""
    groups: list[ElasticGroup] = []

    def begin(*flags: str) -> ElasticGroup:
        groups.append(ElasticGroup(start, tmp_path, *flags))
        return groups[-1]

    yield begin
    for group in groups:
        group.close()


@pytest.mark.timeout(600)
def test_six_peers_survive_everything(through: Through) -> None:
    """Two are killed, one of them comes back; one is stopped past its heartbeat and wakes up; one is new; the
    coordinator is killed. The run ends by itself, receipts agree, no stall exceeds the deadline by a second.
    """  # noqa: D205  # the claim has two sentences
    dice = random.SystemRandom()
    rounds = sorted(dice.sample(range(10, 90), 4))
    kinds = (("replaced", 1), ("sigkill", 2), ("sigstop", 3), ("coordinator_kill", NOBODY))
    plan = FaultPlan(tuple(Fault(kind, at, peer) for at, (kind, peer) in zip(rounds, kinds, strict=True)))
    told = through(plan, "optimizer.learning_rate=5e-4", base=DIGITS, peers=6)
    judge(told)
    result = summary(told.folder)
    assert {report["peer"] for report in result["per_peer"]} == {0, 1, 2, 3, 4, 5}
    by_peer = {report["peer"]: report for report in result["per_peer"]}
    assert by_peer[1]["incarnation"] > 0, "a newcomer is a new network, not a copy of the one whose id it has"
    assert by_peer[2]["incarnation"] == 0, "a peer that comes back has its own weights"
    assert by_peer[3]["skips"]["expelled"] == 1
    assert result["gain"]["knn"] > 0


def test_below_the_minimum_the_group_waits_visibly_and_goes_on(elastic: Elastic) -> None:
    """Of two peers one dies: status says what it waits for; with a newcomer the run goes on and ends."""
    group = elastic(*TINY, *TIMES[:1], "group.peers=2", "run.rounds=600", "probe.every=0")
    workers = [group.worker("--peer", str(peer)) for peer in range(2)]
    group.reached(20)
    workers[1].process.kill()
    workers[0].until(lambda: group.status()["phase"] == "WAITING")
    assert "1 peers are left, at least 2 are needed" in group.status()["text"]
    code, output = group.command("status", group.address)
    assert code == 0, output
    assert "waiting (1 peers are left" in output
    newcomer = group.worker()
    for worker in (workers[0], newcomer):
        code, output = worker.wait()
        assert code == 0, output
    assert len(summary(group.folder)["per_peer"]) == 2


def test_a_group_that_stays_too_small_ends_with_checkpoints(elastic: Elastic) -> None:
    """After the join window: the survivor has saved, says why it ended, and the coordinator's exit code is 3."""
    times = ("exchange.heartbeat=1", "exchange.round_deadline=2", "exchange.join_window=20")
    group = elastic(*TINY[:-1], *times, "group.peers=2", "run.rounds=100000", "checkpoint.every=100000")
    workers = [group.worker("--peer", str(peer)) for peer in range(2)]
    group.reached(20)
    workers[1].process.kill()
    code, output = workers[0].wait()
    assert code == 0, output
    assert "at least 2 are needed; saved; --resume auto continues" in output
    assert (group.folder / "checkpoints" / "peer-000" / "latest").resolve().is_file()
    assert group.coordinator.wait()[0] == 3


def test_stop_ends_the_run_for_all_in_the_same_round(elastic: Elastic) -> None:
    """`coordinator stop`: every worker saves the same round and exits with 0."""
    group = elastic(*TINY, *TIMES, "group.peers=2", "run.rounds=100000")
    workers = [group.worker("--peer", str(peer)) for peer in range(2)]
    group.reached(20)
    code, output = group.command("stop", group.address, "--reason", "enough for today")
    assert code == 0, output
    for worker in workers:
        code, output = worker.wait()
        assert code == 0, output
        assert "enough for today; saved" in output
    saved = {path.resolve().name for path in group.folder.glob("checkpoints/peer-*/latest")}
    assert len(saved) == 1


def test_one_worker_is_told_to_go_and_the_others_go_on(elastic: Elastic) -> None:
    """SIGTERM to one of three: it finishes its round, saves and leaves; the other two reach the end."""
    group = elastic(*TINY, *TIMES, "group.peers=3", "run.rounds=400", "probe.every=0")
    workers = [group.worker("--peer", str(peer)) for peer in range(3)]
    group.reached(20)
    workers[2].process.send_signal(signal.SIGTERM)
    code, output = workers[2].wait()
    assert code == 0, output
    assert "saved; --resume auto continues" in output
    for worker in workers[:2]:
        code, output = worker.wait()
        assert code == 0, output
    counts = {record["round"]: record["count"] for record in group.records() if "count" in record}
    assert counts[0] == 3
    assert counts[399] == 2
    assert {report["peer"] for report in summary(group.folder)["per_peer"]} == {0, 1}


LAST_WORDS = """
import sys
from peers.worker import worker
from peers.exchange.coordinated import CoordinatedExchange

leave = CoordinatedExchange.leave
CoordinatedExchange.leave = lambda self, reports: leave(self, dict.fromkeys(reports, {"final": "the best", "peer": 1}))
sys.exit(worker.main())
"""


def test_a_liars_last_words_cost_the_others_nothing(elastic: Elastic) -> None:
    """A member hands in a report that is JSON, and nonsense: the summary is that of the others, who say so."""
    group = elastic(*TINY, *TIMES[:1], "group.peers=3", "run.rounds=10", "probe.every=0")
    liar = group.worker("--peer", "0", start=("-c", LAST_WORDS))
    honest = [group.worker("--peer", str(peer)) for peer in (1, 2)]
    for worker in (*honest, liar):
        code, output = worker.wait()
        assert code == 0, output
        assert "the report of peer 0 is left out: network: Field required" in output
    assert [report["peer"] for report in summary(group.folder)["per_peer"]] == [1, 2]
    assert "mean ± deviation over 2 peers of one group" in honest[0].wait()[1]
