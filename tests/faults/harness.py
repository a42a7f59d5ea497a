"""Takes a group through a fault plan, and tells what happened; `tests.faults.judge` says whether that was right.

The workers wait before the round of the next fault until all is well again (`Group.gate`), so a plan takes the same
course on any machine, however busy. Between two faults the rounds run freely.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path

from peers.transport.shared_memory import FOLDER
from tests.faults.faulty_exchange import Fault
from tests.faults.group import Group
from tests.faults.kinds import course
from tests.faults.plan import FaultPlan

logger = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds for anything that a fault plan waits for: a process that starts on a machine that is busy with others."""
TRICKLE = 0.2
"""Seconds after which one round more may be published while something is waited for; then twice as many, and so on."""
LATER = 8
"""Rounds after the last fault, before the run may end."""


@dataclass
class Told:
    """What happened in a run.

    Attributes:
        plan: what was to happen.
        folder: of the run.
        state: of the coordinator.
        fired: how many faults of each kind were done and had their effect.
        seconds: how long each took, from its beginning until the group was whole again.
        away: seconds of each time that the coordinator was away.
        codes: {file of its output: exit code} of what ran at the end: the coordinator, and a worker for each peer.
        outputs: what those have said.
        descriptors: of the coordinator, before the first fault and after the last.
        pids: of all processes that there were.
        port: that the coordinator listened on.
        segments: names in shared memory that were there before.
        deadline: the round deadline.
    """

    plan: FaultPlan
    folder: Path
    state: Path
    faults: Path
    deadline: float
    port: int
    segments: frozenset[str]
    fired: Counter[str] = field(default_factory=Counter)
    seconds: list[tuple[Fault, float]] = field(default_factory=list)
    away: Sequence[float] = ()
    codes: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, int] = (0, 0)
    pids: tuple[int, ...] = ()


def segments() -> frozenset[str]:
    """Names in shared memory."""
    return frozenset(path.name for path in FOLDER.glob("peer-consensus-*"))


class Trickle:
    """Says now and then, more and more seldom, that one round more may be published while something is waited for."""

    def __init__(self) -> None:
        self._pause = TRICKLE
        self._next = time.monotonic() + TRICKLE

    def due(self) -> bool:
        """Whether it is time for one more."""
        if time.monotonic() <= self._next:
            return False
        self._pause *= 2
        self._next = time.monotonic() + self._pause
        return True


class Harness:
    """Takes a group through its plan.

    Args:
        group: whose workers have not been started.
        deadline: the round deadline.
    """

    def __init__(self, group: Group, deadline: float) -> None:
        self.group, self._gate, self._descriptors = group, 0, 0
        port = int(group.address.rpartition(":")[2])
        self.told = Told(group.plan, group.folder, group.state, group.faults, deadline, port, segments())

    def run(self) -> Told:
        """The whole plan, and the run to its end."""
        self.begin()
        together = [list(faults) for _, faults in groupby(self.group.plan, key=lambda fault: fault.round)]
        apart = [later[0].round - faults[0].round for faults, later in pairwise(together)]
        for faults, rounds in zip(together, [*apart, LATER], strict=True):
            self._carry_out([replace(fault, round=self._gate) for fault in faults], rounds)
        return self.end()

    def begin(self) -> None:
        """Start all workers, and wait at the round of the first fault."""
        self._open(next(iter(self.group.plan)).round)
        for peer in range(self.group.peers):
            self.group.start(peer)
        self._stand("the group forms")
        self._descriptors = self.group.descriptors()

    def _open(self, rounds: int) -> None:
        """Let so many rounds be published."""
        self._gate = rounds
        self.group.gate(rounds)

    def _carry_out(self, faults: Sequence[Fault], rounds: int) -> None:
        """Faults of one round; the group then stands before a round so many rounds later, or a few more."""
        began, under = time.monotonic(), {fault: course(self.group, fault) for fault in faults}
        true = {fault: next(steps, None) for fault, steps in under.items()}
        self._open(faults[0].round + rounds)

        def over() -> bool:
            for fault, steps in under.items():
                waits = true[fault]
                if waits is not None and waits():
                    true[fault] = next(steps, None)
            return all(waits is None for waits in true.values())

        what = "; ".join(f"round {fault.round}, {fault.kind} of peer {fault.peer}" for fault in faults)
        self.group.until(self._or_trickle(over), what, PATIENCE)
        self._stand(what)
        logger.info("%s: whole again after %.1f s", what, time.monotonic() - began)
        self.told.seconds += [(fault, time.monotonic() - began) for fault in faults]
        self.told.fired.update(fault.kind for fault in faults)

    def _or_trickle(self, true: Callable[[], object]) -> Callable[[], object]:
        """The same, and now and then a round more: who joins needs one that opens."""
        trickle = Trickle()

        def look() -> object:
            found = true()
            if not found and trickle.due() and self.group.round() >= self._gate:
                self._open(self._gate + 1)
            return found

        return look

    def _stand(self, what: str) -> None:
        """Until all peers stand, before the next round that may be published."""
        whole = self._or_trickle(self.group.whole)
        self.group.until(whole, f"{what}: that the group is whole", PATIENCE)
        at_gate = lambda: self.group.round() == self._gate and self.group.whole()  # noqa: E731
        self.group.until(at_gate, f"{what}: that the group stands before round {self._gate}", PATIENCE)

    def end(self) -> Told:
        """Let the run go to its end."""
        group, told = self.group, self.told
        group.until(lambda: group.descriptors() <= self._descriptors, "the coordinator's descriptors", PATIENCE)
        told.descriptors = (self._descriptors, group.descriptors())
        group.gate(1 << 40)
        for running in (*group.workers.values(), group.coordinator):
            code, output = running.wait(PATIENCE)
            told.codes[running.output.name], told.outputs[running.output.name] = code, output
        told.pids = tuple(running.process.pid for running in group.everybody)
        told.away = tuple(group.away)
        group.forget_channel()
        return told
