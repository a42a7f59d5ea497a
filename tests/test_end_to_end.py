"""One real run for each exchange, and one under torchrun: what users start first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import LAUNCH, TINY, WORKER, run, settings, summary, torchrun, weights

FLAGS = settings("run.rounds=20", "run.name=run", "group.peers=4", *TINY)
PAIRS = settings("group.peers_per_worker=2")
WAYS = {
    "inprocess": (WORKER, []),
    "torchrun": (torchrun(2), PAIRS),
    "collective": ((*LAUNCH, "empty.yaml"), settings("exchange.kind=collective")),
    "coordinator": ((*LAUNCH, "empty.yaml"), [*settings("exchange.kind=coordinator"), *PAIRS]),
}
KINDS = {"torchrun": "collective"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The folder and the output of each run."""
    ended = {}
    for way, (command, more) in WAYS.items():
        cwd = tmp_path_factory.mktemp(way)
        (cwd / "empty.yaml").write_text("")
        code, output = run((*command, *FLAGS, *more), cwd)
        assert code == 0, output
        ended[way] = (cwd / "runs" / "run", output)
    return ended


@pytest.mark.parametrize("way", WAYS)
def test_a_run_ends_with_its_table_and_its_files(way: str, runs: dict[str, tuple[Path, str]]) -> None:
    """Summary, metrics of every round and peer, one receipt a round, checkpoints of all peers; the table once."""
    folder, output = runs[way]
    result = summary(folder)
    assert result["exchange"] == KINDS.get(way, way)
    assert [report["peer"] for report in result["per_peer"]] == [0, 1, 2, 3]
    assert all(report["stepped"] == 20 for report in result["per_peer"])
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    receipts = {(record["round"], record["receipt"]) for record in records if "receipt" in record}
    assert sorted(round_ for round_, _ in receipts) == list(range(20))
    assert {(record["round"], record["peer"]) for record in records} == {(r, p) for r in range(20) for p in range(4)}
    assert len(re.findall(r"^k-NN .*\n(?:linear )", output, re.MULTILINE)) == 1


def test_every_exchange_and_packing_gives_the_same_weights(runs: dict[str, tuple[Path, str]]) -> None:
    """Bit for bit: one process of 4 peers, 2 processes of 2, 4 of 1, over gloo and through a coordinator."""
    reference = weights(runs["inprocess"][0])
    assert len({name.split("/")[0] for name in reference}) == 4
    for way, (folder, _) in runs.items():
        assert weights(folder) == reference, way
