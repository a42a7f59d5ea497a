"""The numbers and the table that end a run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from peers.config.loading import parse
from peers.runs.run_folder import RunFolder
from peers.runs.summary import sound, summarize, table, write

CONFIG = {"run": {"name": "r", "seed": 7}, "group": {"peers": 3}, "probe": {"split": "validation"}}


def report(baseline: float, final: float, **values: Any) -> dict[str, Any]:
    """What a peer leaves behind; the linear probe is ten points above k-NN, after training 9."""
    return {
        "baseline": {"knn": baseline, "linear": baseline + 10},
        "final": {"knn": final, "linear": final + 9},
        "stepped": 5,
        "skips": {},
        "seconds": 2.0,
        **values,
    }


def three() -> dict[str, Any]:
    """The summary of a group of three; reports come in any order."""
    reports = {2: report(83, 90, skips={"alone": 2, "abstained": 1}), 0: report(80, 84, seconds=2.5), 1: report(80, 90)}
    return summarize(parse(CONFIG), "collective", 50, {"knn": 96.0, "linear": 91.25}, reports)


def test_means_deviations_and_gains_are_over_the_peers() -> None:
    """By hand: k-NN 80, 80, 83 to 84, 90, 90; the deviation is the sample's; gains are taken peer by peer."""
    summary = three()
    assert summary["baseline"] == {"knn": 81.0, "linear": 91.0}
    assert summary["final"] == {"knn": 88.0, "linear": 97.0}
    assert summary["gain"] == {"knn": 7.0, "linear": 6.0}
    assert summary["deviation"]["baseline"]["knn"] == math.sqrt(3)
    assert math.isclose(summary["deviation"]["final"]["linear"], math.sqrt(12))
    assert summary["deviation"]["gain"]["knn"] == 3.0  # of 4, 10, 7


def test_what_was_run_is_told() -> None:
    """Name, seed, peers, rounds, exchange, split, the slowest peer's seconds, and each peer's report by id."""
    summary = three()
    facts = {key: summary[key] for key in ("run", "seed", "peers", "rounds", "exchange", "split", "seconds", "pixels")}
    assert facts == {
        "run": "r",
        "seed": 7,
        "peers": 3,
        "rounds": 50,
        "exchange": "collective",
        "split": "validation",
        "seconds": 2.5,
        "pixels": {"knn": 96.0, "linear": 91.25},
    }
    assert [(each["peer"], each["gain"]["knn"], each["stepped"]) for each in summary["per_peer"]] == [
        (0, 4, 5),
        (1, 10, 5),
        (2, 7, 5),
    ]


def test_table_of_a_group() -> None:
    """A row for each probe, with mean ± deviation, and a line that says what the numbers are."""
    assert table(three()) == "\n".join(
        [
            "probe   baseline    now         gain        pixels",
            "------  ----------  ----------  ----------  ------",
            "k-NN    81.0 ± 1.7  88.0 ± 3.5  +7.0 ± 3.0  96.0",
            "linear  91.0 ± 1.7  97.0 ± 3.5  +6.0 ± 3.0  91.2",
            "accuracy in percent on the validation split, mean ± deviation over 3 peers of one group; 50 rounds in "
            "2.5 s, collective exchange, 3 steps skipped",
        ]
    )


def test_a_single_peer_without_the_linear_probe() -> None:
    """One peer has no deviation; a probe that was not run has no row; a loss has its sign."""
    single = parse({"group": {"peers": 1}, "consensus": {"control": "independent"}})
    one = report(80, 75)
    reports = {0: {**one, "baseline": {"knn": 80.0}, "final": {"knn": 75.0}}}
    summary = summarize(single, "inprocess", 3, {"knn": 90.0}, reports)
    assert summary["deviation"] == {"baseline": {"knn": 0.0}, "final": {"knn": 0.0}, "gain": {"knn": 0.0}}
    rows = table(summary).splitlines()
    assert rows[2].split() == ["k-NN", "80.0", "±", "0.0", "75.0", "±", "0.0", "-5.0", "±", "0.0", "90.0"]
    assert len(rows) == 4


def test_summary_is_json(tmp_path: Path) -> None:
    """What was written reads back equal, so that a table can be made of it later."""
    folder = RunFolder(tmp_path)
    write(folder, three())
    read = json.loads(folder.summary.read_bytes())
    assert read == three()
    assert table(read) == table(three())


HONEST = report(80.0, 90.0, network="mlp", incarnation=0, pid=7, selected=None)


def test_sound_reports_are_counted_without_what_does_not_belong_there() -> None:
    """As they went through JSON, also without a linear probe; a report cannot pass for another peer's."""
    came = json.loads(json.dumps({**HONEST, "peer": 5, "gain": {"knn": 99.0}}))
    assert sound({0: came}, ("knn", "linear")) == ({0: HONEST}, {})
    alone = {**HONEST, "baseline": {"knn": 80.0}, "final": {"knn": 90.0}, "selected": 3}
    assert sound({1: alone}, ("knn",)) == ({1: alone}, {})


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ("words", "valid dictionary"),
        ([1], "valid dictionary"),
        ({}, "network: Field required"),
        ({**HONEST, "final": {}}, "its probes are not knn, linear"),
        ({**HONEST, "baseline": {"knn": 80.0, "linear": 90.0, "other": 1.0}}, "its probes are not knn, linear"),
        ({**HONEST, "final": {"knn": 900.0, "linear": 90.0}}, "final.knn: .* less than or equal to 100"),
        ({**HONEST, "baseline": {"knn": math.nan, "linear": 90.0}}, "baseline.knn: "),
        ({**HONEST, "seconds": "2"}, "seconds: Input should be a valid number"),
        ({**HONEST, "seconds": math.inf}, "seconds: Input should be a finite number"),
        ({**HONEST, "skips": {"alone": -1}}, "skips.alone: "),
        ({**HONEST, "skips": 3}, "skips: Input should be a valid dictionary"),
        ({**HONEST, "selected": True}, "selected: "),
    ],
)
def test_reports_of_liars_are_told_apart(lie: Any, why: str) -> None:
    """Whatever one says, the others' reports are counted; what is wrong names the field."""
    kept, wrong = sound({0: HONEST, 1: lie, 2: HONEST}, ("knn", "linear"))
    assert kept == {0: HONEST, 2: HONEST}
    assert list(wrong) == [1]
    assert re.search(why, wrong[1]), wrong[1]
