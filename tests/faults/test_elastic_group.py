"""Peers come, go and fail, the coordinator dies; the others go on, and nobody trains on anything but the consensus."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import TINY, rounds_recorded, summary
from tests.conftest import Start
from tests.faults.elastic import ElasticGroup

Elastic = Callable[..., ElasticGroup]

HEARTBEAT, DEADLINE = 2.0, 4.0
TIMES = (f"exchange.heartbeat={HEARTBEAT}", f"exchange.round_deadline={DEADLINE}", "exchange.join_window=60")


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


@pytest.mark.timeout(300)
def test_six_peers_survive_everything(elastic: Elastic) -> None:
    """Two are killed, one of them comes back; one is stopped past its heartbeat and wakes up; one is new; the
    coordinator is killed. The run ends by itself, receipts agree, no stall exceeds the deadline by a second.
    """  # noqa: D205  # the claim has two sentences
    group = elastic(
        *TIMES, "group.peers=6", "run.rounds=1500", "data.batch=512",
        "optimizer.learning_rate=2e-5", "checkpoint.every=20", "metrics.every=1", "metrics.tensorboard=false",
        "probe.every=0",
    )  # fmt: skip
    dice = random.SystemRandom()
    for peer in range(6):
        group.worker("--peer", str(peer))
    group.reached(dice.randrange(5, 40))

    group.workers[1].process.kill()  # for good
    group.workers[0].until(lambda: 1 not in group.members())
    group.reached(rounds_recorded(group.folder) + dice.randrange(25, 50))  # everybody has saved round 20

    group.workers[2].process.kill()
    group.workers[0].until(lambda: 2 not in group.members())
    back, newcomer = group.worker("--peer", "2", "--resume", "auto"), group.worker()

    group.workers[3].process.send_signal(signal.SIGSTOP)
    group.workers[0].until(lambda: 3 not in group.members())
    group.workers[3].process.send_signal(signal.SIGCONT)
    group.workers[3].until(lambda: "expelled: " in group.workers[3].output.read_text())

    back.until(lambda: "peer 2 resumed at round" in back.output.read_text())
    newcomer.until(lambda: len(group.members()) == 6)
    assert group.members() == {0, 1, 2, 3, 4, 5}  # the newcomer has taken the id that was left behind

    began = time.monotonic()
    group.restart_coordinator()
    away = time.monotonic() - began
    group.reached(rounds_recorded(group.folder) + 20)

    for place, worker in enumerate(group.workers):
        if place not in (1, 2):
            code, output = worker.wait(200)
            assert code == 0, output
    assert group.coordinator.wait()[0] == 0
    _judge(group, away)


def _judge(group: ElasticGroup, away: float) -> None:
    receipts = defaultdict(set)
    for record in group.records():
        if "receipt" in record:
            receipts[record["round"]].add((record["receipt"], record["count"]))
    assert all(len(seen) == 1 for seen in receipts.values()), "members of a round got different receipts"
    seconds: dict[int, float] = defaultdict(float)
    for record in group.records():
        seconds[record["round"]] = max(seconds[record["round"]], record.get("seconds", 0.0))
    longest = sorted(seconds.values())
    assert longest[-2] <= DEADLINE + 1
    assert longest[-1] <= DEADLINE + 1 + away  # one round had to wait until the coordinator was back, too
    result = summary(group.folder)
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
