"""A real Slurm on this machine, with daemons, key, ports and folders of its own; nothing of it outlives the context.

    with slurm_cluster(folder) as cluster:
        job = cluster.sbatch(script, "--nodes=1", cwd=folder)
        cluster.wait(job, {"COMPLETED"})

Jobs run as whoever runs the tests. Nothing of a Slurm that the machine may have is used or touched, but its programs.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue", "sinfo")
NODE = "node"
"""What nodes are called, with a number. It does not resolve: a job of one node must not need a name that does."""
CPUS = 4
MEMORY = 8000
GRACE = 8
"""Seconds that a job of the partition `all` has to save when one of the partition `urgent` takes its place."""
OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"})
"""States that a job does not leave."""
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))

# cred_expire: a requeued job starts again a second after that; Slurm takes 5 as the least, and 120 for anything less.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
KillWait=3
MinJobAge=300
MessageTimeout=10
ReturnToService=2
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP DefMemPerCPU={per_cpu}
PartitionName=all Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=urgent PriorityTier=2
"""
NODE_LINE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}"


def why_not() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return None


@dataclass
class SlurmCluster:
    """A Slurm that runs.

    Attributes:
        folder: of its configuration, logs and sockets.
        environment: variables that lead Slurm's commands to it.
        timeout: seconds that one of Slurm's commands may take.
    """

    folder: Path
    environment: dict[str, str]
    timeout: float = 30
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str, cwd: Path | None = None, **environment: str) -> str:
        """Run one of Slurm's commands; returns what it prints."""
        ended = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: exit code {ended.returncode}: {ended.stdout}\n{self.logs()}")
        return ended.stdout

    def sbatch(self, *words: str, cwd: Path, **environment: str) -> int:
        """Submit a job from a folder: flags, script, arguments; returns its number."""
        return int(self.command("sbatch", "--parsable", *words, cwd=cwd, **environment).split(";")[0])

    def job(self, number: int) -> dict[str, str]:
        """What Slurm knows of a job: `scontrol show job`."""
        words = self.command("scontrol", "show", "job", "-o", str(number)).split()
        pairs = [word.split("=", 1) for word in words if "=" in word]
        return dict(reversed(pairs))  # the first counts: a job's arguments may have a "=", too

    def state(self, number: int) -> str:
        """A job's state, e.g. RUNNING."""
        return self.job(number)["JobState"]

    def wait(self, number: int, states: set[str] | frozenset[str] = OVER, timeout: float = 180) -> dict[str, str]:
        """Wait until a job is in one of the states; returns `job`. One that it can no longer reach is an error."""
        deadline = time.monotonic() + timeout
        while (found := self.job(number))["JobState"] not in states:
            if found["JobState"] in OVER or time.monotonic() > deadline:
                raise TimeoutError(f"job {number} did not become {sorted(states)} in {timeout:g} s: {found}")
            time.sleep(0.1)
        return found

    def cancel(self, number: int, *flags: str) -> None:
        """`scancel`."""
        self.command("scancel", *flags, str(number))

    def preempt(self, cwd: Path) -> int:
        """Submit a job that needs all of a node, and goes before those of the partition `all`; returns its number."""
        (cwd / "urgent.sh").write_text("#!/bin/bash\n")
        return self.sbatch("--partition=urgent", f"--ntasks={CPUS}", "--job-name=urgent", "urgent.sh", cwd=cwd)

    def left(self) -> list[psutil.Process]:
        """Processes of this cluster's jobs that still run: step daemons, and all that was started for a job."""
        return list(self._left())

    def _left(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile, or is somebody else's
                if process.name().startswith("slurmstepd"):  # overwrites its environment; works where slurmd does
                    ours = process.cwd() == str(self.folder)
                else:
                    variables = process.environ()
                    ours = variables.get("SLURM_CONF") == self.environment["SLURM_CONF"] and "SLURM_JOB_ID" in variables
                if ours:
                    yield process

    def logs(self) -> str:
        """The end of each daemon's log."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm_cluster(folder: Path, nodes: int = 1) -> Iterator[SlurmCluster]:
    """A Slurm whose nodes have 4 CPUs each, whatever this machine has; ready for jobs.

    Args:
        folder: gets the logs in the end. All else lies where the paths of sockets are short enough.
        nodes: how many.
    """
    short = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(short, {"SLURM_CONF": str(short / "slurm.conf"), "PATH": PATH})
    try:
        _start(cluster, nodes)
        yield cluster
    finally:
        _stop(cluster)
        for log in short.glob("*.log"):
            shutil.copy(log, folder)
        shutil.rmtree(short, ignore_errors=True)


def _start(cluster: SlurmCluster, nodes: int) -> None:
    folder = cluster.folder
    folder.chmod(0o755)  # munged refuses folders that others may write to
    for name in ("munge", "state"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    ctld_port, *ports = _free_ports(1 + nodes)
    names = [f"{NODE}{number + 1}" for number in range(nodes)]
    sizes = {"host": socket.gethostname(), "cpus": CPUS, "memory": MEMORY}
    lines = [NODE_LINE.format(name=name, port=port, **sizes) for name, port in zip(names, ports, strict=True)]
    values = {"user": getpass.getuser(), "nodes": "\n".join(lines), "per_cpu": MEMORY // CPUS}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, grace=GRACE, ctld_port=ctld_port, **values))
    files = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "seed", "log")]
    _daemon(cluster, "munged", "--foreground", f"--socket={folder}/munge/socket", *files)
    _until(cluster, (folder / "munge" / "socket").exists)
    _daemon(cluster, "slurmctld", "-D", "-i", "-f", str(configuration))
    for name in names:
        _daemon(cluster, "slurmd", "-D", "-N", name, "-f", str(configuration), log=f"slurmd-{name}")
    _until(cluster, lambda: _states(cluster) == ["idle"] * nodes)


def _daemon(cluster: SlurmCluster, name: str, *flags: str, log: str | None = None) -> None:
    program = shutil.which(name, path=PATH)
    assert program is not None
    with (cluster.folder / f"{log or name}.log").open("wb") as output:
        cluster.daemons.append(
            subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", program, *flags],  # they end even where the tests are killed
                cwd=cluster.folder,
                env={**os.environ, **cluster.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )


def _states(cluster: SlurmCluster) -> list[str]:
    with contextlib.suppress(RuntimeError):  # until the controller listens
        return cluster.command("sinfo", "--noheader", "--Node", "--partition=all", "--format=%T").split()
    return []


def _until(cluster: SlurmCluster, true: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        ended = [daemon.args for daemon in cluster.daemons if daemon.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"Slurm did not start within {timeout:g} s; ended: {ended}\n{cluster.logs()}")
        time.sleep(0.05)


def _stop(cluster: SlurmCluster) -> None:
    """End jobs, then daemons, then whatever is still there, by process id."""
    if all(daemon.poll() is None for daemon in cluster.daemons):
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            cluster.command("scancel", f"--user={getpass.getuser()}", "--quiet")
        deadline = time.monotonic() + 5
        while cluster.left() and time.monotonic() < deadline:
            time.sleep(0.05)
    _kill(cluster.left())
    for daemon in reversed(cluster.daemons):
        daemon.terminate()
        try:
            daemon.wait(5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(5)
    _kill(cluster.left())


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
