"""What every test of the service leaves behind: nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Iterator[None]:
    """A client that is not closed connects again and again while later tests run, and draws from `random`."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("consensus-")]
    assert not left, "the test has not closed its clients"
