"""Plan of a run: every process that a launcher will start, before it starts any."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.config.loading import dump, updated
from peers.config.schema import Config
from peers.runs.run_folder import RunFolder, run_name
from peers.worker.placement import DEFAULT_PEERS, compute_threads

TRAVELLING = ("PEERS_DATA", "PEERS_TOKEN")
"""Variables of this project that processes elsewhere need, too."""


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes:
        name: what logs call it.
        command: its argument vector.
        peers: ids of the peers that it hosts.
        log: path of its log, below the run's folder.
        started: how it is started, for a reader.
    """

    name: str
    command: tuple[str, ...]
    peers: tuple[int, ...]
    log: str
    started: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows `python -m MODULE` in its command."""
        return self.command[3:]

    def lines(self) -> list[str]:
        """The process for a reader."""
        hosts = f" peers {_span(self.peers)}," if self.peers else ""
        return [f"  {self.name}:{hosts} log {self.log}", f"    {self.started}"]


@dataclass(frozen=True)
class Plan:
    """A run, ready to start.

    Attributes:
        config: resolved: peers and name are settled.
        folder: of the run.
        processes: what is started, in rank order.
        max_restarts: how often a failed group is started again from its checkpoints; in an elastic group, how often
            each process is.
        coordinator: the process that closes rounds; None for other exchanges.
        environment: names of the variables that travel from here to the processes.
        script: text of the batch job; None for launchers that need none.
    """

    config: Config
    folder: RunFolder
    processes: tuple[Process, ...]
    max_restarts: int
    coordinator: Process | None = None
    environment: tuple[str, ...] = ()
    script: str | None = None

    def text(self) -> str:
        """The plan for a reader: `--dry-run` prints it."""
        lines = [
            f"run       {run_name(self.config)}",
            f"folder    {self.folder.path}",
            f"launcher  {_launcher(self.config)}, at most {self.max_restarts} restarts",
            f"exchange  {self.config.exchange.kind}, {self.config.exchange.wire} on the wire",
            f"meets at  {_meeting(self)}",
        ]
        if self.config.launcher.kind == "ray":
            shipped = ["protos, peers, coordinator"]
            for name, value in self.config.launcher.ray.runtime_env.items():
                shipped.append(f"{name}: {', '.join(value) if name == 'env_vars' else value}")  # values may be secrets
            lines.append(f"ships     {'; '.join(shipped)}")
        lines.append(f"processes {len(self.processes)}")
        if self.coordinator is not None:
            lines += self.coordinator.lines()
        for process in self.processes:
            lines += process.lines()
        lines += ["environment", *(f"  {name}={_shown(name)}" for name in self.environment)]
        lines += ["files", *(f"  {path}  {what}" for path, what in self._files())]
        if self.script is not None:
            lines += ["job script", *(f"  {line}".rstrip() for line in self.script.splitlines())]
        lines += ["configuration", *(f"  {line}" for line in dump(self.config).splitlines())]
        return "\n".join(lines)

    def _files(self) -> Iterator[tuple[Path, str]]:
        yield self.folder.config, "the configuration below"
        if self.script is not None:
            yield self.folder.job_script, "the job script below"
        yield self.folder.metrics, "a record a line, while it runs"
        yield self.folder.path / "checkpoints", "each peer's own weights"
        yield self.folder.summary, "the results, at the end"


def make_plan(config: Config) -> Plan:
    """The plan of a configuration for its launcher.

    Args:
        config: as loaded; peers and name may be open.

    Raises:
        ConfigError: peers, workers and hosts do not fit.
    """
    config = _settled(config)
    folder = RunFolder.of(config)
    elastic = config.exchange.elastic
    per_worker, peers = config.group.peers_per_worker, config.group.peers or 0
    command = (sys.executable, "-m", "peers.worker", "--config", str(folder.config), "--resume", "auto")
    processes = []
    for rank, first in enumerate(range(0, peers, per_worker)):
        flags = ("--peer", str(first)) if elastic else ()
        hosted = tuple(range(first, min(first + per_worker, peers)))
        name = first if elastic else rank
        whole = (*command, *flags)
        processes.append(Process(f"worker {name}", whole, hosted, f"logs/worker-{name}.log", _started(config, whole)))
    script = None
    if config.launcher.kind == "slurm":
        from coordinator.launch.slurm.sbatch import job_script

        script = job_script(config, folder)
    return Plan(
        config,
        folder,
        tuple(processes),
        config.launcher.max_restarts,
        _coordinator(config, folder) if elastic else None,
        tuple(name for name in TRAVELLING if name in os.environ),
        script,
    )


def _settled(config: Config) -> Config:
    """The configuration with every open value decided here, where its processes could decide differently."""
    peers = config.group.peers or DEFAULT_PEERS
    config = updated(config, group={"peers": peers, "peers_per_worker": min(config.group.peers_per_worker, peers)})
    if config.exchange.kind == "inprocess":
        config = updated(config, group={"peers_per_worker": peers})
    launcher = config.launcher
    if launcher.kind == "ray":
        config = _rooted(config)
        threads = config.group.threads or max(1, int(launcher.ray.cpus // config.group.peers_per_worker))
        config = updated(config, group={"threads": threads})
    elif launcher.kind == "slurm":
        cores = launcher.slurm.cpus_per_task or 1  # what a job step gets, whatever its node has
        threads = config.group.threads or max(1, cores // config.group.peers_per_worker)
        config = updated(config, group={"threads": threads})
    elif config.exchange.elastic:
        # Each worker is alone in its process, and cannot know with how many it shares the cores.
        config = updated(config, group={"threads": compute_threads(config.group.threads, peers)})
    return updated(config, run={"name": run_name(config)})


def _rooted(config: Config) -> Config:
    """The configuration with absolute paths: an actor's working folder is not the user's."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    return updated(
        config,
        run={"out": absolute(config.run.out)},
        data={"root": absolute(config.data.root or os.environ.get("PEERS_DATA") or None)},
        coordinator={"state": absolute(config.coordinator.state)},
        security={"certs": absolute(config.security.certs), "token_file": absolute(config.security.token_file)},
    )


