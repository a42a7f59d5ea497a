"""Script of a Slurm job: its resources, and the one command that runs the group."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from peers.config.schema import Config
from peers.runs.run_folder import RunFolder, run_name

HEAD = """\
#!/bin/bash
# Written by `coordinator launch`. Submitted again, or requeued, it continues from the run's checkpoints."""


def job_script(config: Config, folder: RunFolder) -> str:
    """The job script of a run.

    Args:
        config: settled, with launcher.kind slurm.
        folder: of the run; on a disk that the cluster's nodes share.
    """
    # exec: signals for the batch step reach the program that passes them on, not a shell that waits for it.
    command = shlex.join((sys.executable, "-m", "coordinator.launch.slurm.job", str(folder.config)))
    options = (f"#SBATCH {line}" for line in _options(config, folder))
    return "\n".join([HEAD, *options, "set -euo pipefail", *config.launcher.slurm.setup, f"exec {command}", ""])


def tasks_per_node(config: Config) -> int:
    """Workers on each node of the job."""
    workers = -(-(config.group.peers or 0) // config.group.peers_per_worker)
    return workers // config.launcher.slurm.nodes


def gpus_per_node(config: Config) -> int:
    """GPUs on each node of the job."""
    gpus = config.launcher.slurm.gpus_per_node
    return gpus if gpus is not None else tasks_per_node(config) * (config.device == "cuda")


def gpus_per_task(config: Config) -> int:
    """GPUs of each worker."""
    return gpus_per_node(config) // tasks_per_node(config)


def step(config: Config, node: str) -> tuple[str, ...]:
    """How a worker is started on one of the job's nodes: with its share of the job, and beside the other steps."""
    slurm, gpus = config.launcher.slurm, gpus_per_task(config)
    command = ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--exact", "--mem=0"]
    command.append(f"--cpus-per-task={slurm.cpus_per_task or 1}")
    return (*command, f"--gpus-per-task={gpus}") if gpus else tuple(command)


def _options(config: Config, folder: RunFolder) -> Iterator[str]:
    slurm = config.launcher.slurm
    yield f"--job-name={run_name(config)}"
    yield f"--nodes={slurm.nodes}"
    yield f"--ntasks-per-node={tasks_per_node(config)}"
    if slurm.cpus_per_task is not None:
        yield f"--cpus-per-task={slurm.cpus_per_task}"
    if gpus_per_node(config):
        yield f"--gpus-per-node={gpus_per_node(config)}"
    for name in ("memory", "time", "partition", "account"):
        value = getattr(slurm, name)
        if value is not None:
            yield f"--{'mem' if name == 'memory' else name}={_quoted(value)}"
    yield "--requeue" if slurm.requeue else "--no-requeue"
    yield f"--signal=B:USR1@{slurm.signal_before}"
    yield f"--output={_quoted(str(folder.logs).replace('%', '%%') + '/job-%j.log')}"
    yield "--open-mode=append"  # a job that is queued again goes on writing to the same log
    yield from slurm.extra


def _quoted(value: str) -> str:
    """As sbatch reads it: in double quotes where a blank would end it."""
    return f'"{value}"' if any(character.isspace() for character in value) else value
