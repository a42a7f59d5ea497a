"""What a worker refuses of a coordinator, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peers.common.errors import ExchangeError
from peers.transport.replies import LONGEST, SHORTEST_PAUSE, RefusedError, checked, pause_of, tensors_of
from protos import consensus_pb2 as pb
from protos.frames import Frame, FrameError

SHAPE = (2, 3)
ONE = bytes(24)


def ticket(**changes: Any) -> pb.Ticket:
    """A ticket for two peers, right but for the changes."""
    values: dict[str, Any] = {"heartbeat": 1.0, "round_deadline": 2.0, "join_window": 3.0}
    return pb.Ticket(**{**values, "peers": [4, 5], "incarnations": [0, 1], **changes})


def result(payload: bytes = ONE, *, rows: int = 2, columns: int = 3, dtype: int = pb.FLOAT32, **said: Any) -> Frame:
    """A result, right but for the changes."""
    told = pb.Result(**{"content": pb.TOTAL, **said})
    return Frame(pb.FrameHeader(result=told, dtype=dtype, rows=rows, columns=columns), payload)


@pytest.mark.parametrize("name", ["heartbeat", "round_deadline", "join_window"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300, LONGEST * 1.01])
def test_times_that_nobody_can_wait_for_are_refused(name: str, seconds: float) -> None:
    """A heartbeat of none would flood the coordinator, an endless one ends the thread that beats."""
    with pytest.raises(ExchangeError, match=f"ticket has {name} = "):
        checked(ticket(**{name: seconds}), 2)


@pytest.mark.parametrize("changes", [{"peers": [4]}, {"peers": [4, 4]}, {"peers": [4, 5, 6]}, {"incarnations": [0]}])
def test_a_ticket_for_others_is_refused(changes: dict[str, Any]) -> None:
    """It names as many peers as asked for, each once, each with an incarnation."""
    assert checked(ticket(), 2) == ticket()
    with pytest.raises(ExchangeError, match="expected 2 of each"):
        checked(ticket(**changes), 2)


@pytest.mark.parametrize("asked", [0.0, -5.0, float("nan")])
def test_no_pause_is_no_pause(asked: float) -> None:
    """A worker that waits for its place never asks without end."""
    assert pause_of(asked) == SHORTEST_PAUSE
    assert pause_of(7.0) == 7.0


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (result(rows=3), r"its tensors are \[3, 3\], expected \[2, 3\]"),
        (result(b"", rows=0, columns=2**32 - 1), r"\[0, 4294967295\]"),
        (result(ONE[:-1]), "has 24 bytes, not 23"),
        (result(dtype=9), "element type 9"),
        (result(content=0), "content is 0"),
        (result(content=17), "content is 17"),
        (result(content=pb.MEMBERS, peers=[1, 2, 3]), "has 24 bytes, not 8"),
        (result(ONE * 2, content=pb.MEMBERS, peers=[1, 1]), "one of them twice"),
    ],
)
def test_a_result_that_is_none_of_this_run_is_refused(frame: Frame, words: str) -> None:
    """Nothing of another shape reaches a target, where it might be broadcast."""
    with pytest.raises(FrameError, match=words):
        tensors_of(frame, SHAPE)


def test_results_of_this_run_come_as_they_are() -> None:
    """One tensor, or one for each member; none where nobody was drawn."""
    values = np.arange(12, dtype=np.float32)
    (total,) = tensors_of(result(values[:6].tobytes()), SHAPE)
    assert np.array_equal(total, values[:6].reshape(SHAPE))
    members = tensors_of(result(values.tobytes(), content=pb.MEMBERS, peers=[7, 9]), SHAPE)
    assert np.array_equal(np.stack(members).ravel(), values)
    assert tensors_of(result(b"", content=pb.MEMBERS), SHAPE) == []


def test_a_code_of_a_later_version_has_a_text() -> None:
    """Enumerations are open on the wire."""
    assert str(RefusedError(99, "because")) == "reply code 99: because"  # type: ignore[arg-type]
    assert str(RefusedError(pb.STALE, "because")) == "STALE: because"
