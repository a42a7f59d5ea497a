"""Replies of a coordinator: a worker checks them and turns them into the values of the exchange.

A coordinator is trusted with the sums, not with the worker's process: nothing that it sends may hang it, or end it with
anything but an error that says what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from peers.common.errors import DisagreementError, ExchangeError
from peers.transport.values import Consensus, Expelled, Missed, RunEnded
from protos import consensus_pb2 as pb
from protos.frames import Frame, FrameError, pieces
from protos.tensors import Float32, from_wire

LONGEST = 366 * 86400.0
"""Seconds that any of the three times may have: a year, well below what an operating system can wait for."""
SHORTEST_PAUSE = 0.05
"""Seconds between two tries to join, at least."""

Outcome: TypeAlias = Consensus[Float32] | Missed | Expelled | RunEnded


class RefusedError(ExchangeError):
    """The coordinator refused a request or a publication.

    Attributes:
        code: why, as the wire says it.
        text: why, as the coordinator put it.
    """

    def __init__(self, code: pb.ReplyCode, text: str) -> None:
        known = code in pb.ReplyCode.values()  # a coordinator of another version may have more of them
        super().__init__(f"{pb.ReplyCode.Name(code) if known else f'reply code {int(code)}'}: {text}")
        self.code, self.text = code, text


class NoAnswerError(ExchangeError):
    """Nothing came within the time that was given; `result` may be called again.

    Attributes:
        address: of the coordinator.
    """

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(f"no answer of {address} within {seconds:.1f} s: look at its status")
        self.address = address


def pause_of(seconds: float) -> float:
    """How long to wait before a Join is tried again: as long as the coordinator asks for, but never no time at all."""
    return max(SHORTEST_PAUSE, seconds)  # of NaN too: it is greater than nothing


def checked(ticket: pb.Ticket, wishes: int) -> pb.Ticket:
    """A ticket that a worker can live by.

    Args:
        ticket: as it came.
        wishes: how many peers the worker asked for.

    Raises:
        ExchangeError: it has other peers, or times that nobody can wait for; names them.
    """
    for name in ("heartbeat", "round_deadline", "join_window"):
        seconds = getattr(ticket, name)
        if not 0 < seconds <= LONGEST:
            raise ExchangeError(
                f"the coordinator's ticket has {name} = {seconds} s, expected more than 0, up to a year: it is none of "
                f"this project's, or of another version"
            )
    if len(set(ticket.peers)) != wishes or len(ticket.peers) != wishes or len(ticket.incarnations) != wishes:
        raise ExchangeError(
            f"the coordinator's ticket names peers {list(ticket.peers)} of incarnations {list(ticket.incarnations)}, "
            f"expected {wishes} of each, none twice"
        )
    return ticket


def tensors_of(frame: Frame, shape: tuple[int, int]) -> list[Float32]:
    """The tensors of a result: one, or one for each of its `peers`.

    Args:
        frame: a complete `result`.
        shape: (B, D) of the run.

    Raises:
        FrameError: it is not what a round of this run gives.
    """
    header, result = frame.header, frame.header.result
    if result.content not in (pb.TOTAL, pb.MEMBERS, pb.AGGREGATE):
        raise FrameError(f"its content is {int(result.content)}, expected a total, an aggregate, or members")
    if len(set(result.peers)) != len(result.peers):
        raise FrameError(f"it names peers {list(result.peers)}, one of them twice")
    count = len(result.peers) if result.content == pb.MEMBERS else 1
    if not count:
        return []
    if (header.rows, header.columns) != shape:
        raise FrameError(f"its tensors are [{header.rows}, {header.columns}], expected {list(shape)}")
    return [from_wire(data, header.dtype, header.rows, header.columns) for data in pieces(frame, count)]


def consensus_of(frame: Frame, shape: tuple[int, int], sent: Mapping[int, Float32]) -> Consensus[Float32]:
    """The consensus that a result brings.

    Args:
        frame: a complete `result`.
        shape: (B, D) of the run.
        sent: the worker's own outputs, {peer: [B, D]}.

    Raises:
        FrameError: it is not what a round of this run gives.
    """
    tensors, result = tensors_of(frame, shape), frame.header.result
    return Consensus(
        round=result.round,
        epoch=result.epoch,
        contributors=tuple(result.contributors),
        total=tensors[0] if result.content == pb.TOTAL else None,
        sent=dict(sent),
        members=dict(zip(result.peers, tensors, strict=True)) if result.content == pb.MEMBERS else {},
        leaving=frozenset(result.leaving),
        aggregate=tensors[0] if result.content == pb.AGGREGATE else None,
        digest=result.digest.hex(),
        group=tuple(result.members),
    )


def late(round_: int, next_round: int) -> Missed:
    """The outcome of a round that did not wait for this worker."""
    return Missed(round_, "late", "it closed without this worker", next_round)


def outcome_of(reply: pb.Reply, round_: int, next_round: int) -> Outcome:
    """What a reply says of a publication: anything but a result.

    Args:
        reply: to it.
        round_: number of its round.
        next_round: the round that follows, as far as the worker knows.

    Raises:
        DisagreementError: members saw different batches.
        RefusedError: the publication was refused.
    """
    if reply.code == pb.LATE:
        return late(round_, next_round)
    if reply.code == pb.VOID:
        return Missed(round_, "void", reply.text, next_round)
    if reply.code == pb.EXPELLED:
        return Expelled(reply.text)
    if reply.code == pb.ENDED:
        return RunEnded(reply.text)
    if reply.code == pb.BATCH_MISMATCH:
        raise DisagreementError(reply.text)
    raise RefusedError(reply.code, reply.text)
