"""Where groups run: a slot takes one cell after another, and tells when each has ended.

PackSlot     a process of this machine that runs them one by one (`coordinator.experiment.pack`)
LaunchSlot   `coordinator launch` for each, where `launcher.kind` says Ray or Slurm
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from coordinator.experiment.runs import Cell
from coordinator.launch.base import ProcessExit
from coordinator.launch.processes import Child, with_parent


class Slot(ABC):
    """Runs one cell at a time.

    Attributes:
        cell: that runs now, or None.
    """

    cell: Cell | None = None

    @abstractmethod
    def start(self, cell: Cell) -> None:
        """Begin, or go on, with a cell whose folder is there; only while `cell` is None."""

    @abstractmethod
    def ended(self) -> ProcessExit | None:
        """How the cell ended, once; then the slot is free. None while it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the cell to save itself and end."""

    @abstractmethod
    def gone(self) -> bool:
        """Whether no process is left of it, after `stop`."""

    @abstractmethod
    def kill(self) -> None:
        """End whatever is left."""

    @property
    def log(self) -> Path:
        """Standard error of the cell that ran last."""
        return self._log

    _log: Path


class PackSlot(Slot):
    """A process of this machine.

    Args:
        environment: variables of the process, such as the GPU that it sees.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, cell: Cell) -> None:
        """See `Slot.start`."""
        self.cell, self._log = cell, cell.folder.logs / "worker-0.stderr"
        transfer = None if cell.transfer is None else cell.transfer.model_dump()
        job = {
            "config": str(cell.folder.config),
            "supervised": cell.supervised,
            "analyse": cell.analysed,
            "transfer": transfer,
        }
        if self._popen is None:
            self._popen = self._new()
        assert self._popen.stdin is not None  # noqa: S101  # a pipe was asked for
        try:
            self._popen.stdin.write(json.dumps(job).encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            pass  # it has just died: `ended` says how

    def ended(self) -> ProcessExit | None:
        """See `Slot.ended`."""
        if self.cell is None or self._popen is None:
            return None
        assert self._popen.stdout is not None  # noqa: S101  # a pipe was asked for
        if select.select([self._popen.stdout], [], [], 0)[0]:
            line = self._popen.stdout.readline()  # it writes whole lines, or nothing before it ends
            if line:
                self.cell = None
                return ProcessExit(json.loads(line)["code"])
        code = self._popen.poll()
        if code is None:
            return None
        self._close()
        self.cell = None
        return ProcessExit(code) if code else ProcessExit(0, "before its group had ended")

    def stop(self) -> None:
        """See `Slot.stop`."""
        if self._popen is not None:
            if self.cell is not None:
                self._popen.terminate()  # idle, it ends by itself as its input does
            assert self._popen.stdin is not None  # noqa: S101  # a pipe was asked for
            self._popen.stdin.close()

    def gone(self) -> bool:
        """See `Slot.gone`."""
        return self._popen is None or self._popen.poll() is not None

    def kill(self) -> None:
        """See `Slot.kill`."""
        if self._popen is not None:
            self._popen.kill()
            self._close()

    def _new(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (sys.executable, "-m", "coordinator.experiment.pack"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the runner, which tells the others
            env={**os.environ, **with_parent(), **self._environment},
        )

    def _close(self) -> None:
        if self._popen is not None:
            self._popen.wait()
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    pipe.close()
            self._popen = None


class LaunchSlot(Slot):
    """`coordinator launch` of each cell, on the cluster that its configuration names."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def start(self, cell: Cell) -> None:
        """See `Slot.start`."""
        self.cell, self._log = cell, cell.folder.logs / "launch.stderr"
        path = str(cell.folder.config)
        command = (sys.executable, "-m", "coordinator.cli", "launch", path, "--resume", "auto")
        self._child = Child(command, self._log, with_parent())

    def ended(self) -> ProcessExit | None:
        """See `Slot.ended`."""
        ended = None if self._child is None else self._child.ended()
        if ended is not None:
            self.cell, self._child = None, None
        return ended

    def stop(self) -> None:
        """See `Slot.stop`."""
        if self._child is not None:
            self._child.stop()

    def gone(self) -> bool:
        """See `Slot.gone`."""
        return self._child is None or self._child.ended() is not None

    def kill(self) -> None:
        """See `Slot.kill`."""
        if self._child is not None:
            self._child.kill()
