"""Lives of all peers, cut into segments by the sequences of rounds that they took part in.

A life says where it entered: round, membership epoch, and the incarnation that it was admitted as. That leads to its
sequence. One that was expelled and joined again goes on with what it has in memory, perhaps in a later sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.replay.history import RoundSequence
from peers.common.errors import RunFolderError
from peers.runs.journal import Life, Skip


@dataclass(eq=False)
class LifeSegment:
    """What a life did in one sequence.

    Attributes:
        peer: whose.
        life: of which it is a part.
        first: its first round.
        skips: rounds with a forward pass and no step, in order.
        before: the part of the same life that it goes on from, in memory.
        sequence: where it belongs; None where it took part in no round that is known.
        ended: rounds done when it went in order.
    """

    peer: int
    life: Life
    first: int
    skips: list[Skip] = field(default_factory=list)
    before: LifeSegment | None = None
    sequence: int | None = None
    ended: int | None = None


class Lives:
    """All parts, by peer and in order.

    Args:
        journals: {peer: lives in order}.
        sequences: of the run.

    Raises:
        RunFolderError: a journal contradicts itself.
    """

    def __init__(self, journals: Mapping[int, Sequence[Life]], sequences: Sequence[RoundSequence]) -> None:
        self._sequences = sequences
        self.parts = {peer: self._parts(peer, lives) for peer, lives in sorted(journals.items())}

    def of(self, sequence: int) -> list[LifeSegment]:
        """The parts in a sequence, by their first round; of one peer in the order in which they were lived."""
        segments = [part for parts in self.parts.values() for part in parts if part.sequence == sequence]
        return sorted(segments, key=lambda part: part.first)

    def source(self, part: LifeSegment) -> tuple[LifeSegment, int] | None:
        """Whose state a part began with, and after how many rounds; None: as its incarnation was initialized."""
        if part.before is not None:
            return part.before, part.first
        if part.life.source == 0:
            return None
        parts = self.parts[part.peer]
        return self.saved(part.peer, part.life.source, parts[: parts.index(part)])

    def saved(
        self, peer: int, round_: int, parts: Sequence[LifeSegment] | None = None
    ) -> tuple[LifeSegment, int] | None:
        """Which part has saved a checkpoint of a round: the last that began before it, or ended with it.

        Args:
            peer: whose.
            round_: rounds done.
            parts: among these; all by default.

        Returns:
            the part, and the round; None: it is an initialization.

        Raises:
            RunFolderError: none of them can have done so.
        """
        parts = self.parts[peer] if parts is None else parts
        for part in reversed(parts):
            # One that went on in memory has made another forward pass since the part before saved itself in that round.
            begins = part.first == round_ and (part.before is None or part.ended == round_)
            if part.sequence is not None and (begins or part.first < round_):
                return part, round_
        if round_ == 0:
            return None
        raise RunFolderError(
            f"peer {peer} has a checkpoint of round {round_}, and no life in its journal was there: lines are missing; "
            f"the run cannot be replayed"
        )

    def _parts(self, peer: int, lives: Sequence[Life]) -> list[LifeSegment]:
        """Lives are placed from the last to the first: the newest sequences are the ones that they can belong to."""
        places: list[int | None] = []
        later: tuple[int, Life] | None = None
        for life in reversed(lives):
            place = self._place(peer, life, later)
            places.append(place)
            later = later if place is None else (place, life)
        parts: list[LifeSegment] = []
        for life, place in zip(lives, reversed(places), strict=True):
            parts += self._cut(peer, life, place)
        return parts

    def _place(self, peer: int, life: Life, later: tuple[int, Life] | None) -> int | None:
        """The newest sequence of rounds that a life can have begun in: by round and epoch, or else by round alone.

        A relay counts epochs of its own, so below one only the round fits.

        Args:
            peer: whose.
            life: where it entered.
            later: the life after it, and the sequence of that one.
        """
        likely: int | None = None
        newest = len(self._sequences) - 1 if later is None else later[0]
        for place in range(newest, -1, -1):
            if later is not None and not self._precedes(life, place, later):
                continue
            sequence = self._sequences[place]
            opened = sequence.round(life.round)
            member = opened is not None and peer in opened.members
            if member and opened is not None and opened.epoch == life.epoch:
                return place
            if likely is None and (member or life.round == sequence.upcoming):
                likely = place  # `upcoming`: the round was open when the coordinator's journal ended
        return likely

    def _precedes(self, life: Life, place: int, later: tuple[int, Life]) -> bool:
        """Whether a life in a sequence can have come before another: incarnations grow, as rounds do."""
        there, after = self._sequences[later[0]], later[1]
        if place == later[0] and life.round > after.round:
            return False
        elastic = life.terms.exchange == "coordinator"
        return not elastic or there.store != self._sequences[place].store or life.admitted < after.admitted

    def _cut(self, peer: int, life: Life, place: int | None) -> list[LifeSegment]:
        """A life's parts: joining again begins another one."""
        current = LifeSegment(peer, life, life.round, sequence=place)
        parts = [current]
        for skip in life.skips:
            current.skips.append(skip)
            if skip.reason == "expelled":
                again = self._again(peer, skip, current.sequence)
                current = LifeSegment(peer, life, skip.next, before=current, sequence=again)
                parts.append(current)
        current.ended = life.ended
        return parts

    def _again(self, peer: int, skip: Skip, place: int | None) -> int | None:
        """The sequence that a peer is in after it was expelled from one and joined again."""
        if place is None:
            return None
        for later in range(place, len(self._sequences)):
            sequence = self._sequences[later]
            if later == place and skip.next < skip.round:
                continue  # the same round again is possible: it was not open yet
            opened = sequence.round(skip.next)
            if skip.next == sequence.upcoming or (opened is not None and peer in opened.members):
                return later
        return None


def lineage(lives: Sequence[Life]) -> list[Life]:
    """Of a fixed group's lives those that the last one goes back to: what a restart dropped was done again."""
    kept: list[Life] = []
    for life in reversed(lives):
        if not kept or life.round < kept[-1].round:
            kept.append(life)
    return kept[::-1]
