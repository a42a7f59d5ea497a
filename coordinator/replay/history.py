"""Rounds of a run and who took part: from the coordinator's journal, or for a fixed group from its length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.common.errors import RunFolderError
from peers.common.json_lines import damaged, objects

DIGEST_LETTERS = 32


@dataclass(frozen=True)
class Round:
    """One round that is over.

    Attributes:
        number: its number.
        epoch: membership epoch it opened with.
        members: peers it opened with, ascending.
        contributors: peers whose outputs are in it, ascending; None: all members whose outputs are finite.
        digest: of its receipt; None where nobody has kept one.
        void: it closed without a result.
        blocks: {peer: peers of the worker that published for it to the coordinator that closed it}.
    """

    number: int
    epoch: int
    members: tuple[int, ...]
    contributors: tuple[int, ...] | None = None
    digest: str | None = None
    void: bool = False
    blocks: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class RoundSequence:
    """Rounds in a row, from where the group formed to where it ended; a group that forms anew may go back.

    Attributes:
        store: which of the coordinator's stores kept them: worker numbers, incarnations and epochs go on within one.
        first: number of the first round.
        rounds: in order, without a gap.
    """

    store: int
    first: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def upcoming(self) -> int:
        """Number of the round after the last."""
        return self.first + len(self.rounds)

    def round(self, number: int) -> Round | None:
        """The round of a number; None where the sequence has none."""
        return self.rounds[number - self.first] if self.first <= number < self.upcoming else None


def fixed(peers: int, rounds: int) -> list[RoundSequence]:
    """The rounds of a group in which all take part from beginning to end, as often as it was started again."""
    members = tuple(range(peers))
    return [RoundSequence(0, 0, [Round(number, 1, members) for number in range(rounds)])]


def read_history(path: Path) -> list[RoundSequence]:
    """What a coordinator's journal tells.

    Raises:
        RunFolderError: it is missing or damaged, or rounds are missing in it.
    """
    reader = _Reader(path)
    for number, line in enumerate(objects(path), start=1):
        try:
            reader.take(number, line)
        except (KeyError, TypeError, ValueError) as exc:
            raise damaged(path, number, f"{type(exc).__name__}: {exc}") from exc
    return reader.sequences


class _Reader:
    def __init__(self, path: Path) -> None:
        self.sequences: list[RoundSequence] = []
        self._path = path
        self._store = -1
        self._open = False
        self._members: tuple[int, ...] = ()
        self._contributors: tuple[int, ...] = ()
        self._blocks: dict[int, tuple[int, ...]] = {}

    def take(self, number: int, line: Mapping[str, Any]) -> None:
        """One line."""
        if "round" in line:
            self._take_round(number, line)
        elif "formed" in line:
            self.sequences.append(RoundSequence(self._store, _number(line["formed"])))
            self._open = True
        elif "joined" in line:
            peers = _ids(line["peers"])
            self._blocks = {**self._blocks, **dict.fromkeys(peers, peers)}
        elif "begun" in line:
            self._store, self._open, self._blocks = self._store + 1, False, {}
        else:
            _ = line["gone"]  # what it published stays in the open round: others take its place when they join

    def _take_round(self, number: int, line: Mapping[str, Any]) -> None:
        round_ = _number(line["round"])
        if not self._open:
            raise RunFolderError(
                f"line {number} of {self._path} tells of round {round_}, and none before of where the group began: "
                f"the run began with another state folder, or before there were journals; it cannot be replayed"
            )
        sequence = self.sequences[-1]
        if round_ != sequence.upcoming:
            raise RunFolderError(
                f"line {number} of {self._path} tells of round {round_}, expected round {sequence.upcoming}: lines are "
                f"missing or damaged; restore the file from a copy"
            )
        epoch, void = _number(line["epoch"]), "void" in line
        if sequence.rounds and epoch < sequence.rounds[-1].epoch:
            raise ValueError(f"epoch {epoch} comes after epoch {sequence.rounds[-1].epoch}")
        self._members = _ids(line["members"]) if "members" in line else self._members
        self._contributors = _ids(line["contributors"]) if "contributors" in line else self._contributors
        contributors, digest = ((), None) if void else (self._contributors, _digest(line["digest"]))
        sequence.rounds.append(Round(round_, epoch, self._members, contributors, digest, void, self._blocks))


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of a round or epoch")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or len(value) != DIGEST_LETTERS:
        raise ValueError(f"{value!r} is no digest of a receipt")
    return value


def _ids(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(_number(value) for value in values))
