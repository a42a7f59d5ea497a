"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.commands import Running

Start = Callable[..., Running]


def pytest_configure(config: pytest.Config) -> None:
    """Where Python keeps no compiled modules, keep them for this session.

    Otherwise every process that a test starts compiles torch from source, which takes three times as long as all else.
    """
    if sys.dont_write_bytecode:
        folder = tempfile.TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder.name
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


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
