"""The worker as users start it: alone, and under torchrun."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from peers.worker.process import SAME_REQUEST
from tests.commands import TINY, WORKER, rounds_recorded, run, settings, summary, torchrun, weights
from tests.conftest import Start


def test_without_arguments_a_single_process_hosts_four_peers_on_digits(tmp_path: Path) -> None:
    """The embedded default ends with a table and a complete summary."""
    code, output = run(WORKER, tmp_path)
    assert code == 0, output
    result = summary(tmp_path / "runs" / "digits-mlp-mean-4peers-seed0")
    assert {"run", "seed", "peers", "rounds", "exchange", "seconds"} < set(result)
    for key in ("baseline", "final", "gain", "pixels"):
        assert set(result[key]) == {"knn", "linear"}
    assert result["exchange"] == "inprocess"
    assert [report["peer"] for report in result["per_peer"]] == [0, 1, 2, 3]
    assert re.search(r"^k-NN .*^linear ", output, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("processes", [2, 8])
def test_torchrun_works_as_it_stands(processes: int, tmp_path: Path) -> None:
    """One peer for each process, over gloo; the lead prints the table once."""
    code, output = run(torchrun(processes), tmp_path, timeout=400)
    assert code == 0, output
    result = summary(tmp_path / "runs" / f"digits-mlp-mean-{processes}peers-seed0")
    assert result["peers"] == processes
    assert result["exchange"] == "collective"
    assert len({report["pid"] for report in result["per_peer"]}) == processes
    assert output.count("baseline    now") == 1


def test_a_signal_saves_and_ends_the_group_and_resume_gives_the_same_weights(start: Start, tmp_path: Path) -> None:
    """One of two workers is told to stop: both finish the same round, save, and exit 0; nothing is lost."""
    flags = settings(*TINY, "run.rounds=400", "checkpoint.every=1000", "probe.every=0")
    code, output = run((*WORKER, *flags, *settings("run.name=whole", "group.peers=2")), tmp_path)
    assert code == 0, output
    folder = tmp_path / "runs" / "stopped"
    running = start((*torchrun(2), *flags, *settings("run.name=stopped")))
    running.until(lambda: rounds_recorded(folder) > 20)
    running.workers()[-1].send_signal(signal.SIGTERM)
    code, output = running.wait()
    assert code == 0, output
    saved = {json.loads(path.read_text())["round"] for path in folder.glob("checkpoints/peer-*/latest")}
    assert len(saved) == 1
    assert 20 < saved.pop() < 400
    assert "--resume auto continues" in output
    assert not (folder / "summary.json").exists()
    code, output = run((*torchrun(2), *flags, *settings("run.name=stopped"), "--resume", "auto"), tmp_path)
    assert code == 0, output
    assert "resumed at round" in output
    assert weights(folder) == weights(tmp_path / "runs" / "whole")
    rounds = [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {rounds.count(round_) for round_ in range(400)} == {2}, "each round is recorded once by each peer"


def test_a_later_signal_ends_at_once(start: Start, tmp_path: Path) -> None:
    """A worker that waits for its coordinator has no round to finish; the exit code names the second signal."""
    running = start((*WORKER, *settings(*TINY, "run.name=run"), "--coordinator", "127.0.0.1:1", "--peer", "0"))
    running.until(lambda: "nothing answers at 127.0.0.1:1" in running.output.read_text())
    running.process.send_signal(signal.SIGTERM)
    running.until(lambda: "once more ends at once" in running.output.read_text())
    told = time.monotonic()
    running.until(lambda: time.monotonic() > told + SAME_REQUEST)
    running.process.send_signal(signal.SIGINT)
    code, output = running.wait(20)
    assert code == 128 + signal.SIGINT, output


def test_an_existing_run_is_never_overwritten_silently(tmp_path: Path) -> None:
    """Refused with the three ways on; --overwrite starts anew; --resume auto of a finished run repeats its result."""
    command = (*WORKER, *settings(*TINY, "run.rounds=5", "run.name=once"))
    assert run(command, tmp_path)[0] == 0
    before = weights(tmp_path / "runs" / "once")
    code, output = run(command, tmp_path)
    assert code == 2
    assert "holds a finished run" in output
    assert all(way in output for way in ("--resume auto", "--overwrite", "run.name"))
    code, output = run((*command, "--resume", "auto"), tmp_path)
    assert code == 0, output
    assert weights(tmp_path / "runs" / "once") == before
    code, output = run((*command, "--overwrite", *settings("run.seed=5")), tmp_path)
    assert code == 0, output
    assert weights(tmp_path / "runs" / "once") != before


def test_a_learning_rate_that_explodes_is_named(tmp_path: Path) -> None:
    """Non-finite values: rounds are skipped and counted, then the peer gives up with exit code 4 and no traceback."""
    flags = settings(
        *TINY, "run.rounds=2000", "optimizer.name=sgd", "optimizer.learning_rate=1e30", "consensus.loss=mse",
        "network.norm=none", "run.name=boom",
    )  # fmt: skip
    code, output = run((*WORKER, *flags), tmp_path)
    assert code == 4, output
    assert "non-finite values for 10 rounds in a row" in output
    assert "learning_rate = 1e+30" in output
    assert "Traceback" not in output
