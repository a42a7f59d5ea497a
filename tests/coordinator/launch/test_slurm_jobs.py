"""The Slurm launcher before a real Slurm: jobs that are left alone, queued again, cancelled, refused."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.slurm import SlurmCluster, slurm_cluster, why_not
from tests.commands import LAUNCH, TINY, WORKER, Running, rounds_recorded, run, settings, summary, weights
from tests.conftest import Start
from tests.contracts.slurm_arena import SlurmArena

ROUNDS = 1500
RUN = (*TINY, "run.name=run", "group.peers=2", "checkpoint.every=20", "probe.every=0", f"run.rounds={ROUNDS}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm of one node; skipped, saying so, where it cannot be had."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def command(cwd: Path, *flags: str) -> tuple[str, ...]:
    """The launch of a run of two peers as a job."""
    (cwd / "empty.yaml").write_text("")
    return (*LAUNCH, "empty.yaml", *settings(*RUN, "launcher.kind=slurm", "launcher.slurm.poll=0.3", *flags))


def job_of(running: Running) -> int:
    """Number of the job that a launch has submitted, once it has."""
    running.until(lambda: "is submitted" in running.output.read_text())
    return int(running.output.read_text().split(" is submitted")[0].rpartition("job ")[2])


@pytest.mark.timeout(600)
def test_a_job_goes_on_alone_is_followed_again_and_queued_again(
    cluster: SlurmCluster, start: Start, tmp_path: Path
) -> None:
    """Ctrl-C leaves the job alone. Before its time limit Slurm sends SIGUSR1: all save, and the job is queued again.

    Its run cannot be replaced meanwhile; --resume auto follows it again. It continues under its number, and ends with
    its table in the launcher that follows, and with the weights of an undisturbed run.
    """
    folder, launch = tmp_path / "runs" / "run", command(tmp_path)
    running = start(launch, **cluster.environment)
    number = job_of(running)
    running.until(lambda: rounds_recorded(folder) >= 50)
    running.process.send_signal(signal.SIGINT)
    code, output = running.wait()
    assert code == 128 + signal.SIGINT, output
    assert f"job {number} goes on; --resume auto follows it again" in output
    assert cluster.state(number) == "RUNNING"
    cluster.cancel(number, "--signal=USR1", "--batch")
    code, output = run((*launch, "--overwrite"), tmp_path, **cluster.environment)
    assert code == 2, output
    assert f"job {number} of the run in runs/run is not over" in output

    running = start((*launch, "--resume", "auto"), name="again", **cluster.environment)
    code, output = running.wait(300)
    assert code == 0, output
    assert f"job {number} of this run goes on: it is followed" in output
    assert f"the time limit is near: every peer has saved itself, job {number} is queued again" in output
    assert "k-NN" in output
    assert cluster.job(number)["Restarts"] == "1"
    assert "resumed at round" in (folder / "logs" / "worker-0.log").read_text()
    assert {report["peer"] for report in summary(folder)["per_peer"]} == {0, 1}
    code, output = run((*WORKER, *settings(*RUN, "run.name=whole", "exchange.kind=inprocess")), tmp_path)
    assert code == 0, output
    assert weights(folder) == weights(tmp_path / "runs" / "whole")


@pytest.mark.timeout(600)
def test_a_job_that_is_preempted_goes_on_when_there_is_room_again(
    cluster: SlurmCluster, start: Start, tmp_path: Path
) -> None:
    """A job of a partition that goes first takes its place: all save, Slurm queues it again, and it ends complete."""
    folder = tmp_path / "runs" / "run"
    running = start(command(tmp_path, "group.peers=4", "run.rounds=600"), **cluster.environment)
    number = job_of(running)
    running.until(lambda: rounds_recorded(folder) >= 50)
    urgent = cluster.preempt(tmp_path)
    code, output = running.wait(300)
    assert code == 0, output
    assert f"job {number} is preempted: every peer has saved itself, and Slurm queues the job again" in output
    assert cluster.job(number)["Restarts"] == "1"
    assert cluster.state(urgent) == "COMPLETED"
    assert "resumed at round" in (folder / "logs" / "worker-0.log").read_text()
    assert "k-NN" in output


@pytest.mark.parametrize("exchange", ["coordinator", "collective"])
def test_a_cancelled_job_leaves_nothing(exchange: str, cluster: SlurmCluster, start: Start, tmp_path: Path) -> None:
    """`scancel` by anybody: the launcher says so and how to go on, exit code 1; no process of the job is left."""
    folder = tmp_path / "runs" / "run"
    running = start(command(tmp_path, "run.rounds=100000", f"exchange.kind={exchange}"), **cluster.environment)
    number = job_of(running)
    running.until(lambda: rounds_recorded(folder) >= 20)
    cluster.cancel(number)
    code, output = running.wait()
    assert code == 1, output
    assert f"job {number} is CANCELLED" in output
    assert "--resume auto continues from the checkpoints" in output
    assert SlurmArena(cluster).left(folder) == []


def test_what_slurm_refuses_is_told_in_its_words(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A partition that is not there: exit code 2, sbatch's words, the script's path; the next launch may correct it."""
    launch = command(tmp_path, "launcher.slurm.partition=nowhere")
    code, output = run(launch, tmp_path, **cluster.environment)
    assert code == 2, output
    assert "invalid partition specified: nowhere" in output
    assert "runs/run/job.sbatch" in output
    assert "Traceback" not in output


def test_without_slurm_the_error_says_where_to_go(tmp_path: Path) -> None:
    """No sbatch on PATH: exit code 2."""
    code, output = run(command(tmp_path), tmp_path, PATH=str(Path(sys.executable).parent))
    assert code == 2, output
    assert "there is no sbatch on PATH; run this on a login node" in output
