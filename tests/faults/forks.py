"""Workers that carry out fault plans, forked from a process that has imported torch: each starts in no time.

`python -m tests.faults.forks` is `peers.worker.forkserver` for `tests.faults.worker`. A fork runs where the server was
started, so its folders are given in full.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from coordinator.launch.base import ProcessExit
from coordinator.launch.forked import Fork, ForkServer
from peers.worker import forkserver
from tests.commands import Running
from tests.faults.worker import EARLY

PROGRAM = "tests.faults.worker"
MODULES = (PROGRAM, *EARLY)
LOOK = 0.02


class Server(ForkServer):
    """Forks workers of `tests.faults.worker`."""

    program = "tests.faults.forks"

    def __init__(self) -> None:
        super().__init__(MODULES)


class ForkedProcess:
    """As much of `subprocess.Popen` as tests ask of a worker.

    Args:
        server: to fork it from.
        arguments: of the worker.
        output: gets what it writes.
        environment: variables on top of the server's.
    """

    def __init__(
        self, server: Server, arguments: tuple[str, ...], output: Path, environment: Mapping[str, str]
    ) -> None:
        self._fork = Fork(server, arguments, output, environment)
        self.pid = self._fork.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        if self.returncode is None and isinstance(ended := self._fork.ended(), ProcessExit):
            self.returncode = -1 if ended.code is None else ended.code
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Exit code, when it has ended."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(PROGRAM, timeout)
            time.sleep(LOOK)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, or to nobody."""
        if self.poll() is None:
            self._fork._signal(number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkedRunning(Running):
    """A worker under way that was forked; see `Running`."""

    def __init__(self, server: Server, arguments: tuple[str, ...], cwd: Path, name: str, **environment: str) -> None:
        self.output = cwd / f"{name}.txt"
        self.process = ForkedProcess(server, arguments, self.output, environment)  # type: ignore[assignment]


if __name__ == "__main__":
    forkserver.MODULE = forkserver.MAIN = PROGRAM
    sys.exit(forkserver.main())
