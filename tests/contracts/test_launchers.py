"""One contract, every launcher: start, watch, a lost worker, one that fails for good, an interrupt, the results."""

from __future__ import annotations

import importlib
import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.commands import LAUNCH, TINY, rounds_recorded, run, settings, summary, weights
from tests.conftest import Start
from tests.contracts.launcher_arenas import LauncherArena

ROUNDS = 800
"""Some seconds: a cluster needs a while to pass an interrupt on, and the run must not be over by then."""
ARENAS = {
    "local": ("tests.contracts.launcher_arenas", "local_arena"),
    "ray": ("tests.contracts.ray_arena", "ray_arena"),
    "slurm": ("tests.contracts.slurm_arena", "slurm_arena"),
}
TIMES = ("exchange.heartbeat=2",)  # how long a killed worker's id is held against the one that takes its place
RUN = ("run.name=run", "group.peers=2", "checkpoint.every=20", "probe.every=0", *TIMES, *TINY, f"run.rounds={ROUNDS}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of an uninterrupted run, all peers in one process."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "empty.yaml").write_text("")
    code, output = run((*LAUNCH, "empty.yaml", *settings(*RUN, "exchange.kind=inprocess")), cwd)
    assert code == 0, output
    return weights(cwd / "runs" / "run")


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LauncherArena]:
    """A launcher, with what stands behind it."""
    module, name = ARENAS[request.param]
    make: Callable[[Path], AbstractContextManager[LauncherArena]] = getattr(importlib.import_module(module), name)
    with make(tmp_path_factory.mktemp(request.param)) as made:
        yield made


full = pytest.mark.full
pairs = pytest.mark.parametrize(
    ("arena", "exchange"),
    [
        ("ray", "coordinator"),
        ("slurm", "collective"),
        pytest.param("local", "collective", marks=full),
        pytest.param("local", "coordinator", marks=full),
        pytest.param("ray", "collective", marks=full),
        pytest.param("slurm", "coordinator", marks=full),
    ],
    indirect=["arena"],
)
"""Launchers and exchanges: the quick part has each exchange once; test_launch.py has the local launcher."""


@pytest.fixture
def command(arena: LauncherArena, exchange: str, tmp_path: Path) -> tuple[str, ...]:
    """The launch of a run of two peers."""
    return launch_of(arena, exchange, tmp_path)


def launch_of(arena: LauncherArena, exchange: str, cwd: Path) -> tuple[str, ...]:
    """The launch of a run of two peers."""
    (cwd / "empty.yaml").write_text("")
    return (*LAUNCH, "empty.yaml", *settings(*RUN, *arena.flags, f"exchange.kind={exchange}"))


def random_round() -> int:
    """A round to strike at, another one in each run of the tests; it is printed when the test fails."""
    return random.SystemRandom().randrange(25, 200)


@pairs
def test_an_interrupt_and_a_lost_worker_cost_nothing(
    arena: LauncherArena, command: tuple[str, ...], whole: dict[str, bytes], start: Start, tmp_path: Path
) -> None:
    """Ctrl-C: exit code 130, all have saved the same round, nobody is left; resumed, a worker is killed and restarted.

    The run ends with progress, table, logs and results. A fixed group goes back to its checkpoints and ends with the
    weights of an undisturbed run; in an elastic one the peer that comes back takes up its own checkpoint, and the group
    ends complete.
    """
    folder, round_ = tmp_path / "runs" / "run", random_round()
    running = start(command, **arena.environment)
    running.until(lambda: rounds_recorded(folder) >= round_)
    running.process.send_signal(signal.SIGINT)
    code, output = running.wait()
    assert code == 128 + signal.SIGINT, output
    assert "stopped by SIGINT; every peer has saved itself" in output
    assert arena.left(folder) == []
    saved = {json.loads(path.read_text())["round"] for path in folder.glob("checkpoints/peer-*/latest")}
    assert len(saved) == 1
    stopped = saved.pop()
    assert stopped >= round_

    running = start((*command, "--resume", "auto"), **arena.environment)
    running.until(lambda: rounds_recorded(folder) >= stopped + 5)
    workers = arena.workers(folder)
    assert len(workers) == 2
    workers[round_ % 2].kill()
    code, output = running.wait()
    assert code == 0, output
    assert re.search(r"worker [01] (was killed by signal 9|was lost)", output), output
    assert "restart 1 of 3" in output
    assert arena.left(folder) == []
    check_results(folder, output, "coordinator" if "exchange.kind=coordinator" in command else "collective")
    if "exchange.kind=coordinator" not in command:
        assert weights(folder) == whole, f"interrupted at round {round_}"


def check_results(folder: Path, output: str, exchange: str) -> None:
    """Progress and table were printed; the summary names both peers, each worker has its log."""
    assert re.search(rf"^round \d+/{ROUNDS} .*rounds/s", output, re.MULTILINE)
    assert re.search(r"^k-NN .*^linear ", output, re.MULTILINE | re.DOTALL)
    result = summary(folder)
    assert {report["peer"] for report in result["per_peer"]} == {0, 1}
    assert result["exchange"] == exchange
    for worker in (0, 1):
        assert f"peer {worker} resumed at round" in (folder / "logs" / f"worker-{worker}.log").read_text()


@pytest.mark.parametrize("arena", ARENAS, indirect=True)
def test_what_fails_for_good_is_told_once(arena: LauncherArena, tmp_path: Path) -> None:
    """A diverged peer would diverge again: exit code 4, its own words and its log's path; no restart, nobody left."""
    exchange = "collective" if "launcher.kind=ray" in arena.flags else "coordinator"  # each policy, at the price of one
    command = launch_of(arena, exchange, tmp_path)
    explode = ("optimizer.name=sgd", "optimizer.learning_rate=1e30", "consensus.loss=mse", "network.norm=none")
    packed = ("group.peers_per_worker=2",)
    code, output = run((*command, *settings(*explode, *packed)), tmp_path, **arena.environment)
    assert code == 4, output
    assert "non-finite values for 10 rounds in a row" in output
    assert re.search(r"runs/run/logs/\S+", output)
    assert "restart" not in output
    assert "Traceback" not in output
    assert arena.left(tmp_path / "runs" / "run") == []
