"""A group of processes that faults are done to: a coordinator, and workers that carry out their part of a plan."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import psutil

from coordinator import console
from peers.exchange.faulty import Fault
from peers.exchange.shared import FOLDER
from peers.exchange.stream_access import Access
from peers.files import write_atomically
from protos.consensus_pb2 import StatusRequest
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.clusters.hosts import Host
from tests.commands import BIN, Running, settings
from tests.faults.forks import ForkedRunning, Server
from tests.faults.limits import Disk, MemoryLimit
from tests.faults.plan import NOBODY, FaultPlan
from tests.faults.proxy import Proxy
from tests.faults.worker import beside, fired

ROOT = Path(__file__).parents[2]
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
"""Lets a process see another wall clock; of Debian's package `faketime`."""
MEMORY = 512 * 1024 * 1024
"""Bytes that a worker may take beyond what it has when it is limited."""
DISK = 8 * 1024 * 1024
CALL = 2.0
"""Seconds that a coordinator has to say how it is; one that is stopped does not."""


class Group:
    """Processes of one run in one folder. Workers are forks, unless a fault of the plan needs one of its own.

    Args:
        server: forks workers.
        cwd: folder of everything.
        plan: what will happen, which decides what must be prepared: proxies, disks, clocks.
        flags: settings of the run.
        peers: how many there are.
        hosts: where they run, by peer; `NOBODY` is the coordinator's.
        streamed: peers whose workers do without shared memory.
    """

    def __init__(
        self,
        server: Server,
        cwd: Path,
        plan: FaultPlan,
        *flags: str,
        peers: int,
        hosts: Mapping[int, Host] | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> None:
        self.cwd, self.plan, self.peers, self.hosts = cwd, plan, peers, hosts or {}
        self.folder = cwd / "runs" / "run"
        self.state = cwd / "state"
        self.faults = cwd / "faults.json"
        self.flags = settings(
            *flags, "run.name=run", f"run.out={cwd / 'runs'}", "exchange.kind=coordinator", f"group.peers={peers}"
        )
        self._server, self._streamed = server, streamed
        self._handed: list[Fault] = []
        self._channel: Any = None
        self._started = 0
        self.workers: dict[int, Running] = {}
        self.everybody: list[Running] = []
        self.away: list[float] = []
        """Seconds of each time that the coordinator was away."""
        self._write_faults()
        (cwd / "config.yaml").write_text("{}\n")
        self.disks = {
            peer: Disk(self.folder / "checkpoints" / f"peer-{peer:03d}", DISK)
            for peer in sorted(plan.of("disk_full", "read_only"))
        }
        self.limits: dict[int, MemoryLimit] = {}
        self.clocks = {peer: cwd / f"clock-{peer}" for peer in plan.of("clock_jump", "coordinator_clock_jump")}
        for clock in self.clocks.values():
            clock.write_text("+0")
        self.coordinator = self.serve("0.0.0.0:0" if self.hosts else "127.0.0.1:0")
        self.address = (cwd / "address").read_text()
        self._seen_at = self.address
        self._way_in: Proxy | None = None
        if NOBODY in self.hosts:
            port = self.address.rpartition(":")[2]
            self._way_in = Proxy(f"127.0.0.1:{port}", "127.0.0.1", self.hosts[NOBODY].namespace)
            self._seen_at = self._way_in.address
        linked = sorted(plan.of("slow_link", "dropped", "half_open"))
        self.proxies = {peer: Proxy(self.address, f"127.0.0.{10 + peer}") for peer in linked}
        self._follow()

    # processes

    def serve(self, bind: str) -> Running:
        """Start the coordinator; returns when it listens."""
        address = self.cwd / "address"
        address.unlink(missing_ok=True)
        host = self.hosts.get(NOBODY)
        spread = settings("security.insecure=true", f"coordinator.advertise={host.name}") if host else []
        command = (str(BIN / "coordinator"), "serve", str(self.cwd / "config.yaml"), *self.flags, *spread)
        command = (*command, "--bind", bind, "--address-file", str(address), "--state", str(self.state))
        running = self._run(host.command(*command) if host else command, "serve", NOBODY)
        running.until(address.is_file)
        return running

    def start(self, peer: int, *arguments: str) -> Running:
        """Start the worker of a peer."""
        running = self.spawn(peer, "--peer", str(peer), *arguments)
        self.workers[peer] = running
        return running

    def spawn(self, peer: int, *arguments: str) -> Running:
        """Start a worker in the place of a peer's, whatever it says of itself."""
        address = self.proxies[peer].address if peer in self.proxies else self.address
        given = ("--faults", str(self.faults), "--config", str(self.cwd / "config.yaml"), *self.flags)
        if peer in self._streamed:
            given = (*given, "--set", "exchange.shared_memory=false")
        given = (*given, "--coordinator", address, *arguments)
        if peer in self.clocks or peer in self.hosts:
            command = (sys.executable, "-m", "tests.faults.worker", *given)
            return self._run(self.hosts[peer].command(*command) if peer in self.hosts else command, "worker", peer)
        running = ForkedRunning(self._server, given, self.cwd, self._name("worker"))
        self.everybody.append(running)
        return running

    def _run(self, command: tuple[str, ...], name: str, peer: int) -> Running:
        environment = {"PYTHONPATH": str(ROOT)}
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

    def coordinator_again(self, gone: float) -> None:
        """Start the coordinator again, on its address and state; `gone`: when it went, on the monotonic clock."""
        self.forget_channel()
        self.coordinator = self.serve(self.address)
        self.away.append(time.monotonic() - gone)
        self._follow()

    def _follow(self) -> None:
        """Let the proxies listen on whatever ports the coordinator has opened."""
        if self.proxies:
            open_ = psutil.Process(self.coordinator.process.pid).net_connections("tcp")
            ports = {each.laddr.port for each in open_ if each.status == psutil.CONN_LISTEN}
            for proxy in self.proxies.values():
                proxy.follow(ports)

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

    # looks

    def status(self) -> dict[str, Any] | None:
        """What `coordinator status --json` prints; None while the coordinator is away."""
        if self._channel is None:
            self._channel = Access(self._seen_at).channel()
        stub = CoordinatorStub(self._channel)
        try:
            return console.as_json(stub.GetStatus(StatusRequest(), timeout=CALL, wait_for_ready=True))
        except grpc.RpcError as exc:
            if exc.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                return None
            raise

    def standing(self) -> dict[int, int]:
        """{peer: number of its membership} of all whose stream stands, members and newcomers."""
        workers = (self.status() or {"workers": []})["workers"]
        return {peer: worker["worker"] for worker in workers if worker["connected"] for peer in worker["peers"]}

    def places(self) -> set[int]:
        """Peers that have a place in the group, whether their stream stands or not; all, while nobody knows."""
        status = self.status()
        if status is None:
            return set(range(self.peers))
        return {peer for worker in status["workers"] for peer in worker["peers"]}

    def round(self) -> int:
        """The open round, or the next to open; -1 while nobody knows."""
        return int((self.status() or {"round": -1})["round"])

    def whole(self) -> bool:
        """Whether all peers are members whose stream stands, and have contributed to a round."""
        workers = (self.status() or {"workers": []})["workers"]
        able = [worker for worker in workers if worker["connected"] and worker["state"] == "member"]
        return sum(len(worker["peers"]) for worker in able if int(worker["rounds"])) == self.peers

    def descriptors(self) -> int:
        """How many the coordinator has open."""
        return int(psutil.Process(self.coordinator.process.pid).num_fds())

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
        status = self.status()
        told = [f"status: {status}"]
        for running in self.everybody:
            lines = running.output.read_text(errors="replace").splitlines()[-12:]
            told.append("\n  ".join([f"{running.output.name}: {running.process.poll()}", *lines]))
        return "\n".join(told)

    # the end

    def stop(self, reason: str) -> None:
        """End the run, for all in the same round."""
        console.stop(Access(self.address), reason)

    def forget_channel(self) -> None:
        """Release the connection for status."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """End and remove all that was started, mounted and made, whatever state it is in."""
        self.forget_channel()
        for running in self.everybody:
            if running.process.poll() is None:
                os.kill(running.process.pid, signal.SIGCONT)
            running.reap()
            if self.clocks:  # what libfaketime leaves of a process that was killed
                for name in ("faketime_shm_", "sem.faketime_sem_"):
                    (FOLDER / f"{name}{running.process.pid}").unlink(missing_ok=True)
        if self._way_in is not None:
            self._way_in.close()
        for thing in (*self.proxies.values(), *self.limits.values(), *self.disks.values()):
            thing.close()
