"""The job scripts of deploy/slurm, submitted to a real Slurm as an operator would."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.clusters.slurm import SlurmCluster, slurm_cluster, why_not
from tests.commands import TINY, WORKER, rounds_recorded, run, settings, summary, weights

SCRIPTS = Path(__file__).parents[2] / "deploy" / "slurm"
ROUNDS = 1200
"""So many that the run goes on while a coordinator is told to stop it, for which an interpreter has to start."""
RUN = ("run.name=run", "group.peers=2", "checkpoint.every=20", "probe.every=0", *TINY, f"run.rounds={ROUNDS}")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm of one node."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of an uninterrupted run, all peers in one process."""
    cwd = tmp_path_factory.mktemp("whole")
    code, output = run((*WORKER, *settings(*RUN, "exchange.kind=inprocess")), cwd)
    assert code == 0, output
    return weights(cwd / "runs" / "run")


@dataclass
class Job:
    """A job of one of the scripts, and the run that it makes."""

    cluster: SlurmCluster
    number: int
    cwd: Path

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.cwd / "runs" / "run"

    def output(self) -> str:
        """What the job has written, over all its starts."""
        path = self.cwd / f"slurm-peers-{self.number}.out"
        return path.read_text() if path.is_file() else ""

    def until(self, true: Callable[[], object], timeout: float = 200) -> None:
        """Wait for something to become true while the job is not over."""
        deadline = time.monotonic() + timeout
        while not true():
            state = self.cluster.state(self.number)
            alive = state in {"PENDING", "RUNNING", "COMPLETING"}
            assert alive and time.monotonic() < deadline, f"{state}: {self.output()}"  # noqa: PT018  # one message
            time.sleep(0.1)

    def ends(self, state: str) -> None:
        """Wait for the job to end in a state, with nothing left of it."""
        found = self.cluster.wait(self.number, {state}, timeout=200)
        self.until_nothing_is_left()
        assert found["JobState"] == state, self.output()

    def until_nothing_is_left(self, timeout: float = 20) -> None:
        """Wait until no process of the job is there; one that stays is an error."""
        deadline = time.monotonic() + timeout
        while left := [*self.cluster.left(), *processes_in(self.cwd)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
    return found


@pytest.fixture(params=["torchrun", "coordinator"])
def exchange(request: pytest.FixtureRequest) -> str:
    """Which of the two scripts."""
    return str(request.param)


@pytest.fixture
def submit(cluster: SlurmCluster, exchange: str, tmp_path: Path) -> Iterator[Callable[[], Job]]:
    """Submits the script from the test's folder, always for the same run; jobs that are left are cancelled."""
    (tmp_path / "empty.yaml").write_text("")
    jobs = []

    def begin() -> Job:
        words = (str(SCRIPTS / f"peers_{exchange}.sbatch"), "empty.yaml", *settings(*RUN))
        number = cluster.sbatch(*words, cwd=tmp_path, PYTHON=sys.executable, PEERS_PER_NODE="2")
        jobs.append(Job(cluster, number, tmp_path))
        return jobs[-1]

    yield begin
    for job in jobs:
        cluster.cancel(job.number, "--quiet")
        job.until_nothing_is_left()


def test_a_run_outlives_a_cancelled_job_and_a_time_limit(
    submit: Callable[[], Job], exchange: str, whole: dict[str, bytes]
) -> None:
    """After scancel no process is left; submitted again the run goes on; at USR1 all save and the job requeues itself.

    It comes back under its number, goes on where it stopped, and ends with the table and the results of both peers; a
    fixed group with the weights of a run without interruption.
    """
    job = submit()
    job.until(lambda: rounds_recorded(job.folder) >= 50)
    job.cluster.cancel(job.number)
    job.ends("CANCELLED")
    assert "requeue" not in job.output()
    assert not (job.folder / "summary.json").exists()
    cancelled_at = rounds_recorded(job.folder)

    job = submit()
    job.until(lambda: rounds_recorded(job.folder) >= cancelled_at + 50)
    job.cluster.cancel(job.number, "--signal=USR1", "--batch")
    job.ends("COMPLETED")
    assert job.cluster.job(job.number)["Restarts"] == "1"
    output = job.output()
    assert "requeue; it starts again" in output
    before, after = output.split("start 2", 1)
    assert min(resumed_at(before)) >= 40
    assert min(resumed_at(after)) == max(resumed_at(after)) >= cancelled_at + 50, "they did not save the same round"
    check_results(job, exchange)
    if exchange == "torchrun":  # at a coordinator a stalled machine may cost a peer a round, and the test its equality
        assert weights(job.folder) == whole


@pytest.mark.parametrize("exchange", ["torchrun"], indirect=True)  # the other script has the same lines for it
def test_a_preempted_job_goes_on_when_there_is_room_again(submit: Callable[[], Job], exchange: str) -> None:
    """A job that goes first takes its place: all save meanwhile, Slurm requeues it, and it ends with its table."""
    job = submit()
    job.until(lambda: rounds_recorded(job.folder) >= 50)
    urgent = job.cluster.preempt(job.cwd)
    job.ends("COMPLETED")
    assert job.cluster.state(urgent) == "COMPLETED"
    assert job.cluster.job(job.number)["Restarts"] == "1"
    assert "preempted; all have saved, and Slurm requeues this job" in job.output()
    assert min(resumed_at(job.output())) >= 40
    check_results(job, exchange)


def resumed_at(output: str) -> list[int]:
    """The rounds that both peers say they went on with."""
    rounds = [int(number) for number in re.findall(r"peer \d resumed at round (\d+)", output)]
    assert len(rounds) == 2, output
    return rounds


def check_results(job: Job, exchange: str) -> None:
    """The table ends the output, the summary names both peers."""
    assert re.search(r"^k-NN .*^linear ", job.output(), re.MULTILINE | re.DOTALL)
    result = summary(job.folder)
    assert {report["peer"] for report in result["per_peer"]} == {0, 1}
    assert result["rounds"] == ROUNDS
    assert result["exchange"] == {"torchrun": "collective"}.get(exchange, exchange)


def test_a_bad_configuration_ends_the_job_with_the_reason(cluster: SlurmCluster, exchange: str, tmp_path: Path) -> None:
    """Exit code 2 and the reader's own words, before anything is started."""
    script = str(SCRIPTS / f"peers_{exchange}.sbatch")
    number = cluster.sbatch(script, "missing.yaml", cwd=tmp_path, PYTHON=sys.executable)
    job = Job(cluster, number, tmp_path)
    job.ends("FAILED")
    assert cluster.job(number)["ExitCode"] == "2:0"
    assert "missing.yaml" in job.output()
    assert "Traceback" not in job.output()


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    """At its strictest, and nothing is switched off in the scripts."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    assert "shellcheck disable" not in script.read_text()
    checked = subprocess.run(("shellcheck", script), capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_scripts_are_found() -> None:
    """There are two, and bash reads them."""
    scripts = sorted(SCRIPTS.glob("*.sbatch"))
    assert [script.name for script in scripts] == ["peers_coordinator.sbatch", "peers_torchrun.sbatch"]
    for script in scripts:
        subprocess.run(("bash", "-n", str(script)), timeout=60, check=True)
