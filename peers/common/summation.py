"""Tree sum: outputs are added in one order in every exchange; for arrays and tensors, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Summand = TypeVar("Summand", bound=Any)


def tree_sum(parts: Mapping[int, Summand]) -> Summand:
    """Sum of the parts in the order of a binary tree over their ids: neighbours first, absent ids skipped.

    The order depends on ids alone, never on arrival; and an aligned block of 2^m ids is a subtree, so that a worker
    that hosts such a block may add its own peers first and the bits of the total stay the same.

    Args:
        parts: {id: array or tensor}, at least one, all of one shape.
    """
    level = {key: parts[key] for key in sorted(parts)}
    while len(level) > 1:
        above: dict[int, Summand] = {}
        for key, part in level.items():
            above[key >> 1] = above[key >> 1] + part if key >> 1 in above else part
        level = above
    return next(iter(level.values()))
