"""Interfaces and small values that all launchers share: processes, sites, results, failures.

A launcher is a function of a plan and of `Reports`; it returns an `LaunchResult` or raises `WorkerFailedError`:

    start       every process of the plan, on whatever the launcher stands for
    watch       until the last one has ended; progress is read from the run's metrics.jsonl, which it brings here
    restart     what failed, up to plan.max_restarts times, unless its exit code says that it would fail again
    interrupt   SIGINT or SIGTERM: all peers save the same round and end; nothing that it started is left
    collect     logs/ and summary.json are in the run's folder here when it returns

Those that watch each process by itself are a `Site`, where processes run, under one of two policies: `elastic`, for
groups that meet at a coordinator, and `fixed`, for those that torch.distributed holds together.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from coordinator.launch.plan import Process
from peers.common.errors import ConfigError, DivergedError, ExchangeError, PeersError

HOPELESS = (ConfigError.exit_code, DivergedError.exit_code)
"""Exit codes of what would fail again in the same way."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
TAIL_LINES = 25
LOOK = 0.1
"""Seconds between two polls of the processes."""
STARTING = 30.0
"""Seconds that a coordinator has to listen, once it has a place to run."""
PARTING = 30.0
"""Seconds that processes have to save and end when they are told to."""


@dataclass(frozen=True)
class LaunchResult:
    """How a launch ended.

    Attributes:
        exit_code: for the launching process; 128 + signal when it was interrupted.
        restarts: how often something was started again.
        signal: number of the signal that ended it, or None.
        note: what became of the run when the launcher was interrupted but the run was not.
    """

    exit_code: int
    restarts: int
    signal: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Reports:
    """Callbacks by which a launcher reports restarts and notes.

    Attributes:
        restart: called with (number of the restart, of the group or of the process, what happened) before each one.
        note: called with a line for the user.
    """

    restart: Callable[[int, str], None]
    note: Callable[[str], None]


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended.

    Attributes:
        code: its exit code, -n for signal n; None if nobody knows, as of a process of a lost host.
        why: what is known besides, in a line.
    """

    code: int | None
    why: str = ""


@dataclass(frozen=True)
class Meeting:
    """How a worker finds its group: a coordinator's address, or its rank and a store.

    Attributes:
        coordinator: address of the group's coordinator; None for a fixed group.
        rank: of the worker in a fixed group.
        world: workers of a fixed group.
        store: host and port of the store in which a fixed group meets; never in a worker, so that any may die.
        attempt: how often the fixed group has been started before.
    """

    coordinator: str | None = None
    rank: int = 0
    world: int = 1
    store: tuple[str, int] = ("", 0)
    attempt: int = 0

    def flags(self) -> tuple[str, ...]:
        """Command line flags of a worker."""
        return () if self.coordinator is None else ("--coordinator", self.coordinator)

    def environment(self) -> dict[str, str]:
        """Environment of a worker of a fixed group: torchrun's variables.

        Each worker is alone on its host as far as it can see: a site gives it no GPUs but its own.
        """
        if self.coordinator is not None:
            return {}
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.store[0],
            "MASTER_PORT": str(self.store[1]),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: rank 0 must not open one
            "TORCHELASTIC_RESTART_COUNT": str(self.attempt),
        }


class Member(Protocol):
    """A worker under way, wherever it runs."""

    @property
    def log(self) -> Path:
        """Its standard error, here."""

    def waits(self) -> bool:
        """Whether it is still queued, without a place to run."""

    def ended(self) -> ProcessExit | None:
        """How it ended; None while it runs, or waits."""

    def stop(self) -> None:
        """Ask it to finish its round, save and end."""

    def kill(self) -> None:
        """End it now, if it has not ended; returns when it is gone."""


class Service(Member, Protocol):
    """A coordinator under way, wherever it runs."""

    def address(self) -> str | None:
        """Where workers reach it; None until it listens."""

    def end_run(self, reason: str) -> None:
        """End its run, for all in the same round.

        Raises:
            ExchangeError: it cannot be reached.
        """


class Site(Protocol):
    """Where the processes of a plan run."""

    def serve(self, process: Process, bind: str | None) -> Service:
        """Start the coordinator.

        Args:
            process: the plan's.
            bind: HOST:PORT instead of the configuration's; for one that is to be found where it was.
        """

    def work(self, process: Process, meeting: Meeting) -> Member:
        """Start a worker; it continues from its checkpoints, if there are any."""

    def meet(self) -> tuple[str, int]:
        """Host and port of a new store, in which a fixed group can meet."""

    def look(self) -> None:
        """Called between two polls of the processes, for what has to be done now and then."""


class WorkerFailedError(PeersError):
    """A worker failed for good; the text holds the end of its log and the log's path."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Interrupted:
    """Handler that remembers the first SIGTERM, SIGINT or SIGUSR1 (Slurm's warning before the time limit)."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def installed(self) -> Iterator[Interrupted]:
        """Take over these signals, and give them back."""
        before = {number: signal.signal(number, self._on) for number in STOPPING}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def reason(self) -> str:
        """Text for the peers and their logs."""
        return f"stopped by {signal.Signals(self.number or signal.SIGTERM).name}"

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number


def restarting(number: int, text: str, most: int) -> str:
    """Message of a restart for the user."""
    return f"{text}\nrestart {number} of {most} from the checkpoints"


def exit_code_of(code: int | None) -> int:
    """What the launching process ends with when a worker ended with `code` for good."""
    return code if code is not None and code in (*HOPELESS, ExchangeError.exit_code) else 1


def failure(name: str, ended: ProcessExit, log: Path) -> str:
    """Message of a failed process for the user: how it ended, the end of its log, the log's path.

    Args:
        name: of the process.
        ended: how it ended.
        log: its standard error.
    """
    code = ended.code
    how = "was lost" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    how += ended.why and f" ({ended.why})"
    return "\n".join([f"{name} {how}; the end of {log}:", *(f"  {line}" for line in _tail(log))])


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as exc:
        return [f"(cannot be read: {exc})"]
