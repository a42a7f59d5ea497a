"""Execution of a replay: every forward pass and every step of a run, all peers in one process.

A life acts in a round that its journal says it missed (forward, no step), and in every round that closed while it was a
member and its last forward pass was in an earlier one. It goes on until the coordinator does not list it any more, or
the peer begins another life: so what a process published before it was killed is computed, too.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from coordinator.replay.closing import ReplayedRound, replay_round
from coordinator.replay.compare import compare
from coordinator.replay.history import Round, RoundSequence
from coordinator.replay.lives import LifeSegment, Lives
from coordinator.replay.result import Difference
from peers.common.errors import DivergedError, RunFolderError
from peers.config.schema import Config
from peers.data.batches import Schedule
from peers.exchange.base import receipt_of
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.runs.checkpoint import restore, state_of
from peers.runs.journal import Skip
from peers.worker.preflight import RunContext

Altered: TypeAlias = Callable[[int, int, Tensor], Tensor | None]
"""(round, peer, outputs [B, D]) to what the peer published instead, None where it abstained: a fault of its own."""
CPU = torch.device("cpu")


@dataclass
class ReplayedPeer:
    """A life lived again.

    Attributes:
        part: what its journal tells.
        peer: as it is now.
        at: the round of its next forward pass.
        skips: rounds ahead that it missed.
    """

    part: LifeSegment
    peer: Peer
    at: int
    skips: deque[Skip] = field(default_factory=deque)

    def missed(self, number: int) -> Skip | None:
        """What its journal says of a round; None where it made a step, or nothing."""
        return self.skips[0] if self.skips and self.skips[0].round == number else None

    def lags(self, number: int) -> bool:
        """Whether the next round that it missed comes before its forward pass of a round."""
        skip = self.skips[0]
        return skip.round < number or skip.round == number == skip.next


class RunReplayer:
    """The run, once more.

    Args:
        config: of the run.
        grounds: what it stands on.
        lives: who took part.
        receipts: of a fixed group, {(round, peer): digest} as its records have it.
        altered: what peers published instead of their outputs.
    """

    def __init__(
        self,
        config: Config,
        grounds: RunContext,
        lives: Lives,
        receipts: Mapping[tuple[int, int], str],
        altered: Altered,
    ) -> None:
        self.config, self.grounds, self.lives = config, grounds, lives
        self.receipts, self.altered = receipts, altered
        self.differences: list[Difference] = []
        self.compared = 0
        self._rule = TargetSelection.of(config.consensus, config.run.seed)
        self._schedule = Schedule(len(grounds.data.train), config.data.batch, config.run.seed)
        self._states: dict[tuple[LifeSegment, int], tuple[dict[str, Tensor], dict[str, Any]] | None] = {}
        self._ahead: dict[LifeSegment, list[int]] = defaultdict(list)
        self._checks: dict[tuple[LifeSegment, int], int] = {}
        self._resting: dict[LifeSegment, Peer] = {}
        self._actors: dict[int, ReplayedPeer] = {}
        for part in (part for parts in lives.parts.values() for part in parts if part.sequence is not None):
            source = lives.source(part)
            if source is not None and part.before is None:
                self._states[source] = None
                self._ahead[source[0]].append(source[1])

    def check(self, peer: int, round_: int) -> None:
        """Have the peer compared with its checkpoint of a round, once it is there."""
        source = self.lives.saved(peer, round_)
        if source is None:  # it was saved before it had made a step
            initial = self._initial(peer, self.lives.parts[peer][-1].life.incarnation)
            self._note(compare(initial, self.grounds.checkpoints(self.config, peer), 0))
            return
        self._checks[source] = round_
        self._ahead[source[0]].append(round_)

    def play(self, place: int, sequence: RoundSequence, done: Callable[[], None]) -> None:
        """One sequence of rounds.

        Args:
            place: its number.
            sequence: the rounds.
            done: called after each of them.

        Raises:
            RunFolderError: the journals contradict each other, or lines are missing.
        """
        coming = deque(self.lives.of(place))
        for round_ in sequence.rounds:
            self._catch_up(round_.number)
            while coming and coming[0].first <= round_.number:
                self._enter(coming.popleft())
                self._catch_up(round_.number)
            self._round(round_)
            done()
        self._catch_up(None)
        for part in coming:
            self._enter(part)
            self._catch_up(None)
        self._actors.clear()

    def finish(self) -> None:
        """All sequences were played.

        Raises:
            RunFolderError: a checkpoint is of a round that its peer has not reached.
        """
        for part, rounds in self._ahead.items():
            if rounds:
                raise RunFolderError(
                    f"peer {part.peer} has a checkpoint of round {min(rounds)}, and by the journals the life that saved"
                    f" it, which began at round {part.first}, ended before: lines are missing"
                )

    def _enter(self, part: LifeSegment) -> None:
        """A life begins, or goes on after it was expelled."""
        source = self.lives.source(part)
        if part.before is not None:
            rested = self._resting.get(part.before)
            if rested is None:
                raise RunFolderError(
                    f"peer {part.peer} goes on at round {part.first} after it was expelled, and by the journals its "
                    f"life had ended before: lines are missing"
                )
            peer = rested
        else:
            peer = self._initial(part.peer, part.life.incarnation)
            if source is not None:
                state = self._states[source]
                if state is None:
                    raise RunFolderError(
                        f"peer {part.peer} began at round {part.first} with its checkpoint of round {source[1]}; by "
                        f"the journals none of its lives had reached that round: lines are missing"
                    )
                restore(peer, *state)
        actor = ReplayedPeer(part, peer, part.first, deque(part.skips))
        self._actors[part.peer] = actor
        self._reached(actor)

    def _initial(self, peer: int, incarnation: int) -> Peer:
        return Peer(self.config, peer, self.grounds.data.shape, self.grounds.rounds, CPU, incarnation)

    def _round(self, round_: Round) -> None:
        self._catch_up(round_.number)
        acting = [actor for _, actor in sorted(self._actors.items()) if self._acts(actor, round_)]
        images = self._images(round_.number) if acting else None
        outputs: dict[int, Tensor] = {}
        for actor in acting:
            assert images is not None  # noqa: S101  # somebody acts
            output = self._forward(actor, images)
            published = None if output is None else self.altered(round_.number, actor.peer.id, output)
            if published is not None:
                outputs[actor.peer.id] = published
        closed = None if round_.void else self._close(round_, outputs)
        for actor in acting:
            if actor.missed(round_.number) is not None:
                self._pass(actor)
            elif closed is not None:
                self._step(actor, closed)

    def _catch_up(self, number: int | None) -> None:
        """Forward passes that come before a round's own (None: all that are left).

        They were for rounds that no journal tells of, or for this one when it was not open for the peer yet.
        """
        for actor in list(self._actors.values()):
            while actor.skips and (number is None or actor.lags(number)):
                self._forward(actor, self._images(actor.skips[0].round))
                self._pass(actor)

    @staticmethod
    def _acts(actor: ReplayedPeer, round_: Round) -> bool:
        """Whether a life made a forward pass in a round, as far as it matters."""
        if actor.missed(round_.number) is not None:
            return True
        return not round_.void and actor.at <= round_.number and actor.part.peer in round_.members

    def _images(self, number: int) -> Tensor:
        images = self.grounds.data.train.batch(self._schedule.indices(number))
        return images.contiguous(memory_format=torch.channels_last)

    def _forward(self, actor: ReplayedPeer, images: Tensor) -> Tensor | None:
        threads = actor.part.life.terms.threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return actor.peer.forward(images)

    def _close(self, round_: Round, outputs: Mapping[int, Tensor]) -> ReplayedRound:
        """Close a round with those that the run closed it with, and compare its receipt."""
        contributors = sorted(outputs) if round_.contributors is None else round_.contributors
        missing = [peer for peer in contributors if peer not in outputs]
        if missing:
            raise RunFolderError(
                f"peers {missing} contributed to round {round_.number}, which they cannot have done by their journals: "
                f"lines are missing, or what they computed before was not what is computed here"
                + (f"; the first difference: {self.differences[0]}" if self.differences else "")
            )
        hosted = {actor.part.peer: actor.part.life.terms.hosted for actor in self._actors.values()}
        given = {peer: outputs[peer] for peer in contributors}
        closed = replay_round(round_, given, hosted, self._rule, self.config.exchange.wire)
        if round_.digest is not None and closed.digest is not None:
            self._receipt(round_, None, round_.digest, closed.digest, contributors)
        for block in sorted(set(hosted.values())) if round_.contributors is None else ():
            due = {self.receipts[round_.number, peer] for peer in block if (round_.number, peer) in self.receipts}
            for digest in sorted(due):
                self._receipt(round_, block[0], digest, receipt_of(closed.consensus(block)).digest, contributors)
        return closed

    def _receipt(
        self, round_: Round, peer: int | None, expected: str, digest: str, contributors: Sequence[int]
    ) -> None:
        self.compared += 1
        if expected != digest:
            what = f"the digest of the receipt of contributors {', '.join(map(str, contributors))}"
            self._note(Difference(round_.number, peer, what, expected, digest))

    def _step(self, actor: ReplayedPeer, closed: ReplayedRound) -> None:
        consensus, peer = closed.consensus(actor.part.life.terms.hosted), actor.peer
        try:
            if peer.selection.due(closed.round.number):
                peer.evaluate(consensus, lambda student: self.grounds.evaluator.live(student.network))
            peer.step(consensus)
        except DivergedError:
            self._end(actor)
            return
        self._at(actor, closed.round.number + 1)

    def _pass(self, actor: ReplayedPeer) -> None:
        """A forward pass was made and leads to no step, as the journal says of the next round that was missed."""
        skip = actor.skips.popleft()
        try:
            actor.peer.skip(skip.reason)
        except DivergedError:
            self._end(actor)
            return
        if skip.reason == "expelled":  # it goes on as another part of the same life, if at all
            self._resting[actor.part] = actor.peer
            self._end(actor)
        else:
            self._at(actor, skip.next)

    def _end(self, actor: ReplayedPeer) -> None:
        """Its process ended here, or the life goes on elsewhere; no more is to come."""
        actor.skips.clear()
        self._actors.pop(actor.part.peer, None)

    def _at(self, actor: ReplayedPeer, number: int) -> None:
        actor.at = number
        self._reached(actor)

    def _reached(self, actor: ReplayedPeer) -> None:
        """Keep or compare what is due when a life has done so many rounds."""
        ahead = self._ahead.get(actor.part)
        if not ahead:
            return
        for round_ in sorted(due := {each for each in ahead if each <= actor.at}):
            if (actor.part, round_) in self._states:
                self._states[actor.part, round_] = state_of(actor.peer)
            if (actor.part, round_) in self._checks:
                checkpoints = self.grounds.checkpoints(self.config, actor.part.peer)
                self._note(compare(actor.peer, checkpoints, round_))
        self._ahead[actor.part] = [each for each in ahead if each not in due]

    def _note(self, difference: Difference | None) -> None:
        if difference is not None:
            self.differences.append(difference)
