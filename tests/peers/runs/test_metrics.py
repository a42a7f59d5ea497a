"""Records of several processes never mix, and a resumed run forgets what it is about to do again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peers.runs.metrics import Recorder, forget_after
from peers.runs.run_folder import RunFolder, append_line

ROOT = Path(__file__).parents[3]
WRITE = """
import sys
from pathlib import Path
from peers.runs.metrics import Recorder
from peers.runs.run_folder import RunFolder
peer = int(sys.argv[2])
recorder = Recorder(RunFolder(Path(sys.argv[1])), [peer], 0, tensorboard=False)
print("ready", flush=True)
sys.stdin.readline()
for round_ in range(400):
    recorder.record(peer, round_, {"text": str(peer) * (1 + 37 * (round_ % 60))})
recorder.close()
"""


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """All records, refusing what strict JSON does not know (NaN, Infinity)."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in folder.metrics.read_text().splitlines()]


def test_four_processes_write_one_file(tmp_path: Path) -> None:
    """Four processes append 400 records each, up to 2 KB long, at the same time: every line is one whole record."""
    folder = RunFolder(tmp_path)
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(peer)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for peer in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0] * 4
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=20)
    found = [(record["peer"], record["round"]) for record in lines(folder)]
    assert sorted(found) == [(peer, round_) for peer in range(4) for round_ in range(400)]
    for peer in range(4):
        assert [round_ for one, round_ in found if one == peer] == list(range(400))
    assert all(record["text"] == str(record["peer"]) * (1 + 37 * (record["round"] % 60)) for record in lines(folder))


def test_a_record_holds_round_peer_and_values(tmp_path: Path) -> None:
    """Numbers, texts and None are kept; records come in the order in which they were written."""
    folder = RunFolder(tmp_path)
    recorder = Recorder(folder, [3], 0, tensorboard=False)
    recorder.record(3, 7, {"loss": 0.25, "count": 4, "skipped": None, "receipt": "ab"})
    recorder.record(3, 8, {"loss": 0.5})
    recorder.close()
    assert lines(folder) == [
        {"round": 7, "peer": 3, "loss": 0.25, "count": 4, "skipped": None, "receipt": "ab"},
        {"round": 8, "peer": 3, "loss": 0.5},
    ]


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """Neither NaN nor an infinity is JSON: each line stays readable by any parser."""
    folder = RunFolder(tmp_path)
    Recorder(folder, [0], 0, tensorboard=False).record(0, 1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    assert lines(folder) == [{"round": 1, "peer": 0, "d": 1.0}]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    """One folder of events for each peer; texts and None stay in metrics.jsonl alone."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]  # ships no types
        EventAccumulator,
    )

    folder = RunFolder(tmp_path)
    recorder = Recorder(folder, [0, 1], 0, tensorboard=True)
    for round_ in (0, 5):
        recorder.record(1, round_, {"loss": 0.5 + round_, "count": 2, "receipt": "ab", "skipped": None})
    recorder.close()
    assert sorted(path.name for path in folder.tensorboard.iterdir()) == ["peer-000", "peer-001"]
    events = EventAccumulator(str(folder.tensorboard / "peer-001")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["count", "loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (5, 5.5)]


def test_records_to_come_again_are_forgotten(tmp_path: Path) -> None:
    """What lies before the round of the resumption stays byte for byte, what lies at it or after it goes."""
    folder = RunFolder(tmp_path)
    for round_ in range(6):
        for peer in range(2):
            append_line(folder.metrics, {"round": round_, "peer": peer, "note": "é"})
    before = folder.metrics.read_bytes().splitlines(keepends=True)
    forget_after(folder, 4)
    assert folder.metrics.read_bytes() == b"".join(before[:8])
    forget_after(folder, 4)
    assert folder.metrics.read_bytes() == b"".join(before[:8])
    forget_after(folder, 0)
    assert folder.metrics.read_bytes() == b""


@pytest.mark.parametrize("rest", [b'{"round": 1, "pe', b'{"round": 1', b"{", b'{"round": 1}{"rou', b"\xff\xfe"])
def test_a_line_cut_off_by_a_crash_goes(rest: bytes, tmp_path: Path) -> None:
    """Half a line, wherever it was cut, is dropped, and the next record begins a line of its own."""
    folder = RunFolder(tmp_path)
    append_line(folder.metrics, {"round": 0, "peer": 0})
    with folder.metrics.open("ab") as file:
        file.write(rest)
    forget_after(folder, 9)
    append_line(folder.metrics, {"round": 9, "peer": 0})
    assert lines(folder) == [{"round": 0, "peer": 0}, {"round": 9, "peer": 0}]


def test_nothing_to_forget(tmp_path: Path) -> None:
    """A run that recorded nothing has no file, and gets none."""
    forget_after(RunFolder(tmp_path), 3)
    assert not RunFolder(tmp_path).metrics.exists()
