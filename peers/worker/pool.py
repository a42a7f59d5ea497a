"""Peer pool: runs the peers of one worker side by side, a thread per core on CPU, one after the other on a GPU.

Where a peer takes a few milliseconds or less, threads may spend more time on handing the interpreter over to each other
than they win, and it depends on the function: a backward pass needs the interpreter only to begin, a forward pass for
each of its operations. So short functions are timed both ways, and the faster one is used. The results are the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import CodeType
from typing import TypeVar

import torch

SHORT = 0.005
"""Seconds of one peer, up to which both ways are tried."""
AGAIN, AT_LAST = 50, 3200
"""Calls after which the slower way is tried again, for the machine may be busier, or less busy, than it was: each time
that it is slower again, after twice as many, up to a limit."""

T = TypeVar("T")
R = TypeVar("R")


class PeerPool:
    """Applies a function to each of several peers.

    A thread is pinned to a number of compute threads: with more of them than cores, peers slow each other down.

    Args:
        size: how many peers there are.
        device: where they compute.
        threads: compute threads of each peer, on CPU.
        workers: workers that share the host's cores.
    """

    def __init__(self, size: int, device: torch.device, threads: int, workers: int = 1) -> None:
        torch.set_num_threads(threads)
        at_once = min(size, max(1, len(os.sched_getaffinity(0)) // (threads * workers)))
        self._pool = (
            ThreadPoolExecutor(at_once, "peer", initializer=torch.set_num_threads, initargs=(threads,))
            if at_once > 1 and device.type == "cpu"
            else None
        )
        self._ways: dict[CodeType, _Ways] = {}

    def map(self, function: Callable[[T], R], peers: Sequence[T]) -> list[R]:
        """The function's value for each peer, in order; the first exception is raised after all have ended."""
        if self._pool is None:
            return [function(peer) for peer in peers]
        code: CodeType | None = getattr(function, "__code__", None)
        ways = _Ways() if code is None else self._ways.setdefault(code, _Ways())
        together, began = ways.together(), time.perf_counter()
        if together:
            futures = [self._pool.submit(function, peer) for peer in peers]
            wait(futures)
            values = [future.result() for future in futures]
        else:
            values = [function(peer) for peer in peers]
        ways.took(together, time.perf_counter() - began, len(peers))
        return values

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class _Ways:
    """Seconds that a function took for all peers, in threads and without; at first nobody knows."""

    def __init__(self) -> None:
        self._seconds = {True: 0.0, False: 0.0}
        self._left = self._again = AGAIN
        self._long = False

    def together(self) -> bool:
        """Whether threads are to run it this time."""
        if self._long or not self._seconds[True]:
            return True
        return self._faster() if self._left else not self._faster()

    def took(self, together: bool, seconds: float, peers: int) -> None:
        """Learn; what was slow once because the machine was busy is forgotten by and by, and at once by a try."""
        tried, faster = not self._left, self._faster()
        known = self._seconds[together]
        self._seconds[together] = 0.8 * known + 0.2 * seconds if known and not tried else seconds
        self._long = together and seconds > SHORT * peers
        if tried:
            self._again = min(2 * self._again, AT_LAST) if self._faster() == faster else AGAIN
            self._left = self._again
        else:
            self._left -= 1

    def _faster(self) -> bool:
        return self._seconds[True] <= self._seconds[False]  # without is tried second: it counts as 0 until then
