"""Records are written in order and whole: several at a time, at the latest when a run ends, however it ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from peers.exchange.base import receipt_of
from peers.method.peer import Step
from peers.probes.collapse import deviation, disagreement, effective_rank
from peers.runs.metrics import Recorder, records
from peers.runs.records import AT_LAST, AT_ONCE, Records
from peers.runs.run_folder import RunFolder
from peers.transport.values import Consensus

CPU = torch.device("cpu")
ROUNDS = 100
Told = tuple[Consensus[Tensor], dict[int, Step], dict[int, dict[str, float]], dict[int, float] | None]
BESIDE = torch.device("cuda")
"""Where a thread writes; nothing of these tests runs on it."""


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """Writes to metrics.jsonl alone."""
    made = Recorder(RunFolder(tmp_path), [0, 1], 0, tensorboard=False)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only place."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def record(round_: int, live: dict[int, float] | None = None) -> Told:
    """Of two peers, of which one stood still: what `keep` is given."""
    one, two = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(round_))
    consensus = Consensus(round_, 1, (0, 1), one + two, {0: one, 1: two})
    steps = {0: Step(None, 0.5, 2.0, one, two), 1: Step("stands_still", math.nan, math.nan, two, None)}
    return (consensus, steps, {0: {"seconds": 0.1}, 1: {"seconds": 0.1}}, live)


def written(folder: Path) -> list[int]:
    """Rounds of all lines of peer 0."""
    return [line["round"] for line in records(folder / "metrics.jsonl") if line["peer"] == 0]


def test_a_record_says_what_the_step_was(recorder: Recorder, tmp_path: Path) -> None:
    """Signs of the outputs, the receipt, and no line for what is not known."""
    given = record(7)
    consensus, steps, *_ = given
    with closing(Records(recorder, ROUNDS, CPU)) as kept:
        kept.keep(*given)
    stepped, still = records(tmp_path / "metrics.jsonl")
    step = steps[0]
    assert step.target is not None
    assert stepped == {
        **{"round": 7, "peer": 0, "loss": 0.5, "gradient": 2.0, "skipped": None, "count": 2, "seconds": 0.1},
        **{
            "receipt": receipt_of(consensus).digest,
            "effective_rank": effective_rank(step.outputs),
            "deviation": deviation(step.outputs),
        },
        "disagreement": disagreement(step.outputs, step.target),
    }
    assert still["skipped"] == "stands_still"
    assert still["effective_rank"] == effective_rank(steps[1].outputs)
    assert not {"loss", "gradient", "disagreement"} & set(still)


@pytest.mark.usefixtures("clock")
def test_some_are_kept_until_there_are_enough(recorder: Recorder, tmp_path: Path) -> None:
    """Rounds that follow each other at once: none is written before the last of a lot, then all of it."""
    kept = Records(recorder, ROUNDS, CPU)
    for round_ in range(AT_ONCE - 1):
        kept.keep(*record(round_))
    assert not written(tmp_path)
    kept.keep(*record(AT_ONCE - 1))
    assert written(tmp_path) == list(range(AT_ONCE))
    kept.keep(*record(AT_ONCE))
    assert len(written(tmp_path)) == AT_ONCE
    kept.flush()
    kept.close()
    assert written(tmp_path) == list(range(AT_ONCE + 1))


def test_none_is_kept_for_long(recorder: Recorder, tmp_path: Path, clock: list[float]) -> None:
    """Where rounds are slow each one is written with the next at the latest."""
    kept = Records(recorder, ROUNDS, CPU)
    kept.keep(*record(0))
    clock[0] += AT_LAST / 2
    kept.keep(*record(1))
    assert not written(tmp_path)
    clock[0] += AT_LAST / 2
    kept.keep(*record(2))
    assert written(tmp_path) == [0, 1, 2]
    clock[0] += AT_LAST
    kept.keep(*record(3))
    assert written(tmp_path) == [0, 1, 2]
    kept.close()


@pytest.mark.parametrize("device", [CPU, BESIDE])
def test_how_a_round_stands_is_said_at_once(
    recorder: Recorder, tmp_path: Path, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    """With the k-NN of those that have one; what was kept is written before."""
    caplog.set_level(logging.INFO, "peers.runs.records")
    with closing(Records(recorder, ROUNDS, device)) as kept:
        kept.keep(*record(3))
        kept.keep(*record(4, {0: 81.25}))
        if device is CPU:
            assert written(tmp_path) == [3, 4]
    rank = effective_rank(record(4)[1][0].outputs)
    (said,) = (each.message for each in caplog.records)
    assert said.startswith(f"round 5 of 100: peer 0 loss 0.5000, rank {rank:.1f}, k-NN 81.2; peer 1 skipped (stands_st")


@pytest.mark.parametrize("device", [CPU, BESIDE])
def test_what_is_kept_is_written_when_a_run_fails(recorder: Recorder, tmp_path: Path, device: torch.device) -> None:
    """The error arrives as it was."""

    def run() -> None:
        with closing(Records(recorder, ROUNDS, device)) as kept:
            kept.keep(*record(0))
            kept.keep(*record(1))
            raise KeyError("the round")

    with pytest.raises(KeyError, match="the round"):
        run()
    assert written(tmp_path) == [0, 1]


@pytest.mark.parametrize("device", [CPU, BESIDE])
def test_a_file_that_cannot_be_written_is_an_error(recorder: Recorder, tmp_path: Path, device: torch.device) -> None:
    """At the latest when all is to be written; and once."""
    (tmp_path / "metrics.jsonl").mkdir()
    kept = Records(recorder, ROUNDS, device)
    kept.keep(*record(0))
    with pytest.raises(IsADirectoryError):
        kept.flush()
    kept.close()
