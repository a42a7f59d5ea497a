"""The exchange benchmark at toy size: every case runs, its figures are written down, and a wrong sum is noticed."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.exchange import CASES, YARDSTICK
from tests.benchmarks.exchange_cases import ROUNDED
from tests.benchmarks.exchange_groups import GroupError, group
from tests.benchmarks.exchange_rounds import LEADING, Array, Outputs, Peer, Setting, Threads, WrongSumError
from tests.benchmarks.service_load import ROOT
from tests.commands import run

TOY = Setting(peers=2, shape=(8, 16))
BETWEEN = {case for case in CASES if case not in ("collective", "in process")}
"""Cases with a process between the peers."""


def measured(folder: Path, *cases: str) -> dict[str, dict[str, Any]]:
    """The only pass of each case, as the benchmark writes it down."""
    out = folder / "exchange.json"
    command = [sys.executable, "-m", "tests.benchmarks.exchange", "--peers", "2", "--shapes", "8x16", "--passes", "1"]
    command += ["--seconds", "0.01", "--out", str(out), "--cases", *cases]
    code, output = run(command, folder, PYTHONPATH=str(ROOT))
    assert code == 0, output
    made = json.loads(out.read_text())
    assert made["tables"][0]["columns"] == ["outputs", "peers", *cases]
    (cell,) = made["details"]["cells"]
    assert (cell["peers"], tuple(cell["shape"])) == (TOY.peers, TOY.shape)
    return {case: only for some in cell["sets"] for case, (only,) in some.items()}


@pytest.mark.parametrize(
    "cases", [tuple(case for case in CASES if case != "Ray"), ("Ray",)], ids=["all but Ray", "Ray"]
)
def test_every_case_is_measured(tmp_path: Path, cases: tuple[str, ...]) -> None:
    """Time, processor time and memory of each case, and of the yardstick."""
    found = measured(tmp_path, *cases)
    assert found.keys() == {YARDSTICK, *cases}
    for case, only in found.items():
        assert min(only["seconds"], only["period"], only["peer_cpu"]) > 0, case
        assert only["rounds"] >= 5, case
        assert only["peer_peak"] > 0, case
        assert (only["server_cpu"] is not None) is (case in BETWEEN), case
        assert (only["server_peak"] is not None) is (case in BETWEEN), case


class Alone:
    """The exchange of a group of one, whose sums are its outputs; from some round on they are changed."""

    def __init__(self, wrong_from: int) -> None:
        self._wrong_from = wrong_from

    def exchange(self, round_: int, outputs: Array) -> Array:
        return outputs + np.float32(round_ >= self._wrong_from)

    def close(self) -> None: ...


def alone(wrong_from: int) -> Peer:
    """A group of one."""
    return Peer(Alone(wrong_from), Outputs(0, Setting(1, TOY.shape)))


@pytest.mark.parametrize("wrong_from", [0, LEADING, LEADING + 4])
def test_a_wrong_sum_ends_the_pass(wrong_from: int) -> None:
    """In the first round, which is checked in full, and in any round that is measured; in a thread, too."""
    with pytest.raises(WrongSumError):
        alone(wrong_from).run(5)
    with pytest.raises(WrongSumError):
        Threads([alone(100), alone(wrong_from)]).run(5)
    (fine,) = alone(LEADING + 5).run(5)
    assert len(fine.seconds) == 5


def test_a_wrong_sum_in_a_process_of_a_group_is_raised_here() -> None:
    """The benchmark ends with the case, the process and what it found."""
    with group("lying", [partial(alone, 2 * LEADING + 5)]) as started:
        assert started.run(5).rounds == 5
        with pytest.raises(GroupError, match=r"lying: process 0 failed(.|\n)*WrongSumError: row 1 "):
            started.run(5)


def published(round_: int, tolerance: float = 0.0) -> tuple[Outputs, Array]:
    """A peer's view of a round, and the sum of what both have published."""
    both = [Outputs(peer, TOY, tolerance) for peer in range(TOY.peers)]
    for outputs in both:
        for earlier in range(round_ + 1):
            outputs.turn(earlier)
    return both[0], both[0].own + both[1].own


@pytest.mark.parametrize("round_", [0, 1, 7, 8, 30])
@pytest.mark.parametrize("tolerance", [0.0, ROUNDED])
def test_a_sum_of_another_round_or_without_a_peer_is_wrong(round_: int, tolerance: float) -> None:
    """The row alone shows it, with room for rounding, too."""
    outputs, total = published(round_, tolerance)
    outputs.check(total)
    outputs.check(total, full=True)
    for wrong in (published(round_ - 1)[1], outputs.own, total * np.float32(np.nan)):
        with pytest.raises(WrongSumError):
            outputs.check(wrong)


def test_one_wrong_element_is_noticed_in_full() -> None:
    """By as little as float32 can tell; where rounding is allowed, by more than that."""
    for tolerance, factor in ((0.0, 1 + 2**-22), (ROUNDED, 1 + 2 * ROUNDED)):
        outputs, total = published(3, tolerance)
        outputs.check(total * np.float32(1 + ROUNDED / 2) if tolerance else total, full=True)
        total[7, 5] *= np.float32(factor)
        outputs.check(total)
        with pytest.raises(WrongSumError):
            outputs.check(total, full=True)
