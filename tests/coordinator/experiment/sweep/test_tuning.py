"""What Ray Tune is given, without a cluster: ASHA that tells and remembers, and trials whose workers end as they do."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.experiment import runner
from coordinator.experiment.runner import Course, Ending
from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep import asha, trial
from coordinator.experiment.sweep.live import Seen, mark_stopped, stopped
from coordinator.experiment.sweep.plan import Sweep, load
from coordinator.experiment.sweep.tuning import Asha
from coordinator.launch.processes import Child
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
    made = load("made.yaml")
    for cell in made.cells:
        cell.folder.prepare(cell.config, "refuse")
    return made


def record(folder: Path, rounds: int, gain: float) -> None:
    """A live probe of both peers."""
    for peer in (0, 1):
        values = {"knn_live_baseline": 50.0, "knn_live": 50.0 + gain}
        append_line(folder / "metrics.jsonl", {"round": rounds - 1, "peer": peer, **values})


def answered(point: str, rounds: int, gain: float, state: str = "running", why: str = "") -> tuple[Any, dict[str, Any]]:
    """A trial and what it tells."""
    made = SimpleNamespace(trial_id=f"trial of {point}", config={"task": {"point": point}})
    return made, {"rounds": rounds, "gain": gain, "state": state, "why": why, "done": state != "running"}


def test_a_point_is_judged_by_those_of_an_earlier_life(sweep: Sweep) -> None:
    """Points that are finished or stopped are not run again, and count; what is decided is marked, told and counted."""
    finished, ended = sweep.cells[0], sweep.cells[1]
    for rounds, gain in ((20, 4.0), (30, 9.0), (40, 6.0), (80, 1.0)):
        record(finished.folder.path, rounds, gain)
    finished.folder.summary.write_text("{}")
    for rounds, gain in ((20, 2.0), (40, 0.5)):
        record(ended.folder.path, rounds, gain)
    mark_stopped(ended.folder, Seen(20, 2.0))
    before = dict(asha.seen_before(sweep))
    assert before == {"p000": [Seen(20, 4.0), Seen(40, 6.0), Seen(80, 1.0)], "p001": [Seen(20, 2.0)]}

    said: list[tuple[Course, str]] = []
    points = asha.Points(sweep, list(sweep.cells[2:]), lambda course, text: said.append((course, text)))
    scheduler = Asha(sweep, points)
    for point, seen in before.items():
        scheduler.recall(point, seen)
    for point in ("p002", "p003"):
        scheduler.on_trial_add(None, answered(point, 0, 0.0)[0])  # type: ignore[arg-type]
    assert scheduler.on_trial_result(None, *answered("p002", 0, 0.0)) == scheduler.CONTINUE
    assert (
        scheduler.on_trial_result(None, *answered("p002", 20, 3.5)) == scheduler.CONTINUE
    )  # above 2.0 and 4.0's middle
    assert scheduler.on_trial_result(None, *answered("p003", 20, 1.5)) == scheduler.STOP
    assert scheduler.on_trial_result(None, *answered("p002", 40, 5.5)) == scheduler.STOP  # p000 alone came so far
    assert [stopped(cell.folder) for cell in sweep.cells] == [None, Seen(20, 2.0), Seen(40, 5.5), Seen(20, 1.5)]
    assert [(course.done, course.cells, text) for course, text in said] == [
        (3, 4, "p003 seed 0 is stopped at round 20: live k-NN gain +1.5 points"),
        (4, 4, "p002 seed 0 is stopped at round 40: live k-NN gain +5.5 points"),
    ]


def test_a_failed_or_lost_trial_is_told_and_counts_for_nothing(sweep: Sweep) -> None:
    """The reason is kept for the table; the others go on."""
    said: list[str] = []
    points = asha.Points(sweep, list(sweep.cells), lambda _, text: said.append(text))
    scheduler = Asha(sweep, points)
    for cell in sweep.cells:
        scheduler.on_trial_add(None, answered(cell.arm, 0, 0.0)[0])  # type: ignore[arg-type]
    scheduler.on_trial_complete(None, *answered("p000", 0, 0.0, "failed", "p000 seed 0 ended with 4"))
    scheduler.on_trial_error(None, answered("p001", 0, 0.0)[0])
    scheduler.on_trial_complete(None, *answered("p002", 80, 1.0, "finished"))
    assert list(points.failed) == ["p000 seed 0", "p001 seed 0"]
    assert said[0] == "p000 seed 0 ended with 4"
    assert said[1].startswith("p001 seed 0 was lost with its trial")
    assert said[2] == "p002 seed 0 is done"


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_finishers_are_run_with_all_seeds(number: int | None, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once ASHA is through, unless it was interrupted: not those that it stopped, nor those that failed."""
    seeds = load("made.yaml", ["sweep.seeds=[0, 1, 2]"])

    def searched(_: Sweep, waiting: list[Cell], __: object) -> Ending:
        assert [cell.name for cell in waiting] == [f"p00{place} seed 0" for place in range(4)]
        waiting[0].folder.summary.write_text("{}")
        waiting[1].folder.summary.write_text("{}")  # it ended before it heard that it is stopped
        mark_stopped(waiting[1].folder, Seen(20, 1.0))
        waiting[2].folder.summary.write_text("{}")
        return Ending({"p003 seed 0": "why"}, number)

    ran: list[str] = []

    def run(cells: Sequence[Cell], most: int | None, told: object) -> Ending:
        ran.extend(cell.name for cell in cells if not cell.finished)
        return Ending({"p002 seed 2": "why, too"}, None)

    monkeypatch.setattr(asha, "_search", searched)
    monkeypatch.setattr(runner, "run", run)
    ending = asha.run(seeds, lambda course, text: None)
    assert ending.signal == number
    assert ran == ([] if number else ["p000 seed 1", "p002 seed 1", "p000 seed 2", "p002 seed 2"])
    assert list(ending.failed) == ["p003 seed 0", *([] if number else ["p002 seed 2"])]


