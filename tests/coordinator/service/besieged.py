"""A coordinator under attack, with an honest group that closes rounds meanwhile, and what the attack costs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.coordinator.service.processes import Coordinator, LightPeer, coordinator, receipts_agree, until

TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
HONEST = 3
WINDOW = 1.0
"""Seconds in which rounds are counted, before and under attack."""
SETTLED = 8
"""Descriptors that may be left after an attack: connections that the system has not quite given up."""
TRACEBACKS = 200
"""Of gRPC's, for messages that are none, at the rate that the log allows; our own code has none."""
Attack = Callable[[], object]


class Besieged:
    """The group.

    Args:
        at: its coordinator.
        peers: its members' processes.
    """

    def __init__(self, at: Coordinator, peers: list[LightPeer]) -> None:
        assert at.process is not None
        self.at = at
        self.peers = peers
        self._process = psutil.Process(at.process.pid)

    @property
    def rounds(self) -> int:
        """Rounds that all honest members know of."""
        return min(peer.out.read_bytes().count(b'"Consensus"') for peer in self.peers)

    @property
    def mib(self) -> float:
        """Memory of the coordinator."""
        return float(self._process.memory_info().rss / 2**20)

    @property
    def descriptors(self) -> int:
        """What the coordinator has open."""
        return int(self._process.num_fds())

    def withstands(self, attack: Attack, held: Sequence[Any] = (), *, share: float, mib: float) -> None:
        """Attack again and again, and look what it does.

        Args:
            attack: once; may leave connections open.
            held: where it keeps them; they are closed when the attack is over.
            share: of the rounds without the attack, closed in the same time, that must be closed under it.
            mib: that the coordinator's memory may grow by meanwhile, and hold for good.
        """
        usual = self._closed_meanwhile(lambda: None)
        memory, descriptors = self.mib, self.descriptors
        highest = [memory]

        def watched() -> None:
            attack()
            highest.append(self.mib)

        under_attack = self._closed_meanwhile(watched)
        figures = (
            f"{under_attack} rounds, {usual} without the attack; at most {max(highest):.0f} MiB, {memory:.0f} before"
        )
        assert under_attack >= share * usual, figures
        assert max(highest) <= memory + mib, figures
        for each in held:
            each.close()
        reached = self.rounds
        until(lambda: self.rounds > reached + 5, "rounds go on after the attack")
        until(lambda: self.descriptors <= descriptors + SETTLED, f"descriptors return to {descriptors}")
        assert self.mib <= memory + mib, figures

    def _closed_meanwhile(self, work: Attack) -> int:
        """Rounds closed in a window of time in which something is done again and again; errors of it are raised."""
        over = threading.Event()
        failures: list[BaseException] = []

        def again() -> None:
            try:
                while not over.is_set():
                    work()
                    over.wait(0.01)
            except BaseException as exc:
                failures.append(exc)

        worker = threading.Thread(target=again)
        before, end = self.rounds, time.monotonic() + WINDOW
        worker.start()
        while time.monotonic() < end:
            over.wait(0.05)
        closed = self.rounds - before
        over.set()
        worker.join(30)
        assert not worker.is_alive(), "the attack does not end"
        for failure in failures:
            raise failure
        return closed

    def check(self) -> None:
        """All are alive, nobody was expelled, and everybody has the same receipts."""
        assert self.at.process is not None
        assert self.at.process.poll() is None, self.at.log
        assert all(peer.process.poll() is None for peer in self.peers)
        assert not any(peer.lines("Expelled") for peer in self.peers)
        assert self.at.log.count("Traceback") <= TRACEBACKS
        assert "coordinator/service/" not in self.at.log, "an error of our own code"
        receipts_agree(self.peers)


@contextmanager
def besieged(folder: Path, *flags: str, **settings: Any) -> Iterator[Besieged]:
    """A coordinator and an honest group of three; `flags` of the light peers, `settings` of the service."""
    values = {"group": HONEST, "rounds": 10**6, "max_peers": 16, "token": TOKEN, **settings}
    with coordinator(folder, **values) as at:
        peers: list[LightPeer] = []
        try:
            for number in range(HONEST):
                arguments = ("--peer", str(number), "--pause", "0.01", "--token", TOKEN, *flags)
                peers.append(LightPeer(at, f"peer{number}", *arguments))
            until(lambda: all(len(peer.lines("Consensus")) > 5 for peer in peers), "rounds close")
            yield Besieged(at, peers)
        finally:
            for peer in peers:
                peer.reap()
