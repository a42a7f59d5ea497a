"""Exchange between workers of one process: all peers in one worker, or one worker per thread in tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from peers.common.errors import ExchangeError
from peers.common.summation import tree_sum
from peers.exchange.base import Exchange, Hello, Pending, Report, agree, as_sent, check_digests
from peers.transport.values import Consensus, Ticket


@dataclass
class _Publication:
    sent: dict[int, Tensor]
    digest: bytes
    leaving: bool


@dataclass
class _Round:
    publications: dict[int, _Publication] = field(default_factory=dict)
    total: Tensor | None = None
    taken: int = 0


class InProcessGroup:
    """The meeting place of the workers of one group; hands out one exchange per worker.

    Args:
        workers: how many exchanges there will be.
        round_deadline: seconds that a round waits for its slowest member.
        join_window: seconds that the group waits to form and to part.
    """

    def __init__(self, workers: int = 1, *, round_deadline: float = 60.0, join_window: float = 600.0) -> None:
        self.workers = workers
        self.round_deadline = round_deadline
        self.join_window = join_window
        self.changed = threading.Condition()
        self.hellos: dict[int, Hello] = {}
        self.rounds: dict[int, _Round] = {}
        self.reports: dict[int, Report] = {}
        self.left: set[int] = set()
        self.closed: set[int] = set()
        self._handed_out = 0

    def exchange(self) -> InProcessExchange:
        """The exchange of the next worker."""
        worker, self._handed_out = self._handed_out, self._handed_out + 1
        return InProcessExchange(self, worker)

    def wait_for(self, worker: int, done: str, timeout: float) -> None:
        """Block until a stage ("joined", "left", or a round's number as text) is complete; holds `changed`.

        Raises:
            ExchangeError: the time ran out, or a worker closed without leaving.
        """

        def complete() -> bool:
            if done == "joined":
                return len(self.hellos) == self.workers
            if done == "left":
                return len(self.left) == self.workers
            return len(self.rounds[int(done)].publications) == self.workers

        def lost() -> set[int]:
            return self.closed - self.left - {worker}

        self.changed.wait_for(lambda: complete() or bool(lost()), timeout)
        if complete():
            return
        stage = f"round {done}" if done.isdigit() else f"the group has not {done}"
        if lost():
            raise ExchangeError(f"{stage}: workers {sorted(lost())} ended before the group did")
        raise ExchangeError(f"{stage}: not complete within {timeout:g} s")


class InProcessExchange(Exchange):
    """One worker's end of an `InProcessGroup`."""

    def __init__(self, group: InProcessGroup, worker: int) -> None:
        self._group = group
        self._worker = worker
        self._hello: Hello | None = None

    def join(self, hello: Hello) -> Ticket:
        """See `Exchange.join`."""
        group = self._group
        with group.changed:
            self._hello = group.hellos[self._worker] = hello
            group.changed.notify_all()
            group.wait_for(self._worker, "joined", group.join_window)
            return agree([group.hellos[worker] for worker in sorted(group.hellos)], self._worker)

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        hello = self._joined()
        sent = {peer: as_sent(z, hello.wire) for peer, z in outputs.items() if z is not None}
        group = self._group
        with group.changed:
            current = group.rounds.setdefault(round_, _Round())
            current.publications[self._worker] = _Publication(sent, digest, leaving)
            if len(current.publications) == group.workers and hello.rule.kind == "sum":
                everyone = {peer: z for each in current.publications.values() for peer, z in each.sent.items()}
                current.total = tree_sum(everyone) if everyone else None
            group.changed.notify_all()
        return _InProcessPending(group, self._worker, hello, round_)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """See `Exchange.leave`."""
        group = self._group
        with group.changed:
            group.reports.update(reports)
            group.left.add(self._worker)
            group.changed.notify_all()
            group.wait_for(self._worker, "left", group.join_window)
            return dict(group.reports)

    def close(self) -> None:
        """See `Exchange.close`."""
        with self._group.changed:
            self._group.closed.add(self._worker)
            self._group.changed.notify_all()

    def _joined(self) -> Hello:
        if self._hello is None:
            raise RuntimeError("publish came before join")
        return self._hello


class _InProcessPending(Pending):
    def __init__(self, group: InProcessGroup, worker: int, hello: Hello, round_: int) -> None:
        self._group, self._worker, self._hello, self._round = group, worker, hello, round_

    def result(self, timeout: float | None = None) -> Consensus[Tensor]:
        group = self._group
        with group.changed:
            deadline = group.round_deadline if timeout is None else timeout
            group.wait_for(self._worker, str(self._round), deadline)
            current = group.rounds[self._round]
            current.taken += 1
            if current.taken == group.workers:
                del group.rounds[self._round]
        return self._consensus(current)

    def _consensus(self, current: _Round) -> Consensus[Tensor]:
        hello, publications = self._hello, current.publications
        check_digests(
            self._round, {self._group.hellos[worker].peers: each.digest for worker, each in publications.items()}
        )
        everyone = {peer: z for each in publications.values() for peer, z in each.sent.items()}
        sources = hello.rule.sources_of(hello.peers, self._round, range(hello.group))
        wanted = {source for drawn in sources.values() for source in drawn} - set(hello.peers)
        leaving = (self._group.hellos[worker].peers for worker, each in publications.items() if each.leaving)
        return Consensus(
            round=self._round,
            epoch=1,
            contributors=tuple(sorted(everyone)),
            total=current.total,
            sent=publications[self._worker].sent,
            members={peer: everyone[peer] for peer in sorted(wanted) if peer in everyone},
            sources=sources,
            leaving=frozenset(peer for peers in leaving for peer in peers),
        )
