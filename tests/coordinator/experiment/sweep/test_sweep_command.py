"""`coordinator sweep` as a user runs it: killed, continued, with a point that ASHA stops, with one that is wrong."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.commands import BIN, TINY, Running, run, settings
from tests.conftest import Start

COMMAND = (str(BIN / "coordinator"), "sweep", "tiny.yaml", *settings(*TINY, "probe.live_images=200"))
FILES = ("sweep.json", "results.csv", "results.parquet")
GRID = """
sweep: {name: tiny, seeds: [0, 1], parallel: 1, space: {optimizer.learning_rate: [1e-3, 1e-2]}}
group: {peers: 2}
run: {rounds: 200}
probe: {every: 0}
"""
ASHA = """
sweep:
  name: tiny
  method: asha
  seeds: [0]
  samples: 2
  seed: 1                   # draws 0.03 first
  parallel: 1               # so that it is seen first
  metric: knn
  asha: {grace: 20, factor: 2}
  space: {optimizer.learning_rate: [1e-9, 0.03]}
group: {peers: 2}
run: {rounds: 500}
probe: {linear: false}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep that nobody disturbs: its folder and what it printed."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "tiny.yaml").write_text(GRID)
    code, output = run(COMMAND, cwd)
    assert code == 0, output
    return cwd / "runs" / "tiny", output


def test_a_sweep_ends_with_its_table(whole: tuple[Path, str]) -> None:
    """Progress, a table, the best point and what it was chosen on; files for whoever reads on."""
    folder, output = whole
    assert "sweep tiny (grid): 2 points x 2 seeds, 4 of 4 groups to run, 1 at a time" in output
    assert "4/4 groups: " in output
    assert "points on the validation split, mean over 2 seeds with its 95 % interval" in output
    assert "best: p00" in output
    assert "chosen on validation images" in output
    for name in (*FILES, "report.html"):
        assert f"  runs/tiny/{name}\n" in output
    about = json.loads((folder / "sweep.json").read_text())
    assert [point["state"] for point in about["points"]] == ["finished", "finished"]
    rows = (folder / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2  # points x seeds x probes


def test_stopped_anywhere_it_ends_with_the_same_bytes(whole: tuple[Path, str], start: Start, tmp_path: Path) -> None:
    """Killed or interrupted at a random point, then started again: no finished group is run twice, all is equal."""
    (tmp_path / "tiny.yaml").write_text(GRID)
    dice = random.SystemRandom()
    folder, rounds = tmp_path / "runs" / "tiny", dice.randrange(1, 600)
    number = dice.choice([signal.SIGKILL, signal.SIGTERM])

    def recorded() -> int:
        return sum(len(path.read_text().splitlines()) for path in folder.glob("cells/*/metrics.jsonl")) // 2

    running = start(COMMAND)
    running.until(lambda: recorded() >= rounds)
    running.process.send_signal(number)
    code, output = running.wait()
    assert code == (-number if number == signal.SIGKILL else 128 + number), output
    done = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/summary.json")}
    code, output = run(COMMAND, tmp_path)
    assert code == 0, output
    for path, written in done.items():
        assert path.stat().st_mtime_ns == written, f"{path} was run again; stopped at {rounds}"
    for name in FILES:
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes(), f"{name}, stopped at round {rounds}"


def test_another_space_is_not_mixed_in(whole: tuple[Path, str]) -> None:
    """Cells of other settings are refused with what to do, and so is a folder that is no sweep; nothing is touched."""
    folder, _ = whole
    before = (folder / "sweep.json").read_bytes()
    code, output = run((*COMMAND, *settings("sweep.space.optimizer.learning_rate=[0.5]")), folder.parents[1])
    assert code == 2, output
    assert "was run with another configuration: replace the sweep with --overwrite" in output
    assert (folder / "sweep.json").read_bytes() == before
    (folder.parent / "mine" / "cells" / "consensus-seed0").mkdir(parents=True)
    code, output = run((*COMMAND, "--overwrite", *settings("sweep.name=mine")), folder.parents[1])
    assert code == 2, output
    assert "runs/mine exists and is not a sweep (cells/consensus-seed0)" in output


def test_a_point_that_makes_no_run_is_refused(tmp_path: Path) -> None:
    """Exit code 2, the point and the field by name, and nothing is written."""
    (tmp_path / "tiny.yaml").write_text(GRID.replace("1e-2]", "-1]"))
    code, output = run(COMMAND, tmp_path)
    assert code == 2, output
    assert "point p001 (optimizer.learning_rate = -1)" in output
    assert "optimizer.learning_rate = -1: expected" in output
    assert not (tmp_path / "runs").exists()


def below(running: Running) -> set[psutil.Process]:
    """All processes that a command has started, as far as they are there."""
    try:
        return set(psutil.Process(running.process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


@pytest.mark.timeout(600)
def test_asha_stops_a_poor_point_even_after_a_break(start: Start, tmp_path: Path) -> None:
    """Interrupted after the first point, started again: that one is not run again, yet the second is judged by it.

    It is stopped early, and all its processes are gone.
    """
    (tmp_path / "tiny.yaml").write_text(ASHA)
    folder = tmp_path / "runs" / "tiny"
    running = start(COMMAND, name="first")
    running.until(lambda: "p000 seed 0 is done" in running.output.read_text(), timeout=240)
    started = below(running)
    running.process.send_signal(signal.SIGINT)
    code, output = running.wait()
    assert code == 128 + signal.SIGINT, output
    assert output.endswith("stopped by SIGINT; the same command continues\n")
    assert [process for process in started if process.is_running()] == []
    done = (folder / "cells" / "p000-seed0" / "summary.json").stat().st_mtime_ns

    running, started, workers = start(COMMAND, name="second"), set(), set()
    while running.process.poll() is None and not (folder / "sweep.json").exists():
        started |= below(running)
        workers |= {
            process for process in started - workers if "coordinator.experiment.pack" in " ".join(_command(process))
        }
        time.sleep(0.2)
    code, output = running.wait()
    assert code == 0, output
    assert "p001 seed 0 is stopped at round " in output
    assert len(workers) == 1, "only the second point"
    assert [process for process in started if process.is_running()] == []
    assert (folder / "cells" / "p000-seed0" / "summary.json").stat().st_mtime_ns == done
    about = json.loads((folder / "sweep.json").read_text())
    assert [(point["values"], point["state"]) for point in about["points"]] == [
        ({"optimizer.learning_rate": 0.03}, "finished"), ({"optimizer.learning_rate": 1e-9}, "stopped")
    ]  # fmt: skip
    assert not (folder / "cells" / "p001-seed0" / "summary.json").exists()
    rows = [row.split(",")[:4] for row in (folder / "results.csv").read_text().splitlines()[1:]]
    assert rows == [["p000", "0", "finished", "0.03"], ["p001", "0", "stopped", "1e-09"]]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # gone meanwhile
        return []
