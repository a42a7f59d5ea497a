"""A group of fixed members that faults are done to: what happens to one ends it for all, and all are started again.

No coordinator: the workers meet over gloo, at a store of this process's, as torchrun's agent has one; and they are
started again together, as torchrun does it. What each kind of fault looks like here is at the end of this file.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from socket import socket

from torch.distributed import TCPStore

from tests.faults import sockets
from tests.faults.faulty_exchange import Fault
from tests.faults.forks import Server
from tests.faults.harness import LATER, PATIENCE, Told, Trickle, segments
from tests.faults.judge import SLACK
from tests.faults.kinds import damage, disk_of, sees_another_day
from tests.faults.pace import pace
from tests.faults.plan import FaultPlan
from tests.faults.processes import Processes
from tests.faults.worker import waits

logger = logging.getLogger(__name__)

PARTING = 3.0
"""Seconds that a process may take to end once it knows that it must, on a machine that is busy."""
LOST, BAD = 3, 2
"""Exit codes: of a member whose group is lost, and of one that cannot use its disk."""
SLOW = 20_000
"""Bytes a second of a slow link: a round moves some thousand."""


class FixedGroup(Processes):
    """Workers that meet over gloo.

    Args:
        server, cwd, plan, flags, peers: as of `Processes`.
        deadline: the round deadline.
    """

    def __init__(
        self, server: Server, cwd: Path, plan: FaultPlan, *flags: str, deadline: float, peers: int = 2
    ) -> None:
        super().__init__(server, cwd, plan, "exchange.kind=collective", *flags, peers=peers)
        self.deadline = deadline
        self._store: TCPStore | None = None
        self._gate = 0

    def run(self) -> Told:
        """Go through the plan, and to the end of the run; what happened."""
        told = Told(self.plan, self.folder, self.state, self.faults, self.deadline, 0, segments())
        faults = list(self.plan)
        self.go_on()
        self._start()
        self.stand()
        self.mount()  # into a run that is there, and has not saved anything yet
        self.go_on(faults[0].round - 1)
        self.stand()
        apart = [later.round - fault.round for fault, later in pairwise(faults)]
        for fault, rounds in zip(faults, [*apart, LATER], strict=True):
            began, now = time.monotonic(), replace(fault, round=self._gate)
            FIXED[fault.kind](self, now, partial(self.go_on, rounds))
            self.stand()
            told.seconds.append((now, time.monotonic() - began))
            logger.info("%s of peer %d: whole again after %.1f s", now.kind, now.peer, told.seconds[-1][1])
            told.fired[fault.kind] += 1
        self.gate(1 << 40)
        for running in self.workers.values():
            told.codes[running.output.name], told.outputs[running.output.name] = running.wait(PATIENCE)
        told.pids = tuple(running.process.pid for running in self.everybody)
        assert self._store is not None
        told.port, self._store = self._store.port, None
        return told

    def go_on(self, rounds: int = 1) -> None:
        """Let so many rounds more be published."""
        self._gate += rounds
        self.gate(self._gate)

    def _start(self, *arguments: str) -> None:
        """All workers, as torchrun starts them."""
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port)}
        meeting |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": str(self.peers)}
        for peer in range(self.peers):
            place = {**meeting, "RANK": str(peer), "LOCAL_RANK": str(peer), "LOCAL_WORLD_SIZE": str(self.peers)}
            self.workers[peer] = self._worker(self.arguments(*arguments), peer, **place)

    def again(self) -> None:
        """All workers once more, from their newest common checkpoint."""
        self._start("--resume", "auto")

    def stands(self) -> bool:
        """Whether all wait before the round that the gate is at."""
        ended = {peer: running.process.poll() for peer, running in self.workers.items()}
        assert set(ended.values()) == {None}, f"exit codes {ended}\n{self.last_words()}"
        there = [(running.process.pid, self._gate) for running in self.workers.values()]
        return [waits(self.faults, peer) for peer in self.workers] == there

    def stand(self) -> None:
        """Until they do."""
        self.until(self.stands, f"that all stand before round {self._gate}", PATIENCE)

    def lost(self, *beside: int) -> None:
        """All end but these peers, within the deadline, and say that the group is lost."""
        self.all_end(dict.fromkeys(self.workers.keys() - set(beside), LOST), self.deadline)

    def all_end(self, codes: dict[int, int], within: float = PATIENCE) -> None:
        """Wait for workers to end with these exit codes, by peer, within so many seconds and what ending takes."""
        began = time.monotonic()
        for peer, code in codes.items():
            found, output = self.workers[peer].wait(PATIENCE)
            assert found == code, f"peer {peer} ended with {found}: {output}"
        took = time.monotonic() - began
        bound = within + (SLACK + PARTING) * pace().factor(began)
        assert took <= bound, f"all had ended after {took:.1f} s, the bound is {bound:.1f} s"

    @contextmanager
    def connections(self) -> Iterator[list[socket]]:
        """Both ends of all connections between the members, of which there are some."""
        with sockets.between(running.process.pid for running in self.workers.values()) as found:
            assert found
            yield found

    def end(self, peers: Iterable[int]) -> None:
        """Kill workers, as torchrun does with those that are left when one has failed."""
        for peer in peers:
            self.workers[peer].process.kill()
            self.workers[peer].process.wait(PATIENCE)


Open = Callable[[], None]
"""Lets rounds pass."""
Course = Callable[[FixedGroup, Fault, Open], None]


def killed(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """SIGKILL."""
    group.workers[fault.peer].process.kill()
    go_on()
    group.all_end({fault.peer: -signal.SIGKILL})
    group.lost(fault.peer)
    group.again()


def stopped(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """SIGSTOP: the others wait for it until the deadline."""
    group.workers[fault.peer].process.send_signal(signal.SIGSTOP)
    go_on()
    group.lost(fault.peer)
    group.end([fault.peer])
    group.again()


def _by_itself(code: int) -> Course:
    """The worker does it: it ends with this code, and the others with theirs."""

    def course(group: FixedGroup, fault: Fault, go_on: Open) -> None:
        group.hand(fault)
        go_on()
        codes = {peer: code if peer == fault.peer else LOST for peer in group.workers}
        group.all_end(codes, group.deadline)
        assert group.has_fired(fault)
        group.again()

    return course


def out_of_memory(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """The kernel ends it, and counts that it did."""
    limit = group.limit(fault.peer)
    group.hand(Fault("memory", fault.round, fault.peer, scale=4.0))
    go_on()
    group.all_end({fault.peer: -signal.SIGKILL})
    assert limit.kills() == 1
    group.lost(fault.peer)
    group.again()


def slow(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """It takes its time, less than the deadline: all wait for it."""
    group.hand(fault)
    began = time.monotonic()
    go_on()
    group.until(lambda: group.has_fired(fault), "that it is slow", PATIENCE)
    group.stand()
    assert time.monotonic() - began >= fault.rounds * fault.seconds


def bad_disk(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """It cannot save, says so and ends; when its disk is well again all are started again."""
    spoil, mend, why = disk_of(group, fault)
    spoil()
    go_on()
    group.all_end({fault.peer: BAD})
    said = group.workers[fault.peer].output.read_text()
    assert f"peer {fault.peer}: cannot save a checkpoint" in said, said
    assert why in said, said
    group.lost(fault.peer)
    mend()
    group.again()


def corrupted_checkpoint(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """The worker refuses its newest checkpoint, in words; without that one all resume from the one before."""
    group.end(group.workers)
    newest = damage(group, fault.peer)
    group.again()
    group.all_end({fault.peer: BAD})
    said = group.workers[fault.peer].output.read_text()
    assert f"the checkpoint {newest} is damaged" in said, said
    group.end(group.workers.keys() - {fault.peer})
    newest.with_suffix(".json").unlink()
    newest.unlink()
    go_on()
    group.again()


def _cut(how: Callable[[socket], None]) -> Course:
    """The connections between the members do not carry anything any more: all end, by the deadline at the latest."""

    def course(group: FixedGroup, fault: Fault, go_on: Open) -> None:
        with group.connections() as connections:
            for connection in connections:
                how(connection)
        go_on()
        group.lost()
        group.again()

    return course


def slow_link(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """They are slow: rounds take longer, and are what they would have been."""
    with group.connections() as connections:
        for connection in connections:
            sockets.pace(connection, SLOW)
        began = time.monotonic()
        go_on()
        group.stand()
        assert time.monotonic() - began >= fault.seconds
        for connection in connections:
            sockets.pace(connection)


def clock_jump(group: FixedGroup, fault: Fault, go_on: Open) -> None:
    """A worker sees another time of day; nothing else changes."""
    jumped, trickle = sees_another_day(group, fault), Trickle()

    def seen() -> bool:
        if trickle.due() and group.stands():  # libfaketime looks at its file once a second
            group.go_on()
        return jumped()

    group.until(seen, "that it sees another day", PATIENCE)
    go_on()


FIXED: dict[str, Course] = {
    "sigkill": killed,
    "sigstop": stopped,
    "exception": _by_itself(1),
    "other_batch": _by_itself(LOST),
    "out_of_memory": out_of_memory,
    "slow": slow,
    "disk_full": bad_disk,
    "read_only": bad_disk,
    "corrupted_checkpoint": corrupted_checkpoint,
    "dropped": _cut(sockets.drop),
    "half_open": _cut(sockets.silence),
    "slow_link": slow_link,
    "clock_jump": clock_jump,
}
"""Of others: a second worker with the same rank is the launcher's to prevent, and there is no coordinator to fail."""
