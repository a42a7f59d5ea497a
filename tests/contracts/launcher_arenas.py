"""What the launchers' contract needs of each of them: how it is asked for, and what of a run lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil


class LauncherArena(Protocol):
    """A launcher with whatever stands behind it, up and running."""

    flags: tuple[str, ...]
    """Values of --set."""
    environment: Mapping[str, str]
    """Variables of the launching process."""

    def workers(self, folder: Path) -> list[psutil.Process]:
        """The processes that host peers of the run in a folder, now."""

    def left(self, folder: Path) -> list[str]:
        """Whatever of that run still lives, described."""


class LocalArena:
    """Processes of this machine: nothing needs to be set up."""

    flags = ("launcher.kind=local",)
    environment: Mapping[str, str] = {}

    def workers(self, folder: Path) -> list[psutil.Process]:
        return list(processes_of("peers.worker", folder))

    def left(self, folder: Path) -> list[str]:
        return [str(process) for name in ("peers.worker", "coordinator.cli") for process in processes_of(name, folder)]


@contextmanager
def local_arena(folder: Path) -> Iterator[LocalArena]:
    """The local launcher; needs no folder."""
    yield LocalArena()


def processes_of(module: str, folder: Path) -> Iterator[psutil.Process]:
    """Processes that run a module with the configuration in a run's folder."""
    for process in psutil.process_iter():
        try:
            command, cwd = process.cmdline(), Path(process.cwd())
        except psutil.Error:  # gone meanwhile
            continue
        if module in command and any((cwd / part).resolve() == folder / "config.yaml" for part in command):
            yield process
