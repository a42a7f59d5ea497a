"""The randomized soak, in small; and the plans that it draws."""

from __future__ import annotations

import pytest

from tests.faults.draw import WEIGHTS, Terms, draw
from tests.faults.forks import Server
from tests.faults.kinds import COURSES
from tests.faults.plan import FaultPlan
from tests.faults.soak import soak, table

TERMS = Terms(peers=8, gap=100, heartbeat=2.0)


def test_a_seed_draws_one_plan() -> None:
    """The same again, another one for another seed, and it can be kept as JSON and printed."""
    plan = draw(3, 200, TERMS)
    assert plan == draw(3, 200, TERMS) != draw(4, 200, TERMS)
    assert FaultPlan.from_json(plan.as_json()) == plan
    assert set(plan.counted()) == set(WEIGHTS) <= set(COURSES)
    assert len(str(plan).splitlines()) == 200


@pytest.mark.timeout(600)
def test_a_small_soak_violates_nothing(server: Server) -> None:
    """Four peers, some faults in a row: all had their effect, nothing was violated, and the replay agrees."""
    made = soak(server, minutes=0.25, seed=7, peers=4, gap=60, stretch=12.0)
    assert not made["violated"], table(made)
    assert sum(made["faults"].values()) >= 2, table(made)
    assert made["replayed"]["rounds"] == made["rounds closed"]
