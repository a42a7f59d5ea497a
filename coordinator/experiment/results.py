"""What an experiment found: per-seed values of every arm, and what the statistics say of them.

The unit is the group: a value is the mean over the peers of one group, and everything is paired by seed. Nothing here
depends on when or how fast a cell was run: the same cells give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.experiment import statistics
from coordinator.experiment.matrix import SUPERVISED, Experiment
from coordinator.experiment.runs import Cell
from coordinator.experiment.statistics import Comparison, Summary
from peers.common.errors import CheckpointError
from peers.common.files import write_atomically

BEFORE = "random network"
"""What an arm's networks were at initialization, with batch-norm statistics re-estimated."""
PIXELS = "raw pixels"


@dataclass(frozen=True)
class ExperimentResults:
    """Everything that was found, as values.

    Attributes:
        experiment: name.
        split: that was judged on.
        claim: the arm that is compared.
        seeds: with all arms finished; the others are in no statistics.
        selection: rule by which each peer's round was chosen; "validation" uses labels.
        values: {probe: {arm, or BEFORE, or PIXELS, or SUPERVISED: accuracy of each seed, percent}}.
        arms: {probe: {arm: summary of its accuracies}}, BEFORE, PIXELS and SUPERVISED among them.
        gains: {probe: {arm: comparison of it with the random network}}.
        comparisons: {probe: {arm, or BEFORE, or PIXELS: comparison of the claim with it}}; one family with `gains`.
        skips: {arm: steps that its peers skipped}.
        failed: {cell: what became of it}.
    """

    experiment: str
    split: str
    claim: str
    selection: str
    seeds: tuple[int, ...]
    values: dict[str, dict[str, list[float]]]
    arms: dict[str, dict[str, Summary]]
    gains: dict[str, dict[str, Comparison]]
    comparisons: dict[str, dict[str, Comparison]]
    skips: dict[str, int]
    failed: dict[str, str]


def collect(experiment: Experiment, failed: Mapping[str, str]) -> ExperimentResults | None:
    """The results of all cells that are finished; None where no seed has all its arms.

    Args:
        experiment: of the cells.
        failed: cells that were not finished, and why.

    Raises:
        CheckpointError: arms of one seed did not begin with the same networks.
    """
    section = experiment.section
    cells = {(cell.arm, cell.seed): cell for cell in experiment.cells}
    everyone = (*experiment.arms, *((SUPERVISED,) if section.supervised else ()))
    seeds = tuple(seed for seed in section.seeds if all(cells[arm, seed].finished for arm in everyone))
    if not seeds:
        return None
    found = {key: _summary(cell) for key, cell in cells.items() if key[1] in seeds}
    _check_pairs(found, everyone, seeds)
    first = found[section.claim, seeds[0]]
    values: dict[str, dict[str, list[float]]] = {}
    for probe in first["final"]:
        values[probe] = {
            BEFORE: [found[section.claim, seed]["baseline"][probe] for seed in seeds],
            **{arm: [found[arm, seed]["final"][probe] for seed in seeds] for arm in everyone},
            PIXELS: [found[section.claim, seed]["pixels"][probe] for seed in seeds],
        }
    gains, comparisons = _compared(values, section.claim)
    skips = {
        arm: sum(sum(peer["skips"].values()) for seed in seeds for peer in found[arm, seed]["per_peer"])
        for arm in experiment.arms
    }
    arms = {
        probe: {arm: statistics.summarize(sample) for arm, sample in samples.items()}
        for probe, samples in values.items()
    }
    return ExperimentResults(
        section.name,
        first["split"],
        section.claim,
        first["selection"],
        seeds,
        values,
        arms,
        gains,
        comparisons,
        skips,
        dict(failed),
    )


def write(results: ExperimentResults, folder: Path) -> None:
    """Save results.json, all of it, and results.csv, a row for each arm, seed and probe."""
    text = json.dumps(asdict(results), indent=1, ensure_ascii=False)
    write_atomically(folder / "results.json", f"{text}\n".encode())
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("probe", "arm", "seed", "accuracy"))
    for probe, samples in results.values.items():
        for arm, sample in samples.items():
            rows.writerows((probe, arm, seed, value) for seed, value in zip(results.seeds, sample, strict=True))
    write_atomically(folder / "results.csv", table.getvalue().encode())


def _summary(cell: Cell) -> dict[str, Any]:
    return dict(json.loads(cell.folder.summary.read_bytes()))


def _check_pairs(
    found: Mapping[tuple[str, int], Mapping[str, Any]], arms: tuple[str, ...], seeds: tuple[int, ...]
) -> None:
    """All arms of a seed must have begun with the same networks: everything is paired on that."""
    for seed in seeds:
        baselines = {arm: found[arm, seed]["baseline"] for arm in arms}
        for arm, baseline in baselines.items():
            if baseline != baselines[arms[0]]:
                raise CheckpointError(
                    f"seed {seed}: arm {arm} begins at {baseline}, arm {arms[0]} at {baselines[arms[0]]}: arms of one "
                    f"experiment must share networks, data and probes; compare other ones in experiments of their own"
                )


def _compared(
    values: Mapping[str, Mapping[str, list[float]]], claim: str
) -> tuple[dict[str, dict[str, Comparison]], dict[str, dict[str, Comparison]]]:
    """All comparisons of an experiment, as one family."""
    pairs = {}
    for probe, samples in values.items():
        for arm, sample in samples.items():
            if arm not in (BEFORE, PIXELS, SUPERVISED):
                pairs[probe, "gain", arm] = sample, samples[BEFORE]
            if arm not in (BEFORE, SUPERVISED, claim):  # the claim against the random network is its gain
                pairs[probe, "claim", arm] = samples[claim], sample
    family = statistics.family({"/".join(key): pair for key, pair in pairs.items()})
    gains: dict[str, dict[str, Comparison]] = {probe: {} for probe in values}
    comparisons: dict[str, dict[str, Comparison]] = {probe: {} for probe in values}
    for probe, kind, arm in pairs:
        (gains if kind == "gain" else comparisons)[probe][arm] = family[f"{probe}/{kind}/{arm}"]
    return gains, comparisons
