"""What a sweep's files say is what its cells say, whatever became of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from rich.console import Console

from coordinator.experiment.command import print_table
from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep import files, results, show
from coordinator.experiment.sweep.live import Live, Seen, mark_stopped, stopped
from coordinator.experiment.sweep.plan import Sweep, load
from peers.runs.run_folder import append_line

SWEEP = """
sweep:
  name: made
  seeds: [0, 1]
  space:
    optimizer.learning_rate: [1e-3, 1, 0.5]
    data.download: [true, false]
    probe.linear_l2: [[1e-3, 1e-2]]
group: {peers: 2}
"""
FAILURE = """p003 seed 1 ended with 4; the end of runs/made/cells/p003-seed1/logs/worker-0.stderr:
  2024-01-01 10:00:00,123 INFO worker 0: process 12 hosts peers
  2024-01-01 10:00:01,456 ERROR worker 0: peer 0: non-finite values for 10 rounds in a row"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Six points with two seeds each; none was run."""
    monkeypatch.chdir(tmp_path)
    Path("made.yaml").write_text(SWEEP)
    return load("made.yaml")


def record(cell: Cell, round_: int, **values: object) -> None:
    """One round of both peers, in which peer 1 has one more of everything."""
    cell.folder.path.mkdir(parents=True, exist_ok=True)
    for peer in (0, 1):
        more = {key: value + peer if isinstance(value, float) else value for key, value in values.items()}
        append_line(cell.folder.metrics, {"round": round_, "peer": peer, **more})


def finish(cell: Cell, gain: float) -> dict[str, Any]:
    """A cell's result, as a worker writes it, as far as it is read here."""
    record(cell, 0, effective_rank=9.0, disagreement=0.5)
    record(cell, 4, effective_rank=3.0, skipped=None)  # what was not finite is left out
    before = {"knn": 50.0, "linear": 60.0 + cell.seed}
    summary = {
        "rounds": 5,
        "baseline": before,
        "final": {probe: value + gain for probe, value in before.items()},
        "gain": {"knn": gain / 3, "linear": gain},
        "pixels": {"knn": 97.0, "linear": 96.0},
        "per_peer": [{"skips": {"late": 1}}, {"skips": {}}],
    }
    cell.folder.summary.write_text(json.dumps(summary))
    return summary


def test_the_rows_are_what_the_cells_say(sweep: Sweep) -> None:
    """CSV = Parquet = summaries, in the order of points, seeds and probes; types are kept; the same bytes again."""
    said = {cell.name: finish(cell, 10.0 / 3 + place) for place, cell in enumerate(sweep.cells)}
    found = results.collect(sweep, {})
    files.write(found)
    rows = pyarrow.parquet.read_table(sweep.folder / "results.parquet").to_pylist()
    assert [(row["point"], row["seed"], row["probe"]) for row in rows] == [
        (point.name, seed, probe) for point in sweep.points for seed in (0, 1) for probe in ("knn", "linear")
    ]
    for row in rows:
        summary, probe = said[f"{row['point']} seed {row['seed']}"], row["probe"]
        assert [row[key] for key in ("before", "after", "gain", "pixels")] == [
            summary[key][probe] for key in ("baseline", "final", "gain", "pixels")
        ]
        assert [row[key] for key in ("state", "rounds", "effective_rank", "disagreement", "skips")] == [
            "finished", 5, 3.5, 1.0, 1
        ]  # fmt: skip
    assert rows[-1]["optimizer.learning_rate"] == 0.5
    assert rows[8]["optimizer.learning_rate"] == 1.0  # not an integer among numbers
    assert (rows[0]["data.download"], rows[4]["data.download"]) == (True, False)
    assert rows[0]["probe.linear_l2"] == "[0.001, 0.01]"
    as_text = csv.DictReader(io.StringIO((sweep.folder / "results.csv").read_text()))
    for written, row in zip(as_text, rows, strict=True):
        numbers = [key for key, value in row.items() if isinstance(value, float)]
        assert {key: float(written[key]) for key in numbers} == {key: row[key] for key in numbers}
        assert {key: written[key] for key in row if key not in numbers} == {
            key: json.dumps(value) if isinstance(value, bool) else str(value)
            for key, value in row.items()
            if key not in numbers
        }
    before = [(sweep.folder / name).read_bytes() for name in files.NAMES]
    files.write(results.collect(sweep, {}))
    assert [(sweep.folder / name).read_bytes() for name in files.NAMES] == before


