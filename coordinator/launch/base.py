"""What all launchers share: how a launch ends, what is worth a restart, and how a failure is told.

A launcher is a function of a plan and of `Reports`; it returns an `Outcome` or raises `WorkerFailedError`:

    start       every process of the plan, on whatever the launcher stands for
    watch       until the last one has ended; progress is read from the run's metrics.jsonl, which it brings here
    restart     what failed, up to plan.max_restarts times, unless its exit code says that it would fail again
    interrupt   SIGINT or SIGTERM: all peers save the same round and end; nothing that it started is left
    collect     logs/ and summary.json are in the run's folder here when it returns
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from peers.errors import ConfigError, DivergedError, ExchangeError, PeersError

HOPELESS = (ConfigError.exit_code, DivergedError.exit_code)
"""Exit codes of what would fail again in the same way."""
TAIL_LINES = 25


@dataclass(frozen=True)
class Outcome:
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
    """Where a launcher tells what happens.

    Attributes:
        restart: called with (number of the restart, what happened) before each one.
        note: called with a line for the user.
    """

    restart: Callable[[int, str], None]
    note: Callable[[str], None]


class WorkerFailedError(PeersError):
    """A worker failed for good; the text holds the end of its log and the log's path."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Interrupted:
    """Remembers the first SIGTERM or SIGINT while it is installed."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take over both signals, and give them back."""
        before = {number: signal.signal(number, self._on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def reason(self) -> str:
        """For the peers and their logs."""
        return f"stopped by {signal.Signals(self.number or signal.SIGTERM).name}"

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number


def exit_code_of(code: int) -> int:
    """What the launching process ends with when a worker ended with `code` for good."""
    return code if code in (*HOPELESS, ExchangeError.exit_code) else 1


def failure(name: str, code: int | None, log: Path) -> str:
    """What became of a process, for the user: how it ended, the end of its log, the log's path.

    Args:
        name: of the process.
        code: its exit code, -n for signal n; None if it is unknown, as of a process of a lost host.
        log: its standard error.
    """
    how = "was lost" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return "\n".join([f"{name} {how}; the end of {log}:", *(f"  {line}" for line in _tail(log))])


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as exc:
        return [f"(cannot be read: {exc})"]
