"""The log keeps what matters, and not all that strangers can provoke."""

from __future__ import annotations

import logging

from coordinator.service.logs import BURST, Sparing


def record(name: str, number: int) -> logging.LogRecord:
    """One line of a logger."""
    return logging.LogRecord(name, logging.ERROR, "file", 1, "failure %d", (number,), None)


def test_errors_of_grpc_are_kept_at_a_bounded_rate_and_counted() -> None:
    """A burst, then one a second, which says how many were left out; our own lines all pass."""
    now = [0.0]
    sparing = Sparing(lambda: now[0])
    assert sum(sparing.filter(record("grpc._cython.cygrpc", number)) for number in range(1000)) == BURST
    assert all(sparing.filter(record("coordinator.service.hub", number)) for number in range(100))
    now[0] = 1.0
    later = record("grpc._cython.cygrpc", 7)
    assert sparing.filter(later)
    assert later.getMessage() == f"failure 7 (and {1000 - int(BURST)} more since the last)"
    assert not sparing.filter(record("grpc._cython.cygrpc", 8))
