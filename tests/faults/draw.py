"""Random fault plans: the same seed draws the same plan, whatever machine carries it out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.faulty_exchange import Fault
from tests.faults.plan import NOBODY, FaultPlan

WEIGHTS = {
    "sigkill": 4,
    "sigstop": 4,
    "exception": 2,
    "kill": 2,
    "stop": 2,
    "replaced": 3,
    "sigterm": 2,
    "slow": 3,
    "not_finite": 1,
    "other_batch": 1,
    "dropped": 4,
    "slow_link": 2,
    "half_open": 1,
    "duplicate_identity": 1,
    "stolen_bearer": 1,
    "corrupted_checkpoint": 1,
    "coordinator_kill": 2,
    "coordinator_stop": 2,
    "coordinator_restart": 1,
}
"""How often each kind is drawn. What needs root or a process of its own (disks, memory, clocks, hosts) is not here."""


@dataclass(frozen=True)
class Terms:
    """What a plan is drawn for.

    Attributes:
        peers: size of the group.
        gap: rounds between two faults, on average.
        heartbeat: the group's, seconds.
    """

    peers: int
    gap: int
    heartbeat: float


def draw(seed: int, count: int, terms: Terms) -> FaultPlan:
    """So many faults, for a seed."""
    dice = random.Random(seed)  # noqa: S311  # a plan, no secret
    faults, round_ = [], 0
    for kind in dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count):
        round_ += dice.randint(max(1, terms.gap // 2), terms.gap * 3 // 2)
        peer = NOBODY if kind.startswith("coordinator") else dice.randrange(terms.peers)
        faults.append(_one(kind, round_, peer, dice, terms))
    return FaultPlan(tuple(faults))


def _one(kind: str, round_: int, peer: int, dice: random.Random, terms: Terms) -> Fault:
    beat = terms.heartbeat
    if kind == "half_open":  # of a worker whose payloads go by connections
        return Fault(kind, round_, min(peer | 1, terms.peers - 1 - terms.peers % 2))
    if kind == "slow":
        return Fault(kind, round_, peer, rounds=dice.randint(1, 3), seconds=round(dice.uniform(0.1, 1.0) * beat, 2))
    if kind == "slow_link":
        return Fault(kind, round_, peer, rounds=dice.randint(5, 20), seconds=round(dice.uniform(0.001, 0.02), 3))
    if kind in ("sigstop", "stop"):  # shorter than the heartbeat, or until it is expelled
        return Fault(kind, round_, peer, seconds=dice.choice((0.0, round(0.5 * beat, 2))))
    if kind in ("coordinator_kill", "coordinator_stop"):
        return Fault(kind, round_, peer, seconds=round(dice.uniform(0.1, 1.0) * beat, 2))
    return Fault(kind, round_, peer)
