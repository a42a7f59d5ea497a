"""Groups of fixed members, over gloo: what happens to one ends the round for all, and all go on from checkpoints."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.commands import BIN, LAUNCH, TINY, rounds_recorded, settings, summary
from tests.conftest import Start
from tests.contracts.launcher_arenas import LocalArena
from tests.faults.conftest import AFTER, DEADLINE, ELASTIC
from tests.faults.faulty_exchange import Fault
from tests.faults.fixed import FixedGroup
from tests.faults.forks import Server
from tests.faults.harness import Told
from tests.faults.judge import judge, receipts, replayed
from tests.faults.limits import why_not as no_limits
from tests.faults.plan import NOBODY, FaultPlan, Some
from tests.faults.processes import FAKETIME, ROOT
from tests.faults.worker import fired

TO_ONE = (
    Fault("slow", 0, 1, rounds=2, seconds=0.5),
    ("exception", 0),
    ("sigkill", 1),
    ("sigstop", 0),
    ("other_batch", 1),
    ("corrupted_checkpoint", 0),
)
LINKS = (Fault("slow_link", 0, NOBODY, seconds=0.5), ("dropped", NOBODY), ("half_open", NOBODY))
LIMITS = (("out_of_memory", 1), ("disk_full", 0), ("read_only", 0))
CLOCKS = (Fault("clock_jump", 0, 0, seconds=86400.0), Fault("clock_jump", 0, 0, seconds=-86400.0))
ROUNDS = 40
RUN = (*TINY[:-1], "device=cpu", "run.name=run", "group.peers=2", "checkpoint.every=5", "probe.every=0")
TIMES = ("exchange.heartbeat=1", "exchange.round_deadline=3", "exchange.join_window=60")
TORCHRUN = (str(BIN / "torchrun"), "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")


def judged(folder: Path, rounds: int) -> None:
    """The run has all of its rounds, one receipt each, and the weights that a replay without faults arrives at."""
    assert receipts(folder) == set(range(rounds))
    replayed(folder, folder / "none")
    assert len(summary(folder)["per_peer"]) == 2


@pytest.fixture
def fixed(server: Server, tmp_path: Path) -> Iterator[Callable[..., Told]]:
    """Takes groups of two through plans."""
    groups: list[FixedGroup] = []

    def take(*faults: Some) -> Told:
        plan = FaultPlan.spaced(*faults)
        rounds = f"run.rounds={max(fault.round for fault in plan) + AFTER}"
        groups.append(FixedGroup(server, tmp_path, plan, *ELASTIC, rounds, deadline=DEADLINE))
        return groups[-1].run()

    yield take
    for group in groups:
        group.close()


@pytest.mark.timeout(600)
def test_members_that_die_stop_fail_or_lie(fixed: Callable[..., Told]) -> None:
    """Whatever happens to one, the other ends within the deadline; together they go on as if nothing had happened."""
    judge(fixed(*TO_ONE))


@pytest.mark.timeout(600)
def test_links_between_members(fixed: Callable[..., Told]) -> None:
    """Slow ones cost time; those that end or fall silent end the group, within the deadline."""
    judge(fixed(*LINKS))


@pytest.mark.timeout(600)
@pytest.mark.skipif(no_limits() is not None, reason=str(no_limits()))
def test_disks_and_memory_of_members(fixed: Callable[..., Told]) -> None:
    """Who cannot save, or takes too much, ends; the other ends, too; with room on the disk both come back."""
    judge(fixed(*LIMITS))


@pytest.mark.timeout(600)
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_clocks_of_members_that_jump(fixed: Callable[..., Told]) -> None:
    """A member's day is tomorrow, then yesterday: no round notices."""
    judge(fixed(*CLOCKS))


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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
