"""What makes a worker a good process: its signals, its log, and its end when its parent ends."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from peers.place import Place

PARENT_VARIABLE = "PEERS_PARENT"
"""Set by a launcher for the processes that are to end with it."""

logger = logging.getLogger(__name__)


class StopSignal:
    """SIGTERM and SIGINT: the first asks to stop after the round, a second ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def install(self) -> None:
        """Take over both signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask without a signal, from another thread."""
        if self.received is None:
            self.received = number

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        logger.warning("%s: ending after this round; once more ends at once", signal.Signals(number).name)


def set_up_logging(place: Place) -> None:
    """Log to standard error, with the worker's number in each line."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s worker {place.rank}: %(message)s",
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
