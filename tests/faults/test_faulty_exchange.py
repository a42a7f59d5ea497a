"""The exchange that carries out a fault plan: what each kind does, when, to whom, and that it is told once."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch

from peers.exchange.base import Hello
from peers.exchange.inprocess import InProcessGroup
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus
from tests.faults.faulty_exchange import Fault, FaultyExchange

DIGEST, OTHER = bytes(range(16)), bytes(255 - byte for byte in range(16))
OUTPUTS = {0: torch.arange(6.0).reshape(2, 3), 1: torch.ones(2, 3)}


class Seen(FaultyExchange):
    """Over a group of one worker; keeps what was published and what was told."""

    def __init__(self, *faults: Fault) -> None:
        self.told: list[Fault] = []
        super().__init__(InProcessGroup(1).exchange(), faults, self.told.append)
        self.join(Hello((0, 1), 2, (2, 3), {}, {}, TargetSelection("sum", 0, 1)))

    def sent(self, round_: int) -> dict[int, torch.Tensor]:
        """What the peers' outputs were on their way, in a round."""
        outcome = self.publish(round_, OUTPUTS, DIGEST).result()
        assert isinstance(outcome, Consensus)
        return dict(outcome.sent)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("large", OUTPUTS[0] * 3), ("flipped", OUTPUTS[0] * -3), ("constant", torch.full((2, 3), 3.0))],
)
def test_outputs_are_altered_for_one_peer_for_some_rounds(kind: str, expected: torch.Tensor) -> None:
    """Rounds 1 and 2 of peer 0 and nothing else; what was given is not touched, and the fault is told once."""
    before = OUTPUTS[0].clone()
    exchange = Seen(fault := Fault(kind, 1, 0, rounds=2, scale=3.0), Fault(kind, 1, 7))
    for round_ in range(4):
        sent = exchange.sent(round_)
        assert torch.equal(sent[0], expected if round_ in (1, 2) else before)
        assert torch.equal(sent[1], OUTPUTS[1])
    assert torch.equal(OUTPUTS[0], before)
    assert exchange.told == [fault]


def test_values_that_are_not_finite() -> None:
    """Every entry."""
    assert torch.isnan(Seen(Fault("not_finite", 0, 1)).sent(0)[1]).all()


def test_another_batch() -> None:
    """The digest is another one, of the same length."""
    given: list[bytes] = []
    exchange = Seen(Fault("other_batch", 0, 0))
    inner, publish = exchange._inner, exchange._inner.publish
    inner.publish = lambda round_, outputs, digest, **named: (  # type: ignore[method-assign]
        given.append(digest), publish(round_, outputs, digest, **named),
    )[1]  # fmt: skip
    for round_ in range(2):
        exchange.publish(round_, OUTPUTS, DIGEST)
    assert given == [OTHER, DIGEST]


def test_an_exception_is_raised_once_in_its_round_or_the_first_after_it() -> None:
    """Round 3 was missed; it happens in round 5, and not again."""
    exchange = Seen(fault := Fault("exception", 3, 0))
    exchange.sent(2)
    with pytest.raises(RuntimeError, match="peer 0 fail in round 3"):
        exchange.publish(5, OUTPUTS, DIGEST)
    exchange.sent(6)
    assert exchange.told == [fault]


def test_a_peer_that_is_slow_publishes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for as long as it is told, in its round."""
    waited: list[float] = []
    monkeypatch.setattr("tests.faults.faulty_exchange.time.sleep", waited.append)
    exchange = Seen(Fault("slow", 1, 0, seconds=2.5))
    for round_ in range(3):
        exchange.sent(round_)
    assert waited == [2.5]


def _strike(kind: str) -> None:
    Seen(Fault(kind, 0, 0)).publish(0, OUTPUTS, DIGEST)


def test_a_process_ends_itself() -> None:
    """By SIGKILL: nothing runs after it."""
    process = multiprocessing.get_context("fork").Process(target=_strike, args=("kill",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_a_process_stops_itself() -> None:
    """By SIGSTOP: it goes on when it is woken up, and publishes."""
    process = multiprocessing.get_context("fork").Process(target=_strike, args=("stop",))
    process.start()
    assert process.pid is not None
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0


def test_memory_that_nobody_limits_ends_at_its_scale() -> None:
    """A plan whose limit was forgotten does not take the machine with it."""
    with pytest.raises(RuntimeError, match=r"has taken 0.1 GiB of memory and nobody ended it"):
        Seen(Fault("memory", 0, 0, scale=0.1)).publish(0, OUTPUTS, DIGEST)


def test_unknown_kinds_are_refused() -> None:
    """By name, with those that there are."""
    with pytest.raises(ValueError, match="unknown kinds of faults \\['flood'\\]"):
        Seen(Fault("flood", 0, 0))
