"""What a peer does in the exchange benchmark: publish, wait for the sum, look at it, change its outputs, again.

Outputs are whole numbers so small that float32 adds them exactly in any order: a sum is right or wrong, whoever added.
One row is written anew in each round, so that a sum of another round, or with another round's part in it, is noticed.

numpy alone: what measures Ray and hivemind runs in processes that need not import torch.
"""

from __future__ import annotations

import math
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tests.benchmarks.usage import peak, processor_time

LEADING = 2
"""Unmeasured rounds of a pass: the first is checked in full, the second lines the peers up again."""
PATIENCE = 120.0
"""Seconds that one side of an exchange waits for the others before it gives up."""

Array = np.ndarray[Any, np.dtype[np.float32]]


class WrongSumError(Exception):
    """What came back is not the sum of what was published."""


@dataclass(frozen=True)
class Setting:
    """What a group is made for.

    Attributes:
        peers: N.
        shape: (B, D) of every peer's outputs.
    """

    peers: int
    shape: tuple[int, int]

    @property
    def bytes(self) -> int:
        """Of one peer's outputs, float32."""
        return math.prod(self.shape) * 4

    @property
    def payload(self) -> str:
        """As tables name it: [256, 512]."""
        return f"[{self.shape[0]}, {self.shape[1]}]"


@dataclass(frozen=True)
class Pass:
    """What one peer measured in one pass.

    Attributes:
        seconds: from publishing to the sum, for each measured round.
        period: seconds from round to round.
        cpu: processor time of the peer, all its threads, seconds for each round.
        peak: largest resident memory of its process so far, bytes.
    """

    seconds: list[float]
    period: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Served:
    """What the process between the peers used in one pass; attributes as those of `Pass`."""

    cpu: float
    peak: int


class Endpoint(Protocol):
    """One peer's end of what is measured."""

    def exchange(self, round_: int, outputs: Array) -> Array:
        """Publish [B, D] float32 and wait for the sum of all peers, [B, D] float32; the outputs stay as they are."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Outputs:
    """Outputs of one peer, and the sum that must come back.

    Args:
        peer: its id, 0 to N - 1.
        setting: of the group.
        tolerance: relative difference that is no error; 0 where float32 is all that is ever added or sent.

    Attributes:
        own: [B, D], to be published.
        expected: [B, D], the sum of all peers' outputs.
    """

    def __init__(self, peer: int, setting: Setting, tolerance: float = 0.0) -> None:
        rows, columns = setting.shape
        pattern = (np.arange(rows * columns, dtype=np.float32) % 251 + 1).reshape(setting.shape)
        self._share, self._all = peer + 1, setting.peers * (setting.peers + 1) // 2
        self.own: Array = pattern * np.float32(self._share)
        self.expected: Array = pattern * np.float32(self._all)
        self._tolerance = tolerance
        self._row = 0

    def turn(self, round_: int) -> None:
        """Write a row anew; each time with other values, by a factor of two or four, so that an old one is far off."""
        turns, self._row = divmod(round_, len(self.own))
        scale = 300 * 2 ** (turns % 3)
        self.own[self._row] = scale * self._share
        self.expected[self._row] = scale * self._all

    def check(self, total: Array, *, full: bool = False) -> None:
        """Look at the row that was written last, or at all.

        Raises:
            WrongSumError: it is not what it must be.
        """
        rows = slice(None) if full else self._row
        found, expected = total[rows], self.expected[rows]
        if not self._tolerance and np.array_equal(found, expected):
            return
        wrong = ~(np.abs(found - expected) <= self._tolerance * expected)  # so that NaN is wrong
        if wrong.any():
            what = "the sum" if full else f"row {self._row} of the sum"
            is_, due = found[wrong][0], expected[wrong][0]
            raise WrongSumError(f"{what}: {wrong.sum()} of {wrong.size} values are wrong, one is {is_}, not {due}")


class Peer:
    """One peer in this process, or in one of its threads.

    Args:
        endpoint: its end of the exchange.
        outputs: its outputs.
        usage: whose processor time counts: `resource.RUSAGE_SELF`, or RUSAGE_THREAD.
    """

    def __init__(self, endpoint: Endpoint, outputs: Outputs, usage: int = resource.RUSAGE_SELF) -> None:
        self._endpoint, self._outputs, self._usage = endpoint, outputs, usage
        self._round = 0

    def run(self, rounds: int) -> list[Pass]:
        """One pass.

        Raises:
            WrongSumError: a sum was wrong.
        """
        for leading in range(LEADING):
            self._one(full=leading == 0)
        cpu, begun = processor_time(self._usage), time.perf_counter()
        seconds = [self._one() for _ in range(rounds)]
        period = (time.perf_counter() - begun) / rounds
        return [Pass(seconds, period, (processor_time(self._usage) - cpu) / rounds, peak())]

    def close(self) -> None:
        """Release the endpoint."""
        self._endpoint.close()

    def _one(self, *, full: bool = False) -> float:
        outputs, round_ = self._outputs, self._round
        self._round += 1
        outputs.turn(round_)
        begun = time.perf_counter()
        total = self._endpoint.exchange(round_, outputs.own)
        seconds = time.perf_counter() - begun
        outputs.check(total, full=full)
        return seconds


class Threads:
    """Several peers of one process, a thread for each."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers

    def run(self, rounds: int) -> list[Pass]:
        """One pass; raises what a peer raised."""
        found: list[Any] = [None] * len(self._peers)

        def work(place: int, peer: Peer) -> None:
            try:
                found[place] = peer.run(rounds)[0]
            except Exception as exc:  # raised below, in the caller's thread
                found[place] = exc
                peer.close()  # the others would wait for it

        threads = [threading.Thread(target=work, args=item) for item in enumerate(self._peers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in found:
            if isinstance(each, Exception):
                raise each
        return found

    def close(self) -> None:
        """Release all endpoints."""
        for peer in self._peers:
            peer.close()
