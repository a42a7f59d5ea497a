"""Result of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """Something that the run left behind and that its replay has otherwise.

    Attributes:
        round: of the receipt, or rounds done of the checkpoint.
        peer: whose; None where it concerns all that contributed.
        what: the receipt, a tensor of a checkpoint, a count.
        expected: as the run left it.
        found: as the replay made it.
    """

    round: int
    peer: int | None
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        who = "all" if self.peer is None else f"peer {self.peer}"
        return f"round {self.round}, {who}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Replayed:
    """A replay.

    Attributes:
        rounds: that closed, and were closed again.
        voided: rounds that did not.
        lives: that began.
        receipts: how many were compared.
        checkpoints: how many were compared, all that are kept.
        peers: ids of those whose newest checkpoint was compared.
        differences: in the order in which they were found.
        doubts: why bits may differ though nothing is wrong.
    """

    rounds: int
    voided: int
    lives: int
    receipts: int
    checkpoints: int
    peers: tuple[int, ...]
    differences: tuple[Difference, ...]
    doubts: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether all that was compared is the same, bit for bit."""
        return not self.differences

    def as_json(self) -> Mapping[str, Any]:
        """JSON values."""
        return {**vars(self), "differences": [vars(each) for each in self.differences], "equal": self.equal}
