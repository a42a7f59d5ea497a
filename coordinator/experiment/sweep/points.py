"""The points of a sweep: all combinations, or seeded draws. Pure: the same section gives the same points anywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.experiment.sweep.space import Axis, SweepSection, Values
from peers.common.errors import ConfigError
from peers.common.seeds import derive

PATIENCE = 10_000
"""Draws for one point that is unlike all before it."""


@dataclass(frozen=True)
class Point:
    """One setting of everything that is varied.

    Attributes:
        name: p000, p001 and so on.
        values: by dotted key, in the order of the space.
    """

    name: str
    values: dict[str, Any]

    def __str__(self) -> str:
        """Name and values, for a reader."""
        return f"{self.name} ({', '.join(f'{key} = {value!r}' for key, value in self.values.items())})"


def points(section: SweepSection, axes: Sequence[Axis]) -> tuple[Point, ...]:
    """The points of a sweep, in their order.

    A draw depends on the sweep's seed, on the point's place and on the key alone: more samples leave the first ones as
    they are, and so does another axis.

    Args:
        section: checked.
        axes: what it varies; lists only, for a grid.

    Raises:
        ConfigError: the space has not enough distinct points.
    """
    found = _grid(axes) if section.method == "grid" else _drawn(section, axes)
    return tuple(Point(f"p{place:03d}", values) for place, values in enumerate(found))


def _grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """All combinations; the last axis changes fastest."""
    lists = [axis.values for axis in axes if isinstance(axis, Values)]
    for combination in itertools.product(*lists):
        yield dict(zip([axis.key for axis in axes], combination, strict=True))


def _drawn(section: SweepSection, axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Draws, none of them twice."""
    seen: set[str] = set()
    for place in range(section.samples):
        for attempt in range(PATIENCE):
            value = {axis.key: axis.at(_uniform(section.seed, axis.key, place, attempt)) for axis in axes}
            written = json.dumps(value)
            if written not in seen:
                break
        else:
            raise ConfigError(
                f"sweep.samples = {section.samples}: the space has hardly more than {place} points; ask for fewer"
            )
        seen.add(written)
        yield value


def _uniform(seed: int, key: str, place: int, attempt: int) -> float:
    """A number from [0, 1), with all the bits that a float has."""
    return (derive(seed, f"sweep {key}", place, attempt) >> 10) / 2**53
