"""Subprocesses of this machine, which end with the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from coordinator import status as console
from coordinator.launch.base import Member, ProcessExit, Service
from coordinator.launch.plan import Plan, Process
from coordinator.service.store import forget
from peers.common.errors import ExchangeError
from peers.config.credentials import access
from peers.worker.process import PARENT_VARIABLE


class Child(Member):
    """A subprocess in a session of its own: Ctrl-C reaches the launcher alone, which stops the others.

    Args:
        command: argument vector.
        log: gets its output, at the end.
        environment: variables on top of this process's.
    """

    def __init__(self, command: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as file:
            self._popen = subprocess.Popen(  # noqa: S603  # the plan's own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    @property
    def log(self) -> Path:
        """See `Member.log`."""
        return self._log

    def waits(self) -> bool:
        """See `Member.waits`."""
        return False

    def ended(self) -> ProcessExit | None:
        """See `Member.ended`."""
        code = self._popen.poll()
        return None if code is None else ProcessExit(code)

    def stop(self) -> None:
        """See `Member.stop`; SIGCONT follows, since a suspended process would not get the signal."""
        self._popen.terminate()
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """See `Member.kill`."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()


class CoordinatorChild(Child, Service):
    """`coordinator serve` as a subprocess.

    Args:
        plan: of the run.
        process: the plan's coordinator.
        bind: HOST:PORT instead of the configuration's.
    """

    def __init__(self, plan: Plan, process: Process, bind: str | None) -> None:
        self._plan = plan
        plan.folder.coordinator_address.unlink(missing_ok=True)
        if bind is None:
            forget(plan.folder.coordinator_state(plan.config))
        flags = () if bind is None else ("--bind", bind)
        super().__init__((*process.command, *flags), plan.folder.path / process.log, with_parent())

    def address(self) -> str | None:
        """See `Service.address`."""
        try:
            return self._plan.folder.coordinator_address.read_text().strip()
        except FileNotFoundError:
            return None

    def end_run(self, reason: str) -> None:
        """See `Service.end_run`."""
        address = self.address()
        if address is None:
            raise ExchangeError("it does not listen yet")
        console.stop(access(self._plan.config, address), reason)


def with_parent() -> dict[str, str]:
    """Environment of a process that ends with this one."""
    return {PARENT_VARIABLE: str(os.getpid())}


def stderr_of(plan: Plan, process: Process) -> Path:
    """Where a worker's standard error goes; its log file holds what it logs itself."""
    return plan.folder.path / process.log.replace(".log", ".stderr")
