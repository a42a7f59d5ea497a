"""Of several failed workers, the one that the others followed is told."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.launch.base import ProcessExit
from coordinator.launch.fixed import cause
from peers.common.errors import ConfigError, DivergedError, ExchangeError

KILLED, CRASHED, LOST = -9, 1, ExchangeError.exit_code


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(0, CRASHED)], 0),
        ([(0, LOST), (1, KILLED)], 1),  # the survivor was noticed before the one that it lost
        ([(0, LOST), (1, LOST), (2, DivergedError.exit_code)], 2),
        ([(1, CRASHED), (0, CRASHED)], 1),
        ([(1, ConfigError.exit_code), (0, ConfigError.exit_code)], 1),
        ([(1, LOST), (2, LOST), (0, LOST)], 1),  # a network that parted: the first to notice
        ([(0, LOST), (2, None)], 2),  # its host is gone, and nobody knows its code
    ],
)
def test_the_cause_is_told_apart_from_what_followed(failures: list[tuple[Any, int | None]], expected: int) -> None:
    """A lost exchange is a consequence; among equals the one that was noticed first."""
    root = cause([(rank, ProcessExit(code)) for rank, code in failures])
    assert root is not None
    assert root[0] == expected


def test_without_a_failure_there_is_no_cause() -> None:
    """A group that ended well."""
    assert cause([]) is None
