"""Settings and publications that the tests of the service share."""

from __future__ import annotations

from typing import Any

from coordinator.service.settings import ServiceSettings
from peers.method.target_selection import TargetSelection

BATCH = b"b" * 16


def settings(**changes: Any) -> ServiceSettings:
    """A run of two peers with small outputs and short times."""
    values: dict[str, Any] = {
        "run_id": "run",
        "state": "unused",
        "rule": TargetSelection("mean", 0),
        "rounds": 1000,
        "shape": (4, 8),
        "group": 2,
        "heartbeat": 5.0,
        "round_deadline": 10.0,
        "join_window": 60.0,
        "max_peers": 8,
    }
    return ServiceSettings(**{**values, **changes})