def _coordinator(config: Config, folder: RunFolder) -> Process:
    state, address_file = str(folder.coordinator_state(config)), str(folder.coordinator_address)
    program = (sys.executable, "-m", "coordinator.cli", "serve", str(folder.config))
    command = (*program, "--address-file", address_file, "--state", state)
    shown = _python(command)
    if config.launcher.kind == "ray" and config.launcher.ray.coordinator == "actor":
        shown = "an actor on Ray's head node, num_cpus 0: coordinator.launch.ray.actors.CoordinatorActor"
    return Process("coordinator", command, (), "logs/coordinator.log", shown)


def ray_gpus(config: Config) -> float:
    """GPUs that Ray sets aside for a worker."""
    gpus = config.launcher.ray.gpus
    return float(config.device == "cuda") if gpus is None else gpus


def _started(config: Config, command: tuple[str, ...]) -> str:
    """How a worker is started, for a reader."""
    if config.launcher.kind == "ray":
        asked = f"num_cpus {config.launcher.ray.cpus:g}, num_gpus {ray_gpus(config):g}"
        return f"an actor in the placement group, {asked}: coordinator.launch.ray.actors.WorkerActor"
    if config.launcher.kind == "slurm":
        from coordinator.launch.slurm.sbatch import step

        return f"{' '.join(step(config, 'NODE'))} {_python(command)}"
    return _python(command)


def _python(command: tuple[str, ...]) -> str:
    return " ".join(("python", *command[1:]))


def _launcher(config: Config) -> str:
    ray, slurm = config.launcher.ray, config.launcher.slurm
    if config.launcher.kind == "ray":
        where = "a cluster started here" if ray.address is None else f"the cluster at {ray.address}"
        return f"ray: actors of {where}, {ray.strategy}"
    if config.launcher.kind == "slurm":
        return f"slurm: a job of {slurm.nodes} nodes, limit {slurm.time}"
    return "local: processes of this machine"


def _meeting(plan: Plan) -> str:
    """Where the processes connect to one another."""
    config, kind = plan.config, plan.config.launcher.kind
    if plan.coordinator is not None:
        if kind == "ray":
            where = "Ray's head node" if config.launcher.ray.coordinator == "actor" else "this machine"
            return f"the coordinator on {where}, a free port"
        return "the coordinator on the job's first node" if kind == "slurm" else config.coordinator.bind
    return {
        "local": "a store in the launcher, localhost, a free port",
        "ray": "a store in an actor of its own on the head node, a free port",
        "slurm": "a store beside the job script, on its first node, a free port",
    }[kind]


def _shown(name: str) -> str:
    return "(hidden)" if name == "PEERS_TOKEN" else os.environ.get(name, "")


def _span(peers: tuple[int, ...]) -> str:
    return str(peers[0]) if len(peers) == 1 else f"{peers[0]}-{peers[-1]}"
