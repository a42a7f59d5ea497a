"""The whole pipeline on data in which nothing is to be found: it must not find more than it says it would."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from coordinator.experiment import matrix, results, statistics
from coordinator.experiment.matrix import Experiment
from coordinator.experiment.results import ExperimentResults
from coordinator.experiment.show import verdict

EXPERIMENTS = 200
ALPHA = 0.05
PEERS = 4


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Undone at the end of the module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> list[ExperimentResults]:
    """Experiments of all arms over five seeds whose groups differ by chance alone, collected from their summaries."""
    folder = tmp_path_factory.mktemp("null")
    patch.setattr(statistics, "_bootstrap", lambda _, centre, __: (centre, centre))  # slow, and no p-value rests on it
    (folder / "null.yaml").write_text("experiment: {name: null, analyse: []}\n")
    asked = matrix.load(str(folder / "null.yaml"), [f"experiment.out={folder}", "experiment.name=nothing"])
    found = []
    for number in range(EXPERIMENTS):
        _simulate(asked, np.random.default_rng(number))
        result = results.collect(asked, {})
        assert result is not None
        found.append(result)
    return found


def _simulate(asked: Experiment, draw: np.random.Generator) -> None:
    """Summaries of all cells: of a seed its own level, of a group its own deviation, of a peer its own on top."""
    for seed in asked.section.seeds:
        level = {"knn": draw.normal(76, 2), "linear": draw.normal(70, 2)}
        baseline = {probe: float(value + draw.normal(0, 1)) for probe, value in level.items()}
        pixels = {probe: float(value + draw.normal(0, 1)) for probe, value in level.items()}
        for cell in asked.cells:
            if cell.seed == seed:
                group = {probe: value + draw.normal(0, 1) for probe, value in level.items()}
                peers = [{p: float(v + draw.normal(0, 1)) for p, v in group.items()} for _ in range(PEERS)]
                final = {probe: float(np.mean([peer[probe] for peer in peers])) for probe in level}
                summary = {"baseline": baseline, "final": final, "pixels": pixels, "split": "test", "selection": "last"}
                cell.folder.path.mkdir(parents=True, exist_ok=True)
                cell.folder.summary.write_text(json.dumps({**summary, "per_peer": [{"skips": {}}] * PEERS}))


def within(found: int, of: int, rate: float) -> bool:
    """Whether so many hits of so many are what this rate gives, but for one case in ten thousand."""
    low, high = stats.binom.interval(0.9999, of, rate)
    return bool(low <= found <= high)


def test_a_single_test_errs_as_often_as_it_says(simulated: list[ExperimentResults]) -> None:
    """Uncorrected p below 0.05: 5 % of all comparisons; each experiment counts once for each of them."""
    for probe in ("knn", "linear"):
        for arm in simulated[0].gains[probe]:
            ps = [result.gains[probe][arm].p for result in simulated]
            assert within(sum(p is not None and p < ALPHA for p in ps), EXPERIMENTS, ALPHA), (probe, arm)


def test_a_whole_experiment_errs_no_more_often_than_a_single_test(simulated: list[ExperimentResults]) -> None:
    """Any corrected p below 0.05: at most 5 % of the experiments, without correction a third and more."""
    corrected, uncorrected = 0, 0
    for result in simulated:
        family = [
            one
            for groups in (result.gains, result.comparisons)
            for by_arm in groups.values()
            for one in by_arm.values()
        ]
        assert len(family) == 2 * (5 + 5)  # probes x (gains of five arms + the claim against four of them and pixels)
        corrected += any(one.corrected is not None and one.corrected < ALPHA for one in family)
        uncorrected += any(one.p is not None and one.p < ALPHA for one in family)
    assert corrected <= stats.binom.ppf(0.9999, EXPERIMENTS, ALPHA)
    assert uncorrected > 0.2 * EXPERIMENTS


def test_the_verdict_claims_nothing(simulated: list[ExperimentResults]) -> None:
    """In words: `beats the random network` in no more experiments than one test in twenty would be wrong."""
    wrong = sum(any("consensus beats the random network" in line for line in verdict(result)) for result in simulated)
    assert wrong <= stats.binom.ppf(0.9999, EXPERIMENTS, ALPHA)