def begun(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, code: str, home: Path) -> trial.Trial:
    """A trial of the first point, as Tune sets it up, whose worker is a piece of Python."""

    def child(command: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> Child:
        assert command[1:4] == ("-m", "peers.worker", "--config")
        assert environment["PEERS_PARENT"] == str(os.getpid())
        return Child((sys.executable, "-c", code), log, environment)

    monkeypatch.setattr(trial, "Child", child)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # `setup` would; here it comes back
    cell = sweep.cells[0]
    task = trial.Task(cell.arm, cell.name, str(home), str(cell.folder.path), 2, (20, 40, 80), {}, 1.0, 0.0)
    made = trial.Trial.__new__(trial.Trial)
    made.setup({"task": vars(task)})
    return made


def until_ended(made: trial.Trial) -> list[dict[str, Any]]:
    """All answers of a trial, without its beats."""
    answers: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while not answers or not answers[-1]["done"]:
        assert time.monotonic() < deadline
        answer = made.step()
        answers += [answer] if answer not in answers else []
    return answers


def test_a_trial_tells_of_every_look_and_of_its_end(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All looks in order, however late it reads of them, nothing between; then that it has its result."""
    folder = sweep.cells[0].folder
    for rounds, gain in ((10, 1.0), (20, 2.0), (40, 4.0), (50, 5.0)):
        record(folder.path, rounds, gain)
    folder.summary.write_text(json.dumps({}))
    made = begun(sweep, monkeypatch, "pass", tmp_path)
    answers = until_ended(made)
    assert [(answer["rounds"], answer["gain"], answer["state"]) for answer in answers if answer["rounds"]] == [
        (20, 2.0, "running"), (40, 4.0, "running"), (40, 4.0, "finished")
    ]  # fmt: skip


def test_a_trial_whose_worker_fails_tells_why(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As any cell: its name, the exit code and the end of its log; also where its folder cannot be seen."""
    made = begun(sweep, monkeypatch, "import sys; sys.exit('it is broken')", tmp_path)
    last = until_ended(made)[-1]
    assert (last["state"], last["rounds"]) == ("failed", 0)
    assert last["why"].startswith(
        "p000 seed 0 ended with 1; the end of runs/made/cells/p000-seed0/logs/worker-0.stderr:"
    )
    assert "it is broken" in last["why"]
    made.cleanup()
    elsewhere = begun(sweep, monkeypatch, "pass", tmp_path / "elsewhere")
    assert f"does not see {tmp_path}/elsewhere/runs/made/cells/p000-seed0" in elsewhere.step()["why"]
    elsewhere.cleanup()


def test_a_trial_that_is_stopped_reaps_its_worker(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers while there is no news, and leaves no process behind."""
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); open('up', 'w'); time.sleep(60)"
    made = begun(sweep, monkeypatch, code, tmp_path)
    while not (tmp_path / "up").exists():
        assert made.step()["state"] == "running"
    assert made._child is not None
    made.cleanup()
    ended = made._child.ended()
    assert ended is not None
    assert ended.code == 0
