"""A sweep in a terminal: its table, the best point, and what the numbers are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table

from coordinator.experiment.statistics import summarize
from coordinator.experiment.sweep.results import Found, Outcome, ranked
from peers.runs.summary import TITLES

LONGEST = 20
"""Points in a table."""


def title(found: Found) -> str:
    """What stands in the table."""
    seeds = len(found.sweep.section.seeds)
    return (
        f"gain over the random network, points on the {found.sweep.split} split, mean over {seeds} "
        f"seed{'s' * (seeds > 1)}{' with its 95 % interval' * (seeds > 1)}"
    )


def table(found: Found) -> Table:
    """The best points, the highest gain first, then those that have failed."""
    section = found.sweep.section
    best = ranked(found)
    probes = sorted(best[0].gains, key=lambda probe: probe != section.metric) if best else [section.metric]
    made = Table()
    for heading in ("point", *_headings(found), *(TITLES[probe] for probe in probes)):
        made.add_column(heading)
    for outcome in best[:LONGEST]:
        made.add_row(*_setting(found, outcome), *(gain(outcome.gains[probe]) for probe in probes))
    failed = [outcome for outcome in found.outcomes if outcome.state == "failed"]
    for outcome in failed[:LONGEST]:
        made.add_row(*_setting(found, outcome), "failed", *[""] * (len(probes) - 1))
    return made


def sentences(found: Found) -> Iterator[str]:
    """What was found, in words: the best point, and what became of those that are not in the table."""
    section, best = found.sweep.section, ranked(found)
    if best:
        values = ", ".join(f"{key} = {shown(value)}" for key, value in best[0].point.values.items())
        chosen = "chosen on validation images: judge it once on the test split, with other seeds"
        if found.sweep.split != "validation":
            chosen = f"as seen on the {found.sweep.split} split: nothing may be chosen by it"
        yield f"best: {best[0].point.name} ({values}), {TITLES[section.metric]} {gain(best[0].gains[section.metric])}"
        yield f"  {chosen}"
    states = Counter(outcome.state for outcome in found.outcomes)
    if len(best) > LONGEST:
        yield f"{len(best) - LONGEST} more finished points are in results.csv"
    if states["stopped"]:
        yield f"{states['stopped']} of {len(found.outcomes)} points were stopped early by ASHA"
    for outcome in found.outcomes:
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


def _headings(found: Found) -> list[str]:
    """Keys of the axes, without their section where that leaves no doubt."""
    keys = [axis.key for axis in found.sweep.axes]
    short = [key.rsplit(".", 1)[-1] for key in keys]
    return [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]


def _setting(found: Found, outcome: Outcome) -> list[str]:
    return [outcome.point.name, *(shown(outcome.point.values[axis.key]) for axis in found.sweep.axes)]
