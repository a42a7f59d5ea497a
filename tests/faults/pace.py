"""How slow the machine is, measured beside a test whose bound is a deadline that the product promises."""

from __future__ import annotations

import functools
import threading
import time

EVERY = 0.1
"""Seconds between two measurements."""


class Pace:
    """Times the same piece of work again and again, in a thread, until the process ends.

    What the product promises in seconds holds for a machine of its own. Where others use it, too, the slack around a
    promise grows by the factor that this piece of work took longer than at its quickest.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        threading.Thread(target=self._measure, name="pace", daemon=True).start()

    def factor(self, since: float = 0.0) -> float:
        """Time of the slowest measurement since a moment of `time.monotonic`, over that of the quickest; 1 or more."""
        samples = list(self._samples)
        quickest = min((seconds for _, seconds in samples), default=1.0)
        return max((seconds / quickest for at, seconds in samples if at >= since), default=1.0)

    def _measure(self) -> None:
        while True:
            began = time.monotonic()
            sum(range(100_000))
            self._samples.append((began, time.monotonic() - began))
            time.sleep(EVERY)


@functools.cache
def pace() -> Pace:
    """The one of this process; it begins to measure when it is asked for first."""
    return Pace()
