"""Groups of fixed members, over gloo: what happens to one ends the round for all, and all go on from checkpoints."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from peers.exchange.faulty import Fault
from tests.commands import BIN, LAUNCH, TINY, rounds_recorded, settings, summary
from tests.conftest import Start
from tests.contracts.launcher_arenas import LocalArena
from tests.faults.group import ROOT
from tests.faults.judge import receipts, replayed
from tests.faults.plan import FaultPlan
from tests.faults.worker import fired

ROUNDS = 40
RUN = (*TINY[:-1], "device=cpu", "run.name=run", "group.peers=2", "checkpoint.every=5", "probe.every=0")
TIMES = ("exchange.heartbeat=1", "exchange.round_deadline=3", "exchange.join_window=60")
TORCHRUN = (str(BIN / "torchrun"), "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")


def judged(folder: Path, rounds: int) -> None:
    """The run has all of its rounds, one receipt each, and the weights that a replay without faults arrives at."""
    assert receipts(folder) == set(range(rounds))
    replayed(folder, folder / "none")
    assert len(summary(folder)["per_peer"]) == 2


@pytest.mark.timeout(300)
def test_workers_of_torchrun_fail(start: Start, tmp_path: Path) -> None:
    """One is slow and then raises, the other is killed: the group is started again, and all its receipts are right."""
    plan = FaultPlan((Fault("slow", 6, 0, seconds=0.5), Fault("exception", 12, 0), Fault("kill", 24, 1)))
    (tmp_path / "faults.json").write_text(plan.as_json())
    worker = ("--max-restarts=5", "--local-addr=localhost", "-m", "tests.faults.worker", "--faults", "faults.json")
    command = (*TORCHRUN, *worker, *settings(*RUN, *TIMES, f"run.rounds={ROUNDS}"))
    running = start(command, PYTHONPATH=str(ROOT))
    code, output = running.wait(240)
    assert code == 0, output
    assert Counter(fault.kind for fault in fired(tmp_path / "faults.json")) == plan.counted()
    judged(tmp_path / "runs" / "run", ROUNDS)


@pytest.mark.timeout(300)
def test_workers_of_the_launcher_are_killed_and_stopped(start: Start, tmp_path: Path) -> None:
    """`coordinator launch` starts the group again; one that is stopped costs no more than the deadline."""
    rounds, folder = 800, tmp_path / "runs" / "run"
    flags = settings(*RUN, *TIMES, f"run.rounds={rounds}", "exchange.kind=collective", "launcher.max_restarts=4")
    (tmp_path / "config.yaml").write_text("{}\n")
    running = start((*LAUNCH, "config.yaml", *flags))
    seen: set[int] = set()

    def two() -> list[psutil.Process]:
        found = [worker for worker in LocalArena().workers(folder) if worker.pid not in seen]
        return found if len(found) == 2 else []

    for number in (signal.SIGKILL, signal.SIGSTOP):
        running.until(two)
        at = rounds_recorded(folder)
        running.until(lambda at=at: rounds_recorded(folder) > at + 10)
        workers = two()
        seen |= {worker.pid for worker in workers}
        workers[-1].send_signal(number)
    code, output = running.wait(240)
    assert code == 0, output
    assert not [pid for pid in seen if psutil.pid_exists(pid)]
    judged(folder, rounds)
