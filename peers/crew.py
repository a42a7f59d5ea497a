"""Runs the peers of one worker side by side: a thread per core on CPU, one after the other on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Crew:
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

    def map(self, function: Callable[[T], R], peers: Sequence[T]) -> list[R]:
        """The function's value for each peer, in order; the first exception is raised after all have ended."""
        if self._pool is None:
            return [function(peer) for peer in peers]
        futures = [self._pool.submit(function, peer) for peer in peers]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
