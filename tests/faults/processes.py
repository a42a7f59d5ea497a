"""Processes of one run that faults are done to, whatever they meet by: what `Group` and `FixedGroup` have in common."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peers.common.files import write_atomically
from peers.transport.shared_memory import FOLDER
from tests.clusters.hosts import Host
from tests.commands import Running, settings
from tests.faults.faulty_exchange import Fault
from tests.faults.forks import PROGRAM, ForkedRunning, Server
from tests.faults.limits import Disk, MemoryLimit
from tests.faults.pace import pace
from tests.faults.plan import FaultPlan
from tests.faults.worker import beside, fired

ROOT = Path(__file__).parents[2]
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
"""Lets a process see another wall clock; of Debian's package `faketime`."""
MEMORY = 512 * 1024 * 1024
"""Bytes that a worker may take beyond what it has when it is limited."""
DISK = 8 * 1024 * 1024


class Processes:
    """What was started, and what of it must be prepared for a plan: disks, clocks. Workers are forks where they can be.

    Args:
        server: forks workers.
        cwd: folder of everything.
        plan: what will happen.
        flags: settings of the run.
        peers: how many there are.
    """

    def __init__(self, server: Server, cwd: Path, plan: FaultPlan, *flags: str, peers: int) -> None:
        pace()  # measures from here on how slow the machine is
        self.cwd, self.plan, self.peers = cwd, plan, peers
        self.folder = cwd / "runs" / "run"
        self.state = cwd / "state"
        self.faults = cwd / "faults.json"
        self.flags = settings(*flags, "run.name=run", f"run.out={cwd / 'runs'}", f"group.peers={peers}")
        self._server = server
        self._handed: list[Fault] = []
        self._started = 0
        self.workers: dict[int, Running] = {}
        self.everybody: list[Running] = []
        self._write_faults()
        (cwd / "config.yaml").write_text("{}\n")
        self.disks: dict[int, Disk] = {}
        self.limits: dict[int, MemoryLimit] = {}
        self.clocks = {peer: cwd / f"clock-{peer}" for peer in plan.of("clock_jump", "coordinator_clock_jump")}
        for clock in self.clocks.values():
            clock.write_text("+0")

    def mount(self) -> None:
        """Give disks of their own to the checkpoints of peers that the plan needs them for."""
        for peer in sorted(self.plan.of("disk_full", "read_only")):
            self.disks[peer] = Disk(self.folder / "checkpoints" / f"peer-{peer:03d}", DISK)

    def arguments(self, *arguments: str) -> tuple[str, ...]:
        """Of a worker's command line."""
        return ("--faults", str(self.faults), "--config", str(self.cwd / "config.yaml"), *self.flags, *arguments)

    def newest_checkpoint(self, peer: int) -> Path:
        """The tensors of the newest checkpoint of a peer."""
        latest = self.folder / "checkpoints" / f"peer-{peer:03d}" / "latest"
        return latest.resolve().with_suffix(".safetensors")

    def _worker(self, arguments: tuple[str, ...], peer: int, host: Host | None = None, **environment: str) -> Running:
        """A worker: a fork, but on a host, or with a clock, of its own."""
        if peer in self.clocks or host is not None:
            command = (sys.executable, "-m", PROGRAM, *arguments)
            return self._run(host.command(*command) if host else command, "worker", peer, **environment)
        running = ForkedRunning(self._server, arguments, self.cwd, self._name("worker"), **environment)
        self.everybody.append(running)
        return running

    def _run(self, command: tuple[str, ...], name: str, peer: int, **environment: str) -> Running:
        environment = {"PYTHONPATH": str(ROOT), **environment}
        if peer in self.clocks:
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clocks[peer]),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_RESET": "1",
            }
        running = Running(command, self.cwd, name=self._name(name), **environment)
        self.everybody.append(running)
        return running

    def _name(self, what: str) -> str:
        self._started += 1
        return f"{self._started:03d}-{what}"

    # faults that workers carry out

    def hand(self, fault: Fault) -> None:
        """Let the worker know of a fault; it is carried out in its round."""
        self._handed.append(fault)
        self._write_faults()

    def has_fired(self, fault: Fault) -> bool:
        """Whether a worker has begun with it."""
        return fault in fired(self.faults)

    def gate(self, rounds: int) -> None:
        """Let so many rounds be published; the workers wait before the next."""
        write_atomically(beside(self.faults, "gate"), str(rounds).encode())

    def _write_faults(self) -> None:
        write_atomically(self.faults, FaultPlan(tuple(self._handed)).as_json().encode())

    def limit(self, peer: int) -> MemoryLimit:
        """Limit the memory of a peer's process, from now on."""
        pid = self.workers[peer].process.pid
        made = MemoryLimit(f"{self.cwd.name}-{pid}", MEMORY)
        self.limits[pid] = made
        made.add(pid)
        return made

    def until(self, true: Callable[[], object], what: str, patience: float = 90.0) -> None:
        """Wait for something to become true.

        Raises:
            TimeoutError: it did not; names what, and shows what the processes said last.
        """
        deadline = time.monotonic() + patience
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {patience:g} s\n{self.last_words()}")
            time.sleep(0.02)

    def last_words(self) -> str:
        """The end of what each process said."""
        told = []
        for running in self.everybody:
            lines = running.output.read_text(errors="replace").splitlines()[-12:]
            told.append("\n  ".join([f"{running.output.name}: {running.process.poll()}", *lines]))
        return "\n".join(told)

    def close(self) -> None:
        """End and remove all that was started, mounted and made, whatever state it is in."""
        for running in self.everybody:
            if running.process.poll() is None:
                os.kill(running.process.pid, signal.SIGCONT)
            running.reap()
            if self.clocks:  # what libfaketime leaves of a process that was killed
                for name in ("faketime_shm_", "sem.faketime_sem_"):
                    (FOLDER / f"{name}{running.process.pid}").unlink(missing_ok=True)
        for thing in (*self.limits.values(), *self.disks.values()):
            thing.close()
