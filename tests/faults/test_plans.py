"""Groups through a coordinator, taken through fault plans: whatever happens to one, the others are not harmed."""

from __future__ import annotations

import pytest
import torch

from tests.clusters.hosts import hosts
from tests.clusters.hosts import why_not as no_hosts
from tests.faults.conftest import DEADLINE, Through
from tests.faults.faulty_exchange import Fault
from tests.faults.judge import judge
from tests.faults.limits import why_not as no_limits
from tests.faults.plan import NOBODY, FaultPlan
from tests.faults.processes import FAKETIME

STREAM = "exchange.shared_memory=false"
STREAMED = frozenset({3, 4, 5})
"""Of six peers: these do without shared memory, the others have it."""


def both(kind: str, shared: int, streamed: int, seconds: float = 0.0, rounds: int = 1) -> tuple[Fault, ...]:
    """The same at the same time, to a peer that has shared memory and to one that has not."""
    return tuple(Fault(kind, 0, peer, rounds, seconds) for peer in (shared, streamed))


WORKERS = (
    both("sigkill", 1, 4),
    both("exception", 2, 5),
    both("kill", 1, 4),
    both("sigstop", 2, 5),
    both("stop", 1, 4),
    ("replaced", 2),
    ("replaced", 5),
    both("sigterm", 1, 4),
    both("slow", 2, 5, seconds=1.5 * DEADLINE),
    both("not_finite", 1, 4),
    both("other_batch", 2, 5),
    both("duplicate_identity", 1, 4),
    both("corrupted_checkpoint", 2, 5),
)
LIMITS = (both("out_of_memory", 1, 4), both("disk_full", 2, 5), both("read_only", 2, 5))
LINKS = (
    ("half_open", 4),
    both("dropped", 1, 4),
    both("slow_link", 1, 4, rounds=5, seconds=0.05),
    both("stolen_bearer", 2, 5),
)
CLOCKS = (
    Fault("clock_jump", 0, 0, seconds=86400.0),
    Fault("clock_jump", 0, 0, seconds=-86400.0),
    Fault("coordinator_clock_jump", 0, NOBODY, seconds=-86400.0, rounds=5),
)
COORDINATOR = (
    Fault("coordinator_kill", 0, NOBODY, seconds=0.5),
    Fault("coordinator_stop", 0, NOBODY, seconds=1.5 * DEADLINE),
    Fault("coordinator_restart", 0, NOBODY),
)


@pytest.mark.timeout(600)
def test_workers_that_die_stop_fail_or_lie(through: Through) -> None:
    """Two at a time, one of either transport; each comes back, as it was or as a new network, and all reach the end."""
    judge(through(FaultPlan.spaced(*WORKERS), peers=6, streamed=STREAMED))


@pytest.mark.timeout(600)
def test_links_and_the_coordinator(through: Through) -> None:
    """Connections are reset, slow, half open, taken over; the coordinator is killed, stopped and started again.

    With shared memory payloads go by other ways than connections, which a half-open one does not concern.
    """
    judge(through(FaultPlan.spaced(*LINKS, *COORDINATOR), peers=6, streamed=STREAMED))


@pytest.mark.timeout(600)
@pytest.mark.skipif(no_limits() is not None, reason=str(no_limits()))
def test_disks_and_memory_that_are_full(through: Through) -> None:
    """A worker that cannot save says so and ends; one that takes too much is ended; both come back."""
    judge(through(FaultPlan.spaced(*LIMITS), peers=6, streamed=STREAMED))


@pytest.mark.timeout(600)
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_clocks_that_jump(through: Through) -> None:
    """A worker's day is tomorrow, then yesterday; the coordinator's is yesterday: no round notices."""
    judge(through(FaultPlan.spaced(*CLOCKS), STREAM, peers=3))


@pytest.mark.timeout(600)
@pytest.mark.skipif(no_hosts() is not None, reason=str(no_hosts()))
def test_a_partition(through: Through) -> None:
    """Of three hosts one is cut off: its peer is expelled, the others go on; plugged in again it joins again."""
    with hosts() as (hosta, hostb, hostc):
        plan = FaultPlan.spaced(("partition", 2))
        judge(through(plan, STREAM, peers=3, hosts={NOBODY: hosta, 0: hosta, 1: hostb, 2: hostc}))


@pytest.mark.timeout(600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_that_is_full(through: Through) -> None:
    """A worker that finds no memory on the GPU fails, and comes back."""
    judge(through(FaultPlan.spaced(("gpu_memory", 1)), peers=3))
