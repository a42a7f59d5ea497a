"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

from tests.commands import Running

Start = Callable[..., Running]

# A busy machine takes its time; how long an example takes is no property of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python keeps no compiled modules, keep them in pytest's cache.

    Otherwise every process that a test starts compiles torch from source, which takes three times as long as all else.
    """
    if sys.dont_write_bytecode:
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


SLOW = (
    "faults/",
    "coordinator/launch/test_ray",
    "contracts/test_launchers",
    "deploy/",
    "coordinator/launch/test_slurm",
    "coordinator/test_launch",
    "coordinator/experiment/test_command",
    "coordinator/experiment/sweep/test_sweep_command",
    "peers/test_worker",
    "contracts/test_exchange",
    "benchmarks/",
    "fuzz/",
    "coordinator/service/test_abuse",
)
"""Files that take minutes: with several processes (-n) they must not be left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first; otherwise the order stays."""
    root = Path(__file__).parent
    items.sort(key=lambda item: not str(item.path.relative_to(root)).startswith(SLOW))


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
