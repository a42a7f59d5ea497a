"""A run as a value: what a launcher will start, in full, before it starts anything."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from peers.config import Config
from peers.configfile import dump, updated
from peers.place import DEFAULT_PEERS, compute_threads
from peers.runfolder import RunFolder, run_name


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes:
        name: what logs call it.
        command: its argument vector.
        peers: ids of the peers that it hosts.
        log: path of its log, below the run's folder.
    """

    name: str
    command: tuple[str, ...]
    peers: tuple[int, ...]
    log: str


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
    """

    config: Config
    folder: RunFolder
    processes: tuple[Process, ...]
    max_restarts: int
    coordinator: Process | None = None

    def text(self) -> str:
        """The plan for a reader: `--dry-run` prints it."""
        lines = [
            f"run       {run_name(self.config)}",
            f"folder    {self.folder.path}",
            f"launcher  {self.config.launcher.kind}, at most {self.max_restarts} restarts",
            f"exchange  {self.config.exchange.kind}, {self.config.exchange.wire} on the wire",
            f"processes {len(self.processes)}",
        ]
        if self.coordinator is not None:
            lines.append(f"  {self.coordinator.name}: log {self.coordinator.log}")
            lines.append(f"    {' '.join(('python', *self.coordinator.command[1:]))}")
        for process in self.processes:
            command = " ".join(("python", *process.command[1:]))
            lines.append(f"  {process.name}: peers {_span(process.peers)}, log {process.log}")
            lines.append(f"    {command}")
        lines += ["configuration", *(f"  {line}" for line in dump(self.config).splitlines())]
        return "\n".join(lines)


def make_plan(config: Config) -> Plan:
    """The plan of a configuration for its launcher.

    Args:
        config: as loaded; peers and name may be open.
    """
    peers = config.group.peers or DEFAULT_PEERS
    config = updated(config, group={"peers": peers, "peers_per_worker": min(config.group.peers_per_worker, peers)})
    if config.exchange.kind == "inprocess":
        config = updated(config, group={"peers_per_worker": peers})
    if config.exchange.kind == "coordinator":
        # Each worker is alone in its process, and cannot know with how many it shares the cores.
        config = updated(config, group={"threads": compute_threads(config.group.threads, peers)})
    config = updated(config, run={"name": run_name(config)})
    folder = RunFolder.of(config)
    per_worker = config.group.peers_per_worker
    command = (sys.executable, "-m", "peers.worker", "--config", str(folder.config), "--resume", "auto")
    processes = []
    for rank, first in enumerate(range(0, peers, per_worker)):
        elastic = ("--peer", str(first)) if config.exchange.kind == "coordinator" else ()
        hosted = tuple(range(first, min(first + per_worker, peers)))
        name = first if elastic else rank
        processes.append(Process(f"worker {name}", (*command, *elastic), hosted, f"logs/worker-{name}.log"))
    coordinator = _coordinator(config, folder) if config.exchange.kind == "coordinator" else None
    return Plan(config, folder, tuple(processes), config.launcher.max_restarts, coordinator)


def _coordinator(config: Config, folder: RunFolder) -> Process:
    state, address_file = str(folder.coordinator_state(config)), str(folder.coordinator_address)
    program = (sys.executable, "-m", "coordinator.cli", "serve", str(folder.config))
    command = (*program, "--address-file", address_file, "--state", state)
    return Process("coordinator", command, (), "logs/coordinator.log")


def _span(peers: tuple[int, ...]) -> str:
    return str(peers[0]) if len(peers) == 1 else f"{peers[0]}-{peers[-1]}"
