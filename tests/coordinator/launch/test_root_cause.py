"""Of several failed workers, the one that the others followed is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from coordinator.launch.local import root_cause
from peers.errors import ConfigError, DivergedError, ExchangeError

Fail = Callable[..., ProcessFailure]

KILLED, TERMINATED, CRASHED = -9, -15, 1
LOST = ExchangeError.exit_code


@pytest.fixture
def fail(tmp_path: Path) -> Fail:
    """Makes failures of (rank, exit code, time in seconds)."""

    def make(rank: int, exitcode: int, seconds: int) -> ProcessFailure:
        path = tmp_path / f"{rank}.json"
        path.write_text(json.dumps({"message": {"message": "", "extraInfo": {"timestamp": seconds}}}))
        return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=exitcode, error_file=str(path))

    return make


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(0, CRASHED, 5)], 0),
        ([(0, LOST, 1), (1, KILLED, 2)], 1),  # the survivor noticed before the agent did
        ([(0, TERMINATED, 1), (1, CRASHED, 2)], 1),
        ([(0, LOST, 1), (1, TERMINATED, 1), (2, DivergedError.exit_code, 9)], 2),
        ([(0, CRASHED, 9), (1, CRASHED, 3)], 1),
        ([(0, ConfigError.exit_code, 4), (1, ConfigError.exit_code, 4)], 0),
        ([(0, LOST, 7), (1, LOST, 3), (2, LOST, 5)], 1),  # a network that parted: the first to notice
        ([(0, TERMINATED, 2), (1, LOST, 3)], 0),
    ],
)
def test_the_cause_is_told_apart_from_what_followed(
    fail: Fail, failures: list[tuple[int, int, int]], expected: int
) -> None:
    """A lost exchange and the agent's SIGTERM are consequences; among equals the earliest, then the lowest rank."""
    made = {rank: fail(rank, code, seconds) for rank, code, seconds in failures}
    assert root_cause(made) == (expected, made[expected])
    assert root_cause(dict(reversed(made.items()))) == (expected, made[expected])
