"""How a worker takes signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from peers.worker.process import SAME_REQUEST, StopSignal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

STUBBORN = """
import os, signal, sys
from peers.worker.process import StopSignal
now = 0.0
stop = StopSignal(clock=lambda: now)
stop.install()
first, second, now_then = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
os.kill(os.getpid(), first)
assert stop.received == first
now = now_then
os.kill(os.getpid(), second)
sys.exit(7)
"""
"""Sends itself two signals, at times 0 and argv[3]; exit code 7 says that it outlived both."""


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    """Installed in this process, whose own handlers come back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop = StopSignal()
    stop.install()
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop(stop: StopSignal, number: signal.Signals) -> None:
    """Each of the three is a request, remembered by its number, and ends nothing."""
    assert not stop.requested()
    os.kill(os.getpid(), number)
    assert stop.requested()
    assert stop.received == number


@pytest.mark.parametrize(
    ("second", "seconds", "code"),
    [
        (signal.SIGTERM, SAME_REQUEST / 2, 7),
        (signal.SIGUSR1, SAME_REQUEST / 2, 7),
        (signal.SIGTERM, SAME_REQUEST * 1.5, 128 + signal.SIGTERM),
        (signal.SIGUSR1, SAME_REQUEST * 1.5, 128 + signal.SIGUSR1),
    ],
)
def test_only_a_later_signal_ends_the_process_at_once(second: signal.Signals, seconds: float, code: int) -> None:
    """Repeated within two seconds, by whoever, it is the same request; after that it exits with 128 + its number."""
    words = (str(signal.SIGTERM.value), str(second.value), str(seconds))
    ended = subprocess.run((sys.executable, "-c", STUBBORN, *words), capture_output=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr


def test_a_request_without_a_signal_counts_as_the_first() -> None:
    """Asked from a thread, it is asked; another request changes nothing."""
    stop = StopSignal()
    stop.request()
    stop.request(signal.SIGUSR1)
    assert stop.requested()
    assert stop.received == signal.SIGTERM
