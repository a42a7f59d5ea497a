"""What the load scripts share: a coordinator's process, publishers in processes of their own, and samples of memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from coordinator.service.settings import ServiceSettings
from peers.method.target_selection import TargetSelection

ROOT = Path(__file__).parents[2]


@dataclass
class Samples:
    """Of a coordinator, over its rounds."""

    rounds: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self, process: psutil.Process, round_: int) -> None:
        """Look once."""
        with process.oneshot():
            self.rounds.append(round_)
            self.mib.append(process.memory_info().rss / 2**20)
            self.descriptors.append(process.num_fds())
            self.threads.append(process.num_threads())

    def report(self) -> dict[str, Any]:
        """First and last values, and the slope of memory over the second half, KiB for each round."""
        half = len(self.rounds) // 2
        slope = np.polyfit(self.rounds[half:], self.mib[half:], 1)[0] * 1024 if half > 1 else float("nan")
        return {
            "rounds": self.rounds[-1],
            "MiB first, middle, last": [round(self.mib[place], 1) for place in (0, half, -1)],
            "MiB max": round(max(self.mib), 1),
            "KiB per round, second half": round(float(slope), 4),
            "descriptors middle, last": [self.descriptors[half], self.descriptors[-1]],
            "threads middle, last": [self.threads[half], self.threads[-1]],
        }


@contextmanager
def service(**values: Any) -> Iterator[tuple[str, psutil.Process, Path]]:
    """A coordinator's address, process and folder."""
    with services([values]) as (only,):
        yield only


@contextmanager
def services(
    several: Sequence[Mapping[str, Any]], upstream: str | None = None
) -> Iterator[list[tuple[str, psutil.Process, Path]]]:
    """Coordinators that start side by side: relays of the one at `upstream`, where that is given."""
    with ExitStack() as stack:
        started = [stack.enter_context(_starting(values, upstream)) for values in several]
        yield [(_listening(process, folder), psutil.Process(process.pid), folder) for process, folder in started]


@contextmanager
def _starting(values: Mapping[str, Any], upstream: str | None) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = ServiceSettings(run_id="run", state=str(folder / "state"), rule=TargetSelection("mean", 0), **values)
        (folder / "settings.json").write_text(settings.model_dump_json())
        command = [sys.executable, "-m", "coordinator.service", "--settings", str(folder / "settings.json")]
        command += ["--address-file", str(folder / "address"), "--log-level", "WARNING"]
        command += ["--upstream", upstream] if upstream is not None else []
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stderr=log)  # the project's own command
        try:
            yield process, folder
        finally:
            process.terminate()
            process.wait(30)


def _listening(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Its address, as soon as it listens."""
    while not (folder / "address").exists():
        if process.poll() is not None:
            raise RuntimeError((folder / "log").read_text())
        threading.Event().wait(0.01)
    return (folder / "address").read_text()


def publisher(address: str, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A light peer in a process of its own."""
    command = [sys.executable, "-m", "tests.coordinator.service.light_peer", address, str(out), *arguments]
    return subprocess.Popen(command, cwd=ROOT)  # the project's own command


class Clock:
    """Rounds a second since the last look."""

    def __init__(self) -> None:
        self._at, self._round = time.perf_counter(), 0

    def rate(self, round_: int) -> float:
        """Since the last call."""
        now = time.perf_counter()
        rate = (round_ - self._round) / (now - self._at)
        self._at, self._round = now, round_
        return rate
