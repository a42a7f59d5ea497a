"""The protocol in words, from the configuration of the groups: what was trained, judged and tested, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.experiment.report.load import ExperimentFolder, SweepFolder
from coordinator.experiment.report.render import ReportPart, ReportSection, render
from coordinator.experiment.report.settings import changes
from coordinator.experiment.report.words import general, scrub
from coordinator.experiment.results import ExperimentResults
from coordinator.experiment.statistics import FEWEST_SEEDS, RESAMPLES
from peers.config.loading import DEFAULT_ROUNDS
from peers.config.schema import Config, DataConfig
from peers.runs.summary import SELECTIONS

IMAGES = {
    "digits": (1347, 450),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "svhn": (73_257, 26_032),
    "stl10": (5_000, 8_000),
}
"""Training and test images of the published data sets."""


def section(experiments: Sequence[ExperimentFolder], sweeps: Sequence[SweepFolder]) -> ReportSection:
    """The protocol of each experiment and sweep."""
    sources: list[tuple[ExperimentFolder | SweepFolder, Mapping[str, Any]]] = [
        *((experiment, _of_experiment(experiment)) for experiment in experiments),
        *((sweep, _of_sweep(sweep)) for sweep in sweeps),
    ]
    terms_of_first: list[object] = []  # what is the same is said once: the template fills it from the first
    parts = [
        ReportPart(
            f"protocol-{source.key}",
            source.title,
            render("protocol", **values, first=sources[0][0].title if place else None, terms_of_first=terms_of_first),
        )
        for place, (source, values) in enumerate(sources)
    ]
    return ReportSection("protocol", "Protocol", parts, headed=len(parts) > 1)


def _of_experiment(experiment: ExperimentFolder) -> dict[str, Any]:
    results = experiment.results
    config = experiment.config(results.claim)
    differences = {} if config is None else {arm: _differences(experiment, arm, config) for arm in experiment.arms}
    return {
        **_common(config, results.split),
        "sweep": None,
        "results": results,
        "differences": differences,
        "family": _tests(results),
        "fewest_seeds": FEWEST_SEEDS,
        "resamples": RESAMPLES,
    }


def _of_sweep(sweep: SweepFolder) -> dict[str, Any]:
    config = next((cell.config for cell in sweep.cells if cell.config is not None), None)
    return {**_common(config, sweep.split), "sweep": sweep}


def _common(config: Config | None, split: str) -> dict[str, Any]:
    """What the template needs of every configuration."""
    return {
        "config": config,
        "split": split,
        "images": None if config is None else _images(config.data),
        "selections": SELECTIONS,
        "default_rounds": DEFAULT_ROUNDS,
    }


def _images(data: DataConfig) -> tuple[int, int, int] | None:
    """Training, validation and test images; None where the data set is not known."""
    known = (data.images, data.images // 4) if data.name == "synthetic" else IMAGES.get(data.name)
    if known is None:
        return None
    held_out = max(1, round(known[0] * data.validation))
    return known[0] - held_out, held_out, known[1]


def _differences(experiment: ExperimentFolder, arm: str, base: Config) -> str | None:
    """What an arm sets otherwise; None where that is not to be said."""
    config = experiment.config(arm)
    if config is None or arm == experiment.results.claim:
        return None
    differs = ", ".join(f"{key} = {scrub(general(value))}" for key, value in changes(base, config).items())
    return differs or "no difference in configuration"


def _tests(results: ExperimentResults) -> int:
    """How many tests are one family."""
    probes = (*results.gains.values(), *results.comparisons.values())
    return sum(comparison.p is not None for comparisons in probes for comparison in comparisons.values())
