"""Wraps an exchange with a fault plan: what a worker does wrong, at which round, for which of its peers.

Faults are values. Those that end, stop or delay the process are carried out before the publication is handed on; those
that change it hand on another one, and never touch the outputs that they were given. With an empty plan it is the
exchange that it wraps.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from peers.exchange.base import Exchange, Hello, Pending, Report
from peers.transport.values import Ticket

logger = logging.getLogger(__name__)

Once = Literal["exception", "kill", "stop", "memory", "gpu_memory"]
Lasting = Literal["slow", "large", "flipped", "constant", "not_finite", "other_batch"]
ONCE: tuple[str, ...] = get_args(Once)
"""Kinds that happen to the process, once: in their round, or in the first one after it that the worker takes part in.

    exception     raises a RuntimeError
    kill          sends SIGKILL to its own process
    stop          sends SIGSTOP to its own process; who wakes it up is not its business
    memory        fills up to `scale` GiB of memory; the kernel is expected to end it before that
    gpu_memory    allocates memory of the GPU until there is none, which raises torch.cuda.OutOfMemoryError
"""
LASTING: tuple[str, ...] = get_args(Lasting)
"""Kinds that happen to each publication of `rounds` rounds.

    slow          waits `seconds` before it publishes
    large         outputs * scale
    flipped       outputs * -scale
    constant      every entry is `scale`
    not_finite    every entry is not a number
    other_batch   the digest of another batch
"""
KINDS = (*ONCE, *LASTING)
CHUNK = 1 << 24
"""Bytes that are taken at a time where memory is to run out."""


@dataclass(frozen=True)
class Fault:
    """At this round, this peer, this fault.

    Attributes:
        kind: what happens; see `ONCE` and `LASTING`.
        round: from which on.
        peer: to whom; its whole process, where the kind concerns processes.
        rounds: in how many rounds, for lasting kinds.
        seconds: how long, for kinds that take time.
        scale: how much, for kinds that change outputs or take memory.
    """

    kind: str
    round: int
    peer: int
    rounds: int = 1
    seconds: float = 0.0
    scale: float = 1.0


class FaultyExchange(Exchange):
    """Carries out the faults of a plan at `publish`; delegates all else.

    Args:
        inner: the exchange proper.
        faults: what is to happen to the peers of this worker; those of other peers are ignored.
        fired: told of each fault once, when it begins, before it is carried out.

    Raises:
        ValueError: a kind is none of `KINDS`.
    """

    def __init__(self, inner: Exchange, faults: Sequence[Fault], fired: Callable[[Fault], None]) -> None:
        unknown = sorted({fault.kind for fault in faults} - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kinds of faults {unknown}: a worker carries out {list(KINDS)}")
        self.elastic = inner.elastic
        self._inner, self._tell = inner, fired
        self._left = list(faults)
        self._told: set[Fault] = set()

    def join(self, hello: Hello) -> Ticket:
        """See `Exchange.join`."""
        return self._inner.join(hello)

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`; raises and ends as the plan says."""
        published = dict(outputs)
        for fault in [fault for fault in self._left if fault.peer in outputs and _due(fault, round_)]:
            if fault not in self._told:
                self._told.add(fault)
                logger.warning("fault: %s", fault)
                self._tell(fault)
            if fault.kind in ONCE:
                self._left.remove(fault)
                _strike(fault)
            elif fault.kind == "slow":
                time.sleep(fault.seconds)  # the fault itself
            elif fault.kind == "other_batch":
                digest = bytes(byte ^ 0xFF for byte in digest)
            else:
                z = published[fault.peer]
                published[fault.peer] = None if z is None else _altered(fault, z)
        return self._inner.publish(round_, published, digest, leaving=leaving)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """See `Exchange.leave`."""
        return self._inner.leave(reports)

    def close(self) -> None:
        """See `Exchange.close`."""
        self._inner.close()


def _due(fault: Fault, round_: int) -> bool:
    if fault.kind in ONCE:
        return round_ >= fault.round
    return fault.round <= round_ < fault.round + fault.rounds


def _strike(fault: Fault) -> None:
    """Do to this process what a fault of a kind in `ONCE` does."""
    if fault.kind == "exception":
        raise RuntimeError(f"the fault plan has peer {fault.peer} fail in round {fault.round}")
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == "memory":
        _fill_memory(fault)
    else:
        _fill_gpu()


def _fill_memory(fault: Fault) -> None:
    taken = []
    for _ in range(int(fault.scale * (1 << 30)) // CHUNK):
        taken.append(b"\x01" * CHUNK)  # not zeros: each page is written to
    raise RuntimeError(f"peer {fault.peer} has taken {fault.scale:g} GiB of memory and nobody ended it")


def _fill_gpu() -> None:
    taken, size = [], 1 << 30
    while True:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            if size <= CHUNK:
                raise
            size //= 2


def _altered(fault: Fault, z: Tensor) -> Tensor:
    """Outputs [B, D] as the fault has them; a tensor of its own."""
    if fault.kind == "large":
        return z * fault.scale
    if fault.kind == "flipped":
        return z * -fault.scale
    value = fault.scale if fault.kind == "constant" else float("nan")
    return torch.full_like(z, value)
