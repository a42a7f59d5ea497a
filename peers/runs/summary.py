"""The result of a run: summary.json and the table that ends it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from peers.common.errors import first_problem
from peers.common.files import write_atomically
from peers.config.schema import Config
from peers.runs.run_folder import RunFolder, run_name

if TYPE_CHECKING:
    from peers.exchange.base import Report

Scores = Mapping[str, float]
Summary = dict[str, Any]

TITLES = {"knn": "k-NN", "linear": "linear"}
SELECTIONS = {
    "last": "the last round",
    "unsupervised": "agreement and effective rank, without labels",
    "validation": "k-NN on validation images, with their labels",
}


Percent = Annotated[float, Field(ge=0, le=100)]


class _Report(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    network: str
    incarnation: NonNegativeInt
    pid: NonNegativeInt
    baseline: dict[str, Percent]
    final: dict[str, Percent]
    stepped: NonNegativeInt
    skips: dict[str, NonNegativeInt]
    selected: NonNegativeInt | None
    seconds: NonNegativeFloat


def sound(reports: Mapping[int, Any], probes: Collection[str]) -> tuple[dict[int, Report], dict[int, str]]:
    """Separate sound reports from those that no summary can use: a peer that lies may say anything.

    Args:
        reports: of each peer, as it came.
        probes: names of those that every report must have.

    Returns:
        the sound ones, without what does not belong there, and for each other peer what is wrong with its report.
    """
    kept: dict[int, Report] = {}
    wrong: dict[int, str] = {}
    for peer, report in reports.items():
        try:
            parsed = _Report.model_validate(report)
        except ValidationError as exc:
            wrong[peer] = first_problem(exc)
            continue
        if parsed.baseline.keys() == parsed.final.keys() == set(probes):
            kept[peer] = parsed.model_dump()
        else:
            wrong[peer] = f"its probes are not {', '.join(probes)}"
    return kept, wrong


def summarize(config: Config, exchange: str, rounds: int, pixels: Scores, reports: Mapping[int, Report]) -> Summary:
    """Everything that a run has to say, from the reports of its peers.

    Args:
        config: resolved.
        exchange: kind of the exchange that carried the run.
        rounds: rounds done.
        pixels: accuracies of the raw-pixel baseline, percent, per probe.
        reports: of each peer: "baseline" and "final" accuracies, "stepped", "skips", "seconds", and what else it has.

    Returns:
        accuracies in percent and gains in points, as means over the peers with their deviation beside them.
    """
    per_peer = [{"peer": peer, **reports[peer], "gain": _gain(reports[peer])} for peer in sorted(reports)]
    return {
        "run": run_name(config),
        "seed": config.run.seed,
        "peers": len(per_peer),
        "rounds": rounds,
        "exchange": exchange,
        "seconds": max(report["seconds"] for report in per_peer),
        "split": config.probe.split,
        "selection": config.selection.rule,
        "baseline": _mean([report["baseline"] for report in per_peer]),
        "final": _mean([report["final"] for report in per_peer]),
        "gain": _mean([report["gain"] for report in per_peer]),
        "deviation": {key: _deviation([report[key] for report in per_peer]) for key in ("baseline", "final", "gain")},
        "pixels": dict(pixels),
        "per_peer": per_peer,
    }


def write(folder: RunFolder, summary: Summary) -> None:
    """Save a summary as summary.json."""
    write_atomically(folder.summary, json.dumps(summary, indent=1).encode())


def table(summary: Summary) -> str:
    """The summary as a table of plain text: a row for each probe, mean and deviation over the peers."""
    header = ["probe", "baseline", "now", "gain", "pixels"]
    rows = [
        [
            TITLES[probe],
            _cell(summary, "baseline", probe),
            _cell(summary, "final", probe),
            _cell(summary, "gain", probe, sign="+"),
            f"{summary['pixels'][probe]:.1f}",
        ]
        for probe in summary["baseline"]
    ]
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    skipped = sum(sum(report["skips"].values()) for report in summary["per_peer"])
    lines.append(
        f"accuracy in percent on the {summary['split']} split, mean ± deviation over {summary['peers']} peers of one "
        f"group; {summary['rounds']} rounds in {summary['seconds']:.1f} s, {summary['exchange']} exchange, "
        f"{skipped} steps skipped"
    )
    if summary["selection"] != "last":
        chosen = ", ".join(str(report["selected"]) for report in summary["per_peer"])
        lines.append(f"judged by each peer's best round by {SELECTIONS[summary['selection']]}: {chosen}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(summary: Summary, key: str, probe: str, sign: str = "") -> str:
    return f"{summary[key][probe]:{sign}.1f} ± {summary['deviation'][key][probe]:.1f}"


def _gain(report: Report) -> dict[str, float]:
    return {probe: report["final"][probe] - report["baseline"][probe] for probe in report["final"]}


def _mean(scores: Sequence[Scores]) -> dict[str, float]:
    return {probe: statistics.fmean(score[probe] for score in scores) for probe in scores[0]}


def _deviation(scores: Sequence[Scores]) -> dict[str, float]:
    """Sample deviation over the peers; 0 for a single one."""
    if len(scores) < 2:
        return dict.fromkeys(scores[0], 0.0)
    return {probe: statistics.stdev(score[probe] for score in scores) for probe in scores[0]}
