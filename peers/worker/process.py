"""The process of a worker: its signals, its log, and its end when its parent ends."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from peers.worker.placement import Placement

PARENT_VARIABLE = "PEERS_PARENT"
"""Set by a launcher for the processes that are to end with it."""

SAME_REQUEST = 2.0
"""Seconds in which a repeated signal is the same request: an agent and a batch system may both pass it on."""

logger = logging.getLogger(__name__)


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1: the first asks to stop after the round, a later one ends the process at once.

    SIGUSR1 is what batch systems are told to send some time before a job's limit.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received: int | None = None
        self._clock = clock
        self._since = 0.0

    def install(self) -> None:
        """Take over all three signals."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask without a signal, from another thread."""
        if self.received is None:
            self._since = self._clock()
            self.received = number

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.request(number)
            logger.warning("%s: ending after this round; once more ends at once", signal.Signals(number).name)
        elif self._clock() - self._since > SAME_REQUEST:
            os._exit(128 + number)


def set_up_logging(placement: Placement) -> None:
    """Log to standard error, with the worker's number in each line."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s worker {placement.rank}: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def log_to_file(path: Path) -> None:
    """Log to a file too, in the same format."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger().addHandler(handler)


def end_with_parent() -> None:
    """Under a launcher, ask the kernel for a SIGTERM when it dies: no orphan goes on writing to the run."""
    if ("TORCHELASTIC_RUN_ID" in os.environ or PARENT_VARIABLE in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
