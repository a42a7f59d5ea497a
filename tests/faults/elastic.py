"""An elastic group by hand, as an operator runs one: a coordinator and workers, each a process of its own."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from coordinator import status as console
from peers.transport.access import Access
from protos.consensus_pb2 import StatusRequest
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.commands import BIN, Running, rounds_recorded, run, settings
from tests.conftest import Start


class ElasticGroup:
    """Processes of one run in one folder.

    Args:
        start: starts commands, and reaps them when the test ends.
        cwd: where they run.
        flags: settings of the run; `run.name` is "run".
    """

    def __init__(self, start: Start, cwd: Path, *flags: str) -> None:
        self._start, self.cwd = start, cwd
        self.flags = settings(*flags, "run.name=run", "exchange.kind=coordinator")
        self.folder = cwd / "runs" / "run"
        (cwd / "config.yaml").write_text("{}\n")
        self.workers: list[Running] = []
        self._channel: Any = None
        self.coordinator = self._serve("127.0.0.1:0")
        self.address = (cwd / "address").read_text()

    def _serve(self, bind: str) -> Running:
        """Start the coordinator; returns when it listens."""
        address = self.cwd / "address"
        address.unlink(missing_ok=True)
        command = (str(BIN / "coordinator"), "serve", "config.yaml", *self.flags, "--bind", bind)
        running = self._start((*command, "--address-file", "address", "--state", "state"), self.cwd, name="serve")
        running.until(address.is_file)
        return running

    def worker(self, *arguments: str, start: tuple[str, str] = ("-m", "peers.worker")) -> Running:
        """Start a worker, or what takes the place of one."""
        command = (sys.executable, *start, "--config", "config.yaml", *self.flags)
        name = f"worker-{len(self.workers)}"
        running = self._start((*command, "--coordinator", self.address, *arguments), self.cwd, name=name)
        self.workers.append(running)
        return running

    def restart_coordinator(self) -> None:
        """SIGKILL, and the same command on the same address and state."""
        self.coordinator.process.send_signal(signal.SIGKILL)
        self.coordinator.process.wait()
        self.coordinator = self._serve(self.address)
        self.close()

    def close(self) -> None:
        """Release the connection for status."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def status(self) -> dict[str, Any]:
        """What `coordinator status --json` prints; over one connection, since tests ask many times a second."""
        if self._channel is None:
            self._channel = Access(self.address).channel()
        stub = CoordinatorStub(self._channel)
        return console.as_json(stub.GetStatus(StatusRequest(), timeout=20, wait_for_ready=True))

    def members(self) -> set[int]:
        """Ids of the peers that are members now."""
        return {peer for worker in self.status()["workers"] if worker["state"] == "member" for peer in worker["peers"]}

    def reached(self, round_: int) -> None:
        """Wait until a round was closed."""
        self.workers[0].until(lambda: rounds_recorded(self.folder) >= round_)

    def records(self) -> list[dict[str, Any]]:
        """All metrics."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run a `coordinator` command."""
        folder = self.cwd / "command"
        folder.mkdir(exist_ok=True)
        return run((str(BIN / "coordinator"), *arguments), folder)
