"""One liar among eight: what the gate refuses, what a robust rule withstands, and what the mean does not."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.commands import Running, summary
from tests.conftest import Start
from tests.faults.byzantine import AGGREGATORS, ATTACKS, HONEST, LIAR, NONE, PEERS, Trial, formed, tables
from tests.faults.elastic import ElasticGroup
from tests.faults.faulty_exchange import Fault
from tests.faults.forks import ForkedRunning, Server
from tests.faults.liars import inner_product, little
from tests.peers.groups import one_thread

ROUNDS = 100
RECIPE = (
    f"group.peers={PEERS}", f"run.rounds={ROUNDS}", "optimizer.schedule=cosine", "probe.linear=false",
    "probe.every=0", "metrics.every=10", "metrics.tensorboard=false",
)  # fmt: skip
LARGE = Fault("constant", 0, LIAR, rounds=ROUNDS, scale=1e9)
WIDE = "coordinator.norm_bound=1e12"

Lied = Callable[..., tuple[ElasticGroup, Running]]


@pytest.fixture
def lied(server: Server, start: Start, tmp_path: Path) -> Iterator[Lied]:
    """Starts groups of seven honest peers in one worker, the first of the group's, and a liar in another."""
    groups: list[ElasticGroup] = []

    def begin(rule: str, *flags: str) -> tuple[ElasticGroup, Running]:
        cwd = tmp_path / str(len(groups))
        cwd.mkdir()
        group = ElasticGroup(start, cwd, *RECIPE, f"consensus.target={rule}", f"run.out={cwd / 'runs'}", *flags)
        groups.append(group)
        (cwd / "faults.json").write_text(json.dumps([dataclasses.asdict(LARGE)]))
        given = ("--faults", str(cwd / "faults.json"), "--config", str(cwd / "config.yaml"), *group.flags)
        given = (*given, "--coordinator", group.address, "--peer")
        seven = ("0", "--set", f"group.peers_per_worker={len(HONEST)}")
        group.workers.append(ForkedRunning(server, (*given, *seven), cwd, "honest"))
        group.workers.append(ForkedRunning(server, (*given, str(LIAR)), cwd, "liar"))
        return group, group.workers[1]

    yield begin
    for group in groups:
        group.close()
        for worker in group.workers:
            worker.reap()


def gain_of_the_honest(group: ElasticGroup) -> float:
    """K-NN gain, mean over the seven, when the group has ended."""
    code, output = group.workers[0].wait()
    assert code == 0, output
    reports = {report["peer"]: report for report in summary(group.folder)["per_peer"]}
    assert [reports[peer]["stepped"] for peer in HONEST] == [ROUNDS] * len(HONEST)
    return statistics.fmean(reports[peer]["gain"]["knn"] for peer in HONEST)


def test_large_values_are_refused_or_outvoted_but_the_mean_falls_for_them(lied: Lied) -> None:
    """Peer 7 publishes 1e9 everywhere. By default it is refused by name, counted, and in no round.

    Let in by a wide bound, it takes more than half of their gain from the seven others under the mean, and less than
    half under the median.
    """
    guarded, refused = lied("mean")
    guarded.workers[0].until(lambda: guarded.status()["refused"] == {"NORM_EXCEEDED": "1"})
    code, output = refused.wait()
    assert code == 3, output
    assert f"NORM_EXCEEDED: peer {LIAR}: root mean square 1e+09, at most 1e+06 is allowed" in output
    mean, median = lied("mean", WIDE), lied("median", WIDE)
    reference = gain_of_the_honest(guarded)
    assert {record["count"] for record in guarded.records() if "count" in record} == {len(HONEST)}
    for group, liar in (mean, median):
        code, output = liar.wait()
        assert code == 0, output
        assert {record["count"] for record in group.records() if "count" in record} == {PEERS}
        assert (group.cwd / "faults.json.fired").read_text().count("\n") == 1
    gains = gain_of_the_honest(mean[0]), gain_of_the_honest(median[0])
    assert reference > 2
    assert gains[0] < reference / 2 < gains[1], (reference, gains)


def test_a_refused_member_that_does_not_give_up_only_annoys(tmp_path: Path) -> None:
    """It is expelled after three refusals, joins again, and so on; the seven make every step without it."""
    group = formed("mean", "refused", 0, 8, str(tmp_path))
    with one_thread():
        counts = group.run()
    assert [peer.stepped for peer in group.honest] == [8] * len(HONEST)
    assert set(counts["refused"]) == {"NORM_EXCEEDED"}
    assert counts["refused"]["NORM_EXCEEDED"] >= 3
    assert "3 publications in a row were refused" in counts["expelled"]


def test_a_colluder_is_in_every_round(tmp_path: Path) -> None:
    """A liar that reads the others' outputs first is answered as everybody: nothing is refused, nobody expelled."""
    group = formed("median", "inner product", 0, 4, str(tmp_path))
    with one_thread():
        counts = group.run()
    assert (counts, group.ended) == ({"refused": {}, "expelled": ""}, "")
    assert [peer.stepped for peer in group.honest] == [4] * len(HONEST)


def test_tables_are_of_the_groups() -> None:
    """The gain is the mean over seeds, the cost its difference to the same aggregator's without an attack."""
    trials = [
        Trial(rule, attack, seed, {"knn": 8.0 + seed - 3 * (attack != NONE), "linear": 16.0}, 100, {}, "")
        for rule in AGGREGATORS
        for attack in ATTACKS
        for seed in range(5)
    ]
    gains, costs, *linear = tables(trials, AGGREGATORS)
    assert gains.rows[0] == [NONE, *["+10.0 (8.0 to 12.0)"] * len(AGGREGATORS)]
    assert costs.rows[0] == [ATTACKS["flipped"].text, *["-3.0 (-3.0 to -3.0)"] * len(AGGREGATORS)]
    assert {cell for row in linear[1].rows for cell in row[1:]} == {"0.0 (0.0 to 0.0)"}


def test_colluders_follow_their_papers() -> None:
    """Mean minus so many deviations over the peers; and the mean turned around."""
    honest = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
    assert little(honest, 1.5).tolist() == [[0.5, 0.0]]
    assert inner_product(honest, 10.0).tolist() == [[-20.0, 0.0]]
