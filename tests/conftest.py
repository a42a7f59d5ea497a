"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.commands import Running

Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands in a folder of their own below the test's; whatever is left of them is reaped."""
    started: list[Running] = []

    def begin(command: Sequence[str], cwd: Path = tmp_path, *, name: str = "output", **environment: str) -> Running:
        started.append(Running(command, cwd, name=name, **environment))
        return started[-1]

    yield begin
    for running in started:
        running.reap()
