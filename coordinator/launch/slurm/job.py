"""`python -m coordinator.launch.slurm.job CONFIG`: the program of a Slurm job, on its first node.

It starts the group in steps of its job, restarts what fails, and speaks to whoever follows the job's log. SIGUSR1,
which Slurm sends before the time limit, lets all peers save; then the job is queued again, if that is wished for, and
continues from the checkpoints. Before it preempts a job, Slurm tells its steps alone, which save and end; it queues the
job again by itself, unless that has ended meanwhile.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys

from coordinator.launch.base import Interrupted, LaunchResult, Reports, WorkerFailedError, restarting
from coordinator.launch.plan import Plan, make_plan
from coordinator.launch.slurm.steps import JobSite, nodes_of_job
from coordinator.launch.supervise import supervise
from peers.common.errors import ExchangeError, PeersError
from peers.config.loading import load


def main() -> int:
    """Run the group of this job; returns its exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        with Interrupted().installed() as early:  # before the group is watched, and when it no longer is
            plan = make_plan(load(sys.argv[1]))
            site = JobSite(plan, nodes_of_job())
            reports = Reports(lambda number, text: say(restarting(number, text, plan.max_restarts)), say)
            outcome = LaunchResult(0, 0, early.number) if early.number is not None else supervise(plan, site, reports)
        return _closing(plan, outcome)
    except WorkerFailedError as exc:
        say(str(exc))
        return exc.exit_code
    except PeersError as exc:
        say(f"error: {exc}")
        return exc.exit_code


def say(text: str) -> None:
    """A line in the job's log, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _closing(plan: Plan, outcome: LaunchResult) -> int:
    job, slurm = os.environ["SLURM_JOB_ID"], plan.config.launcher.slurm
    if plan.folder.summary.is_file():
        return 0
    if outcome.signal == signal.SIGUSR1 and slurm.requeue:
        say(f"the time limit is near: every peer has saved itself, job {job} is queued again and will continue")
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)  # noqa: S603, S607  # Slurm's own program
        signal.pause()  # Slurm ends this process: a job that has ended by itself could not be queued again
    if outcome.signal is None and slurm.requeue and _preempted(job):
        say(f"job {job} is preempted: every peer has saved itself, and Slurm queues the job again")
        signal.pause()  # until Slurm ends this process
    if outcome.signal is not None:
        say(f"stopped by {signal.Signals(outcome.signal).name}; every peer has saved itself")
        return 128 + outcome.signal
    say("the run ended before its last round")
    return ExchangeError.exit_code


def _preempted(job: str) -> bool:
    """Whether Slurm is about to take the job's place for another one."""
    asked = ["scontrol", "show", "job", "--oneliner", job]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603  # Slurm's own program
    return re.search(r"\bPreemptTime=(?!None|Unknown)\S+", shown.stdout) is not None


if __name__ == "__main__":
    sys.exit(main())
