"""A sweep in a terminal: its table, the best point, and what the numbers are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table

from coordinator.experiment.statistics import summarize
from coordinator.experiment.sweep.results import PointResult, SweepResults, ranked
from peers.runs.summary import TITLES

LONGEST = 20
"""Points in a table."""


def title(results: SweepResults) -> str:
    """What stands in the table."""
    seeds = len(results.sweep.section.seeds)
    return (
        f"gain over the random network, points on the {results.sweep.split} split, mean over {seeds} "
        f"seed{'s' * (seeds > 1)}{' with its 95 % interval' * (seeds > 1)}"
    )


def table(results: SweepResults) -> Table:
    """The best points, the highest gain first, then those that have failed."""
    section = results.sweep.section
    best = ranked(results)
    probes = sorted(best[0].gains, key=lambda probe: probe != section.metric) if best else [section.metric]
    rows = Table()
    for heading in ("point", *_headings(results), *(TITLES[probe] for probe in probes)):
        rows.add_column(heading)
    for outcome in best[:LONGEST]:
        rows.add_row(*_setting(results, outcome), *(gain(outcome.gains[probe]) for probe in probes))
    failed = [outcome for outcome in results.outcomes if outcome.state == "failed"]
    for outcome in failed[:LONGEST]:
        rows.add_row(*_setting(results, outcome), "failed", *[""] * (len(probes) - 1))
    return rows


def sentences(results: SweepResults) -> Iterator[str]:
    """What was found, in words: the best point, and what became of those that are not in the table."""
    section, best = results.sweep.section, ranked(results)
    if best:
        values = ", ".join(f"{key} = {shown(value)}" for key, value in best[0].point.values.items())
        chosen = "chosen on validation images: judge it once on the test split, with other seeds"
        if results.sweep.split != "validation":
            chosen = f"as seen on the {results.sweep.split} split: nothing may be chosen by it"
        yield f"best: {best[0].point.name} ({values}), {TITLES[section.metric]} {gain(best[0].gains[section.metric])}"
        yield f"  {chosen}"
    states = Counter(outcome.state for outcome in results.outcomes)
    if len(best) > LONGEST:
        yield f"{len(best) - LONGEST} more finished points are in results.csv"
    if states["stopped"]:
        yield f"{states['stopped']} of {len(results.outcomes)} points were stopped early by ASHA"
    for outcome in results.outcomes:
        if outcome.state == "failed":
            yield f"{outcome.point.name} failed: {outcome.why}"


def gain(values: Sequence[float]) -> str:
    """Gains of all seeds: their mean, and half the width of its 95 % interval by Student's t, where there is one."""
    summary = summarize(values)
    half = "" if summary.t_interval is None else f" ± {summary.t_interval[1] - summary.mean:.1f}"
    return f"{summary.mean:+.1f}{half}"


def shown(value: object) -> str:
    """A value of an axis, for a reader."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _headings(results: SweepResults) -> list[str]:
    """Keys of the axes, without their section where that leaves no doubt."""
    keys = [axis.key for axis in results.sweep.axes]
    short = [key.rsplit(".", 1)[-1] for key in keys]
    return [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]


def _setting(results: SweepResults, outcome: PointResult) -> list[str]:
    return [outcome.point.name, *(shown(outcome.point.values[axis.key]) for axis in results.sweep.axes)]
