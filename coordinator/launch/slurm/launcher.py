"""Slurm launcher: writes a job script, submits it, and follows the job until it has ended.

What happens inside the job is `coordinator.launch.slurm.job`. Nothing but files of the run's folder, which the nodes
must share with this machine, and Slurm's own programs tie the two together: the launcher may go, and follow the job
again later. (submitit would submit pickled functions: this project keeps pickle away from wire and disk.)
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from coordinator.launch.base import LOOK, PARTING, Interrupted, LaunchResult, Reports, WorkerFailedError, exit_code_of
from coordinator.launch.plan import Plan
from peers.common.errors import ConfigError, PeersError, RunFolderError
from peers.common.files import write_atomically
from peers.runs.run_folder import RunFolder

LOST = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED")
OVER = ("COMPLETED", "FAILED", *LOST)
ARRIVING = 60.0
"""Seconds until a file that a node has written is seen here: network file systems keep lists for a while."""
ANSWER = 60
"""Seconds that Slurm's programs have to answer."""


@dataclass(frozen=True)
class JobState:
    """State of a job, as Slurm reports it.

    Attributes:
        name: its state, e.g. RUNNING.
        reason: why it waits.
        nodes: where it runs.
        code: exit code of its script, -n for signal n.
        restarts: how often it was queued again.
    """

    name: str
    reason: str = ""
    nodes: str = ""
    code: int = 0
    restarts: int = 0

    def line(self, job: str) -> str:
        """The state for a reader."""
        where = {"PENDING": f" ({self.reason})", "RUNNING": f" on {self.nodes}"}.get(self.name, "")
        return f"job {job} is {self.name}{where}"


def launch(plan: Plan, reports: Reports) -> LaunchResult:
    """Submit a plan's job, or find the one that was submitted for it, and follow it; see `coordinator.launch.base`.

    Raises:
        ConfigError: Slurm does not take the job, or is not there.
        WorkerFailedError: the job failed, or was ended by others.
    """
    with Interrupted().installed() as interrupted:
        job = active_job(plan.folder)
        if job is None:
            job = _submit(plan)
            reports.note(f"job {job} is submitted: {plan.folder.job_script}")
        else:
            reports.note(f"job {job} of this run goes on: it is followed")
        return _Watch(plan, reports, job, interrupted).run()


def active_job(folder: RunFolder) -> str | None:
    """The job that was submitted for a run, if it is not over."""
    try:
        job = folder.job.read_text().strip()
    except FileNotFoundError:
        return None
    state = look(job)
    return None if state is None or state.name in OVER else job


def refuse_while_active(folder: RunFolder) -> None:
    """Keep a run's folder from being replaced under its job.

    Raises:
        RunFolderError: the job waits or runs.
    """
    job = active_job(folder)
    if job is not None:
        raise RunFolderError(
            f"job {job} of the run in {folder.path} is not over: `scancel {job}` ends it, --resume auto follows it"
        )


def look(job: str) -> JobState | None:
    """What Slurm says of a job; None where it does not know it, or not any more.

    Raises:
        PeersError: Slurm does not answer.
    """
    done = _run("scontrol", "show", "job", "--oneliner", job)
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return None
        raise PeersError(f"scontrol show job {job}: {done.stderr.strip()}")
    fields = dict(re.findall(r"(\w+)=(\S*)", done.stdout))
    code, _, number = fields.get("ExitCode", "0:0").partition(":")
    return JobState(
        fields["JobState"],
        fields.get("Reason", ""),
        fields.get("NodeList", ""),
        -int(number) or int(code),
        int(fields.get("Restarts", "0")),
    )


