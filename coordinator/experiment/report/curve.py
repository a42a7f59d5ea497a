"""What goes on over the rounds: of each group the mean over its peers, of an arm the mean over its groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.experiment.report.words import deviation_of, mean_of

MOST = 240
"""Places of a line in a figure; more are thinned out evenly, the last one stays."""


@dataclass(frozen=True)
class Curve:
    """Mean of one quantity over the groups of one arm, at each of some places.

    Attributes:
        xs: places: rounds done, or indices of names.
        means: over the groups.
        deviations: over the groups, n - 1; None where there is one.
        groups: how many have the quantity.
    """

    xs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float | None, ...]
    groups: int


def over_groups(groups: Iterable[Mapping[float, float]], *, everywhere: bool = True) -> Curve | None:
    """A curve from that of each group; None where there is none.

    Args:
        groups: {place: value} of each.
        everywhere: only places that all groups have, thinned; otherwise all that any has.
    """
    kept = [group for group in groups if group]
    places = [set(group) for group in kept]
    if not places:
        return None
    xs = thinned(sorted(set.intersection(*places))) if everywhere else sorted(set.union(*places))
    if not xs:
        return None
    columns = [[group[x] for group in kept if x in group] for x in xs]
    means = tuple(sum(column) / len(column) for column in columns)
    return Curve(tuple(xs), means, tuple(deviation_of(column) for column in columns), len(kept))


def of_records(records: Sequence[Mapping[str, Any]], name: str) -> dict[float, float]:
    """One quantity of a group, {rounds done: mean over its peers}.

    A record of round r tells of the weights before its step; the live k-NN, of those after it, and once, as
    `knn_live_baseline`, of those at initialization.
    """
    values: defaultdict[float, dict[int, float | None]] = defaultdict(dict)
    shift = 1 if name == "knn_live" else 0
    for record in records:
        peer = record.get("peer", 0)
        if isinstance(record.get(name), int | float):
            values[record["round"] + shift][peer] = record[name]  # a round that was done again counts once
        if name == "knn_live" and isinstance(record.get("knn_live_baseline"), int | float):
            values[0][peer] = record["knn_live_baseline"]
    means = {done: mean_of(peers.values()) for done, peers in sorted(values.items())}
    return {done: mean for done, mean in means.items() if mean is not None}


def thinned(xs: Sequence[float]) -> list[float]:
    """At most `MOST` of them, evenly, with the first and the last."""
    if len(xs) <= MOST:
        return list(xs)
    return [xs[round(place * (len(xs) - 1) / (MOST - 1))] for place in range(MOST)]
