"""The project's commands as a user runs them: real processes, always with a timeout, always reaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import safetensors.numpy

BIN = Path(sys.executable).parent
WORKER = (sys.executable, "-m", "peers.worker")
LAUNCH = (str(BIN / "coordinator"), "launch")

TINY = (
    "data.name=synthetic",
    "data.images=600",
    "data.image_size=8",
    "data.channels=1",
    "data.batch=32",
    "network.depth=3",
    "network.width=32",
    "probe.norm_images=200",
    "probe.linear_steps=10",
    "probe.linear_l2=[0.01]",
    "metrics.tensorboard=false",
    "metrics.every=1",
    "exchange.round_deadline=20",
)
"""Settings that make a run of seconds."""


def torchrun(processes: int) -> tuple[str, ...]:
    """The command that starts a group of workers; the store's port is chosen by the system."""
    rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost")
    return (str(BIN / "torchrun"), f"--nproc_per_node={processes}", *rendezvous, "-m", "peers.worker")


def settings(*values: str) -> list[str]:
    """Values as --set flags."""
    return [part for value in values for part in ("--set", value)]


class Running:
    """A command under way, with everything it starts.

    Args:
        command: argument vector.
        cwd: where it runs, and where its output is kept.
        name: of the file that its output goes to, when several run in one folder.
        environment: variables on top of the test's own.
    """

    def __init__(self, command: Sequence[str], cwd: Path, *, name: str = "output", **environment: str) -> None:
        self.output = cwd / f"{name}.txt"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def wait(self, timeout: float = 240) -> tuple[int, str]:
        """Exit code and output; a command that outlasts the timeout is an error."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout} s: {self.output.read_text()}") from None
        return code, self.output.read_text()

    def workers(self) -> list[psutil.Process]:
        """The worker processes below this command; not the server that they are forked from."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if "-m peers.worker " in f"{' '.join(process.cmdline())} "]

    def until(self, true: Callable[[], object], timeout: float = 150) -> None:
        """Wait for something to become true while the command runs."""
        deadline = time.monotonic() + timeout
        while not true():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}: {self.output.read_text()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"did not come true within {timeout} s: {self.output.read_text()}")
            time.sleep(0.05)

    def reap(self) -> None:
        """End the command and all that it started, by process id."""
        try:
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            if process.is_running():
                process.kill()
        if self.process.poll() is None:
            self.process.wait(10)


def run(command: Sequence[str], cwd: Path, timeout: float = 240, **environment: str) -> tuple[int, str]:
    """Run a command to its end; returns exit code and output."""
    running = Running(command, cwd, **environment)
    try:
        return running.wait(timeout)
    finally:
        running.reap()


def rounds_recorded(folder: Path) -> int:
    """The newest round in a run's metrics.jsonl, plus one."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return max((line["round"] + 1 for line in lines if "receipt" in line), default=0)


def summary(folder: Path) -> dict[str, Any]:
    """A run's summary.json."""
    return dict(json.loads((folder / "summary.json").read_text()))


def weights(folder: Path) -> dict[str, bytes]:
    """All tensors of the newest checkpoint of every peer, as bytes by name."""
    found = {}
    for latest in sorted(folder.glob("checkpoints/peer-*/latest")):
        path = latest.resolve().with_suffix(".safetensors")
        for name, value in safetensors.numpy.load_file(path).items():
            found[f"{latest.parent.name}/{path.stem}/{name}"] = value.tobytes()
    assert found, f"no checkpoints in {folder}"
    return found