def test_what_failed_or_was_stopped_has_no_gain(sweep: Sweep) -> None:
    """Null where there is no result, with the rounds and the signs that are known; the reason stands in sweep.json."""
    for cell in sweep.cells:
        if cell.arm not in ("p003", "p004") or cell.name == "p003 seed 0":
            finish(cell, 1.0)
    failed, ended = sweep.cells[6 + 3], sweep.cells[4]
    record(failed, 0, effective_rank=2.0, disagreement=0.25)
    record(failed, 1, skipped="non_finite_loss")
    record(ended, 19, effective_rank=4.0, disagreement=0.5)
    record(ended, 25, effective_rank=1.0, disagreement=0.0)  # it went on until it heard of it
    mark_stopped(ended.folder, Seen(20, -1.25))
    found = results.collect(sweep, {failed.name: FAILURE})
    files.write(found)
    about = json.loads((sweep.folder / "sweep.json").read_text())
    assert [point["state"] for point in about["points"]] == ["finished"] * 3 + ["failed", "stopped", "finished"]
    assert about["points"][3]["why"] == "seed 1 ended with 4: peer 0: non-finite values for 10 rounds in a row"
    assert about["points"][4]["why"] == "by ASHA at round 20, live k-NN gain -1.2 points"
    assert about["space"]["data.download"] == {"values": [True, False]}
    assert [about[key] for key in ("schema", "method", "split", "seeds", "metric")] == [
        1, "grid", "validation", [0, 1], "linear"
    ]  # fmt: skip
    rows = pyarrow.parquet.read_table(sweep.folder / "results.parquet").to_pylist()
    kept = ("state", "gain", "after", "rounds", "effective_rank", "disagreement", "skips")
    told = {(row["point"], row["seed"]): tuple(row[key] for key in kept) for row in rows if row["probe"] == "linear"}
    assert told["p003", 0][:2] == ("finished", 1.0)
    assert told["p003", 1] == ("failed", None, None, 2, 2.5, 0.75, 2)
    assert told["p004", 0] == ("stopped", None, None, 20, 4.5, 1.0, 0)
    assert told["p004", 1] == ("stopped", None, None, None, None, None, None)
    assert (
        'p003,1,failed,1.0,false,"[0.001, 0.01]",linear,,,,,2,2.5,0.75,2\n'
        in (sweep.folder / "results.csv").read_text()
    )


def test_the_terminal_ranks_by_the_metric(sweep: Sweep) -> None:
    """Finished points by mean gain over the seeds, then failed ones; the best is named, with what it was chosen on."""
    for place, cell in enumerate(sweep.cells):
        if cell.name != "p001 seed 1":
            finish(cell, float((place * 5) % 7))
    found = results.collect(sweep, {})
    order = [outcome.point.name for outcome in results.ranked(found)]
    means = {one.point.name: sum(one.gains["linear"]) / 2 for one in found.outcomes if one.state == "finished"}
    assert order == sorted(means, key=lambda name: -means[name])
    console = Console(width=30, file=io.StringIO())
    print_table(show.table(found), console)  # as wide as it is: this is no terminal
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│ p")]
    assert [line.split()[1] for line in lines] == [*order, "p001"]
    assert "failed" in lines[-1]
    said = "\n".join(show.sentences(found))
    assert f"best: {order[0]} (optimizer.learning_rate = " in said
    assert "chosen on validation images" in said
    assert "p001 failed: not run" in said
    assert show.gain([1.0]) == "+1.0"
    assert show.gain([1.0, 2.0, 3.0]) == "+2.0 ± 2.5"  # 4.303 deviations of the mean


def test_live_gain_is_of_whole_rounds_and_is_read_on(sweep: Sweep) -> None:
    """Mean over the peers against their own start; a line under way is waited for; a trimmed file is read again."""
    cell = sweep.cells[0]
    live = Live(cell.folder.metrics, 2)
    assert live.poll() == []
    record(cell, 0, knn_live_baseline=40.0)
    record(cell, 4, knn_live=45.0)
    append_line(cell.folder.metrics, {"round": 9, "peer": 0, "knn_live": 50.0})
    with cell.folder.metrics.open("a") as file:
        file.write('{"round": 9, "peer": 1, "knn')
        file.flush()
        assert live.poll() == [Seen(5, 5.0)]
        file.write('_live": 52.0}\n')
    assert live.poll() == [Seen(10, 10.5)]
    assert live.poll() == []
    lines = cell.folder.metrics.read_text().splitlines(keepends=True)
    cell.folder.metrics.with_name("new").write_text("".join(lines[:4]))
    cell.folder.metrics.with_name("new").replace(cell.folder.metrics)
    assert live.poll() == [Seen(5, 5.0)]
    assert stopped(cell.folder) is None
