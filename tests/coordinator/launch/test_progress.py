"""What is shown of a run is what its metrics say, however they come in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coordinator.launch.progress import Display, MetricsFollower, RunStatus
from peers.runs.metrics import forget_after
from peers.runs.run_folder import RunFolder, append_line


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Of a run that has not recorded anything yet."""
    return RunFolder(tmp_path)


def record(folder: RunFolder, round_: int, peer: int = 0, **values: Any) -> None:
    """One record of a round that was closed."""
    append_line(folder.metrics, {"round": round_, "peer": peer, "receipt": "ab", **values})


def test_before_the_file_exists_nothing_is_known(folder: RunFolder) -> None:
    """A run that has not begun is no error."""
    status = MetricsFollower(folder.metrics, 50).poll(0.0)
    assert (status.rounds, status.done, status.rate, status.latest) == (50, 0, 0.0, {})
    assert status.line() == "round 0/50  0.0 rounds/s"


def test_newest_values_of_each_peer_are_kept(folder: RunFolder) -> None:
    """Values stay until newer ones come; means are over the peers that have them."""
    follower = MetricsFollower(folder.metrics, 50)
    append_line(folder.metrics, {"round": 0, "peer": 0, "knn_live_baseline": 80.0})
    assert follower.poll(0.0).done == 0  # without a receipt no round was closed
    record(folder, 0, 0, loss=0.5, effective_rank=30.0, seconds=0.1)
    record(folder, 0, 1, loss=0.25)
    assert follower.poll(1.0).mean("loss") == 0.375
    record(folder, 5, 1, loss=0.75, knn_live=84.0)
    status = follower.poll(2.0)
    assert status.done == 6
    assert (status.mean("loss"), status.mean("effective_rank"), status.mean("disagreement")) == (0.625, 30.0, None)
    assert status.latest[1] == {"loss": 0.75, "knn_live": 84.0}


def test_line_shows_what_there_is() -> None:
    """Round, rate, loss, disagreement, rank, and k-NN beside what it was; missing values leave no gap."""
    values = {
        "loss": 0.12345,
        "disagreement": 0.5,
        "effective_rank": 20.04,
        "knn_live": 85.0,
        "knn_live_baseline": 80.0,
    }
    assert RunStatus(50, 10, 2.5, {0: values}).line() == (
        "round 10/50  2.5 rounds/s  loss 0.1235  disagreement 0.5000  rank 20.0  k-NN 85.0 (was 80.0, validation)"
    )
    assert (
        RunStatus(50, 10, 2.5, {0: {"loss": 1.0, "knn_live": 85.0}}).line() == "round 10/50  2.5 rounds/s  loss 1.0000"
    )


def test_rate_is_over_the_last_records(folder: RunFolder) -> None:
    """Rounds per second from what was seen first until now, so that a run that stalls is seen slowing down."""
    follower = MetricsFollower(folder.metrics, 500)
    for second, round_ in ((0, 0), (1, 4), (2, 8)):
        record(folder, round_)
        follower.poll(float(second))
    assert follower.status.rate == 4.0
    assert follower.poll(80.0).rate == 0.1
    for second in range(100, 130):
        record(folder, second)
        follower.poll(float(second))
    assert follower.status.rate == pytest.approx(1.0)


def test_half_a_line_waits_for_its_rest(folder: RunFolder) -> None:
    """A record is taken once, when it is whole, wherever its bytes were parted, inside a character included."""
    follower = MetricsFollower(folder.metrics, 50)
    for round_ in range(3):
        text = {"round": round_, "peer": 0, "receipt": "é", "loss": float(round_)}
        line = (json.dumps(text, ensure_ascii=False) + "\n").encode()
        for cut in range(len(line)):
            with folder.metrics.open("ab") as file:
                file.write(line[cut : cut + 1])
            done = follower.poll(0.0).done
            assert done == (round_ + 1 if cut == len(line) - 1 else round_)
    assert follower.status.mean("loss") == 2.0


def test_a_trimmed_file_is_read_again(folder: RunFolder) -> None:
    """A resumed run trims the file: it is shown where it is now, and every new record is seen."""
    follower = MetricsFollower(folder.metrics, 50)
    for round_ in range(10):
        record(folder, round_, loss=float(round_))
    assert follower.poll(0.0).done == 10
    forget_after(folder, 4)
    assert follower.poll(1.0).done == 4
    assert follower.status.mean("loss") == 3.0
    record(folder, 4, loss=40.0)
    assert follower.poll(2.0).done == 5
    assert follower.status.mean("loss") == 40.0


def test_a_run_that_begins_again_is_at_its_beginning(folder: RunFolder) -> None:
    """When nothing is left of the records, nothing is shown of them."""
    follower = MetricsFollower(folder.metrics, 50)
    record(folder, 9, loss=1.0)
    assert follower.poll(0.0).done == 10
    forget_after(folder, 0)
    status = follower.poll(1.0)
    assert (status.done, status.mean("loss")) == (0, None)


def test_a_file_replaced_while_it_is_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trimming between opening and reading costs nothing: what was read belongs to the file that was opened."""
    follower = MetricsFollower(folder.metrics, 50)
    for round_ in range(10):
        record(folder, round_, loss=float(round_))
    follower.poll(0.0)
    real = Path.open
    trimmed: list[bool] = []

    def open_then_trim(path: Path, *arguments: Any, **options: Any) -> Any:
        file = real(path, *arguments, **options)
        if path == folder.metrics and not trimmed:
            trimmed.append(True)
            forget_after(folder, 4)
            record(folder, 4, loss=40.0)
        return file

    monkeypatch.setattr(Path, "open", open_then_trim)
    follower.poll(1.0)
    record(folder, 5, loss=50.0)
    assert trimmed
    assert follower.poll(2.0).done == 6
    assert follower.status.mean("loss") == 50.0


@pytest.mark.parametrize("terminal", [False, True])
def test_display_ends_with_the_last_state(folder: RunFolder, terminal: bool) -> None:
    """However short a run was, what it came to stands on the console when the display closes."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    with Display(MetricsFollower(folder.metrics, 10), console):
        for round_ in range(10):
            record(folder, round_, loss=0.5)
    assert "round 10/10" in output.getvalue().splitlines()[-1]
    assert "loss 0.5000" in output.getvalue().splitlines()[-1]


def test_plain_output_has_no_control_characters(folder: RunFolder) -> None:
    """In a log file there are lines of text alone."""
    output = io.StringIO()
    with Display(MetricsFollower(folder.metrics, 10), Console(file=output, force_terminal=False)):
        record(folder, 9, loss=0.5)
    assert output.getvalue() == "round 10/10  0.0 rounds/s  loss 0.5000\n"
