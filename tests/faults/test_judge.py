"""What judges faulty runs must itself find what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import bounded, receipts, stalls, voided


def metrics(folder: Path, *records: dict[str, Any]) -> Path:
    """A run's folder with such records."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def record(round_: int, peer: int, receipt: str = "a", count: int = 2, seconds: float = 0.1) -> dict[str, Any]:
    """What a peer recorded of a round that closed."""
    return {"round": round_, "peer": peer, "receipt": receipt, "count": count, "seconds": seconds}


def test_receipts_that_agree(tmp_path: Path) -> None:
    """The rounds that closed; a void one is known as such."""
    folder = metrics(tmp_path, record(0, 0), record(0, 1), record(2, 0), {"round": 1, "peer": 0, "skipped": "void"})
    assert receipts(folder) == {0, 2}
    assert voided(folder) == {1}


@pytest.mark.parametrize("other", [record(0, 1, receipt="b"), record(0, 1, count=3)])
def test_receipts_that_differ(tmp_path: Path, other: dict[str, Any]) -> None:
    """In the digest, or in how many contributed."""
    with pytest.raises(AssertionError, match=r"different receipts: \{0:"):
        receipts(metrics(tmp_path, record(0, 0), other))


def test_a_round_with_nobody_else(tmp_path: Path) -> None:
    """There is no consensus with oneself."""
    with pytest.raises(AssertionError, match=r"fewer than two peers have closed: \[0\]"):
        receipts(metrics(tmp_path, record(0, 0, count=1)))


def test_the_wait_at_the_gate_is_no_stall(tmp_path: Path) -> None:
    """Of each peer its own wait is taken off; the longest of a round counts."""
    folder = metrics(tmp_path, record(0, 0, seconds=7.0), record(0, 1, seconds=6.5))
    faults = tmp_path / "faults.json"
    waits = [{"peers": [peer], "round": 0, "seconds": 6.0, "clock": 0.0} for peer in (0, 1)]
    (tmp_path / "faults.json.held").write_text("".join(json.dumps(wait) + "\n" for wait in waits))
    assert stalls(folder, faults) == {0: 1.0}


def test_stalls_have_a_bound() -> None:
    """The deadline and a second, on a slow machine more; a round may also wait for a coordinator that was away."""
    bounded({0: 4.9, 1: 7.9}, 4.0, (3.0,))
    with pytest.raises(AssertionError, match=r"round 1 took 8\.10 s, its bound is 8\.00 s"):
        bounded({0: 4.9, 1: 8.1}, 4.0, (3.0,))
    with pytest.raises(AssertionError, match=r"round 0 took 5\.10 s, its bound is 5\.00 s"):
        bounded({0: 5.1, 1: 7.9}, 4.0, (3.0,))
    bounded({0: 5.9}, 4.0, (), 2.0)
    with pytest.raises(AssertionError, match=r"round 0 took 6\.10 s, its bound is 6\.00 s"):
        bounded({0: 6.1}, 4.0, (), 2.0)
