"""What a sweep found: a row for each point, seed and probe, and what became of each point.

The unit is the group: a value is the mean over the peers of one group. Nothing here depends on when or how fast a cell
was run: the same cells give the same values.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal, TypeAlias

from coordinator.experiment.runs import Cell
from coordinator.experiment.sweep.live import Seen, stopped
from coordinator.experiment.sweep.plan import Sweep
from coordinator.experiment.sweep.points import Point
from peers.runs import metrics

State: TypeAlias = Literal["finished", "stopped", "failed"]

VERSIONS = ("peer-consensus", "torch", "numpy", "optuna", "ray")
"""Distributions whose versions are kept with the results."""
_LOGGED = re.compile(r"^\S+ \S+ [A-Z]+ worker \d+: ")


@dataclass(frozen=True)
class Row:
    """One probe of one group.

    Attributes:
        point: its name.
        seed: of the group.
        state: of the group; the next four are None unless it is finished.
        values: of the point, by dotted key.
        probe: knn or linear.
        before: accuracy of the networks at initialization, percent.
        after: accuracy of the trained ones.
        gain: points.
        pixels: accuracy of the raw images.
        rounds: done; of a stopped group, when it was stopped. None, as the rest, where nothing was written down.
        effective_rank: of the outputs, mean over the peers, at their last record.
        disagreement: likewise.
        skips: steps that its peers skipped.
    """

    point: str
    seed: int
    state: State
    values: Mapping[str, Any]
    probe: str
    before: float | None = None
    after: float | None = None
    gain: float | None = None
    pixels: float | None = None
    rounds: int | None = None
    effective_rank: float | None = None
    disagreement: float | None = None
    skips: int | None = None


@dataclass(frozen=True)
class PointResult:
    """What became of a point.

    Attributes:
        point: that is meant.
        state: finished with all seeds, stopped by ASHA, or failed with some seed.
        why: it is not finished; empty where it is.
        gains: {probe: gain of each seed}; empty unless it is finished.
    """

    point: Point
    state: State
    why: str = ""
    gains: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResults:
    """Everything that was results.

    Attributes:
        sweep: whose.
        outcomes: of each point, in their order.
        rows: point by point, seed by seed, probe by probe.
        versions: of what it was found with.
    """

    sweep: Sweep
    outcomes: tuple[PointResult, ...]
    rows: tuple[Row, ...]
    versions: Mapping[str, str]


def collect(sweep: Sweep, failed: Mapping[str, str]) -> SweepResults:
    """The results of all cells.

    Args:
        sweep: of the cells.
        failed: {cell: what became of it}; a cell that is neither finished nor stopped has failed even if it is not
            among them.
    """
    cells: dict[str, list[Cell]] = {point.name: [] for point in sweep.points}
    for cell in sweep.cells:
        cells[cell.arm].append(cell)
    outcomes, rows = [], []
    for point in sweep.points:
        outcome, own = _point(point, cells[point.name], failed)
        outcomes.append(outcome)
        rows += own
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}
    return SweepResults(sweep, tuple(outcomes), tuple(rows), versions)


def ranked(results: SweepResults) -> list[PointResult]:
    """The finished points, the one with the highest mean gain of the sweep's metric first; of equals, the earlier."""
    metric = results.sweep.section.metric
    finished = [outcome for outcome in results.outcomes if outcome.state == "finished"]
    return sorted(finished, key=lambda outcome: -statistics.fmean(outcome.gains[metric]))


def _point(point: Point, cells: list[Cell], failed: Mapping[str, str]) -> tuple[PointResult, list[Row]]:
    marks = [stopped(cell.folder) for cell in cells]
    rows: list[Row] = []
    states: list[State] = []
    seen = next((mark for mark in marks if mark is not None), None)
    for cell, mark in zip(cells, marks, strict=True):
        state: State = "stopped" if seen is not None else "finished" if cell.finished else "failed"
        states.append(state)
        rows += _rows(point, cell, state, mark)
    if seen is not None:
        why = f"by ASHA at round {seen.rounds}, live k-NN gain {seen.gain:+.1f} points"
        return PointResult(point, "stopped", why), rows
    if "failed" in states:
        texts = [failed[cell.name].removeprefix(f"{point.name} ") for cell in cells if cell.name in failed]
        return PointResult(point, "failed", "; ".join(map(_brief, texts)) or "not run"), rows
    gains: dict[str, list[float]] = {}
    for row in rows:
        gains.setdefault(row.probe, []).extend([] if row.gain is None else [row.gain])
    return PointResult(point, "finished", "", gains), rows


def _rows(point: Point, cell: Cell, state: State, mark: Seen | None) -> list[Row]:
    known = _last_metrics(cell, None if mark is None else mark.rounds)
    probes = ("knn", "linear") if cell.config.probe.linear else ("knn",)
    if state != "finished":
        return [Row(point.name, cell.seed, state, point.values, probe, **known) for probe in probes]
    summary = json.loads(cell.folder.summary.read_bytes())
    known["rounds"] = summary["rounds"]
    known["skips"] = sum(sum(peer["skips"].values()) for peer in summary["per_peer"])
    return [
        Row(
            point.name,
            cell.seed,
            state,
            point.values,
            probe,
            before=summary["baseline"][probe],
            after=summary["final"][probe],
            gain=summary["gain"][probe],
            pixels=summary["pixels"][probe],
            **known,
        )
        for probe in probes
    ]


def _last_metrics(cell: Cell, rounds: int | None) -> dict[str, Any]:
    """What a group wrote down, up to a round: the newest signs of collapse, and how far it came."""
    if not cell.folder.metrics.is_file():
        return {}
    newest: dict[str, dict[int, float]] = {"effective_rank": {}, "disagreement": {}}
    done = skips = 0
    for record in metrics.records(cell.folder.metrics):
        if rounds is not None and record["round"] >= rounds:
            continue
        done = max(done, record["round"] + 1)
        skips += record.get("skipped") is not None
        for key, values in newest.items():
            if key in record:
                values[record["peer"]] = record[key]
    means = {key: statistics.fmean(values.values()) if values else None for key, values in newest.items()}
    return {"rounds": rounds or done, "skips": skips, **means}


def _brief(text: str) -> str:
    """How a group failed, in a line: its end, and the last that its log says."""
    first, *log = text.splitlines()
    last = _LOGGED.sub("", log[-1].strip()) if log else ""
    return first.split("; the end of ")[0] + (f": {last}" if last else "")
