"""ASHA's decisions, in one life of a sweep and over several, and who is run with all seeds."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from coordinator.experiment import runner
from coordinator.experiment.runner import RunnerEnd
from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep import asha
from coordinator.experiment.sweep.live import Seen, mark_stopped, stopped
from coordinator.experiment.sweep.plan import Sweep, load
from peers.runs.run_folder import append_line

SWEEP = """
sweep: {name: made, method: asha, samples: 4, seeds: [0], asha: {factor: 2}, space: {data.batch: [32, 64, 128, 256]}}
group: {peers: 2}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Four points, looked at after 20, 40 and 80 of their 100 rounds; none was run, all have their folders."""
    monkeypatch.chdir(tmp_path)
    Path("made.yaml").write_text(SWEEP)
    loaded = load("made.yaml")
    for cell in loaded.cells:
        cell.folder.prepare(cell.config, "refuse")
    return loaded


def record(cell: Cell, rounds: int, gain: float) -> None:
    """A live probe of both peers."""
    for peer in (0, 1):
        values = {"knn_live_baseline": 50.0, "knn_live": 50.0 + gain}
        append_line(cell.folder.metrics, {"round": rounds - 1, "peer": peer, **values})


def test_a_point_is_judged_by_those_of_an_earlier_life(sweep: Sweep) -> None:
    """Points that are finished or stopped are not run again, and count up to their end; a decision is marked."""
    finished, early, good, poor = sweep.cells
    for rounds, gain in ((20, 4.0), (30, 9.0), (40, 6.0), (80, 1.0)):
        record(finished, rounds, gain)
    finished.folder.summary.write_text("{}")
    for rounds, gain in ((20, 2.0), (40, 7.0)):  # it went on until it heard of its end: 7.0 does not count
        record(early, rounds, gain)
    mark_stopped(early.folder, Seen(20, 2.0))
    pruning = asha.Pruning(sweep)
    assert pruning.why_stopped(good) is None
    record(good, 10, -9.0)  # no look
    record(good, 20, 4.5)
    record(poor, 20, 1.5)
    assert pruning.why_stopped(good) is None
    assert pruning.why_stopped(poor) == "p003 seed 0 is stopped at round 20: live k-NN gain +1.5 points"
    record(good, 40, 6.5)
    record(good, 80, 0.5)
    assert pruning.why_stopped(good) == "p002 seed 0 is stopped at round 80: live k-NN gain +0.5 points"
    assert [stopped(cell.folder) for cell in sweep.cells] == [None, Seen(20, 2.0), Seen(80, 0.5), Seen(20, 1.5)]


def test_a_look_counts_once_where_a_resumed_run_trims_its_file(sweep: Sweep) -> None:
    """The file is read again from its start, and the next look is the next one."""
    first, second = sweep.cells[:2]
    pruning = asha.Pruning(sweep)
    record(first, 20, 3.0)
    record(first, 40, 3.0)
    assert pruning.why_stopped(first) is None
    text = first.folder.metrics.read_bytes()
    first.folder.metrics.unlink()
    first.folder.metrics.with_name("new").write_bytes(text)
    first.folder.metrics.with_name("new").replace(first.folder.metrics)
    assert pruning.why_stopped(first) is None
    record(second, 20, 5.0)
    record(second, 40, 2.0)
    assert pruning.why_stopped(second) == "p001 seed 0 is stopped at round 40: live k-NN gain +2.0 points"


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_finishers_are_run_with_all_seeds(number: int | None, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once ASHA is through, unless it was interrupted: not those that it stopped, nor those that failed."""
    seeds = load("made.yaml", ["sweep.seeds=[0, 1, 2]"])
    ran: list[list[str]] = []

    def run(cells: Sequence[Cell], *_: object) -> RunnerEnd:
        ran.append([cell.name for cell in cells if not cell.finished])
        if len(ran) > 1:
            return RunnerEnd({"p002 seed 2": "why, too"}, None)
        for cell in cells[:3]:
            cell.folder.summary.write_text("{}")
        mark_stopped(cells[1].folder, Seen(20, 1.0))  # it ended before it heard that it is stopped
        return RunnerEnd({"p003 seed 0": "why"}, number)

    monkeypatch.setattr(runner, "run", run)
    end = asha.run(seeds, lambda progress, text: None)
    assert end.signal == number
    assert ran[0] == [f"p00{place} seed 0" for place in range(4)]
    assert ran[1:] == ([] if number else [["p000 seed 1", "p002 seed 1", "p000 seed 2", "p002 seed 2"]])
    assert list(end.failed) == ["p003 seed 0", *([] if number else ["p002 seed 2"])]
