"""Members that lie beyond what a fault plan can say: they know what the others publish, or take no refusal.

Colluders are the strongest that a robust aggregator is usually tested against: one that has seen the honest outputs of
the round before it makes its own. In a real group nobody has, but for a coordinator; members of one process have.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from peers.exchange.base import Exchange, Outcome, Pending
from peers.transport.replies import RefusedError
from protos.consensus_pb2 import NORM_EXCEEDED, NOT_FINITE
from tests.faults.faulty_exchange import FaultyExchange

PATIENCE = 60.0
"""Seconds that a liar waits for the others' outputs."""
GATE = (NORM_EXCEEDED, NOT_FINITE)
"""How the values of a publication are refused."""


class Board:
    """Where the honest outputs of the newest round are read by whom they were not meant for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._round, self._outputs = -1, torch.empty(0)

    def put(self, round_: int, outputs: Mapping[int, Tensor | None]) -> None:
        """The honest peers publish; those that abstain are left out."""
        with self._changed:
            self._round = round_
            self._outputs = torch.stack([z.detach().clone() for z in outputs.values() if z is not None])
            self._changed.notify_all()

    def read(self, round_: int) -> Tensor:
        """[peers, B, D]: the honest outputs of a round, as soon as they are there.

        Raises:
            TimeoutError: they did not come, or are gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._round >= round_, PATIENCE)
            if self._round != round_:
                raise TimeoutError(f"round {round_}: no honest outputs within {PATIENCE:g} s; found {self._round}")
            return self._outputs


class Overheard(FaultyExchange):
    """An honest worker's exchange, whose outputs are put on a board."""

    def __init__(self, inner: Exchange, board: Board) -> None:
        super().__init__(inner, (), lambda fault: None)
        self._board = board

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        self._board.put(round_, outputs)
        return super().publish(round_, outputs, digest, leaving=leaving)


class Colluding(FaultyExchange):
    """A liar that makes its outputs of the honest ones.

    `little` hides in their spread: mean - scale * deviation of each coordinate, over the honest peers. Baruch et al.,
    "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019.

    `inner_product` turns the mean around: mean * -scale. Xie et al., "Fall of Empires: Breaking Byzantine-tolerant SGD
    by Inner Product Manipulation", UAI 2019.

    Args:
        inner: the exchange proper.
        board: where the honest outputs are.
        liar: the peer that lies.
        kind: one of `LIES`.
        scale: how much.
    """

    def __init__(self, inner: Exchange, board: Board, liar: int, kind: str, scale: float) -> None:
        super().__init__(inner, (), lambda fault: None)
        self._board, self._liar, self._kind, self._scale = board, liar, kind, scale

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        lie = LIES[self._kind](self._board.read(round_), self._scale)
        return super().publish(round_, {**outputs, self._liar: lie}, digest, leaving=leaving)


class Stubborn(FaultyExchange):
    """A member that publishes again whatever is refused, until it is expelled; then it joins anew, as exchanges do."""

    def __init__(self, inner: Exchange) -> None:
        super().__init__(inner, (), lambda fault: None)

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        publish = super().publish
        return _Again(lambda: publish(round_, outputs, digest, leaving=leaving))


class _Again(Pending):
    def __init__(self, publish: Callable[[], Pending]) -> None:
        self._publish, self._pending = publish, publish()

    def result(self, timeout: float | None = None) -> Outcome:
        while True:
            try:
                return self._pending.result(timeout)
            except RefusedError as refused:
                if refused.code not in GATE:
                    raise  # the run is over, or takes no more
                self._pending = self._publish()


def little(honest: Tensor, deviations: float) -> Tensor:
    """[B, D]: the mean of the honest outputs [peers, B, D] minus so many deviations."""
    deviation, mean = torch.std_mean(honest, dim=0, correction=0)
    return mean - deviations * deviation


def inner_product(honest: Tensor, scale: float) -> Tensor:
    """[B, D]: the mean of the honest outputs [peers, B, D], turned around and made longer."""
    return honest.mean(dim=0) * -scale


LIES: Mapping[str, Callable[[Tensor, float], Tensor]] = {"little": little, "inner_product": inner_product}
"""What `Colluding` can make of the honest outputs."""
