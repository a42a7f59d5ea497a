"""What the tests of fault plans share: the process that workers are forked from, and groups that are always reaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.clusters.hosts import Host
from tests.commands import TINY
from tests.faults.forks import Server
from tests.faults.group import Group
from tests.faults.harness import Harness, Told
from tests.faults.plan import FaultPlan

HEARTBEAT, DEADLINE = 2.0, 4.0
TIMES = (f"exchange.heartbeat={HEARTBEAT}", f"exchange.round_deadline={DEADLINE}", "exchange.join_window=60")
ELASTIC = (*TINY[:-1], *TIMES, "device=cpu", "checkpoint.every=5", "probe.every=0")
"""Settings of a group whose rounds take milliseconds."""
AFTER = 60
"""Rounds of a run after those that its plan speaks of; some of them pass while somebody comes back."""

Through = Callable[..., Told]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Forks workers."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def through(server: Server, tmp_path: Path) -> Iterator[Through]:
    """Takes groups through plans."""
    groups: list[Group] = []

    def take(
        plan: FaultPlan,
        *flags: str,
        peers: int,
        base: tuple[str, ...] = ELASTIC,
        hosts: Mapping[int, Host] | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> Told:
        rounds = f"run.rounds={max(fault.round for fault in plan) + AFTER}"
        made = Group(server, tmp_path, plan, *base, rounds, *flags, peers=peers, hosts=hosts, streamed=streamed)
        groups.append(made)
        return Harness(made, DEADLINE).run()

    yield take
    for group in groups:
        group.close()