class _Watch:
    """Follows one job."""

    def __init__(self, plan: Plan, reports: Reports, job: str, interrupted: Interrupted) -> None:
        self.plan, self.reports, self.job, self.interrupted = plan, reports, job, interrupted
        self.slurm = plan.config.launcher.slurm
        self.log = LogFollower(plan.folder.logs / f"job-{job}.log", reports)
        self.state = JobState("unknown")

    def run(self) -> LaunchResult:
        stopping, deadline = False, float("inf")
        while (state := self._look()) is not None and state.name not in OVER:
            if self.interrupted.number is not None and not stopping:
                if not self.slurm.cancel_on_interrupt:
                    return self._left(self.interrupted.number)
                stopping, deadline = True, time.monotonic() + 2 * PARTING
                self._stop(state)
            if time.monotonic() > deadline:
                deadline = float("inf")
                _check(_run("scancel", self.job))
        return self._ended()

    def _look(self) -> JobState | None:
        """Wait for a while, pass on what the job says, and ask Slurm again."""
        until = time.monotonic() + self.slurm.poll
        while time.monotonic() < until:
            time.sleep(min(LOOK, self.slurm.poll))
            self.log.pass_on()
            if self.interrupted.number is not None:
                break
        state = look(self.job)
        if state is not None and state != self.state and state.name not in OVER:
            self.reports.note(state.line(self.job))
        self.state = state or JobState("forgotten by Slurm")
        return state

    def _stop(self, state: JobState) -> None:
        """Let all peers save and end; a job that does not run yet is taken from the queue."""
        flags = ("--signal=TERM", "--batch") if state.name == "RUNNING" else ()
        _check(_run("scancel", *flags, self.job))

    def _left(self, number: int) -> LaunchResult:
        note = (
            f"job {self.job} goes on; --resume auto follows it again, `scancel {self.job}` ends it "
            f"(launcher.slurm.cancel_on_interrupt = true does so on Ctrl-C)"
        )
        return LaunchResult(128 + number, 0, number, note)

    def _ended(self) -> LaunchResult:
        self.log.pass_on()
        state, number = self.state, self.interrupted.number
        if number is not None:
            return LaunchResult(128 + number, state.restarts, number)
        if state.name == "COMPLETED":
            self._fetch()
            return LaunchResult(0, state.restarts)
        how = f"is {state.name}"
        if state.name == "FAILED":
            how = f"ended with {state.code}" if state.code >= 0 else f"was killed by signal {-state.code}"
        text = f"job {self.job} {how}; its log is {self.log.path}; --resume auto continues from the checkpoints"
        raise WorkerFailedError(text, exit_code_of(state.code))

    def _fetch(self) -> None:
        deadline = time.monotonic() + ARRIVING
        while not self.plan.folder.summary.is_file() and time.monotonic() < deadline:
            time.sleep(LOOK)


class LogFollower:
    """Passes the lines of a growing log on.

    Args:
        path: of the log; it need not be there yet.
        reports: its notes get each line.
    """

    def __init__(self, path: Path, reports: Reports) -> None:
        self.path, self._reports, self._position = path, reports, 0

    def pass_on(self) -> None:
        """What is new, up to the last whole line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        if complete:
            self._reports.note(complete.decode(errors="replace").rstrip("\n"))


def _submit(plan: Plan) -> str:
    if plan.script is None:
        raise ValueError("the plan has no job script")
    write_atomically(plan.folder.job_script, plan.script.encode())
    done = _run("sbatch", "--parsable", str(plan.folder.job_script))
    if done.returncode:
        raise ConfigError(
            f"launcher.slurm: sbatch does not take {plan.folder.job_script}: {done.stderr.strip()}; change the fields "
            f"of launcher.slurm that it names"
        )
    job = done.stdout.strip().partition(";")[0]
    write_atomically(plan.folder.job, f"{job}\n".encode())
    return job


def _check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise PeersError(f"{' '.join(done.args)}: {done.stderr.strip()}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER)  # noqa: S603  # Slurm's own programs
    except FileNotFoundError as exc:
        raise ConfigError(
            f"launcher.kind = 'slurm': there is no {command[0]} on PATH; run this on a login node of the cluster, or "
            f"load its Slurm module"
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise PeersError(f"{' '.join(command)}: Slurm did not answer within {ANSWER} s") from exc
