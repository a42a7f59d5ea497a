"""`coordinator experiment` as a user runs it: killed, continued, with an arm that fails."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import psutil
import pytest

from tests.commands import BIN, TINY, run, settings
from tests.conftest import Start

EXPERIMENT = """
experiment:
  name: tiny
  seeds: [0, 1]
  parallel: 1
  supervised: true
  recipes: tried.csv
  arms:
    consensus: {}
    independent: {consensus: {control: independent}}
group: {peers: 2}
probe: {every: 0}
"""
SMALL = EXPERIMENT.replace("seeds: [0, 1]", "seeds: [0]").replace(
    "supervised: true\n  recipes: tried.csv", "analyse: []"
)
"""Two groups, neither of them analysed."""
COMMAND = (
    str(BIN / "coordinator"),
    "experiment",
    "tiny.yaml",
    *settings(*TINY, "run.rounds=200", "checkpoint.every=50"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An experiment that nobody disturbs: its folder and what it printed."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "tiny.yaml").write_text(EXPERIMENT)
    (cwd / "tried.csv").write_text("learning rate,gain\n0.1,-3.0\n")
    (cwd / "tried.md").write_text("Too fast.\n")
    code, output = run(COMMAND, cwd)
    assert code == 0, output
    return cwd / "runs" / "tiny", output


def test_an_experiment_ends_with_its_tables(whole: tuple[Path, str]) -> None:
    """Progress, a table for each probe, the verdict, and no p-value from two seeds; files for whoever reads on."""
    folder, output = whole
    assert "experiment tiny: 2 arms x 2 seeds, 6 of 6 groups to run, 1 at a time" in output
    assert "6/6 groups: " in output
    for probe in ("k-NN", "linear"):
        assert f"{probe}, percent on the test split, 2 seeds" in output
        assert f"{probe}: consensus against independent: " in output
        assert f"{probe}: consensus against the random network, not tested: " in output
    assert "no p-value: a test takes at least 5 seeds, found 2" in output
    results = json.loads((folder / "results.json").read_text())
    assert results["seeds"] == [0, 1]
    assert results["values"]["knn"]["independent"] == results["values"]["knn"]["random network"]
    assert results["values"]["knn"]["consensus"] != results["values"]["knn"]["random network"]
    rows = (folder / "results.csv").read_text().splitlines()
    assert rows[0] == "probe,arm,seed,accuracy"
    assert len(rows) == 1 + 2 * 5 * 2  # probes x (arms, supervised, random network, pixels) x seeds
    values = results["values"]["linear"]
    assert "supervised" not in results["gains"]["linear"]
    assert "supervised" not in results["comparisons"]["linear"]
    assert values["supervised"] != values["consensus"]
    analysed = sorted(path.parent.name for path in folder.glob("cells/*/analysis.json"))
    assert analysed == ["consensus-seed0", "consensus-seed1"]
    page = (folder / "report.html").read_text()
    assert "learning rate" in page
    assert "Too fast." in page


def test_stopped_anywhere_it_ends_with_the_same_bytes(whole: tuple[Path, str], start: Start, tmp_path: Path) -> None:
    """Killed or interrupted at a random point, then started again: no finished group is run twice, all is equal."""
    (tmp_path / "tried.csv").write_text("learning rate,gain\n0.1,-3.0\n")
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    dice = random.SystemRandom()
    folder, rounds = tmp_path / "runs" / "tiny", dice.randrange(1, 700)
    number = dice.choice([signal.SIGKILL, signal.SIGINT])

    def recorded() -> int:
        return sum(len(path.read_text().splitlines()) for path in folder.glob("cells/*/metrics.jsonl")) // 2

    running = start(COMMAND)
    running.until(lambda: recorded() >= rounds)
    running.process.send_signal(number)
    code, output = running.wait()
    assert code == (-number if number == signal.SIGKILL else 128 + number), output
    done = {path.parent: path.stat().st_mtime_ns for path in folder.glob("cells/*/summary.json")}
    code, output = run(COMMAND, tmp_path)
    assert code == 0, output
    for cell, written in done.items():
        assert (cell / "summary.json").stat().st_mtime_ns == written, f"{cell} was run again; stopped at {rounds}"
    for name in ("results.json", "results.csv", "cells/consensus-seed1/analysis.json"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes(), f"stopped at round {rounds}"


def test_a_group_that_fails_is_reported_and_the_others_still_run(tmp_path: Path) -> None:
    """Exit code 1, the group's name and the end of its log; the seeds that are whole are compared."""
    explode = (
        "    broken: {optimizer: {name: sgd, learning_rate: 1.0e+30}, consensus: {loss: mse}, network: {norm: none}}\n"
    )
    text = SMALL.replace("parallel: 1", "parallel: 2").replace(
        "    independent: {consensus: {control: independent}}\n", explode
    )
    (tmp_path / "tiny.yaml").write_text(text)
    code, output = run(COMMAND, tmp_path)
    assert code == 1, output
    assert "broken seed 0 ended with 4" in output
    assert "non-finite values for 10 rounds in a row" in output
    assert "consensus seed 0 is done" in output
    assert "no seed has all its arms: nothing can be compared" in output


def test_another_configuration_is_not_mixed_in(whole: tuple[Path, str]) -> None:
    """Cells of other settings are refused with what to do; nothing of them is touched."""
    folder, _ = whole
    before = (folder / "results.json").read_bytes()
    code, output = run((*COMMAND, *settings("optimizer.learning_rate=0.01")), folder.parents[1])
    assert code == 2, output
    assert "was run with another configuration" in output
    assert "--overwrite" in output
    assert (folder / "results.json").read_bytes() == before


def test_a_process_that_dies_takes_one_group_with_it(start: Start, tmp_path: Path) -> None:
    """Killed under its group it is reported by its signal; the other runs in a new process, and the end is 1."""
    (tmp_path / "tiny.yaml").write_text(SMALL)
    running = start(COMMAND)
    cells = tmp_path / "runs" / "tiny" / "cells"
    running.until(lambda: (cells / "consensus-seed0" / "metrics.jsonl").is_file())
    (pack,) = [child for child in psutil.Process(running.process.pid).children() if "pack" in " ".join(child.cmdline())]
    pack.kill()
    code, output = running.wait()
    assert code == 1, output
    assert "consensus seed 0 was killed by signal 9" in output
    assert "1/2 groups: independent seed 0 is done" in output
    code, output = run(COMMAND, tmp_path)
    assert code == 0, output
    assert "1 of 2 groups to run" in output


def test_groups_share_a_process(whole: tuple[Path, str]) -> None:
    """Six groups, one at a time: one process in all."""
    summaries = [json.loads(path.read_bytes()) for path in whole[0].glob("cells/*/summary.json")]
    assert len(summaries) == 6
    assert len({report["pid"] for found in summaries for report in found["per_peer"]}) == 1
