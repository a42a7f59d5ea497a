"""How the time of a round grows with the group: a line through what was measured, and what it says of larger groups.

A coordinator with n members below it takes a + b n for a round. A tree of L levels, each of whose coordinators has f
members, has f^L peers; its levels follow each other, its coordinators of one level work side by side:

    flat   a + b N
    tree   L (a + b f),  f = N^(1/L) rounded up

On one machine they do not work side by side: there the coordinators of all levels, 1 + f + ... + f^(L-1) of them, work
in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ROUND_TRIP = 0.5e-3
"""Seconds that each level of a tree is assumed to add between hosts."""
BANDWIDTH = 10e9
"""Bits per second of a host, assumed."""


@dataclass(frozen=True)
class Line:
    """a + b n, fitted.

    Attributes:
        a: of a round, seconds.
        b: of each member of a coordinator, seconds.
        r2: share of the variance that the line explains.
    """

    a: float
    b: float
    r2: float

    def at(self, members: float) -> float:
        """Seconds of a coordinator with so many members."""
        return self.a + self.b * members

    def text(self) -> str:
        """For a table's note."""
        return f"a = {1e3 * self.a:.2f} ms, b = {1e3 * self.b:.3f} ms, R² = {self.r2:.4f}"


@dataclass(frozen=True)
class Tree:
    """A tree of coordinators in which each has as many members.

    Attributes:
        levels: coordinators between a peer and the total; 1 is flat.
        fan_out: members of each.
    """

    levels: int
    fan_out: int

    @property
    def coordinators(self) -> int:
        """How many there are, the root and all relays."""
        return sum(self.fan_out**level for level in range(self.levels))

    def side_by_side(self, line: Line) -> float:
        """Seconds of a round whose coordinators have a host each; not below zero, where a line starts below it."""
        return max(0.0, self.levels * line.at(self.fan_out))

    def in_turn(self, line: Line) -> float:
        """Seconds of a round whose coordinators share the machine that was measured."""
        return max(0.0, self.coordinators * line.at(self.fan_out))


def networked(line: Line, size: int) -> Line:
    """A coordinator's line with a network between hosts: a round trip, and the bytes of each member in and out.

    Args:
        line: of its processor.
        size: bytes of one tensor.
    """
    return Line(line.a + ROUND_TRIP, line.b + 2 * 8 * size / BANDWIDTH, line.r2)


def fit(points: Mapping[int, float]) -> Line:
    """Least squares of relative errors: a figure varies in proportion to itself, and small groups count as much.

    Args:
        points: {members: seconds of a round}, at least two, above zero.
    """
    members, seconds = np.array(list(points), float), np.array(list(points.values()), float)
    b, a = np.polyfit(members, seconds, 1, w=1 / seconds)
    mean = np.average(seconds, weights=1 / seconds**2)
    rest, spread = (float(np.sum(((seconds - level) / seconds) ** 2)) for level in (a + b * members, mean))
    return Line(float(a), float(b), 1.0 - rest / spread if spread else 1.0)


def best(peers: int, line: Line) -> Tree:
    """The tree that takes least time with a host for each coordinator.

    Args:
        peers: of the group, at least 2.
        line: of one coordinator.
    """
    trees = [Tree(levels, _fan_out(peers, levels)) for levels in range(1, max(2, math.ceil(math.log2(peers)) + 1))]
    return min(trees, key=lambda tree: tree.side_by_side(line))


def two_levels(peers: int) -> Tree:
    """The tree of a root and relays that have as many members as it has."""
    return Tree(2, _fan_out(peers, 2))


def pays_from(line: Line, most: int = 10**7) -> int | None:
    """The smallest group from which on two levels take less time than one, with a host for each coordinator.

    Args:
        line: of one coordinator.
        most: None where it takes more peers than this.
    """
    least = most
    while least > 2 and two_levels(least).side_by_side(line) < Tree(1, least).side_by_side(line):
        least = least - 1 if least <= 4096 else least // 2  # steps are fine only where groups are small
    return None if least == most else least + 1


def _fan_out(peers: int, levels: int) -> int:
    """The smallest whole number whose power suffices; the root of a power is not always whole in binary."""
    near = max(2, round(peers ** (1 / levels)))
    return next(f for f in range(max(2, near - 1), near + 2) if f**levels >= peers or f == near + 1)
