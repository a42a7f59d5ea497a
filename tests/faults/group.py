"""A group of processes that faults are done to: a coordinator, and workers that carry out their part of a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import psutil

from coordinator import status as console
from peers.transport.access import Access
from protos.consensus_pb2 import StatusRequest
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.clusters.hosts import Host
from tests.commands import BIN, Running, settings
from tests.faults.forks import Server
from tests.faults.plan import NOBODY, FaultPlan
from tests.faults.processes import Processes
from tests.faults.proxy import Proxy

CALL = 2.0
"""Seconds that a coordinator has to say how it is; one that is stopped does not."""


class Group(Processes):
    """A coordinator and workers. Those are forks, unless a fault of the plan needs a process of its own.

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
        super().__init__(server, cwd, plan, "exchange.kind=coordinator", *flags, peers=peers)
        self.hosts, self._streamed = hosts or {}, streamed
        self._channel: Any = None
        self.away: list[float] = []
        """Seconds of each time that the coordinator was away."""
        self.mount()
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
        given = self.arguments("--coordinator", address, *arguments)
        if peer in self._streamed:
            given = (*given, "--set", "exchange.shared_memory=false")
        return self._worker(given, peer, self.hosts.get(peer))

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

    def last_words(self) -> str:
        return f"status: {self.status()}\n{super().last_words()}"

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
        self.forget_channel()
        super().close()
        if self._way_in is not None:
            self._way_in.close()
        for proxy in self.proxies.values():
            proxy.close()
