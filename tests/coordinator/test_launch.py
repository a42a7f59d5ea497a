"""`coordinator launch` with the local launcher: real workers, really killed."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.commands import LAUNCH, TINY, Running, rounds_recorded, run, settings, summary, weights
from tests.conftest import Start

ROOT = Path(__file__).parents[2]
ROUNDS = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of two workers for a few seconds, with checkpoints on the way."""
    path = tmp_path_factory.mktemp("config") / "two.yaml"
    path.write_text("group: {peers: 2}\nrun: {name: run}\ncheckpoint: {every: 20}\nprobe: {every: 0}\n")
    return path


@pytest.fixture(scope="module")
def command(config: Path) -> tuple[str, ...]:
    """The launch of that configuration."""
    return (*LAUNCH, str(config), *settings(*TINY, f"run.rounds={ROUNDS}"))


@pytest.fixture(scope="module")
def whole(command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    cwd = tmp_path_factory.mktemp("whole")
    code, output = run(command, cwd)
    assert code == 0, output
    return cwd / "runs" / "run"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The main job, deploy/local.yaml as it stands: the folder of its run, and what it printed."""
    cwd = tmp_path_factory.mktemp("embedded")
    code, output = run((*LAUNCH, str(ROOT / "deploy" / "local.yaml")), cwd)
    assert code == 0, output
    return cwd / "runs" / "local", output


def random_round() -> int:
    """A round to strike at, another one in each run of the tests; it is printed when the test fails."""
    return random.SystemRandom().randrange(5, ROUNDS - 50)


def reached(running: Running, folder: Path, round_: int) -> None:
    """Wait until the group has done a number of rounds."""
    running.until(lambda: rounds_recorded(folder) >= round_)


def test_the_embedded_run_learns_in_four_processes(embedded: tuple[Path, str]) -> None:
    """deploy/local.yaml: k-NN gains 3 points or more, linear 5 or more, over the re-estimated baseline."""
    folder, output = embedded
    result = summary(folder)
    assert result["gain"]["knn"] >= 3
    assert result["gain"]["linear"] >= 5
    assert result["exchange"] == "collective"
    logs = "".join(path.read_text() for path in sorted(folder.glob("logs/worker-*.stderr")))
    assert len(set(re.findall(r"process (\d+) hosts peers", logs))) == 4
    assert re.search(r"^k-NN .*^linear ", output, re.MULTILINE | re.DOTALL)
    assert re.search(r"round \d+/\d+ .*rounds/s .*disagreement .*rank .*k-NN [\d.]+ \(was [\d.]+, validation\)", output)
    for path in ("summary.json", "config.yaml", "metrics.jsonl", "checkpoints", "logs", "tensorboard"):
        assert (folder / path).exists()
        assert path in output
    assert list(folder.glob("tensorboard/peer-000/events.*"))


def test_a_killed_launch_costs_nothing(command: tuple[str, ...], whole: Path, start: Start, tmp_path: Path) -> None:
    """SIGKILL to the launcher: its workers end by themselves, and --resume auto ends with the same weights."""
    folder, round_ = tmp_path / "runs" / "run", random_round()
    running = start(command)
    reached(running, folder, round_)
    workers = running.workers()
    running.process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert len(gone) == 2
    code, output = run((*command, "--resume", "auto"), tmp_path)
    assert code == 0, output
    assert weights(folder) == weights(whole), f"killed at round {round_}"


def test_a_crash_shows_its_traceback_and_its_log(command: tuple[str, ...], start: Start, tmp_path: Path) -> None:
    """What nobody foresaw in a worker reaches whoever launched it, with the path of the log."""
    folder = tmp_path / "runs" / "run"
    running = start((*command, *settings("launcher.max_restarts=0", "run.rounds=100000")))
    reached(running, folder, 5)
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    code, output = running.wait()
    assert code == 1, output
    assert "Traceback (most recent call last)" in output
    assert "IsADirectoryError" in output
    assert re.search(r"runs/run/logs/worker-[01]\.stderr", output)


def test_a_run_that_is_under_way_is_not_entered(command: tuple[str, ...], start: Start, tmp_path: Path) -> None:
    """A second launch with --resume auto is refused while workers of the first one live."""
    running = start((*command, *settings("run.rounds=100000")))
    reached(running, tmp_path / "runs" / "run", 25)
    (tmp_path / "second").mkdir()
    second = start((*command, *settings(f"run.out={tmp_path / 'runs'}"), "--resume", "auto"), tmp_path / "second")
    code, output = second.wait()
    assert code == 2, output
    assert "is hosted by another process right now" in output
    running.process.send_signal(signal.SIGTERM)
    assert running.wait()[0] == 128 + signal.SIGTERM


def test_dry_run_starts_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    """It prints every process, and the resolved configuration."""
    code, output = run((*LAUNCH, str(config), "--dry-run"), tmp_path)
    assert code == 0, output
    assert "worker 1: peers 1" in output
    assert "learning_rate: 0.001" in output
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]


def test_through_a_coordinator_the_run_is_the_same(embedded: tuple[Path, str], tmp_path: Path) -> None:
    """deploy/local.yaml over gRPC and over gloo: the same weights, bit for bit, and the same table."""
    collective, printed = embedded
    flags = settings("exchange.kind=coordinator", "metrics.tensorboard=false")
    code, output = run((*LAUNCH, str(ROOT / "deploy" / "local.yaml"), *flags), tmp_path)
    assert code == 0, output
    folder = tmp_path / "runs" / "local"
    assert summary(folder)["exchange"] == "coordinator"
    assert weights(folder) == weights(collective)
    rows = re.compile(r"^(?:k-NN|linear) .*$", re.MULTILINE)
    assert rows.findall(output) == rows.findall(printed)
    assert len(rows.findall(output)) == 2


def test_through_a_coordinator_each_process_is_restarted_alone(
    command: tuple[str, ...], start: Start, tmp_path: Path
) -> None:
    """A worker and the coordinator are killed: the others go on, both come back, nobody is left at the end."""
    folder = tmp_path / "runs" / "run"
    flags = settings("exchange.kind=coordinator", "exchange.heartbeat=1", "run.rounds=1500", "group.peers=3")
    running = start((*command, *flags))
    reached(running, folder, 25)
    running.workers()[1].kill()
    running.until(lambda: "worker 1 was killed by signal 9" in running.output.read_text())
    running.until(lambda: "peer 1 resumed at round" in (folder / "logs" / "worker-1.log").read_text())
    coordinator = next(p for p in psutil.Process(running.process.pid).children() if "coordinator.cli" in p.cmdline())
    coordinator.kill()
    code, output = running.wait()
    assert code == 0, output
    assert "coordinator was killed by signal 9" in output
    assert {report["peer"] for report in summary(folder)["per_peer"]} == {0, 1, 2}
