"""What a worker takes from a coordinator: times that can be waited for, tensors of the run's shape, nothing else.

A coordinator is trusted with the sums, not with the worker's process: nothing that it sends may hang it, or end it with
anything but an error that says what came.
"""

from __future__ import annotations

from peers.common.errors import ExchangeError
from protos.consensus_pb2 import AGGREGATE, MEMBERS, TOTAL, Ticket
from protos.frames import Frame, FrameError, pieces
from protos.tensors import Float32, from_wire

LONGEST = 366 * 86400.0
"""Seconds that any of the three times may have: a year, well below what an operating system can wait for."""
SHORTEST_PAUSE = 0.05
"""Seconds between two tries to join, at least."""


def pause_of(seconds: float) -> float:
    """How long to wait before a Join is tried again: as long as the coordinator asks for, but never no time at all."""
    return max(SHORTEST_PAUSE, seconds)  # of NaN too: it is greater than nothing


def checked(ticket: Ticket, wishes: int) -> Ticket:
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
    if result.content not in (TOTAL, MEMBERS, AGGREGATE):
        raise FrameError(f"its content is {int(result.content)}, expected a total, an aggregate, or members")
    if len(set(result.peers)) != len(result.peers):
        raise FrameError(f"it names peers {list(result.peers)}, one of them twice")
    count = len(result.peers) if result.content == MEMBERS else 1
    if not count:
        return []
    if (header.rows, header.columns) != shape:
        raise FrameError(f"its tensors are [{header.rows}, {header.columns}], expected {list(shape)}")
    return [from_wire(data, header.dtype, header.rows, header.columns) for data in pieces(frame, count)]
